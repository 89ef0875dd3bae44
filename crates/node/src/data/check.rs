//! Checks of what a caller sends. Each refusal names the field and its limit.

use aether_core::{AgentId, TenantId};
use tonic::Status;

const MAX_PATH: usize = 4096;
const MAX_USER: usize = 64;
const MAX_EXEC_ID: usize = 64;
const MAX_ARGS: usize = 1024;
const MAX_COMMAND_BYTES: usize = 1 << 20;
const MAX_ENV: usize = 512;
const MAX_ENV_BYTES: usize = 131_072;
const MAX_REFERENCE: usize = 512;
pub(super) const MAX_STDIN: usize = 1 << 20;
/// Deeper lists are asked for in parts.
const MAX_DEPTH: u32 = 64;
const MAX_WINDOW: u32 = 4096;

fn bad(text: impl Into<String>) -> Status {
    Status::invalid_argument(text)
}

pub(super) fn agent(text: &str) -> Result<AgentId, Status> {
    text.parse().map_err(|_| bad("agent_id is not the id of an agent"))
}

pub(super) fn tenant(text: &str) -> Result<TenantId, Status> {
    text.parse().map_err(|_| bad("tenant_id is not the id of a tenant"))
}

pub(super) fn exec_id(text: &str) -> Result<&str, Status> {
    let fine = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if text.is_empty() || text.len() > MAX_EXEC_ID || !text.bytes().all(fine) {
        return Err(bad(format!("exec_id must be 1 to {MAX_EXEC_ID} letters, digits, '-', '_' or '.'")));
    }
    Ok(text)
}

pub(super) fn path<'a>(field: &str, text: &'a str) -> Result<&'a str, Status> {
    if text.is_empty() || text.len() > MAX_PATH || text.contains('\0') {
        return Err(bad(format!("{field} must be 1 to {MAX_PATH} bytes, without NUL")));
    }
    Ok(text)
}

/// Empty: the service's default.
pub(super) fn user(text: &str) -> Result<Option<&str>, Status> {
    let fine = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.' | b':' | b'$');
    if text.len() > MAX_USER || !text.bytes().all(fine) {
        return Err(bad("user must be a name or number, optionally :group"));
    }
    Ok(Some(text).filter(|t| !t.is_empty()))
}

pub(super) fn depth(depth: u32) -> Result<u32, Status> {
    if depth > MAX_DEPTH {
        return Err(bad(format!("depth must be at most {MAX_DEPTH}")));
    }
    Ok(depth)
}

pub(super) fn command(argv: &[String]) -> Result<(), Status> {
    let bytes: usize = argv.iter().map(|a| a.len() + 1).sum();
    if argv.first().is_none_or(String::is_empty) {
        return Err(bad("command must not be empty"));
    }
    if argv.len() > MAX_ARGS || bytes > MAX_COMMAND_BYTES || argv.iter().any(|a| a.contains('\0')) {
        return Err(bad(format!(
            "command must have at most {MAX_ARGS} words and {MAX_COMMAND_BYTES} bytes, without NUL"
        )));
    }
    Ok(())
}

pub(super) fn env<'a>(env: impl Iterator<Item = (&'a String, &'a String)>) -> Result<(), Status> {
    let (mut count, mut bytes) = (0usize, 0usize);
    for (name, value) in env {
        (count, bytes) = (count + 1, bytes + name.len() + value.len() + 2);
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(bad("env names must not be empty nor hold '=' or NUL, and values no NUL"));
        }
    }
    if count > MAX_ENV || bytes > MAX_ENV_BYTES {
        return Err(bad(format!("env must have at most {MAX_ENV} entries and {MAX_ENV_BYTES} bytes")));
    }
    Ok(())
}

/// Zero means: the default.
pub(super) fn window(cols: u32, rows: u32) -> Result<(u32, u32), Status> {
    if cols > MAX_WINDOW || rows > MAX_WINDOW {
        return Err(bad(format!("cols and rows must be at most {MAX_WINDOW}")));
    }
    Ok((if cols == 0 { 80 } else { cols }, if rows == 0 { 24 } else { rows }))
}

/// `SIGINT`, `INT` or `2`.
pub(super) fn signal(text: &str) -> Result<i32, Status> {
    let number = match text.parse::<i32>() {
        Ok(number) => Some(number).filter(|n| (1..=64).contains(n)),
        Err(_) => {
            let upper = text.to_ascii_uppercase();
            let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
            name.parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32)
        }
    };
    number.filter(|_| text.len() <= 16).ok_or_else(|| bad("signal must be a name such as SIGINT or TERM, or 1 to 64"))
}

pub(super) fn reference(text: &str) -> Result<&str, Status> {
    if text.is_empty() || text.len() > MAX_REFERENCE || text.contains(char::is_control) {
        return Err(bad(format!("an image's name or digest must have 1 to {MAX_REFERENCE} characters")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn signals() {
        for (text, number) in [("SIGINT", 2), ("int", 2), ("TERM", 15), ("9", 9), ("64", 64), ("usr1", 10)] {
            assert_eq!(signal(text).expect(text), number);
        }
        for bad in ["", "0", "65", "-1", "SIGFOO", "SIG", "99999999999", "2 "] {
            assert_eq!(signal(bad).expect_err(bad).code(), tonic::Code::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn limits_hold_at_their_edges() {
        assert!(path("path", &"a".repeat(4096)).is_ok() && path("path", &"a".repeat(4097)).is_err());
        assert!(path("path", "").is_err() && path("path", "a\0").is_err());
        assert!(exec_id(&"e".repeat(64)).is_ok() && exec_id(&"e".repeat(65)).is_err() && exec_id("a/b").is_err());
        assert_eq!(user("").expect("none"), None);
        assert!(user("a b").is_err() && user(&"u".repeat(65)).is_err());
        assert!(command(&[]).is_err() && command(&[String::new()]).is_err() && command(&["sh\0".into()]).is_err());
        assert!(command(&["sh".into()]).is_ok());
        assert!(window(4097, 1).is_err());
        assert_eq!(window(0, 0).expect("defaults"), (80, 24));
        let (name, value) = ("A=B".to_owned(), String::new());
        assert!(env([(&name, &value)].into_iter()).is_err());
    }

    proptest! {
        #[test]
        fn checks_never_panic(text in ".{0,80}") {
            let _ = (signal(&text), path("p", &text), exec_id(&text), user(&text), agent(&text), reference(&text));
        }
    }
}
