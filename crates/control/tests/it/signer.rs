//! Keys of every kind that tokens are signed with, for tests that play the
//! server, an issuer, or a forger.

use data_encoding::BASE64URL_NOPAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use ring::{hmac, rsa};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;

/// Nobody's but this test's.
const RSA: &str = include_str!("keys/rsa.pem");

pub(crate) enum Kind {
    Hs(hmac::Key),
    Rsa(Box<RsaKeyPair>),
    P256(Box<EcdsaKeyPair>),
    Ed(Box<Ed25519KeyPair>),
}

pub(crate) struct Signer {
    pub(crate) kind: Kind,
    pub(crate) kid: String,
    /// PEM; of a secret the secret.
    pub(crate) private: String,
    pub(crate) public: String,
}

pub(crate) fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64URL_NOPAD.encode(bytes.as_ref())
}

impl Signer {
    fn of(pair: &rcgen::KeyPair, kind: Kind) -> Self {
        let mut signer =
            Self { kind, kid: String::new(), private: pair.serialize_pem(), public: pair.public_key_pem() };
        signer.kid = signer.thumbprint();
        signer
    }

    pub(crate) fn rsa() -> Self {
        let pair = rcgen::KeyPair::from_pem(RSA).expect("a key");
        let kind = Kind::Rsa(Box::new(RsaKeyPair::from_pkcs8(pair.serialized_der()).expect("RSA")));
        Self::of(&pair, kind)
    }

    pub(crate) fn p256() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pair.serialized_der(), &SystemRandom::new());
        Self::of(&pair, Kind::P256(Box::new(key.expect("P-256"))))
    }

    pub(crate) fn ed25519() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let kind = Kind::Ed(Box::new(Ed25519KeyPair::from_pkcs8(pair.serialized_der()).expect("Ed25519")));
        Self::of(&pair, kind)
    }

    pub(crate) fn secret(secret: &str) -> Self {
        let digest = Sha256::new_with_prefix(b"aether jwt secret id v1").chain_update(secret).finalize();
        let kid = format!("hs-{}", hex::encode(&digest[..8]));
        let kind = Kind::Hs(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
        Self { kind, kid, private: secret.to_owned(), public: String::new() }
    }

    pub(crate) fn alg(&self) -> &'static str {
        match self.kind {
            Kind::Hs(_) => "HS256",
            Kind::Rsa(_) => "RS256",
            Kind::P256(_) => "ES256",
            Kind::Ed(_) => "EdDSA",
        }
    }

    pub(crate) fn sign(&self, signed: &str) -> Vec<u8> {
        let (rng, bytes) = (SystemRandom::new(), signed.as_bytes());
        match &self.kind {
            Kind::Hs(key) => hmac::sign(key, bytes).as_ref().to_vec(),
            Kind::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &rng, bytes, &mut signature).expect("signs");
                signature
            }
            Kind::P256(pair) => pair.sign(&rng, bytes).expect("signs").as_ref().to_vec(),
            Kind::Ed(pair) => pair.sign(bytes).as_ref().to_vec(),
        }
    }

    /// With the words of header and claims as they are given.
    pub(crate) fn raw(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", b64(header), b64(claims));
        let signature = b64(self.sign(&signed));
        format!("{signed}.{signature}")
    }

    pub(crate) fn header(&self) -> Value {
        json!({ "alg": self.alg(), "kid": self.kid, "typ": "JWT" })
    }

    pub(crate) fn token(&self, claims: &Value) -> String {
        self.raw(&self.header().to_string(), &claims.to_string())
    }

    fn members(&self) -> Value {
        match &self.kind {
            Kind::Hs(_) => json!({ "kty": "oct", "k": b64(&self.private) }),
            Kind::Rsa(pair) => {
                let parts = rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({ "kty": "RSA", "n": b64(parts.n), "e": b64(parts.e) })
            }
            Kind::P256(pair) => {
                let point = pair.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": b64(&point[1..33]), "y": b64(&point[33..]) })
            }
            Kind::Ed(pair) => json!({ "kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key()) }),
        }
    }

    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = self.members();
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!("sig");
        jwk
    }

    /// RFC 7638; JSON objects are written in the order of their names here.
    fn thumbprint(&self) -> String {
        b64(Sha256::digest(self.members().to_string()))
    }

    /// Into a folder: the private key's path and the public one's.
    pub(crate) fn files(&self, dir: &Path, name: &str) -> (std::path::PathBuf, std::path::PathBuf) {
        use std::os::unix::fs::PermissionsExt;
        let (private, public) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.pub")));
        std::fs::write(&private, &self.private).expect("written");
        std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        std::fs::write(&public, &self.public).expect("written");
        (private, public)
    }
}
