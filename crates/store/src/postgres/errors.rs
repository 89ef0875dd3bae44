//! PostgreSQL's codes in our words. The server's text may quote values: it
//! goes to the log only, and there without its detail line.

use crate::error::StoreError;

pub(super) fn of_sqlx(error: sqlx::Error) -> StoreError {
    let unavailable = |detail: &str| StoreError::Unavailable { detail: detail.to_owned() };
    match &error {
        sqlx::Error::Database(db) => of_code(db.code().as_deref().unwrap_or_default(), db.message()),
        sqlx::Error::PoolTimedOut => unavailable("no connection became free in time"),
        sqlx::Error::PoolClosed => unavailable("the store is closed"),
        sqlx::Error::Io(e) => StoreError::Unavailable { detail: format!("connection failed: {}", e.kind()) },
        sqlx::Error::Tls(_) => unavailable("TLS failed"),
        sqlx::Error::Protocol(_) => unavailable("the server broke the protocol"),
        _ => {
            tracing::error!(%error, "statement failed");
            StoreError::internal("a statement failed")
        }
    }
}

fn of_code(code: &str, message: &str) -> StoreError {
    let unavailable = |detail: &str| StoreError::Unavailable { detail: detail.to_owned() };
    match code {
        // serialization_failure, deadlock_detected, lock_not_available
        "40001" | "40P01" | "55P03" => StoreError::Locked,
        "57014" => unavailable("a statement took too long"),
        "53100" => StoreError::Full,
        "53200" => unavailable("the server is out of memory"),
        "53300" => unavailable("the server has too many connections"),
        "57P01" | "57P02" | "57P03" | "57P05" => unavailable("the server is starting or stopping"),
        "25006" => unavailable("the server is read-only"),
        "28P01" | "28000" => unavailable("the server refused the user or password"),
        "3D000" => unavailable("there is no such database"),
        c if c.starts_with("08") => unavailable("the connection failed"),
        c if c.starts_with("58") => unavailable("the server met an input/output error"),
        c if c.starts_with("XX") => StoreError::Corrupt { detail: format!("the server reports {c}") },
        _ => {
            tracing::error!(code, message, "statement refused");
            StoreError::internal(format!("a statement was refused ({code})"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_our_words_without_the_servers_text() {
        assert_eq!(of_code("40P01", "deadlock"), StoreError::Locked);
        assert_eq!(of_code("53100", "disk"), StoreError::Full);
        assert!(matches!(of_code("57P03", ""), StoreError::Unavailable { .. }));
        assert!(matches!(of_code("XX001", ""), StoreError::Corrupt { .. }));
        let other = of_code("42601", "syntax error at or near SELECT secret");
        assert!(!other.to_string().contains("secret"));
    }
}
