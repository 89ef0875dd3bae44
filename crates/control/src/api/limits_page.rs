//! The tables of docs/limits.md, written from what is in force.

use super::routes::{self, Deadline};
use crate::config::{Deadlines, Limits};
use crate::server::{REQUESTS_TO_A_CONNECTION, TURN, TURN_OUT, UNSENT_MOST};
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

fn seconds(d: Duration) -> String {
    format!("{} s", d.as_secs())
}

fn connections() -> String {
    // Every field is named: one that is added must be documented.
    let Limits {
        header_timeout,
        untaken,
        untaken_stream,
        max_connections,
        max_connections_per_peer,
        json_body_bytes,
        json_bytes_in_all,
        h2_streams,
        h2_pending_resets,
        header_bytes,
    } = Limits::default();
    let Deadlines { stream_idle, drain, .. } = Deadlines::default();
    let rows = [
        ("from accepting to a whole head, TLS handshake apart but as long", seconds(header_timeout), "closed"),
        ("head of a request", format!("{} KiB, 100 headers on HTTP/1", header_bytes / 1024), "431, or closed"),
        ("an idle connection", seconds(header_timeout), "closed"),
        ("JSON body", format!("{} KiB", json_body_bytes / 1024), "413"),
        ("JSON bodies coming in at once, beyond 16 KiB of each", format!("{} MiB", json_bytes_in_all >> 20), "503"),
        ("JSON bodies above 16 KiB parsed at once", "half the processors".to_owned(), "waits"),
        ("bytes of a connection taken in before others have their turn", format!("{} KiB", TURN / 1024), "waits"),
        ("bytes of answers written to one before others have their turn", format!("{} KiB", TURN_OUT / 1024), "waits"),
        (
            "bytes of answers that the kernel keeps unsent for a TCP peer",
            format!("{} KiB", UNSENT_MOST / 1024),
            "waits",
        ),
        ("from the head to a whole JSON body", seconds(header_timeout), "408"),
        ("an answer that the peer does not take; each KiB gives back a second", seconds(untaken), "closed"),
        ("the same for a stream or a WebSocket", seconds(untaken_stream), "closed"),
        ("connections in all", max_connections.to_string(), "the one longest at rest is closed, else it waits"),
        ("connections of one peer", max_connections_per_peer.to_string(), "closed at once"),
        ("requests of one peer at work", max_connections_per_peer.to_string(), "503"),
        ("requests at work in all", (max_connections * REQUESTS_TO_A_CONNECTION).to_string(), "503"),
        ("HTTP/2: streams at once", h2_streams.to_string(), "refused by flow control"),
        ("HTTP/2: resets not yet taken in", h2_pending_resets.to_string(), "closed"),
        ("an upload without a byte", seconds(stream_idle), "408"),
        ("after a shutdown began", seconds(drain), "cut off"),
    ];
    let mut out = "| what | limit | past it |\n|---|---|---|\n".to_owned();
    for (what, limit, then) in rows {
        let _ = writeln!(out, "| {what} | {limit} | {then} |");
    }
    out
}

fn routes() -> String {
    let Deadlines { short, wait, exec_margin, .. } = Deadlines::default();
    let mut out = "| route | deadline |\n|---|---|\n".to_owned();
    for entry in routes::table() {
        let path = super::document::documented(&entry.path);
        let item = serde_json::to_value(entry.document.paths.values().next()).expect("serialises");
        let method = item.as_object().and_then(|o| o.keys().next()).expect("one method").to_uppercase();
        let deadline = match entry.rule.deadline {
            Deadline::Short => format!("short: {}", seconds(short)),
            Deadline::Wait => format!("wait: {}, then {} more at most", seconds(wait), seconds(short)),
            Deadline::Exec => format!("exec: its timeout + {}", seconds(exec_margin)),
            Deadline::Stream => "stream".to_owned(),
        };
        let _ = writeln!(out, "| {method} `{path}` | {deadline} |");
    }
    out
}

fn replaced(page: &str, name: &str, table: &str) -> String {
    let (begin, end) = (format!("<!-- begin: {name} -->\n"), format!("<!-- end: {name} -->"));
    let (head, rest) = page.split_once(&begin).expect("the mark of the beginning");
    let (_, tail) = rest.split_once(&end).expect("the mark of the end");
    format!("{head}{begin}{table}{end}{tail}")
}

/// Renew it with `UPDATE_DOCS=1 cargo test -p aether-control limits`.
#[test]
fn the_page_of_limits_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/limits.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let current = replaced(&replaced(&page, "connections", &connections()), "routes", &routes());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &current).expect("written");
    }
    let page = std::fs::read_to_string(&path).expect("the page");
    assert!(page == current, "docs/limits.md is stale: UPDATE_DOCS=1 cargo test -p aether-control limits");
}
