//! The guest's executable as an ordinary process, spoken to over raw sockets:
//! the handshake as bytes, the services as any Connect client sees them.

mod client;

use aether_proto::channel::{MAGIC, answer, hello};
use client::Running;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_wrong_token_gets_no_answer_and_a_right_one_in_mid_noise_does() {
    let mut guest = Running::start(&[]).await;
    let stream = &mut guest.control;
    stream.write_all(&[0x55; 5000]).await.expect("written");
    stream.write_all(&hello(&[9; 16], &[1; 16])).await.expect("written");
    let mut bytes = [0; 32];
    let silence = tokio::time::timeout(Duration::from_millis(500), stream.read(&mut bytes)).await;
    assert!(silence.is_err(), "answered to a wrong token");
    // Truncated, then whole, in odd pieces.
    stream.write_all(&hello(&client::TOKEN, &[2; 16])[..20]).await.expect("written");
    for piece in hello(&client::TOKEN, &[3; 16]).chunks(5) {
        stream.write_all(piece).await.expect("written");
    }
    let mut seen = Vec::new();
    while !seen.ends_with(&answer(&[3; 16])) {
        let count = tokio::time::timeout(client::LIMIT, stream.read(&mut bytes)).await.expect("in time");
        let count = count.expect("read");
        assert!(count > 0, "the guest hung up");
        seen.extend_from_slice(&bytes[..count]);
    }
    assert!(seen.windows(16).any(|window| window == MAGIC));
}

#[tokio::test]
async fn orphans_are_reaped_and_ends_are_told() {
    let guest = Running::start(&["--reap-all"]).await.connect().await;
    guest.identify().await;
    // The inner shells are left to the guest: it is their reaper.
    let script = "for i in 1 2 3 4 5; do (sh -c 'sleep 0.2; exit 0' &) ; done; exit 9";
    let start = json!({ "execId": "orphans", "argv": ["/bin/sh", "-c", script] });
    guest.data("aether.guest.v1.Exec/Start", start).await.expect("started");
    let state = guest.ended("orphans").await;
    assert_eq!(state["exit"]["exitCode"], 9);
    let children = || {
        let path = format!("/proc/{pid}/task/{pid}/children", pid = guest.pid);
        std::fs::read_to_string(path).expect("the guest lives")
    };
    let reaped = async {
        while !children().trim().is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(client::LIMIT, reaped).await.expect("no child is left, dead or alive");
}

/// More than the ring holds, read late, in pieces that do not fit its own.
#[tokio::test]
async fn output_waits_for_its_starter_and_a_slow_reader_gets_every_byte() {
    use base64::Engine as _;
    const BYTES: u64 = 5_000_000;
    let guest = Running::start(&[]).await.connect().await;
    guest.identify().await;
    let script =
        format!("i=0; while [ $i -lt 40 ]; do i=$((i+1)); printf %07d $i; done; head -c {} /dev/zero", BYTES - 280);
    let start = json!({ "execId": "much", "argv": ["/bin/sh", "-c", script] });
    guest.data("aether.guest.v1.Exec/Start", start).await.expect("started");
    tokio::time::sleep(Duration::from_millis(700)).await;
    let mut stream = guest.stream("aether.guest.v1.Exec/Output", json!({ "execId": "much" }), 5).await;
    let mut came = 0;
    while let Some(message) = stream.next().await {
        assert!(message["gap"].is_null(), "{message}");
        if let Some(data) = message["output"]["data"].as_str() {
            came += base64::engine::general_purpose::STANDARD.decode(data).expect("base64").len() as u64;
        }
        if came < 300_000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(came, BYTES);
    assert_eq!(guest.ended("much").await["exit"]["exitCode"], 0);
}

#[tokio::test]
async fn e2bs_process_service_shows_the_same_table() {
    let guest = Running::start(&[]).await.connect().await;
    guest.identify().await;
    let start = json!({ "execId": "sleeper", "argv": ["sleep", "1000"] });
    let state = guest.data("aether.guest.v1.Exec/Start", start).await.expect("started");
    let list = guest.data("process.Process/List", json!({})).await.expect("listed");
    assert_eq!(list["processes"][0]["config"]["cmd"], "sleep");
    let pid = state["pid"].clone();
    let signal = |signal: &str| json!({ "process": { "pid": pid }, "signal": signal });
    let killed = guest.data("process.Process/SendSignal", signal("SIGNAL_SIGKILL")).await;
    killed.expect("signalled");
    assert_eq!(guest.ended("sleeper").await["exit"]["signal"], "SIGKILL");
    let unknown = json!({ "process": { "pid": 999_999 }, "signal": "SIGNAL_SIGKILL" });
    let error = guest.data("process.Process/SendSignal", unknown).await.expect_err("unknown");
    assert_eq!(error["code"], "not_found");
}

fn names(events: &serde_json::Value) -> Vec<(&str, &str)> {
    let all = events.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter()
        .map(|event| (event["name"].as_str().unwrap_or_default(), event["type"].as_str().unwrap_or_default()))
        .collect()
}

#[tokio::test]
async fn a_kept_watcher_tells_what_happened_since_it_was_asked() {
    let guest = Running::start(&[]).await.connect().await;
    guest.identify().await;
    let dir = tempfile::tempdir().expect("a folder");
    let rpc = |method: &str, message| {
        let method = format!("filesystem.Filesystem/{method}");
        let guest = &guest;
        async move { guest.data(&method, message).await }
    };
    let made = rpc("CreateWatcher", json!({ "path": dir.path(), "recursive": true, "includeEntry": true })).await;
    let id = json!({ "watcherId": made.expect("made")["watcherId"] });
    assert_eq!(rpc("GetWatcherEvents", id.clone()).await.expect("asked"), json!({}));
    // Whole when it appears: else its size is told as of the moment at which it was made.
    let outside = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(outside.path(), b"hello").expect("write");
    std::fs::create_dir(dir.path().join("sub")).expect("mkdir");
    std::fs::hard_link(outside.path(), dir.path().join("sub/file")).expect("link");
    let mut seen = Vec::new();
    let all = async {
        while seen.len() < 2 {
            let answer = rpc("GetWatcherEvents", id.clone()).await.expect("asked");
            seen.extend(answer["events"].as_array().cloned().unwrap_or_default());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(client::LIMIT, all).await.expect("they come");
    let seen = serde_json::Value::from(seen);
    assert_eq!(names(&seen)[..2], [("sub", "EVENT_TYPE_CREATE"), ("sub/file", "EVENT_TYPE_CREATE")], "{seen}");
    assert_eq!((&seen[1]["entry"]["size"], &seen[1]["entry"]["type"]), (&json!("5"), &json!("FILE_TYPE_FILE")));
    rpc("RemoveWatcher", id.clone()).await.expect("removed");
    for method in ["GetWatcherEvents", "RemoveWatcher"] {
        assert_eq!(rpc(method, id.clone()).await.expect_err("gone")["code"], "not_found");
    }
    let missing = rpc("CreateWatcher", json!({ "path": dir.path().join("none") })).await;
    assert_eq!(missing.expect_err("missing")["code"], "not_found");
    let file = rpc("CreateWatcher", json!({ "path": dir.path().join("sub/file") })).await;
    assert_eq!(file.expect_err("a file")["code"], "invalid_argument");
    // So many at a time, of both kinds; one that is removed makes room.
    let watcher = json!({ "path": dir.path() });
    let mut last = None;
    for _ in 0..64 {
        last = Some(rpc("CreateWatcher", watcher.clone()).await.expect("room")["watcherId"].clone());
    }
    assert_eq!(rpc("CreateWatcher", watcher.clone()).await.expect_err("full")["code"], "resource_exhausted");
    rpc("RemoveWatcher", json!({ "watcherId": last })).await.expect("removed");
    rpc("CreateWatcher", watcher).await.expect("room again");
}

fn zipped(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("zipped");
    encoder.finish().expect("zipped")
}

/// As httpx writes a form.
fn form(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, data) in files {
        let head = format!("--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n");
        body.extend([head.as_bytes(), data, b"\r\n"].concat());
    }
    body.extend(b"--b--\r\n");
    body
}

#[tokio::test]
async fn files_are_uploaded_as_bytes_or_forms_and_gzipped() {
    const BYTES: (&str, &str) = ("content-type", "application/octet-stream");
    const FORM: (&str, &str) = ("content-type", "multipart/form-data; boundary=b");
    const GZIP: (&str, &str) = ("content-encoding", "gzip");
    let guest = Running::start(&[]).await.connect().await;
    guest.identify().await;
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let read = |name: &str| std::fs::read(dir.path().join(name)).expect("read");
    let user = "username=root";
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();

    let query = format!("/files?{user}&path={}", path("zipped"));
    let (status, answer) = guest.post(&query, &[BYTES, GZIP], zipped(&large)).await;
    assert_eq!((status, &answer[0]["path"]), (200, &json!(path("zipped"))), "{answer}");
    assert!(read("zipped") == large, "as it was");

    let (first, second) = (path("deep/er/one"), path("two"));
    let two = form(&[(&first, &large), (&second, b"")]);
    for (headers, body) in [(vec![FORM], two.clone()), (vec![FORM, GZIP], zipped(&two))] {
        let (status, answer) = guest.post(&format!("/files?{user}"), &headers, body).await;
        let expected = json!([
            { "name": "one", "path": first, "type": "file" },
            { "name": "two", "path": second, "type": "file" },
        ]);
        assert_eq!((status, &answer), (200, &expected));
        assert!(read("deep/er/one") == large && read("two").is_empty());
        std::fs::remove_file(&first).expect("removed");
    }
    let (status, answer) = guest.post(&query, &[FORM], form(&[("ignored", b"x")])).await;
    assert_eq!(
        (status, answer[0]["path"].as_str(), read("zipped")),
        (200, Some(path("zipped").as_str()), b"x".to_vec())
    );

    let same = form(&[(&second, b"1"), (&second, b"2")]);
    let plain = format!("/files?{user}");
    for (target, headers, body, expected) in [
        (&plain, vec![FORM], same.clone(), 400),
        // The first is there by then: a form is not one step.
        (&format!("{query}.other"), vec![FORM], form(&[("a", b"1"), ("b", b"2")]), 400),
        (&plain, vec![FORM], form(&[("", b"1")]), 400),
        (&plain, vec![FORM], form(&[]), 400),
        (&plain, vec![FORM], two[..1000].to_vec(), 400),
        (&plain, vec![BYTES], b"x".to_vec(), 400),
        (&query, vec![BYTES, GZIP], b"no gzip".to_vec(), 400),
        (&query, vec![BYTES, GZIP], zipped(&large)[..1000].to_vec(), 400),
        (&query, vec![BYTES, ("content-encoding", "br")], b"x".to_vec(), 415),
        (&query, vec![("content-type", "multipart/form-data")], b"x".to_vec(), 415),
    ] {
        let (status, answer) = guest.post(target, &headers, body).await;
        assert_eq!((status, answer["code"].as_u64()), (expected, Some(u64::from(expected))), "{headers:?}: {answer}");
    }
    assert_eq!(read("zipped"), b"x", "a failed upload leaves the old file");
}

#[tokio::test]
async fn a_watch_is_streamed() {
    let guest = Running::start(&[]).await.connect().await;
    guest.identify().await;
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().join("root");
    std::fs::create_dir(&root).expect("mkdir");
    let mut watch = guest.stream("filesystem.Filesystem/WatchDir", json!({ "path": root }), 1).await;
    assert_eq!(watch.next().await, Some(json!({ "start": {} })));
    assert_eq!(watch.next().await, Some(json!({ "keepalive": {} })), "in silence");
    std::fs::write(root.join("file"), b"").expect("write");
    let made = watch.next().await.expect("an event");
    assert_eq!(made["filesystem"], json!({ "name": "file", "type": "EVENT_TYPE_CREATE" }));
    std::fs::remove_dir_all(&root).expect("remove");
    assert_eq!(watch.next().await.expect("an event")["filesystem"]["type"], "EVENT_TYPE_REMOVE");
    assert_eq!(watch.next().await.expect("an event")["filesystem"]["name"], ".");
    assert_eq!(watch.next().await, Some(json!({})), "a polite end");
    assert_eq!(watch.next().await, None);
}
