//! The keys of an issuer's document (RFC 7517) that tokens may be verified
//! with. Others are passed over: encryption keys, secrets, curves we do not
//! know, keys whose private half is told to the world.

use super::super::jose::{Algorithm, VerifyingKey, strict};
use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;

const MOST_KEYS: usize = 64;
const MAX_KID: usize = 256;

pub(super) struct KeySet(Vec<(String, VerifyingKey)>);

impl KeySet {
    /// None: no document of keys, or one in which a name has two meanings.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let document = strict(bytes)?;
        let all = document.get("keys")?.as_array().filter(|keys| keys.len() <= MOST_KEYS)?;
        let mut keys: Vec<(String, VerifyingKey)> = Vec::new();
        for (kid, key) in all.iter().filter_map(key) {
            if keys.iter().any(|(other, k)| *other == kid && k.algorithm() == key.algorithm()) {
                return None;
            }
            keys.push((kid, key));
        }
        Some(Self(keys))
    }

    pub(super) fn find(&self, kid: &str, algorithm: Algorithm) -> Option<&VerifyingKey> {
        self.0.iter().find(|(k, key)| k == kid && key.algorithm() == algorithm).map(|(_, key)| key)
    }
}

fn key(jwk: &Value) -> Option<(String, VerifyingKey)> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let bytes = |name: &str| BASE64URL_NOPAD.decode(text(name)?.as_bytes()).ok();
    let kid = text("kid").filter(|kid| !kid.is_empty() && kid.len() <= MAX_KID)?;
    if jwk.get("d").is_some() || jwk.get("use").is_some_and(|u| u != "sig") {
        return None;
    }
    if let Some(ops) = jwk.get("key_ops")
        && !ops.as_array()?.iter().any(|op| op == "verify")
    {
        return None;
    }
    let key = match (text("kty")?, text("crv")) {
        ("RSA", _) => {
            let (n, e) = (bytes("n")?, bytes("e")?);
            let n = n.iter().position(|b| *b != 0).map(|from| n[from..].to_vec())?;
            ((256..=1024).contains(&n.len()) && (1..=5).contains(&e.len())).then_some(VerifyingKey::Rsa { n, e })?
        }
        ("EC", Some("P-256")) => {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == 32 && y.len() == 32).then(|| VerifyingKey::P256([&[4][..], &x, &y].concat()))?
        }
        ("OKP", Some("Ed25519")) => VerifyingKey::Ed25519(bytes("x").filter(|x| x.len() == 32)?),
        _ => return None,
    };
    // RFC 9864 has another name for the same.
    let named =
        |alg: &Value| alg == key.algorithm().as_str() || (alg == "Ed25519" && key.algorithm() == Algorithm::EdDsa);
    jwk.get("alg").is_none_or(named).then(|| (kid.to_owned(), key))
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(keys: Value) -> Option<Vec<String>> {
        let set = KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())?;
        Some(set.0.into_iter().map(|(kid, key)| format!("{kid} {}", key.algorithm().as_str())).collect())
    }

    fn ed(kid: &str) -> Value {
        let x = BASE64URL_NOPAD.encode(&[1; 32]);
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x })
    }

    #[test]
    fn keys_that_verify_are_taken_and_others_passed_over() {
        let rsa = |bits: usize| json!({ "kty": "RSA", "kid": "r", "n": BASE64URL_NOPAD.encode(&vec![0xc3; bits / 8]), "e": "AQAB" });
        let coordinate = BASE64URL_NOPAD.encode(&[2; 32]);
        let ec = json!({ "kty": "EC", "crv": "P-256", "kid": "e", "x": coordinate, "y": coordinate });
        let with = |mut key: Value, name: &str, value: Value| {
            key[name] = value;
            key
        };
        let good =
            json!([rsa(2048), ec, ed("o"), with(ed("p"), "alg", json!("Ed25519")), with(ed("q"), "use", json!("sig"))]);
        assert_eq!(parsed(good).expect("keys"), ["r RS256", "e ES256", "o EdDSA", "p EdDSA", "q EdDSA"]);
        let passed = json!([
            rsa(1024),
            with(rsa(2048), "alg", json!("PS256")),
            with(rsa(2048), "d", json!("AA")),
            with(ed("o"), "use", json!("enc")),
            with(ed("o"), "key_ops", json!(["sign"])),
            with(ed("o"), "crv", json!("X25519")),
            with(ed("o"), "x", json!("AA")),
            with(ed("o"), "x", json!("AA==")),
            with(ec, "crv", json!("P-384")),
            with(ed("o"), "kid", json!("")),
            with(ed("o"), "kid", json!(7)),
            json!({ "kty": "oct", "kid": "s", "k": coordinate }),
            json!("x"),
        ]);
        assert_eq!(parsed(passed), Some(Vec::new()));
    }

    #[test]
    fn a_document_that_is_odd_is_none() {
        assert!(parsed(json!([ed("a"), ed("a")])).is_none(), "one name, two keys");
        assert!(parsed(json!((0..65).map(|n| ed(&n.to_string())).collect::<Vec<_>>())).is_none());
        assert_eq!(parsed(json!((0..64).map(|n| ed(&n.to_string())).collect::<Vec<_>>())).map(|k| k.len()), Some(64));
        for bytes in [&b""[..], b"{}", b"[]", b"{\"keys\":{}}", b"{\"keys\":[],\"keys\":[]}"] {
            assert!(KeySet::parse(bytes).is_none());
        }
    }
}
