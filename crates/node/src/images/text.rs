//! Making outside text fit for errors and logs.

/// At most `limit` bytes of `text`, control characters escaped.
pub(crate) fn clip(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for c in text.chars() {
        let shown = if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        if out.len() + shown.len() > limit {
            out.push('…');
            break;
        }
        out.push_str(&shown);
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn clips_and_escapes() {
        assert_eq!(super::clip("a\x1b[31mb", 100), "a\\u{1b}[31mb");
        assert_eq!(super::clip("abcdef", 3), "abc…");
    }
}
