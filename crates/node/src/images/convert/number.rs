//! The numbers in a tar header, read as Go reads them: what two programs read
//! differently is how archives smuggle.

/// Octal digits with blanks around them, or base 256 where the first bit is
/// set. An empty field is 0. None: not a number, negative, or above 64 bits.
pub(crate) fn number(field: &[u8]) -> Option<u64> {
    if field.first()? & 0x80 != 0 {
        return base256(field);
    }
    let text = field.split(|b| *b == 0).next().unwrap_or_default();
    let digits = text.trim_ascii_start().trim_ascii_end();
    // Other blanks than spaces are no part of the format.
    if text.iter().any(|b| b.is_ascii_whitespace() && *b != b' ') {
        return None;
    }
    digits.iter().try_fold(0u64, |value, b| match b {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}

fn base256(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    // The bit below the mark is the sign.
    let top = (first & 0x40 == 0).then_some(first & 0x3f)?;
    rest.iter().try_fold(u64::from(top), |value, b| value.checked_mul(256)?.checked_add(u64::from(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let good: [(&[u8], u64); 9] = [
            (b"0000644\0", 0o644),
            (b"   17 \0 ", 0o17),
            (b"17\0junk", 0o17),
            (b"777777777777", 0o777_777_777_777),
            (b"\0\0\0\0", 0),
            (b"        ", 0),
            (b"\x80\0\0\0\0\0\0\x05", 5),
            (b"\xbf\xff", 0x3fff),
            (b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", u64::MAX),
        ];
        for (field, value) in good {
            assert_eq!(number(field), Some(value), "{}", field.escape_ascii());
        }
        let bad: [&[u8]; 10] = [
            b"",
            b"-1",
            b"+1",
            b"8",
            b"0x1",
            b"1 1",
            b"1\n",
            b"\xff\xff\xff\xff",
            b"\x80\0\0\x01\0\0\0\0\0\0\0\0",
            b"\xc0\0\0\0\0\0\0\x05",
        ];
        for field in bad {
            assert_eq!(number(field), None, "{}", field.escape_ascii());
        }
    }
}
