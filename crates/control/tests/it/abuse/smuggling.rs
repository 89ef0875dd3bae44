//! HTTP/1 requests that two readers could cut in different places, each with
//! a second one hidden where a wrong cut would find it.

use super::Wanted::{ClientError, OneAnswer, Refused};
use super::target::Victim;
use super::{Attack, Wanted};

/// Makes an agent, if it is ever taken for a request.
fn hidden(target: &Victim, n: u64) -> String {
    let body = format!(r#"{{"image":"never","name":"smuggled-{n}"}}"#);
    format!(
        "POST /v1/agents HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        target.admin,
        body.len()
    )
}

/// A request that is read to its end: of a JSON route, with a key.
fn posted(target: &Victim, headers: &str, body: &str) -> String {
    format!(
        "POST /v1/agents HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         {headers}\r\n\r\n{body}",
        target.admin
    )
}

pub(super) fn all(target: &Victim, n: u64) -> Vec<Attack> {
    let mut all = Vec::new();
    let mut add = |name, wanted: Wanted, text: String| all.push(Attack { name, wanted, bytes: text.into_bytes() });
    let hidden = hidden(target, n);
    lengths(target, &hidden, &mut add);
    codings(target, &hidden, &mut add);
    chunks(target, &hidden, &mut add);
    heads(&hidden, &mut add);
    hosts(&mut add);
    all
}

type Add<'a> = dyn FnMut(&'static str, Wanted, String) + 'a;

fn lengths(target: &Victim, hidden: &str, add: &mut Add<'_>) {
    let len = hidden.len();
    add(
        "a body nobody reads",
        OneAnswer,
        format!("GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n{hidden}"),
    );
    add(
        "a body of a refused request",
        OneAnswer,
        format!("POST /v1/agents HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n{hidden}"),
    );
    add(
        "a body of no route",
        OneAnswer,
        format!("PUT /none HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n{hidden}"),
    );
    add(
        "the same length twice",
        OneAnswer,
        posted(target, &format!("Content-Length: {len}\r\nContent-Length: {len}"), hidden),
    );
    for value in [
        "0, 0",
        "0,5",
        "+0",
        "-1",
        "-0",
        "0x0",
        "0 0",
        "1e1",
        "99999999999999999999",
        "18446744073709551616",
        "",
        "\u{b}0",
        "0;",
        "٣",
    ] {
        add("a length that is none", Refused, posted(target, &format!("Content-Length: {value}"), hidden));
    }
    add("two lengths", Refused, posted(target, &format!("Content-Length: 0\r\nContent-Length: {len}"), hidden));
    add(
        "two lengths, the long first",
        Refused,
        posted(target, &format!("Content-Length: {len}\r\nContent-Length: 0"), hidden),
    );
    add("a huge length", ClientError, posted(target, "Content-Length: 9223372036854775807", "{"));
    add(
        "a length beside an Expect",
        OneAnswer,
        posted(target, &format!("Expect: 100-continue\r\nContent-Length: {len}"), hidden),
    );
}

fn codings(target: &Victim, hidden: &str, add: &mut Add<'_>) {
    let after_end = format!("0\r\n\r\n{hidden}");
    let all = after_end.len();
    add(
        "CL.TE",
        OneAnswer,
        posted(target, &format!("Content-Length: {all}\r\nTransfer-Encoding: chunked"), &after_end),
    );
    add(
        "TE.CL",
        OneAnswer,
        posted(target, &format!("Transfer-Encoding: chunked\r\nContent-Length: {all}"), &after_end),
    );
    let in_chunk = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    add("TE.CL, cut early", OneAnswer, posted(target, "Transfer-Encoding: chunked\r\nContent-Length: 4", &in_chunk));
    for te in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\ntransfer-encoding: x",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chu\0nked",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding:",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "Transfer-Encoding:\r\n chunked",
        "X: y\rTransfer-Encoding: chunked",
    ] {
        add("TE.TE", Refused, posted(target, &format!("Content-Length: {all}\r\n{te}"), &after_end));
    }
    let old =
        format!("POST /v1/agents HTTP/1.0\r\nContent-Length: {all}\r\nTransfer-Encoding: chunked\r\n\r\n{after_end}");
    add("chunks on HTTP/1.0", Refused, old);
}

fn chunks(target: &Victim, hidden: &str, add: &mut Add<'_>) {
    let mut chunked = |name, body: String| add(name, OneAnswer, posted(target, "Transfer-Encoding: chunked", &body));
    // Each size is wrong, or means another length to a lenient reader.
    for size in [
        "0x0",
        "-0",
        "+0",
        " 0",
        "0 0",
        "g",
        "",
        ";",
        "0;\n",
        "10000000000000000",
        "fffffffffffffffff",
        "ffffffffffffffff",
    ] {
        chunked("a chunk size that is none", format!("{size}\r\n\r\n{hidden}"));
    }
    chunked("a bare LF ends a size", format!("2\nxx\n0\n\n{hidden}"));
    chunked("an LF in an extension", format!("2;\nxx\r\n{:x}\r\n0\r\n\r\n{hidden}", hidden.len()));
    chunked("a bare CR in an extension", format!("2;a=\rb\r\nxx\r\nX0\r\n\r\n{hidden}"));
    chunked("data longer than its size", format!("2\r\nxxxx{hidden}"));
    chunked("endless extensions", format!("2;{}\r\nxx\r\n{hidden}", "e".repeat(40_000)));
    chunked("a length among the trailers", format!("0\r\nContent-Length: {}\r\n\r\n", hidden.len()));
    chunked("a request among the trailers", format!("0\r\n{hidden}"));
    chunked("endless trailers", format!("0\r\n{}", "t: u\r\n".repeat(20_000)));
    chunked("one byte a chunk", format!("{}X{hidden}", "1\r\nx\r\n".repeat(5000)));
}

fn heads(hidden: &str, add: &mut Add<'_>) {
    // A sound beginning, so that nothing but the named fault is the reason.
    let line = |first: &str| format!("{first}\r\nHost: a\r\n\r\n");
    for first in [
        "GET  /health HTTP/1.1",
        "GET /health HTTP/1.1 x",
        "GET /health HTTP/2.0",
        "GET /health HTTP/1.9",
        "GET /health http/1.1",
        "GET /hea lth HTTP/1.1",
        "GET /health",
        "G\0ET /health HTTP/1.1",
        "GET /hea\0lth HTTP/1.1",
        " GET /health HTTP/1.1",
        "GET\t/health HTTP/1.1",
        "CONNECT a:80 HTTP/1.1",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}",
    ] {
        add("a request line that is none", Refused, line(first));
    }
    for field in ["x y: z", ": z", "x", "x\0: z", "x: y\0z", "x\u{b}: z", "é: z", "x: y\r z", "\tx: y"] {
        add("a field that is none", Refused, format!("GET /health HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n{hidden}"));
    }
    add("a giant head", Refused, format!("GET /health HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)));
    add("many fields", Refused, format!("GET /health HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(2000)));
    add("a giant address", Refused, format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(200_000)));
    add("a giant method", Refused, format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "Y".repeat(100_000)));
    add(
        "an upgrade to nothing",
        OneAnswer,
        "GET /health HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n".into(),
    );
    add("an address with dots", ClientError, line("GET /v1/../../etc/passwd HTTP/1.1"));
    add("an address that is not UTF-8", ClientError, line("GET /v1/agents/%ff%00 HTTP/1.1"));
}

fn hosts(add: &mut Add<'_>) {
    let get = |target: &str, hosts: &str| format!("GET {target} HTTP/1.1\r\n{hosts}\r\n");
    add("no host", Refused, get("/health", ""));
    add("two hosts", Refused, get("/health", "Host: a\r\nHost: b\r\n"));
    add("one host twice", Refused, get("/health", "Host: a\r\nHost: a\r\n"));
    for host in ["a b", "a/b", "u@a", "a:b:c", "[::1", "a\u{7f}", "é"] {
        add("a host that is none", Refused, get("/health", &format!("Host: {host}\r\n")));
    }
    add("an address of another host", Refused, get("http://b/health", "Host: a\r\n"));
    add("an address of another port", Refused, get("http://a:81/health", "Host: a\r\n"));
    add("an address with a user", Refused, get("http://u:p@a/health", "Host: a\r\n"));
    add("an address of another scheme", Refused, get("gopher://a/health", "Host: a\r\n"));
}
