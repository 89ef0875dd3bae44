//! SQLite's codes in our words. The library's text may quote SQL: it goes to
//! the log only.

use crate::error::StoreError;
use rusqlite::ErrorCode;

pub(super) fn of_rusqlite(error: rusqlite::Error) -> StoreError {
    let Some(code) = error.sqlite_error_code() else {
        tracing::error!(%error, "statement refused");
        return StoreError::internal("a statement was refused");
    };
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => StoreError::Locked,
        ErrorCode::DiskFull => StoreError::Full,
        ErrorCode::DatabaseCorrupt => StoreError::Corrupt { detail: "SQLite found a malformed page".to_owned() },
        ErrorCode::NotADatabase => StoreError::Corrupt { detail: "the file is not a database".to_owned() },
        ErrorCode::CannotOpen => StoreError::Unavailable { detail: "cannot open the database file".to_owned() },
        ErrorCode::SystemIoFailure => StoreError::Unavailable { detail: "input/output error".to_owned() },
        ErrorCode::ReadOnly => StoreError::Unavailable { detail: "the database is read-only".to_owned() },
        ErrorCode::PermissionDenied => StoreError::Unavailable { detail: "permission denied".to_owned() },
        ErrorCode::OutOfMemory => StoreError::Unavailable { detail: "out of memory".to_owned() },
        _ => {
            tracing::error!(%error, "statement refused");
            StoreError::internal(format!("a statement was refused ({code:?})"))
        }
    }
}
