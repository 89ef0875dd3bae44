//! Create, exec, stop, start, gone.

use super::exec::{ask, open, run, start_message};
use super::world::World;
use super::{sh, spec};
use aether_proto::node as wire;
use aether_proto::node::exec_request::Message as Ask;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn two_images_side_by_side_from_create_to_gone() {
    let mut world = World::new("life").await;
    let hello = world.server.hello(1).await;
    assert_eq!((hello.protocol, hello.node_epoch, hello.isolation.as_str()), (1, 1, "vm-emulated"));
    world.import("one:v1", "one").await;
    world.import("two:v1", "two").await;
    let (one, two) = (world.server.create(&spec("one:v1")), world.server.create(&spec("two:v1")));
    let report = world.server.observed(&one, "running").await;
    assert_eq!((report.engine.as_str(), report.disk_encryption.as_str()), ("qemu", "luks"));
    assert!(report.image_digest.starts_with("sha256:") && report.started_at_ms.is_some());
    world.server.observed(&two, "running").await;
    assert_eq!(world.server.states_of(&one), ["creating", "running"]);

    let mut data = world.data().await;
    for (agent, id) in [(&one, "one"), (&two, "two")] {
        let ran =
            run(&mut data, agent, &["/bin/sh", "-c", "cat /etc/os-release; echo $IMAGE; echo \"$GREETING\""]).await;
        assert_eq!(ran.stdout, format!("ID={id}\n{id}\nit's \"quoted\"\nand more\n"), "{ran:?}");
        assert_eq!(ran.code, Some(0));
    }
    let ran = run(&mut data, &one, &["/bin/sh", "-c", "echo x > /mine; echo oops >&2; exit 7"]).await;
    assert_eq!((ran.stderr.as_str(), ran.code), ("oops\n", Some(7)));
    assert_eq!(run(&mut data, &two, &["/bin/sh", "-c", "test -e /mine"]).await.code, Some(1));

    // Input, its end, and a signal.
    let mut cat = open(&mut data, Ask::Start(start_message(&one, &["/bin/cat"]))).await.expect("starts");
    cat.send.send(ask(Ask::Stdin("hello".into()))).await.expect("sends");
    cat.read_until(|r| r.stdout == "hello").await.expect("echoes");
    cat.send.send(ask(Ask::CloseStdin(true))).await.expect("sends");
    cat.read_until(|_| false).await.expect("ends");
    assert_eq!(cat.ran.code, Some(0));
    let mut sleep = open(&mut data, Ask::Start(start_message(&one, &["/bin/sleep", "1000"]))).await.expect("starts");
    sleep.send.send(ask(Ask::Signal("TERM".into()))).await.expect("sends");
    sleep.read_until(|_| false).await.expect("ends");
    assert_eq!(sleep.ran.signal.as_deref(), Some("SIGTERM"));

    files(&mut data, &one).await;
    refusals(&mut data, &one).await;
    let stats = data.stats(wire::AgentRequest { agent_id: one.clone() }).await.expect("stats").into_inner();
    assert!(stats.memory_total_bytes > 64 << 20 && stats.host_memory_bytes > 0, "{stats:?}");
    assert!(data.health(wire::AgentRequest { agent_id: one.clone() }).await.expect("health").into_inner().healthy);

    // What was written is there after stop and start; delete erases it.
    world.server.want(&one, "stopped");
    world.server.observed(&one, "stopped").await;
    let refused = data.health(wire::AgentRequest { agent_id: one.clone() }).await.expect_err("stopped");
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "the agent is stopped, not running"));
    world.server.want(&one, "running");
    world.server.observed(&one, "running").await;
    assert_eq!(run(&mut data, &one, &["/bin/cat", "/mine"]).await.stdout, "x\n");
    world.server.want(&one, "gone");
    // One by name, the other by its absence from a full set.
    world.server.forget(&two);
    for agent in [&one, &two] {
        world.server.observed(agent, "gone").await;
    }
    world.assert_nothing_left().await;
    assert!(!world.log().contains("quoted"), "env in the log");
}

async fn files(data: &mut super::server::Data, agent: &str) {
    use wire::file_write_request::Message;
    let head = wire::FileWriteHead {
        agent_id: agent.into(),
        path: "/tmp/deep/f".into(),
        mode: Some(0o640),
        ..Default::default()
    };
    let big: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut messages = vec![Message::Head(head)];
    messages.extend(big.chunks(200_000).map(|c| Message::Chunk(c.to_vec().into())));
    let stream = tokio_stream::iter(messages.into_iter().map(|m| wire::FileWriteRequest { message: Some(m) }));
    let entry = data.file_write(stream).await.expect("writes").into_inner();
    assert_eq!((entry.size, entry.mode, entry.kind.as_str()), (3_000_000, 0o640, "file"));
    let read = wire::FileReadRequest { agent_id: agent.into(), path: "/tmp/deep/f".into(), ..Default::default() };
    let mut stream = data.file_read(read.clone()).await.expect("reads").into_inner();
    let mut back = Vec::new();
    while let Some(piece) = stream.message().await.expect("goes on") {
        if let Some(wire::file_read_response::Message::Chunk(bytes)) = piece.message {
            back.extend_from_slice(&bytes);
        }
    }
    assert!(back == big, "{} bytes came back", back.len());
    let missing = data.file_read(wire::FileReadRequest { path: "/nope".into(), ..read }).await.expect_err("missing");
    assert_eq!(missing.code(), Code::NotFound);
    let list =
        wire::FileListRequest { agent_id: agent.into(), path: "/tmp/deep".into(), depth: 1, user: String::new() };
    let names: Vec<String> =
        data.file_list(list).await.expect("lists").into_inner().entries.into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["f"]);
}

async fn refusals(data: &mut super::server::Data, agent: &str) {
    let code = |r: Result<tonic::Response<wire::FileEntry>, tonic::Status>| r.err().map(|s| s.code());
    let path = |path: &str, agent: &str| wire::FilePathRequest {
        agent_id: agent.into(),
        path: path.into(),
        ..Default::default()
    };
    assert_eq!(code(data.file_stat(path(&"a".repeat(5000), agent)).await), Some(Code::InvalidArgument));
    assert_eq!(code(data.file_stat(path("/", "nobody")).await), Some(Code::InvalidArgument));
    assert_eq!(code(data.file_stat(path("/", "agtc0aaaaaaaaaaaaaaaa")).await), Some(Code::NotFound));
    let bad = open(data, Ask::Start(start_message(agent, &[]))).await.err().expect("no command");
    assert_eq!(bad.code(), Code::InvalidArgument);
    let bad = open(data, Ask::Stdin("x".into())).await.err().expect("no start");
    assert_eq!(bad.code(), Code::InvalidArgument);
    let nowhere = wire::ExecAttach { agent_id: agent.into(), exec_id: "exe-none".into(), offset: 0 };
    assert_eq!(open(data, Ask::Attach(nowhere)).await.err().map(|s| s.code()), Some(Code::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_process_decides_how_an_agent_ends() {
    let mut world = World::new("main").await;
    world.import("one:v1", "one").await;
    let fails = world.server.create(&sh("one:v1", "echo said; exit 5"));
    let mut own = spec("one:v1");
    own.run_image_command = true;
    let own = world.server.create(&own);
    let missing = world.server.create(&spec("nowhere.invalid/none:v1"));
    let not_there =
        world.server.create(&aether_core::AgentSpec { command: vec!["/bin/none".into()], ..spec("one:v1") });
    let report = world.server.observed(&fails, "stopped").await;
    assert_eq!((report.exit_code, report.error_code.as_str()), (Some(5), ""));
    assert_eq!(world.server.observed(&own, "stopped").await.exit_code, Some(3));
    let report = world.server.observed(&missing, "failed").await;
    assert!(["IMAGE_PULL_FAILED", "IMAGE_NOT_FOUND"].contains(&report.error_code.as_str()), "{report:?}");
    let report = world.server.observed(&not_there, "failed").await;
    assert_eq!(report.error_code, "COMMAND_NOT_STARTED", "{report:?}");
    // The lines of one that ended are kept.
    let request = wire::LogsRequest { agent_id: fails.clone(), tail: 10, ..Default::default() };
    let mut lines = world.data().await.logs(request).await.expect("logs").into_inner();
    let line = lines.message().await.expect("goes on").expect("a line");
    assert_eq!((line.line.as_ref(), line.stream), (b"said".as_slice(), 1));
    for agent in [&fails, &own, &missing, &not_there] {
        world.server.want(agent, "gone");
        world.server.observed(agent, "gone").await;
    }
    world.assert_nothing_left().await;
}
