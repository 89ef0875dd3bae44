//! The keys of our own tokens: one that signs, and all that verify, each by
//! its `kid`, which follows from the key.
//!
//! ```text
//! private key given    it signs (RS256, ES256 or EdDSA, by what it is)
//! secret given         HS256; beside a private key it only verifies
//! neither              a key file of this server's own (EdDSA)
//! previous ones        verify, so that a new key can take over
//! ```

use super::jose::{Algorithm, VerifyingKey};
use crate::config::JwtConfig;
use crate::private_file::{self, PrivateFileError};
use aether_core::api::{Jwk, Jwks};
use aether_core::{Rng, Secret};
use data_encoding::BASE64URL_NOPAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use ring::{hmac, rand::SystemRandom};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer, alg_id};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// As HS256's own strength wants it.
pub const SECRET_LEAST: usize = 32;
/// More keys at once are no rotation.
const MOST_KEYS: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum JwtKeyError {
    #[error(transparent)]
    File(#[from] PrivateFileError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} holds no key for tokens: {why}")]
    Malformed { path: PathBuf, why: &'static str },
    #[error("the key file {0} does not hold 64 hex digits; if it is lost, remove it: tokens that are out end")]
    MadeMalformed(PathBuf),
    #[error("{public} is not the public half of {private}: set the pair's own, or leave it out")]
    NoPair { public: PathBuf, private: PathBuf },
    #[error("a public key alone signs nothing: set security.jwt_private_key_path too")]
    PublicAlone,
    #[error("a token's secret must have at least {SECRET_LEAST} characters")]
    ShortSecret,
    #[error(
        "several servers may use this database, and none may make a key that the others do not have: \
         set security.jwt_secret_key or security.jwt_private_key_path, the same on each"
    )]
    Missing,
    #[error("more than {MOST_KEYS} keys for tokens are set: leave out those whose tokens have ended")]
    TooMany,
}

enum Signer {
    Secret(hmac::Key),
    Rsa(Box<RsaKeyPair>),
    P256(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl Signer {
    fn public(&self) -> Option<VerifyingKey> {
        Some(match self {
            Self::Secret(key) => VerifyingKey::Secret(key.clone()),
            Self::Rsa(pair) => rsa(pair.public().as_ref())?,
            Self::P256(pair) => VerifyingKey::P256(pair.public_key().as_ref().to_vec()),
            Self::Ed25519(pair) => VerifyingKey::Ed25519(pair.public_key().as_ref().to_vec()),
        })
    }

    fn sign(&self, signed: &[u8]) -> Option<Vec<u8>> {
        let rng = SystemRandom::new();
        match self {
            Self::Secret(key) => Some(hmac::sign(key, signed).as_ref().to_vec()),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &rng, signed, &mut signature).ok()?;
                Some(signature)
            }
            Self::P256(pair) => Some(pair.sign(&rng, signed).ok()?.as_ref().to_vec()),
            Self::Ed25519(pair) => Some(pair.sign(signed).as_ref().to_vec()),
        }
    }
}

/// All keys of this server's tokens.
pub(crate) struct Keys {
    signer: Signer,
    /// Of the signer.
    pub(super) kid: String,
    pub(super) algorithm: Algorithm,
    by_kid: BTreeMap<String, VerifyingKey>,
}

impl Keys {
    /// Reads all of them, and makes the server's own where none is given and
    /// the database is this server's alone.
    pub(crate) fn load(cfg: &JwtConfig, rng: &dyn Rng) -> Result<Self, JwtKeyError> {
        let signer = match (&cfg.private_key_path, &cfg.secret) {
            (Some(path), _) => private_key(path)?,
            (None, _) if cfg.public_key_path.is_some() => return Err(JwtKeyError::PublicAlone),
            (None, Some(secret)) => Signer::Secret(secret_key(secret)?.1),
            (None, None) => made(cfg.made_key_path.as_deref().ok_or(JwtKeyError::Missing)?, rng)?,
        };
        let unusable = || JwtKeyError::Malformed {
            path: cfg.private_key_path.clone().unwrap_or_default(),
            why: "its public half cannot be told",
        };
        let own = signer.public().ok_or_else(unusable)?;
        let kid = match (&signer, &cfg.secret) {
            (Signer::Secret(_), Some(secret)) => secret_key(secret)?.0,
            _ => thumbprint(&own).ok_or_else(unusable)?,
        };
        if let (Some(private), Some(public)) = (&cfg.private_key_path, &cfg.public_key_path)
            && thumbprint(&public_key(public)?).as_ref() != Some(&kid)
        {
            return Err(JwtKeyError::NoPair { public: public.clone(), private: private.clone() });
        }
        let algorithm = own.algorithm();
        let mut by_kid = BTreeMap::from([(kid.clone(), own)]);
        for secret in cfg.secret.iter().chain(&cfg.previous_secrets) {
            let (kid, key) = secret_key(secret)?;
            by_kid.insert(kid, VerifyingKey::Secret(key));
        }
        for path in &cfg.previous_key_paths {
            let key = public_key(path)?;
            let why = "its public half cannot be told";
            let kid = thumbprint(&key).ok_or_else(|| JwtKeyError::Malformed { path: path.clone(), why })?;
            by_kid.insert(kid, key);
        }
        if by_kid.len() > MOST_KEYS {
            return Err(JwtKeyError::TooMany);
        }
        Ok(Self { signer, kid, algorithm, by_kid })
    }

    pub(super) fn verifying(&self, kid: &str) -> Option<&VerifyingKey> {
        self.by_kid.get(kid)
    }

    pub(super) fn sign(&self, signed: &str) -> Option<String> {
        self.signer.sign(signed.as_bytes()).map(|signature| BASE64URL_NOPAD.encode(&signature))
    }

    /// The public ones: secrets are nobody's business.
    pub(crate) fn jwks(&self) -> Jwks {
        Jwks { keys: self.by_kid.iter().filter_map(|(kid, key)| jwk(kid, key)).collect() }
    }
}

fn secret_key(secret: &Secret) -> Result<(String, hmac::Key), JwtKeyError> {
    if secret.expose().chars().count() < SECRET_LEAST {
        return Err(JwtKeyError::ShortSecret);
    }
    let digest = Sha256::new_with_prefix(b"aether jwt secret id v1").chain_update(secret.expose()).finalize();
    let kid = format!("hs-{}", hex::encode(&digest[..8]));
    Ok((kid, hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes())))
}

fn made(path: &Path, rng: &dyn Rng) -> Result<Signer, JwtKeyError> {
    let text = private_file::load_or_create(path, || {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill(seed.as_mut());
        Zeroizing::new(hex::encode(seed.as_ref()))
    })?;
    let malformed = || JwtKeyError::MadeMalformed(path.to_owned());
    let seed = Zeroizing::new(hex::decode(text.as_str()).map_err(|_| malformed())?);
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| malformed())?;
    Ok(Signer::Ed25519(Box::new(pair)))
}

fn private_key(path: &Path) -> Result<Signer, JwtKeyError> {
    let malformed = |why| JwtKeyError::Malformed { path: path.to_owned(), why };
    let text = private_file::read(path)?;
    let der = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| malformed("it is no private key in PEM"))?;
    match &der {
        PrivateKeyDer::Pkcs1(der) => {
            let pair = RsaKeyPair::from_der(der.secret_pkcs1_der());
            pair.map(|pair| Signer::Rsa(Box::new(pair))).map_err(|_| malformed("RSA needs 2048 to 4096 bits"))
        }
        PrivateKeyDer::Pkcs8(der) => pkcs8(der.secret_pkcs8_der())
            .ok_or_else(|| malformed("it must be RSA of 2048 to 4096 bits, P-256, or Ed25519")),
        _ => Err(malformed("it must be in PKCS#8 form: `openssl pkcs8 -topk8 -nocrypt` makes it so")),
    }
}

fn pkcs8(der: &[u8]) -> Option<Signer> {
    if let Ok(pair) = RsaKeyPair::from_pkcs8(der) {
        return Some(Signer::Rsa(Box::new(pair)));
    }
    if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new()) {
        return Some(Signer::P256(Box::new(pair)));
    }
    // OpenSSL writes the form without the public half.
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok().map(|pair| Signer::Ed25519(Box::new(pair)))
}

fn public_key(path: &Path) -> Result<VerifyingKey, JwtKeyError> {
    let malformed = |why| JwtKeyError::Malformed { path: path.to_owned(), why };
    let io = |source| JwtKeyError::Io { path: path.to_owned(), source };
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(io)?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, 64 * 1024), &mut text).map_err(io)?;
    let der = SubjectPublicKeyInfoDer::from_pem_slice(&text);
    let der = der.map_err(|_| malformed("it is no public key in PEM (`openssl pkey -pubout` writes one)"))?;
    spki(&der).ok_or_else(|| malformed("it must be RSA of 2048 to 8192 bits, P-256, or Ed25519"))
}

/// `SEQUENCE { AlgorithmIdentifier, BIT STRING }`
fn spki(der: &[u8]) -> Option<VerifyingKey> {
    let mut der = der;
    let mut inner = element(&mut der, 0x30)?;
    let algorithm = element(&mut inner, 0x30)?;
    let key = element(&mut inner, 0x03)?.strip_prefix(&[0])?;
    match algorithm {
        a if a == alg_id::RSA_ENCRYPTION.as_ref() => rsa(key),
        a if a == alg_id::ECDSA_P256.as_ref() && key.len() == 65 => Some(VerifyingKey::P256(key.to_vec())),
        a if a == alg_id::ED25519.as_ref() && key.len() == 32 => Some(VerifyingKey::Ed25519(key.to_vec())),
        _ => None,
    }
}

/// `SEQUENCE { INTEGER n, INTEGER e }`
fn rsa(der: &[u8]) -> Option<VerifyingKey> {
    let mut der = der;
    let mut inner = element(&mut der, 0x30)?;
    let mut positive = || {
        let bytes = element(&mut inner, 0x02)?;
        Some(bytes.strip_prefix(&[0]).unwrap_or(bytes).to_vec())
    };
    let (n, e) = (positive()?, positive()?);
    (256..=1024).contains(&n.len()).then_some(VerifyingKey::Rsa { n, e })
}

/// Takes one DER element of `tag` off the front: its contents.
fn element<'a>(der: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (&found, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let count = usize::from(first & 0x7f);
        if !(1..=3).contains(&count) {
            return None;
        }
        let (bytes, after) = rest.split_at_checked(count)?;
        length = bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b));
        rest = after;
    }
    let (contents, after) = rest.split_at_checked(length)?;
    *der = after;
    (found == tag).then_some(contents)
}

/// RFC 7638: the same key has the same name wherever it is held.
fn thumbprint(key: &VerifyingKey) -> Option<String> {
    let jwk = jwk("", key)?;
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    let canonical = match key {
        VerifyingKey::Secret(_) => return None,
        VerifyingKey::Rsa { .. } => format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, text(&jwk.e), text(&jwk.n)),
        VerifyingKey::P256(_) => {
            format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, text(&jwk.x), text(&jwk.y))
        }
        VerifyingKey::Ed25519(_) => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, text(&jwk.x)),
    };
    Some(BASE64URL_NOPAD.encode(&Sha256::digest(canonical)))
}

fn jwk(kid: &str, key: &VerifyingKey) -> Option<Jwk> {
    let text = |bytes: &[u8]| Some(BASE64URL_NOPAD.encode(bytes));
    let empty = Jwk {
        kty: String::new(),
        kid: kid.to_owned(),
        alg: key.algorithm().as_str().to_owned(),
        usage: "sig".to_owned(),
        n: None,
        e: None,
        crv: None,
        x: None,
        y: None,
    };
    Some(match key {
        VerifyingKey::Secret(_) => return None,
        VerifyingKey::Rsa { n, e } => Jwk { kty: "RSA".into(), n: text(n), e: text(e), ..empty },
        VerifyingKey::P256(point) => {
            let (x, y) = point.get(1..)?.split_at_checked(32)?;
            Jwk { kty: "EC".into(), crv: Some("P-256".into()), x: text(x), y: text(y), ..empty }
        }
        VerifyingKey::Ed25519(x) => Jwk { kty: "OKP".into(), crv: Some("Ed25519".into()), x: text(x), ..empty },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_core::source::OsRng;

    fn cfg(dir: &Path) -> JwtConfig {
        JwtConfig::in_dir(dir)
    }

    #[test]
    fn a_key_is_made_once_where_one_may_be() {
        let dir = tempfile::tempdir().expect("dir");
        let first = Keys::load(&cfg(dir.path()), &OsRng).expect("made");
        let again = Keys::load(&cfg(dir.path()), &OsRng).expect("read");
        assert_eq!((first.kid.clone(), first.algorithm), (again.kid, Algorithm::EdDsa));
        assert_eq!(first.jwks().keys.len(), 1);
        let shared = JwtConfig { made_key_path: None, ..cfg(dir.path()) };
        assert!(matches!(Keys::load(&shared, &OsRng), Err(JwtKeyError::Missing)));
        std::fs::write(dir.path().join("jwt-signing.key"), "short").expect("written");
        assert!(matches!(Keys::load(&cfg(dir.path()), &OsRng), Err(JwtKeyError::MadeMalformed(_))));
    }

    #[test]
    fn secrets_are_long_and_in_no_list() {
        let dir = tempfile::tempdir().expect("dir");
        let with = |secret: &str| JwtConfig { secret: Some(Secret::new(secret)), ..cfg(dir.path()) };
        assert!(matches!(Keys::load(&with(&"s".repeat(31)), &OsRng), Err(JwtKeyError::ShortSecret)));
        let keys = Keys::load(&with(&"s".repeat(32)), &OsRng).expect("loads");
        assert_eq!((keys.algorithm, keys.jwks().keys.len()), (Algorithm::Hs256, 0));
        let public = JwtConfig { public_key_path: Some("/nowhere".into()), ..with(&"s".repeat(32)) };
        assert!(matches!(Keys::load(&public, &OsRng), Err(JwtKeyError::PublicAlone)));
    }

    /// The pair of RFC 8410, as OpenSSL writes it; and what is no pair, or no key.
    #[test]
    fn a_pair_is_read_from_its_files() {
        let dir = tempfile::tempdir().expect("dir");
        let file = |name: &str, kind: &str, body: &str| {
            let path = dir.path().join(name);
            let _ = std::fs::remove_file(&path);
            let text = format!("-----BEGIN {kind}-----\n{body}\n-----END {kind}-----");
            private_file::write(&path, &text, 0o600).expect("written");
            Some(path)
        };
        let own = "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC";
        let public = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
        let another = "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        let mut cfg = cfg(dir.path());
        cfg.private_key_path = file("own.pem", "PRIVATE KEY", own);
        cfg.public_key_path = file("own.pub", "PUBLIC KEY", public);
        let keys = Keys::load(&cfg, &OsRng).expect("a pair");
        assert_eq!((keys.algorithm, keys.jwks().keys.len()), (Algorithm::EdDsa, 1));
        cfg.public_key_path = file("other.pub", "PUBLIC KEY", another);
        assert!(matches!(Keys::load(&cfg, &OsRng), Err(JwtKeyError::NoPair { .. })));
        cfg.public_key_path = None;
        cfg.previous_key_paths = file("other.pub", "PUBLIC KEY", another).into_iter().collect();
        cfg.secret = Some(Secret::new("s".repeat(32)));
        let keys = Keys::load(&cfg, &OsRng).expect("loads");
        assert_eq!((keys.algorithm, keys.by_kid.len(), keys.jwks().keys.len()), (Algorithm::EdDsa, 3, 2));
        for (kind, body) in
            [("EC PRIVATE KEY", "AAAA"), ("PRIVATE KEY", "AAAA"), ("RSA PRIVATE KEY", "AAAA"), ("X", own)]
        {
            cfg.private_key_path = file("bad.pem", kind, body);
            assert!(matches!(Keys::load(&cfg, &OsRng), Err(JwtKeyError::Malformed { .. })), "{kind}");
        }
        cfg.private_key_path = file("own.pem", "PRIVATE KEY", own);
        cfg.previous_key_paths = file("bad.pub", "PUBLIC KEY", "MAA=").into_iter().collect();
        assert!(matches!(Keys::load(&cfg, &OsRng), Err(JwtKeyError::Malformed { .. })));
    }

    /// RFC 7638, 3.1, and RFC 8037, A.3.
    #[test]
    fn thumbprints_are_those_of_the_standard() {
        let decode = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).expect("base 64");
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCi\
            FV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d\
            0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-cs\
            FCur-kEgU8awapJzKnqDKgw"
            .replace(' ', "");
        let rsa = VerifyingKey::Rsa { n: decode(&n), e: decode("AQAB") };
        assert_eq!(thumbprint(&rsa).as_deref(), Some("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"));
        let ed25519 = VerifyingKey::Ed25519(decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"));
        assert_eq!(thumbprint(&ed25519).as_deref(), Some("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"));
    }

    #[test]
    fn der_that_lies_of_its_length_is_refused() {
        for der in
            [&[][..], &[0x30], &[0x30, 0x05, 1], &[0x30, 0x84, 0, 0, 0, 1, 1], &[0x30, 0x80, 1], &[0x02, 0x01, 1]]
        {
            assert!(spki(der).is_none(), "{der:?}");
        }
    }
}
