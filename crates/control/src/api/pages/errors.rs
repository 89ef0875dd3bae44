//! docs/errors.md: every code that an answer or an agent can carry.

use aether_core::Code;
use aether_core::api::failure;
use std::fmt::Write;

const HEAD: &str = "\
# Errors

<!-- Written from crates/control/src/api/pages/errors.rs. Renew: UPDATE_DOCS=1 cargo test -p aether-control pages -->

## Answers

Every error of the HTTP API is `application/problem+json` (RFC 9457):

| field | what it is |
|---|---|
| `code` | one of the table below; fit for programs, and the only field that they should decide by |
| `status` | the HTTP status again |
| `title` | the code in words |
| `detail` | what was wrong this time |
| `remedy` (also `suggestion`) | what to do about it; more exact than this table |
| `retryable` | whether the same request can succeed later, unchanged |
| `retry_after` | seconds, as in the header `Retry-After`, where waiting helps |
| `errors` | with `VALIDATION_ERROR`: each wrong `field` and its `message` |
| `instance` | what the error is about, such as the exec that ran out of time |
| `request_id` | as in the header `X-Request-ID` and in the server's log |
| `type` | `https://aether.dev/problems/` and the code in small letters: a name, not an address |

Texts are for people and may change; codes and statuses do not. What a server knows of paths, addresses and statements
stays in its log, under the `request_id`.

";

const MIDDLE: &str = "
A retry of something that creates or runs is safe with the `Idempotency-Key` of the first try, and only so. A WebSocket
tells an error before it opens as an ordinary answer, afterwards as the text frame `{\"type\":\"error\",\"problem\":{…}}`;
the lines of an image's pull end with one that has `phase: failed` and the `problem`; in bulk answers each item has its
own.

## Agents that failed

An agent with the status `failed` says why in `error`: a `code` of this table, and a `message`. It keeps its disk where
one was made; `aether agent start` tries again.

";

const TAIL: &str = "
Why an agent waits (`pending`) stands in its `placement_reason`; how a main process ended, in `exit_code` and
`exit_signal`. The exit codes of the command line stand in [cli.md](cli.md).
";

/// When it comes, and what to do. A new code does not compile without.
fn told(code: Code) -> (&'static str, &'static str) {
    use Code as C;
    match code {
        C::ValidationError => {
            ("A field or parameter is outside its limits; `errors` names each.", "Correct the fields named.")
        }
        C::BadRequest => (
            "The request cannot be read (JSON, header, frame), or the sandbox or node refuses it as meaningless; an \
             image that is not valid. With a range outside a file the status is 416.",
            "Correct it; [openapi.json](openapi.json) describes each route.",
        ),
        C::Unauthorized => (
            "No API key or token over TCP, or one that is unknown, malformed, expired or revoked: always the same answer. For an \
             image: the registry wants (other) credentials.",
            "Send `Authorization: Bearer KEY` with a live key; the registry's password where a registry asks.",
        ),
        C::Forbidden => (
            "The key's role and scopes lack the permission that `detail` names; its tenant is suspended; a local user \
             outside the group `aether`; another tenant's `tenant_id` or `Aether-Tenant`; a file that the sandbox's user may not touch; a registry at an \
             address that is not allowed.",
            "Use a key that has it; join the group; choose another `user`; ask the operator for `images.allow_hosts`.",
        ),
        C::NotFound => (
            "No such route, agent, exec, key, image or path, or it belongs to another tenant.",
            "List what there is; a gone agent's name is free again.",
        ),
        C::MethodNotAllowed => ("The route does not take this method.", "See the header `Allow`."),
        C::NotAcceptable => ("The form asked for in `Accept` does not exist.", "Ask for another."),
        C::RequestTimeout => (
            "The body of the request did not come in time, or an upload stood still.",
            "Send it without pauses; [limits.md](limits.md) names the times.",
        ),
        C::Conflict => (
            "The state does not allow it: the agent is not running, the name is taken, the image is in use, nothing \
             listens on the port, the first request with this key is still in progress.",
            "Look at the state first (`detail` names it); some say when to repeat in `Retry-After`.",
        ),
        C::PreconditionFailed => {
            ("`If-Match` names a version that is no longer there.", "Read the agent again and repeat with its ETag.")
        }
        C::PayloadTooLarge => (
            "A JSON body above 1 MiB, or an image above its limit.",
            "Send less; files and archives have routes of their own. See [limits.md](limits.md).",
        ),
        C::UnsupportedMediaType => {
            ("The body is of a type that the route does not take.", "Send `application/json`, or what `detail` names.")
        }
        C::IdempotencyMismatch => {
            ("The `Idempotency-Key` came with another body before.", "Use a new key for a new request.")
        }
        C::QuotaExceeded => (
            "The tenant's quota does not allow it; `detail` says what is used, asked and allowed. The status is 403 where \
             the request is larger than the whole quota.",
            "Stop or delete agents, ask for less, or have the quota raised.",
        ),
        C::RateLimited => (
            "The tenant, or this key of it, asks faster than it may; or the sandbox has too many execs at once.",
            "Wait as long as `Retry-After` says.",
        ),
        C::InternalError => (
            "A fault of ours, or of the node.",
            "Try again; if it stays, look for the `request_id` in the server's log.",
        ),
        C::BadGateway => ("A registry is down, busy, or sends what does not match.", "Try again; check the registry."),
        C::ServiceUnavailable => (
            "The server shuts down, its store does not answer or its disk is full, or the agent's node or sandbox \
             cannot be reached.",
            "Repeat after `Retry-After`; [operations.md](operations.md) tells the operator what to look at.",
        ),
        C::CapacityUnavailable => (
            "With `wait`: no node could hold the agent, even when empty. Nothing was created.",
            "Ask for less, or add a larger node.",
        ),
        C::Timeout => (
            "The route's deadline passed, a registry was too slow, or an exec ran into its own \
             `timeout` and was killed (`instance` names it).",
            "Look at the state first, since it may have been done; give an exec a longer timeout, or stream it.",
        ),
        C::InsufficientStorage => (
            "The agent's disk is full, the body is larger than it, or the disk of the server or node is nearly full \
             (creates, pulls and imports are refused below its low water mark).",
            "Free space inside, make the agent with a larger disk, or remove images and agents.",
        ),
    }
}

fn told_failure(code: &str) -> (&'static str, &'static str) {
    match code {
        failure::IMAGE_NOT_FOUND => (
            "The image is not on the node and not in its registry, not for this platform, or the name is none.",
            "Check name and tag; pull or import it first.",
        ),
        failure::IMAGE_PULL_FAILED => (
            "The registry did not give it: credentials, an address that is not allowed, silence, wrong answers.",
            "`message` says which; try `aether image pull`, which can be given credentials.",
        ),
        failure::IMAGE_INVALID => (
            "The image is damaged, hostile, or past a limit.",
            "Build it again; see [images.md](images.md) for the limits.",
        ),
        failure::BOOT_TIMEOUT => (
            "The guest did not answer in time (`node.boot_timeout`, longer under emulation).",
            "Look at the node's load and `aether doctor`; lower `node.max_boots`.",
        ),
        failure::BOOT_FAILED => (
            "The sandbox ended while booting, or its guest refused to go on.",
            "`message` has the VMM's or the guest's words; the server's log has more.",
        ),
        failure::COMMAND_NOT_STARTED => (
            "The main process could not be started: no such program, user or folder in the image.",
            "Correct `command`, `user` or `workdir`; an agent without a command idles.",
        ),
        failure::SANDBOX_DIED => (
            "The VMM ended unasked, the node ran out of memory, or the machine restarted under it.",
            "Start it again; with `recovery: restart` that happens by itself, three times at most.",
        ),
        failure::OUT_OF_MEMORY => {
            ("The sandbox as a whole used more memory than it may.", "Give the agent more memory.")
        }
        failure::DISK_FULL => {
            ("The node's disk is full, or below its reserve.", "Free space on the node, then start it.")
        }
        failure::NO_CAPACITY => (
            "The node has no memory, disk or network slot left, or is short of memory.",
            "`message` says of what. Destroy agents, or wait; then start it.",
        ),
        failure::NODE_ERROR => (
            "The node could not do its part: network, journal, a missing program.",
            "The server's log says why; `aether doctor` names what is missing.",
        ),
        failure::ISOLATION_REFUSED => (
            "The node can only emulate, which is no security boundary, and the tenant is not `default`.",
            "Use a node with KVM; or `engine.allow_emulation`, for tests.",
        ),
        failure::SECRET_UNAVAILABLE => (
            "A secret that the agent names was deleted, is no text, or could not be had from Vault or the control plane.",
            "`message` says which and why. Set it again, or see to Vault; then start the agent.",
        ),
        _ => panic!("{code} needs its row"),
    }
}

#[test]
fn the_page_of_errors_is_up_to_date() {
    let used = super::sources(&["control", "node", "store"]);
    let mut page = HEAD.to_owned();
    page.push_str("| code | status | retryable | when | what to do |\n|---|---|---|---|---|\n");
    let mut codes = Code::ALL.to_vec();
    codes.sort_by_key(|c| c.status());
    for code in codes {
        let (when, then) = told(code);
        // Kept for what is to come: clients may know it, no answer carries it.
        let not_yet = if is_used(&used, code) { "" } else { "*Not given by this version.* " };
        let retryable = if code.retryable() { "yes" } else { "no" };
        let _ = writeln!(page, "| `{}` | {} | {retryable} | {not_yet}{when} | {then} |", code.as_str(), code.status());
    }
    page.push_str(MIDDLE);
    page.push_str("| code | when | what to do |\n|---|---|---|\n");
    for code in failure::ALL {
        let (when, then) = told_failure(code);
        let _ = writeln!(page, "| `{code}` | {when} | {then} |");
    }
    page.push_str(TAIL);
    super::compare("errors.md", &page);
}

/// Both lists are written by hand; this is what a new constant meets.
#[test]
fn no_code_is_missing_from_the_lists() {
    let text = |file: &str| std::fs::read_to_string(super::crates().join(file)).expect("a source file");
    let errors = text("core/src/error.rs");
    let variants = errors.split_once("pub enum Code {").expect("the codes").1.split_once('}').expect("their end").0;
    let variants = variants.lines().map(str::trim).filter(|l| l.ends_with(',')).count();
    assert_eq!(variants, Code::ALL.len(), "Code::ALL");
    let api = text("core/src/api.rs");
    let module = api.split_once("pub mod failure {").expect("the failures").1.split_once("\n}").expect("their end").0;
    assert_eq!(module.matches("pub const ").count() - 1, failure::ALL.len(), "failure::ALL");
    assert!(module.matches(": &str = ").count() == failure::ALL.len());
}

fn is_used(sources: &str, code: Code) -> bool {
    // `Code` has other names where gRPC's stands beside it.
    ["Code", "Kind"].iter().any(|name| {
        let word = format!("{name}::{code:?}");
        sources.match_indices(&word).any(|(at, _)| {
            let part_of = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
            !part_of(sources[..at].chars().next_back()) && !part_of(sources[at + word.len()..].chars().next())
        })
    })
}
