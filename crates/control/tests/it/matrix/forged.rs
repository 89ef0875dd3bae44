//! What is almost a key, and almost where a key belongs: one list of requests
//! that none may be let in by.

use aether_control::auth::ApiKey;
use aether_core::source::OsRng;
use data_encoding::{BASE32_NOPAD, BASE64, BASE64URL_NOPAD};

pub(super) const TARGET: &str = "/v1/agents";

/// A key that is right, in both spellings, and another.
pub(super) struct Right {
    pub(super) ours: String,
    pub(super) e2b: String,
    pub(super) id: String,
    pub(super) shown: String,
    pub(super) another: String,
}

pub(super) struct Form {
    pub(super) name: String,
    pub(super) target: String,
    pub(super) headers: Vec<Vec<u8>>,
    /// Whether the request gets as far as its key: then all answers are alike.
    pub(super) well_formed: bool,
}

fn bearer(name: impl Into<String>, key: impl AsRef<[u8]>) -> Form {
    let line = [b"authorization: Bearer ", key.as_ref()].concat();
    lines(name, vec![line])
}

fn lines(name: impl Into<String>, headers: Vec<Vec<u8>>) -> Form {
    Form { name: name.into(), target: TARGET.into(), headers, well_formed: true }
}

fn line(text: impl AsRef<str>) -> Vec<u8> {
    text.as_ref().as_bytes().to_vec()
}

/// `text` with another letter of the alphabet at `at`.
fn flipped(text: &str, at: usize, alphabet: &[u8]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let place = alphabet.iter().position(|b| *b == bytes[at]).expect("of the alphabet");
    bytes[at] = alphabet[(place + 1) % alphabet.len()];
    String::from_utf8(bytes).expect("ASCII")
}

/// One wrong letter, in secret and checksum, and any length but the right one.
fn damaged(right: &Right, forms: &mut Vec<Form>) {
    let base32 = b"abcdefghijklmnopqrstuvwxyz234567".as_slice();
    for (key, prefix, alphabet) in [(&right.ours, 10, base32), (&right.e2b, 4, b"0123456789abcdef")] {
        for at in prefix..key.len() {
            forms.push(bearer(format!("letter {at} of {prefix} differs"), flipped(key, at, alphabet)));
        }
        for cut in [1, 2, 3, 8, 20, key.len() - prefix] {
            forms.push(bearer(format!("{cut} cut off"), &key[..key.len() - cut]));
        }
        forms.push(bearer("the first letter is missing", [&key[..prefix], &key[prefix + 1..]].concat()));
        for more in ["a", "2", "=", "==", "00", "aaaaaaaa", key, ".", "\u{a0}"] {
            forms.push(bearer(format!("{more} behind"), format!("{key}{more}")));
        }
        forms.push(bearer("backwards", key[prefix..].chars().rev().collect::<String>()));
        let (left, rest) = key.split_at(prefix + 9);
        for within in [" ", "\t", "-", "_", "%20", "\u{200d}", "\u{feff}"] {
            forms.push(bearer(format!("{within:?} within"), [left, within, rest].concat()));
        }
    }
}

/// Right letters behind the wrong prefix.
fn prefixed(right: &Right, forms: &mut Vec<Form>) {
    let (ours, e2b) = (&right.ours[10..], &right.e2b[4..]);
    let prefixes = [
        "",
        "_",
        "AETHER_SK_",
        "Aether_sk_",
        "aether_SK_",
        "aether-sk-",
        "aether_sk",
        "aether_sk__",
        "aethersk_",
        "sk_",
        "aether_pk_",
        "E2B_",
        "e2b-",
        "e2b",
        "e2b__",
        "e3b_",
        "aether_sk_e2b_",
        "e2b_aether_sk_",
        "\u{430}ether_sk_",
        "aether_\u{455}k_",
        "ｅ2b_",
        "aether%5fsk_",
        "Bearer aether_sk_",
        "sha256:",
    ];
    for prefix in prefixes {
        for rest in [ours, e2b] {
            forms.push(bearer(format!("the prefix {prefix:?}"), format!("{prefix}{rest}")));
        }
    }
}

/// The right key, said in another way or in part.
fn recoded(right: &Right, forms: &mut Vec<Form>) {
    let (ours, e2b) = (&right.ours[10..], &right.e2b[4..]);
    let secret = hex::decode(e2b).expect("hex");
    let upper = |text: &str| text.to_ascii_uppercase();
    let first_upper = |text: &str| {
        let at = text.find(|c: char| c.is_ascii_lowercase()).unwrap_or(0);
        [&text[..at], &upper(&text[at..=at]), &text[at + 1..]].concat()
    };
    for (name, key) in [
        ("capitals", format!("aether_sk_{}", upper(ours))),
        ("hex in capitals", format!("e2b_{}", upper(e2b))),
        ("one capital", format!("aether_sk_{}", first_upper(ours))),
        ("hex with one capital", format!("e2b_{}", first_upper(e2b))),
        ("all capitals", upper(&right.ours)),
        ("crossed: hex under our prefix", format!("aether_sk_{e2b}")),
        ("crossed: base 32 under theirs", format!("e2b_{ours}")),
        ("hex, cut to our length", format!("aether_sk_{}", &e2b[..39])),
        ("base 32 padded", format!("aether_sk_{ours}=")),
        ("hex of the base 32", format!("e2b_{}", hex::encode(ours))),
        ("base 32 of the hex", format!("aether_sk_{}", BASE32_NOPAD.encode(e2b.as_bytes()).to_ascii_lowercase())),
        ("base 64", format!("aether_sk_{}", BASE64.encode(&secret))),
        ("base 64 for addresses", format!("aether_sk_{}", BASE64URL_NOPAD.encode(&secret))),
        ("no checksum", format!("e2b_{}", &e2b[..40])),
        ("the checksum alone", format!("e2b_{}", &e2b[40..])),
        ("a checksum of zeros", format!("e2b_{}00000000", &e2b[..40])),
        ("a secret of zeros", format!("e2b_{}", "0".repeat(48))),
        ("a secret of ones", format!("e2b_{}", "f".repeat(48))),
        ("the digits 0 and 1 of base 32", format!("aether_sk_{}", ours.replace(['o', 'b'], "0").replace('l', "1"))),
        ("0x", format!("e2b_0x{}", &e2b[2..])),
        ("Cyrillic letters", format!("e2b_{}", e2b.replace('a', "\u{430}"))),
        ("full width", format!("e2b_{}", e2b.replace('1', "\u{ff11}"))),
        ("the key's id", right.id.clone()),
        ("what lists show", right.shown.clone()),
        ("quoted", format!("\"{}\"", right.ours)),
        ("quoted once", format!("'{}'", right.ours)),
        ("in angles", format!("<{}>", right.ours)),
        ("JSON", format!("{{\"key\":\"{}\"}}", right.ours)),
        ("encoded", right.ours.replace('_', "%5F")),
        ("SQL", format!("{}' OR '1'='1", right.ours)),
        ("LIKE", "aether_sk_%".to_owned()),
        ("a list", format!("{}, {}", right.ours, right.another)),
        ("two", format!("{} {}", right.ours, right.another)),
        ("a parameter", format!("{};realm=x", right.ours)),
        ("a JSON web token of nobody", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.".to_owned()),
    ] {
        forms.push(bearer(name, key));
    }
    for n in 0..8 {
        let unknown = ApiKey::generate(&OsRng);
        let text = if n % 2 == 0 { unknown.text() } else { unknown.e2b_text() };
        forms.push(bearer(format!("never given out, {n}"), text.expose()));
    }
}

/// The right key after the wrong scheme.
fn schemes(right: &Right, forms: &mut Vec<Form>) {
    let key = &right.ours;
    for authorization in [
        String::new(),
        "Bearer".into(),
        "Bearer ".into(),
        key.clone(),
        format!("Bearer{key}"),
        format!("Bearer:{key}"),
        format!("Bearer={key}"),
        format!("Bearer: {key}"),
        format!("Bearer\t{key}"),
        format!("Bearer \t{key}"),
        format!("Bearer Bearer {key}"),
        format!("Token {key}"),
        format!("ApiKey {key}"),
        format!("Digest {key}"),
        format!("Basic {key}"),
        format!("Negotiate {key}"),
        format!("Basic {}", BASE64.encode(format!("{key}:").as_bytes())),
        format!("Basic {}", BASE64.encode(format!(":{key}").as_bytes())),
        format!("Basic {}", BASE64.encode(format!("admin:{key}").as_bytes())),
        format!("Bearer realm=\"x\", token=\"{key}\""),
        format!("Basic x, Bearer {key}"),
    ] {
        forms.push(lines(
            format!("Authorization: {authorization}"),
            vec![line(format!("authorization: {authorization}"))],
        ));
    }
}

/// Two headers, of which one is right, or both and not the same.
fn twice(right: &Right, forms: &mut Vec<Form>) {
    let (key, another) = (&right.ours, &right.another);
    let header = |text: &str| format!("x-api-key: {text}");
    let (right_line, wrong) = (format!("authorization: Bearer {key}"), "authorization: Bearer x".to_owned());
    let other = format!("authorization: Bearer {another}");
    for pair in [
        [&right_line, &wrong],
        [&wrong, &right_line],
        [&right_line, &other],
        [&right_line, &right_line],
        [&right_line, &"Authorization:".to_owned()],
        [&right_line, &header(another)],
        [&other, &header(key)],
        [&right_line, &header("")],
        [&right_line, &header(&right.e2b)],
        [&wrong, &header(key)],
        [&header(key), &"authorization: Basic YTpi".to_owned()],
        [&header(key), &header(another)],
        [&header(key), &header(key)],
        [&header("x"), &header(key)],
    ] {
        forms.push(lines(format!("twice: {pair:?}"), pair.iter().map(line).collect()));
    }
}

/// The right key in the header that is almost right, in the query, in the
/// address.
fn elsewhere(right: &Right, forms: &mut Vec<Form>) {
    let (key, another) = (&right.ours, &right.another);
    let header = |text: &str| format!("x-api-key: {text}");
    for text in
        [String::new(), format!("Bearer {key}"), format!("{key},{another}"), format!("\"{key}\""), "null".into()]
    {
        forms.push(lines(format!("X-API-Key: {text}"), vec![line(header(&text))]));
    }
    for name in [
        "proxy-authorization: Bearer",
        "x-authorization: Bearer",
        "x-forwarded-authorization: Bearer",
        "api-key:",
        "x-auth-token:",
        "x-access-token:",
        "x-amz-security-token:",
        "sec-websocket-protocol: bearer,",
        "x-aether-key:",
        "www-authenticate: Bearer",
        "from:",
        "cookie: authorization=Bearer",
        "cookie: x-api-key=",
        "cookie: api_key=",
        "x-api_key:",
        "x_api_key:",
    ] {
        forms.push(lines(name, vec![line(format!("{name} {key}"))]));
    }
    for name in ["key", "api_key", "apikey", "access_token", "token", "authorization", "x-api-key", "Authorization"] {
        let target = format!("{TARGET}?{name}={key}");
        forms.push(Form { target, ..lines(format!("?{name}="), Vec::new()) });
    }
    forms.push(Form { target: format!("{TARGET}#{key}"), well_formed: false, ..lines("a fragment", Vec::new()) });
    let target = format!("http://{key}@127.0.0.1{TARGET}");
    forms.push(Form { target, well_formed: false, ..lines("a user in the address", Vec::new()) });
}

/// Bytes that are no text, and more of them than anybody reads.
fn rough(right: &Right, forms: &mut Vec<Form>) {
    let key = right.ours.as_bytes();
    for byte in [0x80, 0xff, 0xc0, 0xa0, 0xf0] {
        forms.push(bearer(format!("{byte:#x} behind"), [key, &[byte]].concat()));
        forms.push(lines(format!("{byte:#x} in X-API-Key"), vec![[b"x-api-key: ", key, &[byte]].concat()]));
    }
    for length in [100, 1000, 4000] {
        forms.push(bearer(format!("{length} letters"), "a".repeat(length)));
        forms.push(bearer(format!("the key and {length} letters"), [key, "a".repeat(length).as_bytes()].concat()));
    }
    for (name, bytes) in [
        ("NUL", [key, b"\0"].concat()),
        ("NUL and more", [key, b"\0admin"].concat()),
        ("a bare CR", [b"x\r", key].concat()),
        ("DEL", [key, b"\x7f"].concat()),
        ("BEL", [b"\x07", key].concat()),
        ("200,000 letters", "a".repeat(200_000).into_bytes()),
    ] {
        forms.push(Form { well_formed: false, ..bearer(name, bytes) });
    }
    let folded = vec![line("authorization: Bearer"), line(format!(" {}", right.ours))];
    forms.push(Form { well_formed: false, ..lines("folded", folded) });
    let spaced = vec![line(format!("authorization : Bearer {}", right.ours))];
    forms.push(Form { well_formed: false, ..lines("a space before the colon", spaced) });
}

pub(super) fn forms(right: &Right) -> Vec<Form> {
    let mut forms = Vec::new();
    damaged(right, &mut forms);
    prefixed(right, &mut forms);
    recoded(right, &mut forms);
    schemes(right, &mut forms);
    twice(right, &mut forms);
    elsewhere(right, &mut forms);
    rough(right, &mut forms);
    // A letter that the key does not have was not replaced.
    let itself = [&right.ours, &right.e2b].map(|key| line(format!("authorization: Bearer {key}")));
    forms.retain(|form| form.headers.len() != 1 || !itself.contains(&form.headers[0]));
    forms
}

pub(super) fn valid(right: &Right) -> Vec<Form> {
    let Right { ours, e2b, .. } = right;
    let both = |key: &str| vec![line(format!("authorization: Bearer {key}")), line(format!("x-api-key: {key}"))];
    let mut forms = vec![lines("both headers", both(ours)), lines("both headers, e2b", both(e2b))];
    for key in [ours, e2b] {
        for start in
            ["authorization: Bearer ", "Authorization: bearer ", "AUTHORIZATION: BEARER  ", "x-api-key: ", "X-API-Key:"]
        {
            forms.push(lines(start, vec![line(format!("{start}{key}"))]));
        }
    }
    forms
}
