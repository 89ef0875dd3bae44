//! A guest's packet, and what a stranger answers to it.

use super::*;
use crate::network::NetworkConfig;

/// The guest's packet: its length in the first byte, times four, then it; the
/// rest is the upstream's, which here knows the id.
fn split(input: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    let (len, rest) = input.split_first()?;
    let (packet, answer) = rest.split_at_checked(usize::from(*len) * 4)?;
    let mut answer = answer.to_vec();
    answer.get_mut(..2)?.copy_from_slice(&ID.to_be_bytes());
    Some((packet, answer))
}

const ID: u16 = 0x4a17;

fn lists() -> Lists {
    Lists::new(&NetworkConfig::new("/run/test", "aether"))
}

fn is_answer_to(packet: &[u8], bytes: &[u8]) {
    assert!(bytes.len() >= HEADER && bytes[..2] == packet[..2] && bytes[2] & IS_RESPONSE != 0);
}

fn passes(record: &Record, lists: &Lists) -> bool {
    match record.data() {
        RData::A(a) => !lists.denies(IpAddr::V4(a.0)),
        RData::AAAA(a) => !lists.denies(IpAddr::V6(a.0)),
        _ => true,
    }
}

#[test]
fn fuzz() {
    let lists = lists();
    let words = &["\u{0}\u{1}\u{0}\u{1}", "\u{0}\u{1c}\u{0}\u{1}", "\u{0}\u{41}", "\u{0}\u{29}", "\u{c0}\u{c}"];
    aether_fuzz::target("dns").max_len(4096).memory(4 << 20).words(words).run(|input| {
        let Some((packet, answer)) = split(input) else { return };
        let query = match judge(packet) {
            Verdict::Ignore => return,
            Verdict::Answer(bytes) => return is_answer_to(packet, &bytes),
            Verdict::Ask(query) => query,
        };
        if let Some(bytes) = failure(&query) {
            is_answer_to(packet, &bytes);
        }
        let Some(asked) = question(&query, ID) else { return };
        let asked = Message::from_vec(&asked).expect("what we ask is well formed");
        assert_eq!((asked.queries().len(), asked.answers().len(), asked.id()), (1, 0, ID));
        let Some(found) = accept(&query, ID, &answer) else { return };
        for udp in [true, false] {
            let Some(bytes) = reply(&query, found.clone(), &lists, udp) else { continue };
            is_answer_to(packet, &bytes);
            assert!(!udp || bytes.len() <= usize::from(MAX_UDP_ANSWER), "{} bytes over UDP", bytes.len());
            let Ok(read) = Message::from_vec(&bytes) else { continue };
            let records = read.answers().iter().chain(read.name_servers()).chain(read.additionals());
            assert!(records.into_iter().all(|record| passes(record, &lists)), "a denied address came through");
        }
    });
}
