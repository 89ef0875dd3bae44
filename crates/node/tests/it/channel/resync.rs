//! Cuts at any moment: sessions begin afresh, execs and their output do not.

use super::sandbox::{BOOT_TOKEN, LIMIT, Sandbox, TOKEN, open, request, shell};
use aether_node::channel::ChannelError;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn output_is_exact_over_many_cuts() {
    let sandbox = Sandbox::start().await;
    // Slow enough for cuts in between, and both ways busy.
    let script = "i=0; while [ $i -lt 3000 ]; do echo line-$i-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; i=$((i+1)); \
                  [ $((i % 100)) -eq 0 ] && sleep 0.05; done";
    sandbox.client.exec_start(shell("lines", script)).await.expect("started");
    let cuts = async {
        for _ in 0..25 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            sandbox.cut();
        }
    };
    let noise = async {
        for _ in 0..40 {
            // Some of these fail in mid-call and are made again.
            sandbox.client.health().await.expect("health over cuts");
            sandbox.client.exec_list().await.expect("list over cuts");
        }
    };
    let (outcome, (), ()) = tokio::join!(sandbox.outcome("lines", 0), cuts, noise);
    let outcome = outcome.expect("the end");
    let expected: String = (0..3000).map(|i| format!("line-{i}-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n")).collect();
    assert!(outcome.gaps.is_empty());
    assert!(outcome.text() == expected, "{} bytes of {}", outcome.out.len(), expected.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_left_over_from_the_old_session_is_thrown_away() {
    let sandbox = Sandbox::start().await;
    std::fs::write(sandbox.path("big"), vec![7; 30_000_000]).expect("write");
    for _ in 0..10 {
        let client = open(sandbox.dir.path(), TOKEN);
        // The relay serves one at a time.
        sandbox.client.close();
        client.wait_ready(LIMIT).await.expect("ready");
        let (_, stream) = client.file_read(&sandbox.path("big"), None, None).await.expect("opened");
        tokio::time::sleep(Duration::from_millis(30)).await;
        client.close();
        drop(stream);
    }
    let client = open(sandbox.dir.path(), TOKEN);
    client.wait_ready(LIMIT).await.expect("ready after all that");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_token_opens_nothing_any_more() {
    let sandbox = Sandbox::start().await;
    sandbox.client.close();
    let stale = open(sandbox.dir.path(), BOOT_TOKEN);
    assert_eq!(stale.wait_ready(Duration::from_secs(2)).await, Err(ChannelError::Timeout));
    stale.close();
    let client = open(sandbox.dir.path(), TOKEN);
    client.wait_ready(LIMIT).await.expect("ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identify_whose_answer_is_lost_is_found_by_either_token() {
    let sandbox = Sandbox::boot();
    sandbox.client.wait_ready(LIMIT).await.expect("ready");
    // Cuts while it is under way: it is repeated with whichever token fits.
    let cuts = async {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(3)).await;
            sandbox.cut();
        }
    };
    let (answer, ()) = tokio::join!(sandbox.client.identify(request()), cuts);
    answer.expect("identified");
    assert_eq!(sandbox.client.token().0, TOKEN);
    sandbox.client.health().await.expect("healthy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_client_and_a_missing_socket_are_gone() {
    let sandbox = Sandbox::start().await;
    sandbox.client.close();
    assert_eq!(sandbox.client.health().await.err(), Some(ChannelError::Gone));
    let empty = tempfile::tempdir().expect("a temporary folder");
    let nobody = open(empty.path(), TOKEN);
    assert_eq!(nobody.wait_ready(LIMIT).await.err(), Some(ChannelError::Gone));
}
