//! What registries lie about: lengths, digests, types, ranges.

use super::layouts::{INDEX, MANIFEST};
use super::liar::{file, tar};
use super::registries::{Case, End, Stage, TAG, case, challenge, open_head, tag};
use super::server::{Step, head, reply};
use crate::images::archives::{Blob, Image, sha256};
use serde_json::json;

pub(super) fn lengths() -> Vec<Case> {
    let send = |text: &[u8]| vec![Step::Send(text.to_vec())];
    let endless = |more: &str| vec![Step::Send(open_head(more)), Step::Forever(vec![b' '; 64 << 10])];
    let chunk = [b"10000\r\n".to_vec(), vec![b' '; 1 << 16], b"\r\n".to_vec()].concat();
    let chunked = move |start: Vec<u8>| vec![Step::Send(start), Step::Forever(chunk.clone())];
    let of_chunks = chunked.clone();
    let layer_chunks = chunked.clone();
    let token_chunks = chunked.clone();
    let missing_chunks = chunked.clone();
    vec![
        tag("its manifest never ends", End::Lying, chunked(open_head("transfer-encoding: chunked\r\n\r\n"))),
        tag("its manifest never ends and has no length", End::Lying, endless("\r\n")),
        tag(
            "its manifest claims 2^62 bytes and sends them",
            End::Lying,
            endless("content-length: 4611686018427387904\r\n\r\n"),
        ),
        tag(
            "its headers never end",
            End::Unreachable,
            vec![Step::Send(open_head("")), Step::Forever(b"x-junk: x\r\n".repeat(1000))],
        ),
        tag(
            "one header never ends",
            End::Unreachable,
            vec![Step::Send(open_head("x-junk: ")), Step::Forever(vec![b'x'; 64 << 10])],
        ),
        tag(
            "its status line never ends",
            End::Unreachable,
            vec![Step::Send(b"HTTP/1.1 200 ".to_vec()), Step::Forever(vec![b'x'; 64 << 10])],
        ),
        tag("it is no HTTP", End::Unreachable, send(b"SSH-2.0-OpenSSH_9.2\r\n")),
        tag("it speaks TLS where HTTP was asked", End::Unreachable, send(b"\x15\x03\x01\x00\x02\x02\x28")),
        tag(
            "its manifest is cut",
            End::Unreachable,
            send(&open_head("content-length: 5000\r\n\r\n{\"schemaVersion\":2}")),
        ),
        tag("its length is negative", End::Unreachable, send(&open_head("content-length: -1\r\n\r\n{}"))),
        tag("its length is a word", End::Unreachable, send(&open_head("content-length: all\r\n\r\n{}"))),
        tag(
            "its length is above 64 bits",
            End::Unreachable,
            send(&open_head("content-length: 99999999999999999999999\r\n\r\n{}")),
        ),
        tag(
            "it has two lengths",
            End::Unreachable,
            send(&open_head("content-length: 2\r\ncontent-length: 3\r\n\r\n{}}")),
        ),
        tag(
            "a chunk's length is a word",
            End::Unreachable,
            send(&open_head("transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n")),
        ),
        tag(
            "a chunk's length is above 64 bits",
            End::Unreachable,
            send(&open_head("transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}")),
        ),
        tag(
            "its length cuts the manifest",
            End::Invalid,
            send(&open_head("content-length: 12\r\n\r\n{\"schemaVersion\":2}")),
        ),
        tag("its manifest is empty", End::Invalid, send(&open_head("content-length: 0\r\n\r\n"))),
        tag("its manifest is packed, unasked", End::Invalid, {
            let packed = Blob::gzip(&vec![b' '; 3 << 20]).data;
            send(&reply("200 OK", &[("content-type", MANIFEST), ("content-encoding", "gzip")], packed))
        }),
        case("its config never ends", End::Lying, move |s| {
            s.server.on(&s.config(), move |_, _| of_chunks(open_head("transfer-encoding: chunked\r\n\r\n")))
        }),
        case("its layer never ends", End::Lying, move |s| {
            s.server.on(&s.layer(), move |_, _| layer_chunks(open_head("transfer-encoding: chunked\r\n\r\n")))
        }),
        case("its token never ends", End::Lying, move |s| {
            challenge(s, &format!("http://{}/token", s.address));
            s.server.on("/token", move |_, _| token_chunks(open_head("transfer-encoding: chunked\r\n\r\n")));
        }),
        tag(
            "its page for what is not there never ends",
            End::NotFound,
            missing_chunks([head("404 Not Found", &[]), b"transfer-encoding: chunked\r\n\r\n".to_vec()].concat()),
        ),
        case("its layer is longer than its manifest says", End::Lying, |s| {
            let (data, _) = s.half();
            s.server.always(&s.layer(), reply("200 OK", &[], [data, vec![0; 10]].concat()));
        }),
        case("its layer is longer, and has no length", End::Lying, |s| {
            let (data, _) = s.half();
            s.server.always(&s.layer(), [head("200 OK", &[]), b"\r\n".to_vec(), data, vec![0; 10]].concat());
        }),
        case("its layer is shorter than its manifest says", End::Lying, |s| {
            let (data, _) = s.half();
            s.server.always(&s.layer(), reply("200 OK", &[], &data[1..]));
        }),
        case("its layer is always cut at the same place", End::Unreachable, |s| {
            let (_, half) = s.half();
            s.server.always(&s.layer(), half);
        }),
        case("its config is shorter than its manifest says", End::Lying, |s| {
            s.server.always(&s.config(), reply("200 OK", &[], &s.image.config[1..]));
        }),
    ]
}

pub(super) fn changes() -> Vec<Case> {
    let other = || Image::new(vec![Blob::plain(tar([file("other", "x")]))]);
    let manifest = |kind: &str, extra: &[(&str, &str)], body: &[u8]| {
        reply("200 OK", &[&[("content-type", kind)], extra].concat(), body)
    };
    let mut all = vec![
        case("its layer has another content", End::Lying, |s| {
            let mut data = s.image.layers[0].data.clone();
            data[700] ^= 1;
            s.server.always(&s.layer(), reply("200 OK", &[], data));
        }),
        case("its config is another's", End::Lying, move |s| {
            s.server.always(&s.config(), reply("200 OK", &[], other().config))
        }),
        case("the manifest is another's than its header says", End::Lying, move |s| {
            s.server.always(TAG, manifest(MANIFEST, &[("docker-content-digest", &sha256(b"else"))], &s.image.manifest));
        }),
        case("the header's digest is of another kind", End::Fine, move |s| {
            s.server.always(TAG, manifest(MANIFEST, &[("docker-content-digest", "sha512:00")], &s.image.manifest));
        }),
        case("the index's manifest has become another", End::Lying, move |s| {
            let other = other();
            index(s, s.image.manifest.len());
            s.server
                .always(&format!("/v2/t/img/manifests/{}", s.image.digest()), manifest(MANIFEST, &[], &other.manifest));
        }),
        case("the index lies about the manifest's size", End::Lying, |s| index(s, s.image.manifest.len() + 1)),
        case("the index's manifest is gone", End::NotFound, |s| {
            index(s, s.image.manifest.len());
            s.server.always(&format!("/v2/t/img/manifests/{}", s.image.digest()), reply("404 Not Found", &[], ""));
        }),
        case("the index names itself as its manifest", End::Lying, |s| {
            let list = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{"mediaType": INDEX, "digest": s.image.digest(), "size": 1}]}).to_string();
            let answer = reply("200 OK", &[("content-type", INDEX)], &list);
            s.server.always(TAG, answer.clone());
            s.server.always(&format!("/v2/t/img/manifests/{}", s.image.digest()), answer);
        }),
        case("the tag moves while it is asked", End::Fine, |s| {
            // Only the first answer counts: the rest is asked for by digest.
            let (first, then) = (s.image.manifest.clone(), Image::new(vec![]).manifest);
            s.server.on(TAG, move |n, _| {
                let body = if n == 1 { &first } else { &then };
                vec![Step::Send(reply("200 OK", &[("content-type", MANIFEST)], body))]
            });
        }),
        case("it calls a manifest an index", End::Lying, move |s| {
            s.server.always(TAG, manifest(INDEX, &[], &s.image.manifest))
        }),
        case("it calls a manifest a page", End::Lying, move |s| {
            s.server.always(TAG, manifest("text/html", &[], &s.image.manifest))
        }),
        case("it does not say what it sends", End::Lying, |s| {
            s.server.always(TAG, reply("200 OK", &[], &s.image.manifest))
        }),
        case("it sends a page for a manifest", End::Invalid, move |s| {
            s.server.always(TAG, manifest(MANIFEST, &[], b"<html>"))
        }),
        case("its config is not there", End::Lying, |s| s.server.always(&s.config(), reply("404 Not Found", &[], ""))),
        case("its layer is not there", End::Lying, |s| s.server.always(&s.layer(), reply("404 Not Found", &[], ""))),
        case("its layer is not there any more when asked for the rest", End::Lying, |s| {
            s.resumed(|_, _| reply("404 Not Found", &[], ""))
        }),
        case("its layer changes between two attempts", End::Lying, |s| {
            s.resumed(|data, from| {
                let span = format!("bytes {from}-{}/{}", data.len() - 1, data.len());
                reply("206 Partial Content", &[("content-range", &span)], vec![b'!'; data.len() - from])
            });
        }),
        case("its layer's rest begins elsewhere", End::Lying, |s| {
            s.resumed(|data, from| {
                let span = format!("bytes {}-{}/{}", from - 1, data.len() - 1, data.len());
                reply("206 Partial Content", &[("content-range", &span)], &data[from - 1..])
            });
        }),
        case("its layer's rest has no range", End::Lying, |s| {
            s.resumed(|data, from| reply("206 Partial Content", &[], &data[from..]))
        }),
        case("its layer's rest is too long", End::Lying, |s| {
            s.resumed(|data, from| {
                let span = format!("bytes {from}-{}/{}", data.len() - 1, data.len());
                reply("206 Partial Content", &[("content-range", &span)], [&data[from..], b"more"].concat())
            });
        }),
        case("its layer's rest is in parts", End::Lying, |s| {
            s.resumed(|data, from| {
                reply("206 Partial Content", &[("content-type", "multipart/byteranges; boundary=x")], &data[from..])
            });
        }),
        case("it cannot give the layer's rest", End::Lying, |s| {
            s.resumed(|_, _| reply("416 Range Not Satisfiable", &[], ""))
        }),
        case("it gives the whole layer again", End::Fine, |s| s.resumed(|data, _| reply("200 OK", &[], data))),
        case("it gives the layer's rest", End::Fine, |s| {
            s.resumed(|data, from| {
                let span = format!("bytes {from}-{}/{}", data.len() - 1, data.len());
                reply("206 Partial Content", &[("content-range", &span)], &data[from..])
            });
        }),
        case("it gives a part that nobody asked for", End::Lying, |s| {
            let (data, _) = s.half();
            let span = format!("bytes 9-{}/{}", data.len() - 1, data.len());
            s.server.always(&s.layer(), reply("206 Partial Content", &[("content-range", &span)], &data[9..]));
        }),
    ];
    for (status, end) in [
        ("202 Accepted", End::Lying),
        ("204 No Content", End::Lying),
        ("304 Not Modified", End::Lying),
        ("400 Bad Request", End::Lying),
        ("403 Forbidden", End::Unauthorized),
        ("418 I'm a teapot", End::Lying),
        ("451 Gone", End::Lying),
        ("500 Oops", End::Unreachable),
        ("599 ", End::Unreachable),
        ("999 ", End::Lying),
    ] {
        let code = status.split(' ').next().unwrap_or_default();
        all.push(tag(format!("it answers {code}"), end, vec![Step::Send(reply(status, &[], ""))]));
        if end == End::Unreachable || code == "403" {
            let answer = reply(status, &[], "");
            all.push(case(format!("it answers {code} for the layer"), end, move |s| {
                s.server.always(&s.layer(), answer)
            }));
        }
    }
    all
}

/// The tag is an index with our manifest in it.
fn index(s: &Stage, size: usize) {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let entry = json!({"mediaType": MANIFEST, "digest": s.image.digest(), "size": size, "platform": {"os": "linux", "architecture": arch}});
    let list = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string();
    s.server.always(TAG, reply("200 OK", &[("content-type", INDEX)], list));
}
