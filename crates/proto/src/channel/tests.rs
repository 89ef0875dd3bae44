use super::*;
use proptest::prelude::*;

const TOKEN: [u8; 16] = *b"token-of-sandbox";

/// Feeds `stream` in chunks of the given sizes; answers the nonces met and,
/// for each, the offset of the first byte after it.
fn run(needle: [u8; 16], stream: &[u8], sizes: &[usize]) -> Vec<([u8; 16], usize)> {
    let mut scanner = Scanner::new(needle);
    let (mut at, mut met) = (0, Vec::new());
    let mut sizes = sizes.iter().copied().cycle();
    while at < stream.len() {
        let end = (at + sizes.next().unwrap_or(1).max(1)).min(stream.len());
        if let Some(found) = scanner.feed(&stream[at..end]) {
            met.push((found.nonce, at + found.rest));
        }
        at = end;
    }
    met
}

#[test]
fn one_hello_byte_by_byte() {
    let nonce = [7; 16];
    assert_eq!(run(TOKEN, &hello(&TOKEN, &nonce), &[1]), [(nonce, 32)]);
}

#[test]
fn of_two_in_one_chunk_the_later_counts() {
    let stream = [hello(&TOKEN, &[1; 16]), hello(&TOKEN, &[2; 16])].concat();
    assert_eq!(run(TOKEN, &stream, &[stream.len()]), [([2; 16], 64)]);
}

#[test]
fn a_truncated_hello_does_not_hide_the_next() {
    for cut in 0..32 {
        for size in [1, 3, 16, 31, 32, 33, 64] {
            let stream = [&hello(&TOKEN, &[1; 16])[..cut], &hello(&TOKEN, &[2; 16])].concat();
            let met = run(TOKEN, &stream, &[size]);
            assert_eq!(met.last(), Some(&([2; 16], stream.len())), "cut {cut}, chunks of {size}");
        }
    }
}

#[test]
fn the_needle_may_change_in_mid_stream() {
    let mut scanner = Scanner::new(TOKEN);
    let new = *b"another-token-16";
    let stream = hello(&new, &[9; 16]);
    assert_eq!(scanner.feed(&stream[..10]), None);
    scanner.set_needle(new);
    assert_eq!(scanner.feed(&stream[10..]), Some(Met { nonce: [9; 16], rest: 22 }));
    assert_eq!(scanner.feed(&hello(&TOKEN, &[1; 16])), None);
}

#[test]
fn only_the_answer_to_the_latest_hello_counts() {
    let mut scanner = AnswerScanner::new([1; 16]);
    scanner.expect([2; 16]);
    assert_eq!(scanner.feed(&answer(&[1; 16])), None);
    let both = [answer(&[1; 16]), answer(&[2; 16])].concat();
    assert_eq!(scanner.feed(&both), Some(64));
}

#[test]
fn debug_hides_the_token() {
    assert_eq!(format!("{:?}", Scanner::new(TOKEN)), "Scanner(***)");
}

proptest! {
    #[test]
    fn found_in_any_noise_and_any_chunks(
        before in proptest::collection::vec(any::<u8>(), 0..200),
        after in proptest::collection::vec(any::<u8>(), 0..200),
        nonce in any::<[u8; 16]>(),
        sizes in proptest::collection::vec(1usize..80, 1..8),
    ) {
        let stream = [&before[..], &hello(&TOKEN, &nonce), &after].concat();
        let met = run(TOKEN, &stream, &sizes);
        prop_assert_eq!(met, vec![(nonce, before.len() + 32)]);
    }

    #[test]
    fn truncated_and_stale_answers_never_pass(
        old in proptest::collection::vec((any::<[u8; 16]>(), 0usize..=32), 0..6),
        nonce in any::<[u8; 16]>(),
        session in proptest::collection::vec(any::<u8>(), 0..100),
        size in 1usize..70,
    ) {
        prop_assume!(old.iter().all(|(stale, _)| *stale != nonce));
        let mut stream = Vec::new();
        for (stale, keep) in &old {
            stream.extend_from_slice(&answer(stale)[..*keep]);
        }
        let begin = stream.len() + 32;
        stream.extend_from_slice(&answer(&nonce));
        stream.extend_from_slice(&session);
        let mut scanner = AnswerScanner::new(nonce);
        let mut at = 0;
        let mut found = None;
        while at < stream.len() && found.is_none() {
            let end = (at + size).min(stream.len());
            found = scanner.feed(&stream[at..end]).map(|rest| at + rest);
            at = end;
        }
        prop_assert_eq!(found, Some(begin));
    }

    #[test]
    fn noise_alone_is_silence(noise in proptest::collection::vec(any::<u8>(), 0..2000), size in 1usize..100) {
        prop_assert!(run(TOKEN, &noise, &[size]).is_empty());
    }
}
