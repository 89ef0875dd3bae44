//! From a guest's and an image's errors to gRPC's, short and without paths.

use crate::channel::{ChannelError, ErrorCode};
use crate::images::ImageError;
use aether_core::Code as Kind;
use tonic::{Code, Status};

pub(super) fn channel(e: ChannelError) -> Status {
    match e {
        ChannelError::Timeout => Status::deadline_exceeded("the guest did not answer in time"),
        ChannelError::Gone => Status::unavailable("the guest is gone"),
        ChannelError::Protocol(what) => {
            tracing::warn!(%what, "a guest broke the protocol");
            Status::internal("the guest broke the protocol")
        }
        ChannelError::Remote { code, message } => Status::new(remote(code), message),
    }
}

fn remote(code: ErrorCode) -> Code {
    match code {
        ErrorCode::Canceled => Code::Cancelled,
        ErrorCode::InvalidArgument => Code::InvalidArgument,
        ErrorCode::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorCode::NotFound => Code::NotFound,
        ErrorCode::AlreadyExists => Code::AlreadyExists,
        ErrorCode::PermissionDenied | ErrorCode::Unauthenticated => Code::PermissionDenied,
        ErrorCode::ResourceExhausted => Code::ResourceExhausted,
        ErrorCode::FailedPrecondition => Code::FailedPrecondition,
        ErrorCode::Aborted => Code::Aborted,
        ErrorCode::OutOfRange => Code::OutOfRange,
        ErrorCode::Unimplemented => Code::Unimplemented,
        ErrorCode::Unavailable => Code::Unavailable,
        _ => Code::Internal,
    }
}

pub(super) fn image(e: ImageError) -> Status {
    let problem = e.problem();
    if matches!(problem.code, Kind::InternalError) {
        tracing::error!(error = %e, "images");
    }
    let code = match problem.code {
        Kind::NotFound => Code::NotFound,
        Kind::Forbidden => Code::PermissionDenied,
        Kind::BadGateway => Code::DataLoss,
        Kind::Timeout => Code::DeadlineExceeded,
        Kind::Conflict => Code::FailedPrecondition,
        Kind::InsufficientStorage => Code::ResourceExhausted,
        Kind::ServiceUnavailable => Code::Unavailable,
        // A registry's credentials are an input here, not the caller's own.
        Kind::ValidationError | Kind::BadRequest | Kind::PayloadTooLarge | Kind::Unauthorized => Code::InvalidArgument,
        _ => Code::Internal,
    };
    let mut status = Status::new(code, problem.detail);
    // gRPC's codes are too few to tell these apart, and it has no remedies.
    if let (Ok(code), Ok(remedy)) = (problem.code.as_str().parse(), problem.remedy.parse()) {
        status.metadata_mut().insert("aether-code", code);
        status.metadata_mut().insert("aether-remedy", remedy);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_details_stay_inside() {
        let e = ImageError::Io { doing: "write /var/lib/x".into(), detail: "EIO".into() };
        let status = image(e);
        assert_eq!((status.code(), status.message().contains("/var")), (Code::Internal, false));
        let status = image(ImageError::Refused("10.0.0.1 is an internal address".into()));
        let told = |key| status.metadata().get(key).and_then(|v| v.to_str().ok()).unwrap_or_default();
        assert_eq!(told("aether-code"), "FORBIDDEN");
        assert!(told("aether-remedy").contains("images.allow_hosts"));
        let status = channel(ChannelError::Remote { code: ErrorCode::NotFound, message: "no such file".into() });
        assert_eq!((status.code(), status.message()), (Code::NotFound, "no such file"));
        assert_eq!(image(ImageError::DiskFull("x".into())).code(), Code::ResourceExhausted);
    }
}
