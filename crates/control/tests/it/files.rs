use crate::harness::{ok, problem, start};
use crate::node::BIG;
use bytes::Bytes;
use futures::StreamExt;
use reqwest::Method;
use serde_json::json;

/// Peak resident memory of this process.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).expect("line");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("number")
}

#[tokio::test]
async fn one_file_there_and_back() {
    let server = start().await;
    let id = server.agent("holder").await;
    let path = |p: &str| format!("/v1/agents/{id}/files?path={p}");
    let (status, written) =
        ok(server.request(Method::PUT, &format!("{}&mode=0755", path("/a"))).body("0123456789")).await;
    assert_eq!((status.as_u16(), written["size"].as_u64(), written["mode"].as_str()), (200, Some(10), Some("0644")));
    let whole = server.get(&path("/a")).send().await.expect("answered");
    assert_eq!(whole.headers()["content-length"], "10");
    assert_eq!(whole.text().await.expect("text"), "0123456789");
    let part = server.get(&path("/a")).header("range", "bytes=-3").send().await.expect("answered");
    assert_eq!((part.status().as_u16(), part.headers()["content-range"].to_str().ok()), (206, Some("bytes 7-9/10")));
    assert_eq!(part.text().await.expect("text"), "789");
    let outside = server.get(&path("/a")).header("range", "bytes=10-");
    problem(outside, 416, "BAD_REQUEST").await;
    let (_, stat) = ok(server.get(&format!("{}&stat=true", path("/a")))).await;
    assert_eq!((stat["kind"].as_str(), stat["size"].as_u64()), (Some("file"), Some(10)));
    let head = server.request(Method::HEAD, &path("/a")).send().await.expect("answered");
    assert_eq!((head.status().as_u16(), head.headers()["x-aether-file-kind"].to_str().ok()), (200, Some("file")));
    assert_eq!(head.headers()["content-length"], "10");
    let (_, listed) = ok(server.get(&format!("{}&list=true", path("/dir")))).await;
    assert_eq!(listed[0]["name"], "a");
    let tar = server.get(&path("/dir")).send().await.expect("answered");
    assert_eq!(tar.headers()["content-type"], "application/x-tar");
    assert_eq!(tar.text().await.expect("text"), "tar bytes");
    let unpack = server.request(Method::PUT, &path("/dir")).header("content-type", "application/x-tar").body("tar");
    assert_eq!(ok(unpack).await.1["kind"], "directory");
    assert_eq!(ok(server.request(Method::DELETE, &path("/a"))).await.0.as_u16(), 204);
    problem(server.request(Method::DELETE, &path("/a")), 404, "NOT_FOUND").await;
    problem(server.get(&path("/a")), 404, "NOT_FOUND").await;
    problem(server.request(Method::PUT, &path("/full")).body("x"), 507, "INSUFFICIENT_STORAGE").await;
    for bad in ["", "relative", "/a&mode=9", "/a&user=a%20b", "/a&depth=2", "/a%00b"] {
        let method = if bad.contains("mode") { Method::PUT } else { Method::GET };
        problem(server.request(method, &path(bad)), 400, "VALIDATION_ERROR").await;
    }
}

#[tokio::test]
async fn large_files_pass_through_without_being_held() {
    let server = start().await;
    let id = server.agent("holder").await;
    let before = peak_kib();
    let block = Bytes::from(vec![b'u'; 1 << 20]);
    let blocks = futures::stream::iter((0..256).map(move |_| Ok::<_, std::io::Error>(block.clone())));
    let upload = server.request(Method::PUT, &format!("/v1/agents/{id}/files?path=/up"));
    let (status, written) = ok(upload.body(reqwest::Body::wrap_stream(blocks))).await;
    assert_eq!((status.as_u16(), written["size"].as_u64()), (200, Some(BIG)));
    let response = server.get(&format!("/v1/agents/{id}/files?path=/big")).send().await.expect("answered");
    let mut body = response.bytes_stream();
    let mut total = 0;
    while let Some(chunk) = body.next().await {
        total += chunk.expect("chunk").len() as u64;
    }
    assert_eq!(total, BIG);
    let grown = peak_kib() - before;
    assert!(grown < 128 * 1024, "peak memory grew by {grown} KiB while 2 x 256 MiB passed through");
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_no_file() {
    let server = start().await;
    let id = server.agent("holder").await;
    let broken = futures::stream::iter([Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("gone"))]);
    let upload = server.request(Method::PUT, &format!("/v1/agents/{id}/files?path=/half"));
    assert!(upload.body(reqwest::Body::wrap_stream(broken)).send().await.is_err());
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(server.node.written("/half"), None);
    let too_large = json!({ "image": "a", "name": "small", "resources": { "disk_mb": 1024 } });
    ok(server.post("/v1/agents?wait=running", too_large)).await;
}
