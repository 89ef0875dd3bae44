//! PAX records, read by their lengths: values hold any byte, newlines too.

use super::error::{ConvertError, show};

const XATTR: &[u8] = b"SCHILY.xattr.";
const MAX_XATTRS: usize = 64;

/// What PAX records say about the next member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PaxFacts {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    /// Whole seconds; times before 1970 count as 1970.
    pub mtime: Option<u64>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Only these mean something in a guest. `trusted.overlay.*` and
/// `user.overlay.*` would steer its overlay and are left out with the rest.
fn keeps_xattr(name: &[u8]) -> bool {
    name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

/// One record off the front: key, value, rest.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|b| *b == b' ')?;
    let digits = &data[..space];
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let len: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let body = data.get(space + 1..len)?;
    let (last, body) = body.split_last()?;
    let equals = body.iter().position(|b| *b == b'=')?;
    (*last == b'\n' && equals > 0).then(|| (&body[..equals], &body[equals + 1..], &data[len..]))
}

fn number(key: &str, value: &[u8]) -> Result<u64, ConvertError> {
    let text = std::str::from_utf8(value).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
    text.and_then(|t| t.parse().ok()).ok_or_else(|| ConvertError::invalid(format!("PAX {key} is not a number")))
}

fn seconds(value: &[u8]) -> Result<u64, ConvertError> {
    if value.starts_with(b"-") {
        return Ok(0);
    }
    let whole = value.split(|b| *b == b'.').next().unwrap_or_default();
    number("mtime", whole)
}

/// Reads the body of a PAX header. An empty value takes a record back.
pub(crate) fn parse(mut data: &[u8]) -> Result<PaxFacts, ConvertError> {
    let mut facts = PaxFacts::default();
    while !data.is_empty() {
        let (key, value, rest) =
            record(data).ok_or_else(|| ConvertError::invalid("a PAX header holds a malformed record"))?;
        data = rest;
        if key.starts_with(b"GNU.sparse.") {
            return Err(ConvertError::invalid("sparse files in layers are not supported"));
        }
        let some = (!value.is_empty()).then_some(value);
        match key {
            b"path" => facts.path = some.map(<[u8]>::to_vec),
            b"linkpath" => facts.link = some.map(<[u8]>::to_vec),
            b"size" => facts.size = some.map(|v| number("size", v)).transpose()?,
            b"uid" => facts.uid = some.map(|v| number("uid", v)).transpose()?,
            b"gid" => facts.gid = some.map(|v| number("gid", v)).transpose()?,
            b"mtime" => facts.mtime = some.map(seconds).transpose()?,
            _ => {
                if let Some(name) = key.strip_prefix(XATTR).filter(|n| keeps_xattr(n)) {
                    add_xattr(&mut facts, name, value)?;
                }
            }
        }
    }
    Ok(facts)
}

fn add_xattr(facts: &mut PaxFacts, name: &[u8], value: &[u8]) -> Result<(), ConvertError> {
    if name.len() > 255 || value.len() > 65_536 || name.contains(&0) {
        return Err(ConvertError::invalid(format!("the extended attribute {} is too long", show(name))));
    }
    facts.xattrs.retain(|(n, _)| n != name);
    if facts.xattrs.len() == MAX_XATTRS {
        return Err(ConvertError::invalid("a file has too many extended attributes"));
    }
    facts.xattrs.push((name.to_vec(), value.to_vec()));
    Ok(())
}

/// Appends one record to the body of a PAX header.
pub(crate) fn push_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3; // space, '=', newline
    let mut len = rest + 1;
    while len.to_string().len() + rest != len {
        len = len.to_string().len() + rest;
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

pub(crate) fn push_xattr(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    push_record(out, &[XATTR, name].concat(), value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_values_with_newlines() {
        let mut body = Vec::new();
        push_xattr(&mut body, b"security.capability", b"\x01\n12 size=9\n\x00=");
        push_record(&mut body, b"path", b"a\nb");
        push_record(&mut body, b"mtime", b"12.75");
        let facts = parse(&body).expect("valid");
        assert_eq!(facts.path.as_deref(), Some(&b"a\nb"[..]));
        assert_eq!((facts.size, facts.mtime), (None, Some(12)));
        assert_eq!(facts.xattrs[0].1, b"\x01\n12 size=9\n\x00=");
    }

    #[test]
    fn leaves_out_what_would_steer_the_guest_overlay() {
        let mut body = Vec::new();
        for name in ["trusted.overlay.redirect", "user.overlay.opaque", "security.selinux", "user.x"] {
            push_xattr(&mut body, name.as_bytes(), b"y");
        }
        let facts = parse(&body).expect("valid");
        assert_eq!(facts.xattrs, [(b"user.x".to_vec(), b"y".to_vec())]);
    }

    #[test]
    fn malformed_records_are_refused() {
        let bad: [&[u8]; 8] = [
            b"8 path=a\n",
            b"x",
            b"8 path=a",
            b"0 a=b\n",
            b"99999999999999999999 a=b\n",
            b"6 =ab\n",
            b"-6 a=b\n",
            b"11 size=-1\n",
        ];
        for body in bad {
            assert!(parse(body).is_err(), "{}", show(body));
        }
        let mut sparse = Vec::new();
        push_record(&mut sparse, b"GNU.sparse.major", b"1");
        assert!(parse(&sparse).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(path in proptest::collection::vec(1u8.., 1..300), size in 0u64..) {
            let mut body = Vec::new();
            push_record(&mut body, b"path", &path);
            push_record(&mut body, b"size", size.to_string().as_bytes());
            let facts = parse(&body).expect("valid");
            prop_assert_eq!((facts.path, facts.size), (Some(path), Some(size)));
        }

        #[test]
        fn never_panics(body in proptest::collection::vec(0u8.., 0..200)) {
            let _ = parse(&body);
        }
    }
}
