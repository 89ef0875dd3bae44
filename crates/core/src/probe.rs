//! How the guest finds out whether an agent is well: a command, an HTTP
//! request or a TCP connection inside, again and again.

use crate::error::FieldError;
use serde::{Deserialize, Serialize};

const INTERVAL_S: std::ops::RangeInclusive<u32> = 1..=3600;
const TIMEOUT_S: std::ops::RangeInclusive<u32> = 1..=300;
const RETRIES: std::ops::RangeInclusive<u32> = 1..=100;
const START_PERIOD_S: std::ops::RangeInclusive<u32> = 0..=86_400;
const MAX_WORDS: usize = 64;
const MAX_WORD_BYTES: usize = 4096;
const MAX_PATH: usize = 1024;

/// Exactly one of `command`, `http` and `tcp`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HealthProbe {
    /// Well when it exits with 0; with the agent's env, user and workdir.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Well when the answer's status is 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
    /// Well when it can be connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpProbe>,
    /// Between two probes: 1 to 3600, default 10.
    #[serde(default = "interval")]
    pub interval_s: u32,
    /// Of one probe: 1 to 300, default 5.
    #[serde(default = "timeout")]
    pub timeout_s: u32,
    /// Failures in a row that make it unhealthy: 1 to 100, default 3.
    #[serde(default = "retries")]
    pub retries: u32,
    /// After a start failures do not count for so long, unless one probe
    /// succeeded: at most 86400, default 0.
    #[serde(default)]
    pub start_period_s: u32,
    /// Whether an unhealthy agent's main process is ended and started again,
    /// whatever `process_restart` says.
    #[serde(default = "restart")]
    pub restart: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HttpProbe {
    pub port: u16,
    /// Default `/`.
    #[serde(default = "root")]
    pub path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TcpProbe {
    pub port: u16,
}

fn interval() -> u32 {
    10
}
fn timeout() -> u32 {
    5
}
fn retries() -> u32 {
    3
}
fn restart() -> bool {
    true
}
fn root() -> String {
    "/".to_owned()
}

impl Default for HealthProbe {
    /// With nothing to probe: for struct updates.
    fn default() -> Self {
        Self {
            command: Vec::new(),
            http: None,
            tcp: None,
            interval_s: interval(),
            timeout_s: timeout(),
            retries: retries(),
            start_period_s: 0,
            restart: restart(),
        }
    }
}

impl HealthProbe {
    pub fn validate(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut bad = |field: &str, message: String| errors.push(FieldError::new(format!("health.{field}"), message));
        let kinds =
            usize::from(!self.command.is_empty()) + usize::from(self.http.is_some()) + usize::from(self.tcp.is_some());
        if kinds != 1 {
            bad("command", "give exactly one of command, http and tcp".to_owned());
        }
        let wrong = |word: &String| word.len() > MAX_WORD_BYTES || word.contains('\0');
        if self.command.len() > MAX_WORDS
            || self.command.iter().any(wrong)
            || self.command.first().is_some_and(String::is_empty)
        {
            bad("command", format!("at most {MAX_WORDS} words of at most {MAX_WORD_BYTES} bytes, without NUL"));
        }
        if let Some(http) = &self.http {
            let fine = |c: u8| c.is_ascii_graphic();
            if !http.path.starts_with('/') || http.path.len() > MAX_PATH || !http.path.bytes().all(fine) {
                bad("http.path", format!("must begin with '/' and have at most {MAX_PATH} visible ASCII characters"));
            }
            if http.port == 0 {
                bad("http.port", "must be 1 to 65535".to_owned());
            }
        }
        if self.tcp.is_some_and(|tcp| tcp.port == 0) {
            bad("tcp.port", "must be 1 to 65535".to_owned());
        }
        for (field, value, range) in [
            ("interval_s", self.interval_s, INTERVAL_S),
            ("timeout_s", self.timeout_s, TIMEOUT_S),
            ("retries", self.retries, RETRIES),
            ("start_period_s", self.start_period_s, START_PERIOD_S),
        ] {
            if !range.contains(&value) {
                bad(field, format!("must be {} to {}, is {value}", range.start(), range.end()));
            }
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Vec<String> {
        let probe: HealthProbe = serde_json::from_str(text).expect("parses");
        probe.validate().into_iter().map(|e| e.field).collect()
    }

    #[test]
    fn one_kind_and_sane_numbers() {
        assert!(fields(r#"{"command":["true"]}"#).is_empty());
        assert!(fields(r#"{"http":{"port":80,"path":"/health?x=1"},"interval_s":1}"#).is_empty());
        assert!(fields(r#"{"tcp":{"port":5432},"restart":false}"#).is_empty());
        for (text, field) in [
            ("{}", "health.command"),
            (r#"{"command":["a"],"tcp":{"port":1}}"#, "health.command"),
            (r#"{"command":[""]}"#, "health.command"),
            (r#"{"command":["a\u0000"]}"#, "health.command"),
            (r#"{"tcp":{"port":0}}"#, "health.tcp.port"),
            (r#"{"http":{"port":80,"path":"x"}}"#, "health.http.path"),
            (r#"{"http":{"port":80,"path":"/a b"}}"#, "health.http.path"),
            (r#"{"http":{"port":80,"path":"/a\r\nx: y"}}"#, "health.http.path"),
            (r#"{"tcp":{"port":1},"interval_s":0}"#, "health.interval_s"),
            (r#"{"tcp":{"port":1},"timeout_s":301}"#, "health.timeout_s"),
            (r#"{"tcp":{"port":1},"retries":0}"#, "health.retries"),
            (r#"{"tcp":{"port":1},"start_period_s":86401}"#, "health.start_period_s"),
        ] {
            assert_eq!(fields(text), [field], "{text}");
        }
        assert!(serde_json::from_str::<HealthProbe>(r#"{"udp":{"port":1}}"#).is_err());
    }
}
