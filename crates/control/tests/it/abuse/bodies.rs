//! Bodies that are deep, large, packed or no JSON at all.

use super::Attack;
use super::Wanted::{self, ClientError, OneAnswer};
use super::target::Victim;
use std::io::Write;

/// Where JSON is read: from the outside in, each by another reader.
const ROUTES: [(&str, &str); 5] = [
    ("POST", "/v1/agents"),
    ("POST", "/v1/agents/bulk/create"),
    ("POST", "/v1/auth/keys"),
    ("PATCH", "/v1/agents/AGENT"),
    ("POST", "/v1/agents/AGENT/exec"),
];
const DEPTH: usize = 10_000;

fn packed(unpacked: usize) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![b' '; unpacked]).expect("written");
    encoder.finish().expect("packed")
}

pub(super) fn all(target: &Victim) -> Vec<Attack> {
    let mut all = Vec::new();
    let mut add = |name, wanted: Wanted, (method, path): (&str, &str), headers: &str, body: &[u8]| {
        let mut bytes = format!(
            "{method} {} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n{headers}\r\n",
            path.replace("AGENT", &target.agent),
            target.admin,
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        all.push(Attack { name, wanted, bytes });
    };
    for route in ROUTES {
        let mut json = |name, body: String| add(name, ClientError, route, "", body.as_bytes());
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            json("deep", open.repeat(DEPTH));
            json("deep and closed", format!("{}1{}", open.repeat(DEPTH), close.repeat(DEPTH)));
        }
        json("deep inside a field", format!(r#"{{"metadata":{}{}}}"#, "[".repeat(DEPTH), "]".repeat(DEPTH)));
        json("a huge text", format!(r#"{{"image":"{}"}}"#, "x".repeat(900_000)));
        json("a huge name of a field", format!(r#"{{"{}":1}}"#, "x".repeat(900_000)));
        json("a huge list", format!(r#"{{"command":[{}"x"]}}"#, r#""x","#.repeat(200_000)));
        json(
            "many fields",
            format!("{{{}}}", (0..60_000).map(|n| format!(r#""{n}":1"#)).collect::<Vec<_>>().join(",")),
        );
        json(
            "a field twice",
            r#"{"image":"a","image":"b","command":["x"],"command":["y"],"name":"c","name":"d"}"#.into(),
        );
        json("a huge number", r#"{"image":1e999999}"#.into());
        json("a long number", format!(r#"{{"cpu_count":{}}}"#, "9".repeat(100_000)));
        json("half a pair of surrogates", r#"{"image":"\ud800"}"#.into());
        json("not JSON", "\u{feff}{'image':NaN}".into());
        json("too large", format!(r#"{{"image":"{}"}}"#, "x".repeat(2 << 20)));
        add("not UTF-8", ClientError, route, "", b"{\"image\":\"\xff\xfe\"}");
        add("NUL bytes", ClientError, route, "", &vec![0; 100_000]);
    }
    let bomb = packed(1 << 20);
    for coding in ["gzip", "deflate", "br", "zstd", "x-gzip", "identity, gzip", "gzip, gzip"] {
        add("a packed body", ClientError, ROUTES[0], &format!("Content-Encoding: {coding}\r\n"), &bomb);
    }
    add("packed and not said", ClientError, ROUTES[0], "", &bomb);
    add("much of the query", ClientError, ("GET", &format!("/v1/agents?{}", "label=a&".repeat(3000))), "", b"");
    add(
        "odd conditions",
        OneAnswer,
        ("GET", "/v1/agents/AGENT"),
        &format!("If-Match: {}\r\n", "\"1\",".repeat(5000)),
        b"",
    );
    all
}
