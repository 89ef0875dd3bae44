//! `aether agent logs`.

use super::show::now;
use super::{Context, agent_path};
use crate::args::LogsArgs;
use crate::client::query;
use crate::error::CliError;
use crate::output::raw;
use aether_core::Timestamp;
use aether_core::time::parse_duration;
use http::{Method, header};
use http_body_util::BodyExt;

/// The most that the API gives; a guest keeps fewer.
const ALL_LINES: u32 = 100_000;

pub(super) async fn logs(context: &Context, args: LogsArgs) -> Result<u8, CliError> {
    let tail = match args.tail.as_str() {
        "all" => ALL_LINES,
        number => number
            .parse()
            .ok()
            .filter(|n| *n <= ALL_LINES)
            .ok_or_else(|| CliError::usage(format!("--tail: a number of lines up to {ALL_LINES}, or `all`")))?,
    };
    let since = args.since.as_deref().map(|text| since(text, now())).transpose()?;
    let parameters = [
        ("tail", Some(tail.to_string())),
        ("since", since.map(|t| t.to_string())),
        ("follow", args.follow.then(|| "true".to_owned())),
        ("timestamps", args.timestamps.then(|| "true".to_owned())),
    ];
    let path = agent_path(&args.agent, &format!("/logs{}", query(&parameters)))?;
    let response = context.client.send_whole(Method::GET, &path, &[(header::ACCEPT, "text/plain")], &[]).await?;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| CliError::failed(format!("the log broke off: {e}")))?;
        if let Some(data) = frame.data_ref() {
            raw(data)?;
        }
    }
    Ok(0)
}

/// A point in time, or a duration back from now.
pub(super) fn since(text: &str, now: Timestamp) -> Result<Timestamp, CliError> {
    if let Some(at) = Timestamp::parse_rfc3339(text) {
        return Ok(at);
    }
    let back = parse_duration(text).ok_or_else(|| {
        CliError::usage(format!("--since: {text:?} is neither a time (2026-01-02T03:04:05Z) nor a duration (10m)"))
    })?;
    let ms = u64::try_from(back.as_millis()).unwrap_or(u64::MAX);
    Ok(Timestamp::from_unix_ms(now.unix_ms().saturating_sub(ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_takes_times_and_durations() {
        let now = Timestamp::from_unix_ms(1_000_000);
        assert_eq!(since("10s", now).expect("duration").unix_ms(), 990_000);
        assert_eq!(since("1970-01-01T00:00:01Z", now).expect("time").unix_ms(), 1000);
        assert_eq!(since("99999h", now).expect("far back").unix_ms(), 0);
        assert!(since("yesterday", now).is_err());
    }
}
