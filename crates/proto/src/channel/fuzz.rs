//! The handshake's search against the plainest one there is.

use super::{AnswerScanner, HELLO_LEN, MAGIC, NONCE_LEN, Scanner};

/// Ends of all that a needle and a nonce make in the whole stream.
fn plainly(stream: &[u8]) -> Vec<(usize, &[u8])> {
    let all = stream.windows(HELLO_LEN).enumerate();
    all.filter(|(_, w)| w[..16] == MAGIC).map(|(at, w)| (at + HELLO_LEN, &w[16..])).collect()
}

/// The first byte is how the stream is cut, the next 16 the nonce that is
/// waited for.
#[test]
fn fuzz() {
    let words = &["aether-guest\r\n\x01", "NONCENONCENONCE!"];
    aether_fuzz::target("channel_hello").max_len(4096).memory(64 << 10).words(words).run(|input| {
        let Some((cut, rest)) = input.split_first() else { return };
        let Some((nonce, stream)) = rest.split_first_chunk::<NONCE_LEN>() else { return };
        let chunks = stream.chunks(usize::from(*cut) + 1);
        let matches = plainly(stream);
        let mut any = Scanner::new(MAGIC);
        let mut answers = AnswerScanner::new(*nonce);
        let (mut begun, mut at) = (None, 0);
        for chunk in chunks {
            let here = |end: usize| end > at && end <= at + chunk.len();
            let last = matches.iter().rfind(|(end, _)| here(*end));
            let met = any.feed(chunk).map(|met| (at + met.rest, met.nonce.to_vec()));
            assert_eq!(met, last.map(|(end, nonce)| (*end, nonce.to_vec())), "in the chunk at {at}");
            if begun.is_none() {
                begun = answers.feed(chunk).map(|rest| at + rest);
            }
            at += chunk.len();
        }
        let first = matches.iter().find(|(_, found)| found == nonce).map(|(end, _)| *end);
        assert_eq!(begun, first, "where the session begins");
    });
}
