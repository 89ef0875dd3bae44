//! What is almost a token: one list of texts that none may be let in by. The
//! keys are the server's own, so each form has but the one fault it is named
//! for.

use crate::signer::{Kind, Signer, b64};
use data_encoding::{BASE64, BASE64URL};
use serde_json::{Value, json};

pub(super) struct Form {
    pub(super) name: String,
    pub(super) token: String,
}

/// What a server takes: claims of a key of its own, and all its signers.
pub(super) struct Right<'a> {
    pub(super) claims: Value,
    pub(super) signers: &'a [Signer],
}

fn form(name: impl Into<String>, token: impl Into<String>) -> Form {
    Form { name: name.into(), token: token.into() }
}

fn with(value: &Value, name: &str, new: Value) -> Value {
    let mut value = value.clone();
    value[name] = new;
    value
}

fn without(value: &Value, name: &str) -> Value {
    let mut value = value.clone();
    value.as_object_mut().expect("an object").remove(name);
    value
}

/// No signature, said in every way.
fn unsigned(right: &Right<'_>, forms: &mut Vec<Form>) {
    let claims = right.claims.to_string();
    for signer in right.signers {
        for alg in ["none", "None", "NONE", "nOnE", "noNe", "", "null"] {
            let header = with(&signer.header(), "alg", json!(alg)).to_string();
            let signed = format!("{}.{}", b64(&header), b64(&claims));
            for (what, end) in [("nothing", String::new()), ("a signature", b64(signer.sign(&signed)))] {
                forms.push(form(format!("{alg:?} with {what}, {}", signer.alg()), format!("{signed}.{end}")));
            }
        }
        let header = with(&signer.header(), "alg", Value::Null).to_string();
        forms.push(form("no algorithm at all", signer.raw(&header, &claims)));
    }
}

/// A public key as if it were a secret, in each form that a library may have
/// it in.
fn confused(right: &Right<'_>, forms: &mut Vec<Form>) {
    for signer in right.signers.iter().filter(|s| !s.public.is_empty()) {
        let jwk = signer.jwk();
        let text = |name: &str| jwk[name].as_str().unwrap_or_default().to_owned();
        let materials = [
            signer.public.clone(),
            signer.public.trim().to_owned(),
            jwk.to_string(),
            text("n"),
            text("x"),
            signer.kid.clone(),
            String::new(),
        ];
        for material in materials {
            let forger = Signer::secret(&material);
            for kid in right.signers.iter().map(|s| &s.kid) {
                let header = json!({ "alg": "HS256", "kid": kid, "typ": "JWT" }).to_string();
                let token = forger.raw(&header, &right.claims.to_string());
                forms.push(form(format!("{} as a secret, as {kid}: {material:.20}", signer.alg()), token));
            }
        }
    }
}

/// A good signature under another algorithm, or another key's name.
fn swapped(right: &Right<'_>, forms: &mut Vec<Form>) {
    let claims = right.claims.to_string();
    for signer in right.signers {
        for alg in right.signers.iter().map(Signer::alg) {
            for kid in right.signers.iter().map(|s| &s.kid) {
                if (alg, kid) != (signer.alg(), &signer.kid) {
                    let header = json!({ "alg": alg, "kid": kid, "typ": "JWT" }).to_string();
                    forms.push(form(format!("{} as {alg} of {kid}", signer.alg()), signer.raw(&header, &claims)));
                }
            }
        }
        let lower = signer.alg().to_lowercase();
        for alg in ["HS384", "HS512", "RS512", "PS256", "ES384", "ES256K", "Ed25519", "RS256 ", &lower] {
            let header = with(&signer.header(), "alg", json!(alg)).to_string();
            forms.push(form(format!("{} as {alg}", signer.alg()), signer.raw(&header, &claims)));
        }
    }
}

/// Odd headers around a good signature.
fn headers(right: &Right<'_>, forms: &mut Vec<Form>) {
    let claims = right.claims.to_string();
    for signer in right.signers {
        let kid = &signer.kid;
        for odd in [
            json!("../../../../dev/null"),
            json!("/dev/null"),
            json!("' OR '1'='1"),
            json!("' UNION SELECT 'k"),
            json!("http://127.0.0.1/key"),
            json!(""),
            json!("k".repeat(5000)),
            json!("unknown"),
            json!(format!("{kid} ")),
            json!(kid[..kid.len() - 1]),
            json!(format!("{kid}\u{0}")),
            json!(null),
            json!(0),
            json!([kid]),
            json!({ "kid": kid }),
        ] {
            let header = with(&signer.header(), "kid", odd.clone()).to_string();
            forms.push(form(format!("kid {odd:.40}"), signer.raw(&header, &claims)));
        }
        for (name, value) in [
            ("jku", json!("https://a.example/keys")),
            ("jwk", signer.jwk()),
            ("x5u", json!("https://a.example/cert")),
            ("x5c", json!(["MIIB"])),
            ("x5t", json!("AA")),
            ("crit", json!(["exp"])),
            ("crit", json!([])),
            ("b64", json!(false)),
            ("zip", json!("DEF")),
            ("enc", json!("A128GCM")),
            ("cty", json!("JWT")),
            ("typ", json!("JWE")),
            ("typ", json!("at+jwt")),
            ("typ", json!("jwt")),
            ("typ", json!(null)),
        ] {
            let header = with(&signer.header(), name, value).to_string();
            forms.push(form(format!("header {name}"), signer.raw(&header, &claims)));
        }
        for name in ["typ", "kid", "alg"] {
            forms.push(form(format!("no {name}"), signer.raw(&without(&signer.header(), name).to_string(), &claims)));
        }
        let header = signer.header().to_string();
        let twice = |extra: &str| header.replacen('{', &format!("{{{extra},"), 1);
        for extra in [r#""alg":"none""#, r#""alg":"HS256""#, r#""kid":"x""#, r#""\u0061lg":"none""#] {
            forms.push(form(format!("header with {extra} too"), signer.raw(&twice(extra), &claims)));
        }
    }
}

/// Times that are none, or not now.
fn times(right: &Right<'_>, signer: &Signer, forms: &mut Vec<Form>) {
    let at = right.claims["iat"].as_u64().expect("a time");
    for name in ["exp", "nbf", "iat"] {
        let good = right.claims[name].as_u64().expect("a time");
        for odd in [
            json!(good.to_string()),
            json!(good as f64),
            json!(good as f64 + 0.5),
            json!([good]),
            json!({ "time": good }),
            json!(null),
            json!(true),
            json!(-1),
            json!(-(good as i64)),
            json!(1e300),
            json!(u64::MAX),
            json!(""),
            json!("2099-01-01T00:00:00Z"),
            json!(good * 1000),
        ] {
            forms.push(form(format!("{name} {odd}"), signer.token(&with(&right.claims, name, odd))));
        }
        forms.push(form(format!("no {name}"), signer.token(&without(&right.claims, name))));
    }
    for (name, odd) in [
        ("exp", at - 1),
        ("exp", at),
        ("exp", 0),
        ("exp", at + 86_401),
        ("exp", at + 400 * 86_400),
        ("nbf", at + 60),
        ("nbf", at + 3600),
        ("iat", at + 60),
        ("iat", 0),
        ("iat", at - 86_400),
    ] {
        forms.push(form(format!("{name} {odd}"), signer.token(&with(&right.claims, name, json!(odd)))));
    }
}

/// Claims that are not ours, or not whole.
fn claims(right: &Right<'_>, signer: &Signer, forms: &mut Vec<Form>) {
    for name in ["iss", "aud", "sub", "user", "tenant", "jti", "scopes"] {
        forms.push(form(format!("no {name}"), signer.token(&without(&right.claims, name))));
        for odd in [json!(null), json!(1), json!(""), json!([]), json!({}), json!(["x", 1]), json!("x")] {
            // No scope is a token that may do nothing: a good one.
            if name != "scopes" || odd != json!([]) {
                forms.push(form(format!("{name} {odd}"), signer.token(&with(&right.claims, name, odd))));
            }
        }
    }
    for (name, odd) in [
        ("iss", json!("Aether")),
        ("iss", json!("aether ")),
        ("iss", json!(["aether"])),
        ("iss", json!("https://login.example")),
        ("aud", json!("aether-node")),
        ("aud", json!("aether-sandbox")),
        ("aud", json!("aether-api ")),
        ("aud", json!(["aether-node"])),
        ("aud", json!(["aether-node", "aether-api"])),
        ("aud", json!(["aether-api"])),
        ("sub", json!("keyc0aaaaaaaaaaaaaaaa")),
        ("sub", json!("usrc0aaaaaaaaaaaaaaaa")),
        ("sub", json!("' OR '1'='1")),
        ("user", json!("keyc0aaaaaaaaaaaaaaaa")),
        ("tenant", json!("default")),
        ("tenant", json!("other")),
        ("sid", json!("sesc0aaaaaaaaaaaaaaaa")),
        ("sid", json!(null)),
        ("sid", json!(1)),
        ("jti", json!("x' OR '1'='1")),
        ("scopes", json!({ "agent:read": true })),
    ] {
        forms.push(form(format!("{name} {odd}"), signer.token(&with(&right.claims, name, odd))));
    }
    let unknown =
        with(&with(&right.claims, "sub", json!("keyc0aaaaaaaaaaaaaaaa")), "user", json!("keyc0aaaaaaaaaaaaaaaa"));
    forms.push(form("a key that is not there", signer.token(&unknown)));
    let (header, text) = (signer.header().to_string(), right.claims.to_string());
    for extra in [r#""exp":9999999999"#, r#""aud":"aether-api""#, r#""\u0073ub":"x""#, r#""x":{"a":1,"a":2}"#] {
        let twice = text.replacen('{', &format!("{{{extra},"), 1);
        forms.push(form(format!("claims with {extra} too"), signer.raw(&header, &twice)));
    }
    for odd in ["", "null", "[]", "{}", "\"x\"", "{", "\u{feff}{}"] {
        forms.push(form(format!("claims {odd:?}"), signer.raw(&header, odd)));
    }
    forms.push(form("claims and more", signer.raw(&header, &format!("{text}{{}}"))));
    forms.push(form("a BOM before the claims", signer.raw(&header, &format!("\u{feff}{text}"))));
}

/// The same bytes in another spelling.
fn respelled(right: &Right<'_>, signer: &Signer, forms: &mut Vec<Form>) {
    let good = signer.token(&right.claims);
    let parts: Vec<&str> = good.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("three parts") };
    let padded = |part: &str| {
        let bytes = data_encoding::BASE64URL_NOPAD.decode(part.as_bytes()).expect("base 64");
        (BASE64URL.encode(&bytes), BASE64.encode(&bytes))
    };
    let forged = [
        format!("{good}="),
        format!("{good}=="),
        format!("{header}=.{claims}.{signature}"),
        format!("{}.{claims}.{signature}", padded(header).0.clone() + "="),
        format!("{header}.{}=.{signature}", padded(claims).0),
        format!("{header}.{claims}.{}", padded(signature).1.replace('=', "") + "/+"),
        format!("{header}. {claims}.{signature}"),
        format!("{header}.{claims} .{signature}"),
        format!("{header}.\t{claims}.{signature}"),
        format!("{header}\u{200d}.{claims}.{signature}"),
        format!("{header}.{claims}..{signature}"),
        format!(".{good}"),
        format!("{good}."),
        format!("{header}.{claims}"),
        format!("{header}.{signature}"),
        format!("{header}.{claims}.{signature}.{signature}"),
        format!("{header}..{claims}.{signature}.{signature}"),
        format!("{header}.{claims}.{signature}.a.b"),
        format!("{claims}.{header}.{signature}"),
        format!("\"{good}\""),
        format!("{good},{good}"),
        format!("{good}%00"),
        format!("Bearer {good}"),
        good.replace('.', "%2E"),
        good.replace('.', ":"),
        good.to_ascii_uppercase(),
        good.chars().rev().collect(),
        b64(&good),
        json!({ "protected": header, "payload": claims, "signature": signature }).to_string(),
        json!({ "payload": claims, "signatures": [{ "protected": header, "signature": signature }] }).to_string(),
        format!(
            "{}.{}.{}.{}.{}",
            b64(r#"{"alg":"dir","enc":"A128GCM","cty":"JWT"}"#),
            "",
            b64("iv"),
            b64(&good),
            b64("tag")
        ),
        signer.raw(&signer.header().to_string(), &good),
        "x".repeat(20_000),
        format!("{header}.{}.{signature}", "A".repeat(20_000)),
    ];
    forms.extend(
        forged.into_iter().enumerate().map(|(n, token)| form(format!("spelling {n}, {}", signer.alg()), token)),
    );
}

/// Signatures that are not whole, or of something else.
fn cut(right: &Right<'_>, signer: &Signer, forms: &mut Vec<Form>) {
    let good = signer.token(&right.claims);
    let (signed, _) = good.rsplit_once('.').expect("a signature");
    let bytes = signer.sign(signed);
    let mut signatures = vec![
        ("none", Vec::new()),
        ("one byte less", bytes[..bytes.len() - 1].to_vec()),
        ("half", bytes[..bytes.len() / 2].to_vec()),
        ("one byte", bytes[..1].to_vec()),
        ("one byte more", [&bytes[..], &[0]].concat()),
        ("a zero before", [&[0], &bytes[..]].concat()),
        ("twice", [&bytes[..], &bytes].concat()),
        ("zeros", vec![0; bytes.len()]),
        ("ones", vec![0xff; bytes.len()]),
        ("backwards", bytes.iter().rev().copied().collect()),
        ("of other claims", signer.sign(&format!("{}.{}", b64("{}"), b64("{}")))),
        ("of the claims alone", signer.sign(signed.split('.').nth(1).expect("claims"))),
    ];
    if matches!(signer.kind, Kind::P256(_)) {
        let (r, s) = bytes.split_at(32);
        let der = [&[0x30, 68, 2, 32], r, &[2, 32], s].concat();
        signatures.push(("in DER", der));
        signatures.push(("r of zero", [&[0; 32], s].concat()));
        signatures.push(("s of zero", [r, &[0; 32]].concat()));
    }
    for (what, signature) in signatures {
        forms.push(form(format!("signature {what}, {}", signer.alg()), format!("{signed}.{}", b64(signature))));
    }
    for at in (0..good.len()).step_by(7).filter(|at| good.as_bytes()[*at] != b'.') {
        let mut bent = good.clone().into_bytes();
        bent[at] = if bent[at] == b'A' { b'B' } else { b'A' };
        forms.push(form(format!("letter {at} differs, {}", signer.alg()), String::from_utf8(bent).expect("ASCII")));
    }
}

pub(super) fn forms(right: &Right<'_>) -> Vec<Form> {
    let mut forms = Vec::new();
    unsigned(right, &mut forms);
    confused(right, &mut forms);
    swapped(right, &mut forms);
    headers(right, &mut forms);
    for signer in right.signers {
        times(right, signer, &mut forms);
        claims(right, signer, &mut forms);
        respelled(right, signer, &mut forms);
        cut(right, signer, &mut forms);
    }
    // A letter that was replaced by itself.
    let valid: Vec<String> = right.signers.iter().map(|s| s.token(&right.claims)).collect();
    forms.retain(|form| !valid.contains(&form.token));
    forms
}
