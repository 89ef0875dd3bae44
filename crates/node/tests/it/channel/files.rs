//! Files: one, many, hostile ones.

use super::sandbox::Sandbox;
use aether_node::channel::{ByteStream, ErrorCode, filesystem::FileType};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

async fn whole(stream: ByteStream) -> Vec<u8> {
    stream.map_ok(|piece| piece.to_vec()).try_concat().await.expect("the whole body")
}

fn body(pieces: Vec<Result<Bytes, String>>) -> impl futures::Stream<Item = Result<Bytes, String>> + Send + Sync {
    futures::stream::iter(pieces)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_there_and_back() {
    let sandbox = Sandbox::start().await;
    let client = &sandbox.client;
    let path = sandbox.path("deep/er/a b+ü%.bin");
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let pieces = content.chunks(70_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let written = client.file_write(&path, None, Some(0o750), body(pieces)).await.expect("written");
    assert_eq!((written.path.as_str(), written.name.as_str()), (path.as_str(), "a b+ü%.bin"));
    let (head, stream) = client.file_read(&path, None, None).await.expect("opened");
    assert_eq!((head.length, head.mode), (Some(3_000_000), Some(0o750)));
    assert!(whole(stream).await == content);
    let (head, stream) = client.file_read(&path, None, Some("bytes=10-19")).await.expect("opened");
    assert_eq!(head.content_range.as_deref(), Some("bytes 10-19/3000000"));
    assert_eq!(whole(stream).await, content[10..20]);
    let refused = client.file_read(&path, None, Some("bytes=3000000-")).await.err();
    assert_eq!(refused.and_then(|error| error.code()), Some(ErrorCode::OutOfRange));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_fails_leaves_the_old_file() {
    let sandbox = Sandbox::start().await;
    let path = sandbox.path("file");
    let old = body(vec![Ok(Bytes::from_static(b"old"))]);
    sandbox.client.file_write(&path, None, None, old).await.expect("written");
    let broken = body(vec![Ok(Bytes::from_static(b"new")), Err("the sender broke".to_owned())]);
    assert!(sandbox.client.file_write(&path, None, None, broken).await.is_err());
    // The guest learns of the cut on its own time.
    let clean = async {
        while std::fs::read_dir(sandbox.dir.path())
            .expect("list")
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().ends_with(".aether"))
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(super::sandbox::LIMIT, clean).await.expect("nothing left behind");
    assert_eq!(std::fs::read(&path).expect("read"), b"old");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_codes() {
    let sandbox = Sandbox::start().await;
    let client = &sandbox.client;
    let code = |path: String, user: Option<&'static str>| async move {
        client.file_read(&path, user, None).await.err().and_then(|error| error.code())
    };
    assert_eq!(code(sandbox.path("none"), None).await, Some(ErrorCode::NotFound));
    assert_eq!(code(sandbox.path(""), None).await, Some(ErrorCode::InvalidArgument));
    assert_eq!(code("/dev/null".into(), None).await, Some(ErrorCode::InvalidArgument));
    assert_eq!(code("a\0b".into(), None).await, Some(ErrorCode::InvalidArgument));
    assert_eq!(code("/etc/passwd".into(), Some("ghost")).await, Some(ErrorCode::Unauthenticated));
}

#[tokio::test(flavor = "multi_thread")]
async fn work_is_done_as_the_user() {
    if !nix::unistd::geteuid().is_root() {
        panic!("this test needs root, as the whole suite does");
    }
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let sandbox = Sandbox::start().await;
    std::fs::set_permissions(sandbox.dir.path(), std::fs::Permissions::from_mode(0o777)).expect("chmod");
    let (path, closed) = (sandbox.path("theirs"), sandbox.path("closed"));
    std::fs::write(&closed, "secret").expect("write");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let user = Some("nobody");
    let data = || body(vec![Ok(Bytes::from_static(b"x"))]);
    sandbox.client.file_write(&path, user, None, data()).await.expect("written");
    assert_eq!(std::fs::metadata(&path).expect("stat").uid(), 65534);
    let refused = sandbox.client.file_read(&closed, user, None).await.err();
    assert_eq!(refused.and_then(|error| error.code()), Some(ErrorCode::PermissionDenied));
    let refused = sandbox.client.file_write(&closed, user, None, data()).await.err();
    assert_eq!(refused.and_then(|error| error.code()), Some(ErrorCode::PermissionDenied));
    // The thread is root's again.
    let (_, stream) = sandbox.client.file_read(&closed, None, None).await.expect("as root");
    assert_eq!(whole(stream).await, b"secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_by_name_and_as_archives() {
    let sandbox = Sandbox::start().await;
    let client = &sandbox.client;
    let made = client.fs_mkdir(&sandbox.path("top/sub"), None).await.expect("made");
    assert_eq!(made.r#type, FileType::FILE_TYPE_DIRECTORY);
    let again = client.fs_mkdir(&sandbox.path("top/sub"), None).await.err();
    assert_eq!(again.and_then(|error| error.code()), Some(ErrorCode::AlreadyExists));
    std::fs::write(sandbox.path("top/sub/file"), "hello").expect("write");
    assert_eq!(client.fs_list(&sandbox.path("top"), 2, None).await.expect("listed").len(), 2);
    assert_eq!(client.fs_stat(&sandbox.path("top/sub/file"), None).await.expect("stat").size, 5);

    let tar = whole(client.archive_read(&sandbox.path("top"), None).await.expect("an archive")).await;
    let pieces = tar.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    client.archive_write(&sandbox.path("copy"), None, body(pieces)).await.expect("unpacked");
    assert_eq!(std::fs::read(sandbox.path("copy/top/sub/file")).expect("read"), b"hello");
    let garbage = body(vec![Ok(Bytes::from(vec![b'x'; 2000]))]);
    let refused = client.archive_write(&sandbox.path("copy"), None, garbage).await.err();
    assert!(refused.is_some_and(|error| error.code().is_some()), "garbage is refused with a code");

    client.fs_move(&sandbox.path("copy/top"), &sandbox.path("new/place"), None).await.expect("moved");
    client.fs_remove(&sandbox.path("new"), None).await.expect("removed");
    client.fs_remove(&sandbox.path("new"), None).await.expect("a missing path is success");
    let gone = client.fs_stat(&sandbox.path("new"), None).await.err();
    assert_eq!(gone.and_then(|error| error.code()), Some(ErrorCode::NotFound));
    let missing = client.archive_read(&sandbox.path("new"), None).await.err();
    assert_eq!(missing.and_then(|error| error.code()), Some(ErrorCode::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_be_dropped_half_read() {
    let sandbox = Sandbox::start().await;
    let path = sandbox.path("big");
    std::fs::write(&path, vec![0; 20_000_000]).expect("write");
    for _ in 0..5 {
        let (_, mut stream) = sandbox.client.file_read(&path, None, None).await.expect("opened");
        assert!(stream.next().await.is_some());
    }
    sandbox.client.fs_stat(&path, None).await.expect("the lane still answers");
}
