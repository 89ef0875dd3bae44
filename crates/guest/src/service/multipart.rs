//! `multipart/form-data` read as it comes: part after part, each a reader,
//! without holding a part in memory.

use std::io::{self, ErrorKind, Read};

/// As RFC 2046 allows.
const BOUNDARY: usize = 70;
/// Of one part's headers together.
const HEADERS: usize = 16 * 1024;
const PIECE: usize = 64 * 1024;

fn malformed(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the multipart body is malformed: {what}"))
}

/// The boundary that a content type names; none for other types.
pub fn boundary(content_type: &str) -> Option<String> {
    let (kind, rest) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    parameter(rest, "boundary").filter(|text| !text.is_empty() && text.len() <= BOUNDARY)
}

/// `key=value` or `key="value"` among others, with `;` between.
fn parameter(text: &str, wanted: &str) -> Option<String> {
    let mut rest = text.trim_start_matches([';', ' ', '\t']);
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let (value, left) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        if key.trim().eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = left.trim_start_matches([';', ' ', '\t']);
    }
    None
}

/// Up to the closing quote, and what follows it. Browsers write a quote in a
/// name as `%22`, others as `\"`.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value.replace("%22", "\""), &text[at + 1..])),
            '\\' => value.push(letters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// What a part says of itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    pub name: String,
    pub filename: Option<String>,
}

/// The body: [`Multipart::part`] comes to a part, `read` reads that part.
pub struct Multipart<R> {
    source: R,
    /// Line break, two dashes, boundary.
    delimiter: Vec<u8>,
    held: Vec<u8>,
    /// So many bytes of it belong to the present part.
    free: usize,
    /// The delimiter after the present part is at the start of `held`.
    at_end: bool,
}

impl<R: Read> Multipart<R> {
    pub fn new(source: R, boundary: &str) -> Self {
        // The first delimiter has no line break before it.
        Self {
            source,
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            held: b"\r\n".to_vec(),
            free: 0,
            at_end: false,
        }
    }

    /// Whatever is left of the present part is passed over.
    pub fn part(&mut self) -> io::Result<Option<Part>> {
        io::copy(self, &mut io::sink())?;
        if self.held.len() < self.delimiter.len() {
            return Ok(None);
        }
        self.held.drain(..self.delimiter.len());
        self.at_end = false;
        self.hold(2)?;
        if self.held.starts_with(b"--") {
            // What follows the end is read, or the sender would wait.
            io::copy(&mut self.source, &mut io::sink())?;
            self.at_end = true;
            self.held.clear();
            return Ok(None);
        }
        let line = self.line(HEADERS)?;
        if !line.trim().is_empty() {
            return Err(malformed("text behind a boundary"));
        }
        let mut found = None;
        let mut room = HEADERS;
        loop {
            let line = self.line(room)?;
            room = room.saturating_sub(line.len() + 2);
            if line.is_empty() {
                break;
            }
            if let Some((key, value)) = line.split_once(':')
                && key.trim().eq_ignore_ascii_case("content-disposition")
            {
                let (_, parameters) = value.split_once(';').unwrap_or_default();
                let name = parameter(parameters, "name").unwrap_or_default();
                found = Some(Part { name, filename: parameter(parameters, "filename") });
            }
        }
        found.map(Some).ok_or_else(|| malformed("a part without a name"))
    }

    fn more(&mut self) -> io::Result<bool> {
        let before = self.held.len();
        self.held.resize(before + PIECE, 0);
        let count = self.source.read(&mut self.held[before..]);
        self.held.truncate(before + *count.as_ref().unwrap_or(&0));
        count.map(|count| count > 0)
    }

    fn hold(&mut self, count: usize) -> io::Result<()> {
        while self.held.len() < count {
            if !self.more()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Up to a line break, which is taken too.
    fn line(&mut self, most: usize) -> io::Result<String> {
        loop {
            if let Some(end) = self.held.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.held.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).map_err(|_| malformed("headers that are not UTF-8"));
            }
            if self.held.len() > most {
                return Err(malformed("headers that are too long"));
            }
            let before = self.held.len();
            self.hold(before + 1)?;
        }
    }
}

impl<R: Read> Read for Multipart<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at_end || buffer.is_empty() {
            return Ok(0);
        }
        while self.free == 0 {
            let found = self.held.windows(self.delimiter.len()).position(|window| window == self.delimiter);
            if found == Some(0) {
                self.at_end = true;
                return Ok(0);
            }
            // Without one, the last bytes may be the start of one.
            self.free = found.unwrap_or_else(|| self.held.len().saturating_sub(self.delimiter.len() - 1));
            if self.free == 0 && !self.more()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        let count = self.free.min(buffer.len());
        buffer[..count].copy_from_slice(&self.held[..count]);
        self.held.drain(..count);
        self.free -= count;
        Ok(count)
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::fuzz::Slow;
    use super::*;
    use proptest::prelude::*;

    fn body(parts: &[(&str, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (filename, data) in parts {
            body.extend(b"--B0und\r\nContent-Type: application/octet-stream\r\n");
            body.extend(
                format!("Content-Disposition: form-data; name=\"file\"; filename=\"{filename}\"\r\n\r\n").bytes(),
            );
            body.extend_from_slice(data);
            body.extend(b"\r\n");
        }
        body.extend(b"--B0und--\r\n");
        body
    }

    fn read(bytes: &[u8], at_a_time: usize) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut multipart = Multipart::new(Slow(bytes, at_a_time), "B0und");
        let mut found = Vec::new();
        while let Some(part) = multipart.part()? {
            let mut data = Vec::new();
            multipart.read_to_end(&mut data)?;
            found.push((part.filename.unwrap_or_default(), data));
        }
        Ok(found)
    }

    #[test]
    fn boundaries_and_names() {
        assert_eq!(boundary("multipart/form-data; boundary=abc").as_deref(), Some("abc"));
        assert_eq!(boundary("Multipart/Form-Data; charset=x; Boundary=\"a;b c\"; y=z").as_deref(), Some("a;b c"));
        for none in ["multipart/form-data", "text/plain; boundary=a", "multipart/form-data; boundary=", "x"] {
            assert_eq!(boundary(none), None, "{none}");
        }
        assert_eq!(boundary(&format!("multipart/form-data; boundary={}", "b".repeat(71))), None);
        for (text, name) in
            [(r#"f="a\"b""#, "a\"b"), ("f=\"a%22b\"", "a\"b"), ("x=1; f=c", "c"), ("f=\"/a b;c\"", "/a b;c")]
        {
            assert_eq!(parameter(text, "f").as_deref(), Some(name), "{text}");
        }
    }

    #[test]
    fn a_body_that_is_cut_or_odd_is_an_error() {
        let whole = body(&[("/a", b"data")]);
        for length in 0..whole.len() - 4 {
            assert!(read(&whole[..length], 7).is_err(), "{length}");
        }
        let unnamed = b"--B0und\r\n\r\ndata\r\n--B0und--";
        let long = [b"--B0und\r\nx: ".to_vec(), vec![b'y'; 3 * HEADERS]].concat();
        for wrong in [&b"no boundary"[..], b"--B0und behind\r\n", unnamed, &long] {
            assert!(read(wrong, 1000).is_err());
        }
        // A part that nobody reads is passed over.
        let two = body(&[("/a", b"data"), ("/b", b"")]);
        let mut multipart = Multipart::new(&two[..], "B0und");
        let mut names = Vec::new();
        while let Some(part) = multipart.part().expect("parts") {
            names.push(part.filename.expect("a name"));
        }
        assert_eq!(names, ["/a", "/b"]);
    }

    proptest! {
        #[test]
        fn every_byte_arrives(
            first in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'B'), any::<u8>()], 0..300),
            second in "(\r\n--B0un|\r\n--|x){0,9}",
            at_a_time in 1usize..50,
        ) {
            prop_assume!(!first.windows(9).any(|window| window == b"\r\n--B0und"));
            let parts: [(&str, &[u8]); 2] = [("/a", &first), ("/b", second.as_bytes())];
            let found = read(&body(&parts), at_a_time).expect("parts");
            prop_assert_eq!(found, vec![("/a".to_owned(), first.clone()), ("/b".to_owned(), second.clone().into_bytes())]);
        }
    }
}
