//! Exec requests, as a body and as the frames of a stream.

use super::*;
use crate::api::parse;
use aether_core::api::ExecClientFrame;

fn shown(error: &ApiError) {
    let text = serde_json::to_string(&error.problem).expect("a problem is JSON");
    assert!(text.len() <= 16 << 10, "{} bytes of errors", text.len());
}

fn asked(asked: &Asked, stream: bool) {
    match check(asked, stream) {
        Err(error) => shown(&error),
        Ok(()) => {
            assert!(!asked.command[0].is_empty() && asked.command.len() <= MAX_ARGS);
            assert!(asked.command.iter().chain(asked.env.keys()).chain(asked.env.values()).all(|w| !w.contains('\0')));
            assert!(asked.cwd.as_ref().is_none_or(|dir| dir.starts_with('/') && !dir.contains('\0')));
            assert!(asked.timeout.is_none_or(|seconds| seconds > 0));
            assert!(stream || !asked.tty);
        }
    }
}

#[test]
fn fuzz() {
    let words = &[
        "{\"type\":\"start\",\"command\":[",
        "{\"type\":\"attach\",\"exec_id\":\"",
        "{\"type\":\"resize\",\"cols\":",
        "\"offset\":",
        "{\"type\":\"signal\",\"signal\":\"",
        "\"tty\":true",
        "\"open_stdin\":true",
        "\"stdin\":\"",
        "\"cwd\":\"/",
        "\\u0000",
        "\"env\":{",
    ];
    aether_fuzz::target("exec_frames").memory(4 << 20).words(words).run(|input| {
        if let Ok(body) = parse::<Asked>(input).inspect_err(shown) {
            asked(&body, false);
        }
        match parse::<ExecClientFrame>(input) {
            Err(error) => shown(&error),
            Ok(ExecClientFrame::Start(request)) => asked(&request, true),
            Ok(frame) => {
                let again = serde_json::to_vec(&frame).expect("what was read can be written");
                let again = parse::<ExecClientFrame>(&again).expect("reads what it wrote");
                assert_eq!(format!("{again:?}"), format!("{frame:?}"));
            }
        }
    });
}
