//! Signed tokens in their one form: compact, three parts of unpadded base 64,
//! each read to the letter. A token that could be read in two ways is none.
//!
//! Here is what the bytes say, and whether a key has signed them; what the
//! claims mean is for `tokens` (ours) and `oidc` (outside issuers). Which
//! algorithm is used is said by the key, never by the token.

use data_encoding::BASE64URL_NOPAD;
use ring::{hmac, signature};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Longer ones are not looked at.
pub(crate) const MAX_TOKEN: usize = 16 * 1024;
const MAX_KID: usize = 256;
/// Of a header; whatever else it has could only tell us where to look for a
/// key, how to unpack, or what we must know and do not.
const HEADER: [&str; 5] = ["alg", "kid", "typ", "x5t", "x5t#S256"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Algorithm {
    Hs256,
    Rs256,
    Es256,
    EdDsa,
}

impl Algorithm {
    pub(crate) const ALL: [Algorithm; 4] = [Self::Hs256, Self::Rs256, Self::Es256, Self::EdDsa];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.as_str() == text)
    }
}

/// What a signature is verified with. There is one algorithm for each.
#[derive(Clone)]
pub(crate) enum VerifyingKey {
    Secret(hmac::Key),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The uncompressed point.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl VerifyingKey {
    pub(crate) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Secret(_) => Algorithm::Hs256,
            Self::Rsa { .. } => Algorithm::Rs256,
            Self::P256(_) => Algorithm::Es256,
            Self::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        let unparsed = |algorithm: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            signature::UnparsedPublicKey::new(algorithm, key).verify(signed, signature).is_ok()
        };
        match self {
            Self::Secret(key) => hmac::verify(key, signed, signature).is_ok(),
            Self::Rsa { n, e } => signature::RsaPublicKeyComponents { n, e }
                .verify(&signature::RSA_PKCS1_2048_8192_SHA256, signed, signature)
                .is_ok(),
            Self::P256(point) => unparsed(&signature::ECDSA_P256_SHA256_FIXED, point),
            Self::Ed25519(key) => unparsed(&signature::ED25519, key),
        }
    }
}

/// A token of which nothing is believed yet.
pub(crate) struct Compact<'a> {
    pub(crate) algorithm: Algorithm,
    pub(crate) kid: String,
    pub(crate) header: Map<String, Value>,
    pub(crate) claims: Map<String, Value>,
    /// What the signature is about: it names the token for good, since of some
    /// signatures there are two.
    pub(crate) signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Compact<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_TOKEN {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header = object(header)?;
        if header.keys().any(|name| !HEADER.contains(&name.as_str())) {
            return None;
        }
        let typ = header.get("typ").map(|typ| typ.as_str().unwrap_or(""));
        if typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("jwt") && !typ.eq_ignore_ascii_case("at+jwt")) {
            return None;
        }
        let kid = header.get("kid")?.as_str()?.to_owned();
        if kid.is_empty() || kid.len() > MAX_KID {
            return None;
        }
        Some(Self {
            algorithm: Algorithm::parse(header.get("alg")?.as_str()?)?,
            kid,
            claims: object(claims)?,
            header,
            signed,
            signature: BASE64URL_NOPAD.decode(signature.as_bytes()).ok()?,
        })
    }

    pub(crate) fn verified_by(&self, key: &VerifyingKey) -> bool {
        self.algorithm == key.algorithm() && key.verifies(self.signed.as_bytes(), &self.signature)
    }

    pub(crate) fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim)?.as_str()
    }

    /// A time in whole seconds: no text, no fraction, nothing negative.
    pub(crate) fn seconds(&self, claim: &str) -> Option<u64> {
        self.claims.get(claim)?.as_u64()
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    let bytes = BASE64URL_NOPAD.decode(part.as_bytes()).ok()?;
    match strict(&bytes)? {
        Value::Object(map) => Some(map),
        _ => None,
    }
}

/// JSON in which no object has a name twice: two readers could take each
/// another of them.
pub(crate) fn strict(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice::<Strict>(bytes).ok().map(|strict| strict.0)
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("no number"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some((name, Strict(value))) = entries.next_entry::<String, Strict>()? {
            if out.insert(name, value).is_some() {
                return Err(A::Error::custom("a name comes twice"));
            }
        }
        Ok(Value::Object(out))
    }
}

/// The first two parts, as they are signed.
pub(crate) fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    format!("{}.{}", part(header), part(claims))
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key() -> (hmac::Key, VerifyingKey) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        (key.clone(), VerifyingKey::Secret(key))
    }

    fn token(header: &Value, claims: &Value) -> String {
        let signed = unsigned(header, claims);
        let tag = hmac::sign(&key().0, signed.as_bytes());
        format!("{signed}.{}", BASE64URL_NOPAD.encode(tag.as_ref()))
    }

    #[test]
    fn a_token_is_read_and_verified() {
        let text = token(&json!({ "alg": "HS256", "kid": "k" }), &json!({ "exp": 5, "sub": "a" }));
        let compact = Compact::parse(&text).expect("a token");
        assert!(compact.verified_by(&key().1));
        assert_eq!((compact.seconds("exp"), compact.text("sub"), compact.text("exp")), (Some(5), Some("a"), None));
        let other = VerifyingKey::Secret(hmac::Key::new(hmac::HMAC_SHA256, &[8; 32]));
        assert!(!compact.verified_by(&other));
    }

    #[test]
    fn times_are_whole_seconds() {
        for odd in [json!("5"), json!(5.0), json!(5.5), json!(-5), json!([5]), json!(1e300), json!(null), json!(true)] {
            let text = token(&json!({ "alg": "HS256", "kid": "k" }), &json!({ "exp": odd }));
            assert_eq!(Compact::parse(&text).expect("a token").seconds("exp"), None, "{odd}");
        }
    }

    #[test]
    fn headers_that_want_more_are_refused() {
        for (name, value) in [
            ("jku", json!("https://a.example/keys")),
            ("jwk", json!({ "kty": "oct" })),
            ("x5u", json!("https://a.example")),
            ("x5c", json!(["AA"])),
            ("crit", json!(["exp"])),
            ("b64", json!(false)),
            ("zip", json!("DEF")),
            ("enc", json!("A128GCM")),
            ("typ", json!("JWE")),
            ("typ", json!(1)),
            ("kid", json!("")),
            ("kid", json!("k".repeat(257))),
            ("kid", json!(["k"])),
            ("alg", json!("none")),
            ("alg", json!("hs256")),
        ] {
            let mut header = json!({ "alg": "HS256", "kid": "k" });
            header[name] = value;
            assert!(Compact::parse(&token(&header, &json!({}))).is_none(), "{header}");
        }
    }

    #[test]
    fn a_name_comes_once() {
        assert!(strict(br#"{"a":1,"b":{"c":[{"d":null}]}}"#).is_some());
        for twice in [r#"{"a":1,"a":1}"#, r#"{"b":{"c":1,"c":2}}"#, r#"[{"a":1,"\u0061":2}]"#, "", "{", "{}{}"] {
            assert!(strict(twice.as_bytes()).is_none(), "{twice}");
        }
    }
}
