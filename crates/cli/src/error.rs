//! Errors as the user of the command line sees them: what is wrong, and what
//! to do about it.

use aether_core::Problem;
use std::fmt;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum CliError {
    /// The server answered with a problem document.
    Problem(Box<Problem>),
    /// The command line is wrong: exit code 2.
    Usage(String),
    /// Anything else.
    Failed { detail: String, remedy: Option<String> },
    /// Everything is said already; only the exit code is left.
    Silent(u8),
}

impl CliError {
    pub(crate) fn usage(detail: impl Into<String>) -> Self {
        Self::Usage(detail.into())
    }

    pub(crate) fn failed(detail: impl Into<String>) -> Self {
        Self::Failed { detail: detail.into(), remedy: None }
    }

    pub(crate) fn with_remedy(detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Failed { detail: detail.into(), remedy: Some(remedy.into()) }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Problem(p) if p.status == 404)
    }

    pub(crate) fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Problem(p) if p.status == 401)
    }

    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Problem(p) if p.status == 403)
    }

    /// The server understood and said no: trying again will not help.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Problem(p) if (400..500).contains(&p.status) && !p.retryable)
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Silent(code) => *code,
            Self::Problem(_) | Self::Failed { .. } => 1,
        }
    }

    /// What goes to standard error.
    pub(crate) fn render(&self, json: bool) -> String {
        if json {
            return self.render_json();
        }
        let (detail, remedy) = match self {
            Self::Problem(p) => (p.detail.as_str(), (!p.remedy.is_empty()).then_some(p.remedy.as_str())),
            Self::Usage(detail) => (detail.as_str(), Some("`aether help` and `--help` on any command show its use.")),
            Self::Failed { detail, remedy } => (detail.as_str(), remedy.as_deref()),
            Self::Silent(_) => return String::new(),
        };
        let mut text = format!("error: {}\n", printable(detail));
        if let Some(remedy) = remedy {
            text.push_str(&format!("hint: {}\n", printable(remedy)));
        }
        if let Self::Problem(p) = self
            && p.status >= 500
            && let Some(id) = &p.request_id
        {
            text.push_str(&format!("request: {}\n", printable(id)));
        }
        text
    }

    fn render_json(&self) -> String {
        let value = match self {
            Self::Problem(p) => serde_json::to_value(p),
            Self::Usage(detail) => Ok(serde_json::json!({ "title": "The command line is wrong", "detail": detail })),
            Self::Failed { detail, remedy } => {
                Ok(serde_json::json!({ "title": "Failed", "detail": detail, "remedy": remedy }))
            }
            Self::Silent(_) => return String::new(),
        };
        value.map(|v| format!("{v}\n")).unwrap_or_default()
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for CliError {}

/// Text from elsewhere without what could command the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_core::Code;

    #[test]
    fn a_problem_shows_detail_and_remedy() {
        let p = Problem::new(Code::NotFound, "there is no agent \"x\"", "List them with `aether agent list`.");
        let e = CliError::Problem(Box::new(p));
        assert_eq!(e.render(false), "error: there is no agent \"x\"\nhint: List them with `aether agent list`.\n");
        assert!(e.render(true).contains("\"code\":\"NOT_FOUND\""));
        assert_eq!(e.exit_code(), 1);
    }

    #[test]
    fn server_faults_name_the_request() {
        let mut p = Problem::new(Code::InternalError, "the store is gone", "Look at the server's log.");
        p.request_id = Some("reqc0abc".to_owned());
        assert!(CliError::Problem(Box::new(p)).render(false).ends_with("request: reqc0abc\n"));
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\u{7}"), "a\u{fffd}[31mb\u{fffd}");
        let e = CliError::failed("\u{1b}]0;title\u{7}");
        assert!(!e.render(false).contains('\u{1b}'));
    }
}
