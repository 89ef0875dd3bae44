//! Uploads of E2B's clients: the body, and the header that tells its boundary.

use super::*;

/// Gives a few bytes at a time.
pub(super) struct Slow<'a>(pub(super) &'a [u8], pub(super) usize);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.len().min(self.1).min(buffer.len());
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

type Parts = (Vec<(String, Option<String>, Vec<u8>)>, bool);

/// Its parts, and whether it came to its end.
fn all(body: &[u8], boundary: &str, step: usize) -> Parts {
    let mut multipart = Multipart::new(Slow(body, step), boundary);
    let mut parts = Vec::new();
    loop {
        match multipart.part() {
            Ok(None) => return (parts, true),
            Err(_) => return (parts, false),
            Ok(Some(part)) => {
                let mut content = Vec::new();
                if multipart.read_to_end(&mut content).is_err() {
                    return (parts, false);
                }
                parts.push((part.name, part.filename, content));
            }
        }
    }
}

#[test]
fn fuzz() {
    let words = &[
        "\r\n--b",
        "--b--\r\n",
        "Content-Disposition: form-data; name=\"",
        "filename=\"",
        "\r\n\r\n",
        "%22",
        "\\\"",
        "boundary=",
    ];
    aether_fuzz::target("multipart").max_len(8 << 10).memory(4 << 20).words(words).run(|input| {
        let [kind, body] = aether_fuzz::parts(input);
        let named = std::str::from_utf8(kind).ok().and_then(boundary);
        assert!(named.as_ref().is_none_or(|b| !b.is_empty() && b.len() <= BOUNDARY));
        let boundary = named.as_deref().unwrap_or("b");
        let (parts, whole) = all(body, boundary, usize::MAX);
        assert_eq!(all(body, boundary, 7), (parts.clone(), whole), "however it is cut");
        let total: usize = parts.iter().map(|(_, _, content)| content.len()).sum();
        assert!(total <= body.len(), "more than came");
        let delimiter = format!("\r\n--{boundary}");
        for (_, _, content) in &parts {
            assert!(!content.windows(delimiter.len()).any(|w| w == delimiter.as_bytes()), "past its end");
        }
    });
}
