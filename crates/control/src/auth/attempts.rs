//! How often one address may be wrong at the routes that take a key or a
//! password in their body: guessing is bounded, being right is not. Each
//! server counts for itself.

use super::Peer;
use crate::server::PeerKey;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;

/// Failures at once.
const BURST: u32 = 20;
/// One more is allowed after this.
const EACH: Duration = Duration::from_secs(6);
/// Addresses remembered; with more, the one nearest to a clean slate goes.
const MOST: usize = 10_000;

/// By address: when it will have no failures any more.
#[derive(Default)]
pub(crate) struct Attempts {
    clean_at: Mutex<BTreeMap<PeerKey, Duration>>,
}

impl Attempts {
    /// Counts an attempt as failed until [`Attempts::succeeded`] takes that
    /// back: many at one time are as many. Else how long to wait.
    pub(crate) fn begin(&self, peer: &Peer, now: Duration) -> Result<(), Duration> {
        let of = PeerKey::of(peer);
        let mut clean_at = self.clean_at.lock();
        let after = clean_at.get(&of).copied().unwrap_or_default().max(now) + EACH;
        match after.checked_sub(now + EACH * BURST) {
            Some(wait) if !wait.is_zero() => return Err(wait),
            _ => {}
        }
        if clean_at.len() >= MOST && !clean_at.contains_key(&of) {
            clean_at.retain(|_, at| *at > now);
        }
        if clean_at.len() >= MOST && !clean_at.contains_key(&of) {
            let first = clean_at.iter().min_by_key(|(_, at)| **at).map(|(of, _)| *of);
            first.and_then(|first| clean_at.remove(&first));
        }
        clean_at.insert(of, after);
        Ok(())
    }

    pub(crate) fn succeeded(&self, peer: &Peer) {
        if let Some(at) = self.clean_at.lock().get_mut(&PeerKey::of(peer)) {
            *at = at.saturating_sub(EACH);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn peer(address: &str) -> Peer {
        Peer::Tcp((address.parse::<IpAddr>().expect("an address"), 1).into())
    }

    #[test]
    fn failures_are_bounded_and_successes_are_not() {
        let (attempts, now) = (Attempts::default(), Duration::from_secs(1000));
        let (one, other) = (peer("192.0.2.1"), peer("192.0.2.2"));
        for _ in 0..1000 {
            assert_eq!(attempts.begin(&one, now), Ok(()));
            attempts.succeeded(&one);
        }
        for _ in 0..BURST {
            assert_eq!(attempts.begin(&one, now), Ok(()));
        }
        assert_eq!(attempts.begin(&one, now), Err(EACH));
        assert_eq!(attempts.begin(&peer("::ffff:192.0.2.1"), now), Err(EACH), "the same address");
        assert_eq!(attempts.begin(&other, now), Ok(()));
        assert_eq!(attempts.begin(&one, now + EACH), Ok(()));
        assert!(attempts.begin(&one, now + EACH).is_err());
    }

    #[test]
    fn a_whole_subscriber_is_one_and_memory_is_bounded() {
        let (attempts, now) = (Attempts::default(), Duration::from_secs(1000));
        for n in 0..BURST {
            assert_eq!(attempts.begin(&peer(&format!("2001:db8::{n:x}")), now), Ok(()));
        }
        assert!(attempts.begin(&peer("2001:db8::ffff:1"), now).is_err());
        for n in 0..(MOST as u32 + 10) {
            let _ = attempts.begin(&Peer::Tcp((IpAddr::from(n.to_be_bytes()), 1).into()), now + EACH);
        }
        assert!(attempts.clean_at.lock().len() <= MOST);
        assert!(attempts.begin(&peer("2001:db8::1"), now + EACH).is_ok());
        assert!(attempts.begin(&peer("2001:db8::1"), now + EACH).is_err(), "who failed most is remembered");
    }
}
