//! What a registry asks for with a 401: Basic, or Bearer from a token server.

use super::super::{Credentials, ImageError, text};
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;

pub(super) const MAX_TOKEN: usize = 64 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Reads one `WWW-Authenticate` header. None: a scheme that we do not speak.
pub(super) fn parse_challenge(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    let mut rest = rest.trim();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, tail) = quoted(after.trim_start())?;
        match key.trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            "scope" => scope = Some(value),
            _ => {}
        }
        rest = tail.trim_start().trim_start_matches(',').trim_start();
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

/// A quoted string or a bare word, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let Some(inner) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        return Some((text[..end].trim().to_owned(), &text[end..]));
    };
    let mut out = String::new();
    let mut chars = inner.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return Some((out, &inner[i + 1..])),
            '\\' => out.push(chars.next()?.1),
            c => out.push(c),
        }
    }
    None
}

/// The token server's URL with its query.
pub(super) fn token_url(realm: &str, service: Option<&str>, scope: &str) -> Result<Url, ImageError> {
    let mut url = Url::parse(realm).map_err(|_| {
        ImageError::Refused(format!("the registry's token server {:?} is no URL", text::clip(realm, 200)))
    })?;
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", scope);
    }
    Ok(url)
}

pub(super) fn basic(credentials: &Credentials) -> Option<HeaderValue> {
    let pair = format!("{}:{}", credentials.username, credentials.password.expose());
    secret_header(&format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes())))
}

/// From the token server's answer.
pub(super) fn bearer(body: &[u8]) -> Option<HeaderValue> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        token: Option<String>,
        #[serde(default)]
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let token = answer.token.or(answer.access_token).filter(|t| !t.is_empty())?;
    secret_header(&format!("Bearer {token}"))
}

/// Marked so that nothing prints it.
fn secret_header(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges() {
        let bearer = parse_challenge(
            r#"Bearer realm="https://auth.example/t?a=\"b",service=reg, scope="repository:a/b:pull,push""#,
        );
        let expected = Challenge::Bearer {
            realm: r#"https://auth.example/t?a="b"#.into(),
            service: Some("reg".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        assert_eq!(bearer, Some(expected));
        assert_eq!(parse_challenge("basic realm=x"), Some(Challenge::Basic));
        assert_eq!(parse_challenge("Negotiate"), None);
        assert_eq!(parse_challenge("Bearer service=x"), None);
    }

    #[test]
    fn tokens_are_not_printed() {
        let header = bearer(br#"{"access_token":"hunter2"}"#).expect("token");
        assert!(!format!("{header:?}").contains("hunter2"));
        assert_eq!(bearer(br#"{"token":"a\nb"}"#), None);
    }

    proptest! {
        #[test]
        fn never_panics(header in ".{0,120}") {
            let _ = parse_challenge(&header);
        }
    }
}
