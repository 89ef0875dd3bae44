//! The local socket: root acts for the platform, members of the group
//! `aether` administer the tenant `default`, nobody else gets in (the file
//! mode keeps them out already; this is the second lock).
//!
//! Who is a member is asked of the system (NSS: files, or a directory server
//! far away) off the async threads, and the answer is kept for
//! [`REMEMBERED`]: a member who is removed is out after that time.

use nix::unistd::{Gid, Group, Uid, User};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long an answer about a local user holds.
pub const REMEMBERED: Duration = Duration::from_secs(5);
/// Users remembered at one time; with more, the oldest answers go first.
const MOST_REMEMBERED: usize = 256;

/// Peer credentials as the kernel gave them at connect time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerUser {
    pub uid: u32,
    pub gid: u32,
}

/// What a local user is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalUser {
    Root,
    Group,
    Stranger,
}

const GROUP: &str = "aether";

impl LocalUser {
    /// Asks the system; root is root without asking.
    pub fn of(peer: &PeerUser) -> Self {
        if peer.uid == 0 {
            return Self::Root;
        }
        let group = Group::from_name(GROUP).ok().flatten();
        let name = User::from_uid(Uid::from_raw(peer.uid)).ok().flatten().map(|u| u.name);
        Self::decide(peer, group.as_ref().map(|g| (g.gid, g.mem.as_slice())), name.as_deref())
    }

    fn decide(peer: &PeerUser, group: Option<(Gid, &[String])>, name: Option<&str>) -> Self {
        if peer.uid == 0 {
            return Self::Root;
        }
        match group {
            Some((gid, members))
                if gid.as_raw() == peer.gid || name.is_some_and(|n| members.iter().any(|m| m == n)) =>
            {
                Self::Group
            }
            _ => Self::Stranger,
        }
    }
}

type Lookup = Arc<dyn Fn(&PeerUser) -> LocalUser + Send + Sync>;

/// The answers of the last seconds.
pub(crate) struct LocalUsers {
    lookup: Lookup,
    /// By user and group: the answer, and when it was given.
    known: Mutex<BTreeMap<(u32, u32), (LocalUser, Duration)>>,
}

impl LocalUsers {
    pub(crate) fn new() -> Self {
        Self::asking(Arc::new(LocalUser::of))
    }

    fn asking(lookup: Lookup) -> Self {
        Self { lookup, known: Mutex::default() }
    }

    /// `now` is monotonic.
    pub(crate) async fn of(&self, peer: PeerUser, now: Duration) -> LocalUser {
        if peer.uid == 0 {
            return LocalUser::Root;
        }
        let key = (peer.uid, peer.gid);
        if let Some((user, at)) = self.known.lock().get(&key).copied()
            && now.saturating_sub(at) < REMEMBERED
        {
            return user;
        }
        let lookup = self.lookup.clone();
        // Whoever cannot be looked up is nobody, and is asked for again.
        let Ok(user) = tokio::task::spawn_blocking(move || lookup(&peer)).await else { return LocalUser::Stranger };
        let mut known = self.known.lock();
        if known.len() >= MOST_REMEMBERED && !known.contains_key(&key) {
            let oldest = known.iter().min_by_key(|(_, (_, at))| *at).map(|(key, _)| *key);
            oldest.and_then(|key| known.remove(&key));
        }
        known.insert(key, (user, now));
        user
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Members as long as the second number is 0; counts the questions.
    fn counted() -> (LocalUsers, Arc<AtomicU32>, Arc<AtomicU32>) {
        let (asked, removed) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (count, gone) = (asked.clone(), removed.clone());
        let users = LocalUsers::asking(Arc::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            if gone.load(Ordering::Relaxed) == 0 { LocalUser::Group } else { LocalUser::Stranger }
        }));
        (users, asked, removed)
    }

    #[tokio::test]
    async fn an_answer_holds_for_some_seconds_and_no_longer() {
        let (users, asked, removed) = counted();
        let ann = PeerUser { uid: 1000, gid: 1000 };
        let from = Duration::from_secs(100);
        for ms in [0, 1, 2500, 4999] {
            assert_eq!(users.of(ann, from + Duration::from_millis(ms)).await, LocalUser::Group);
            removed.store(1, Ordering::Relaxed);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1, "one question for many requests");
        assert_eq!(users.of(ann, from + REMEMBERED).await, LocalUser::Stranger, "who is removed is out by then");
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        let other_group = PeerUser { uid: 1000, gid: 900 };
        users.of(other_group, from + REMEMBERED).await;
        assert_eq!(asked.load(Ordering::Relaxed), 3, "another group is another answer");
        assert_eq!(users.of(PeerUser { uid: 0, gid: 0 }, from).await, LocalUser::Root);
        assert_eq!(asked.load(Ordering::Relaxed), 3, "root is not asked about");
    }

    #[tokio::test]
    async fn answers_are_bounded() {
        let (users, asked, _) = counted();
        let most = u32::try_from(MOST_REMEMBERED).expect("small");
        for uid in 1..=most * 2 {
            users.of(PeerUser { uid, gid: 1 }, Duration::from_millis(uid.into())).await;
            assert!(users.known.lock().len() <= MOST_REMEMBERED);
        }
        let before = asked.load(Ordering::Relaxed);
        users.of(PeerUser { uid: most * 2, gid: 1 }, Duration::from_secs(2)).await;
        assert_eq!(asked.load(Ordering::Relaxed), before, "the newest are kept");
    }

    #[test]
    fn who_is_let_in() {
        let members = ["ann".to_owned()];
        let group = Some((Gid::from_raw(900), members.as_slice()));
        let who = |uid, gid, name| LocalUser::decide(&PeerUser { uid, gid }, group, name);
        assert_eq!(who(0, 0, Some("root")), LocalUser::Root);
        assert_eq!(who(1000, 1000, Some("ann")), LocalUser::Group);
        assert_eq!(who(1001, 900, Some("bob")), LocalUser::Group);
        assert_eq!(who(1001, 1001, Some("bob")), LocalUser::Stranger);
        assert_eq!(who(1001, 0, None), LocalUser::Stranger);
        assert_eq!(
            LocalUser::decide(&PeerUser { uid: 5, gid: 900 }, None, Some("ann")),
            LocalUser::Stranger,
            "no such group, no member"
        );
    }
}
