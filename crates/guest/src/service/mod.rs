//! What the lanes serve.
//!
//! | lane | serves |
//! |---|---|
//! | control | `aether.guest.v1.Guest` |
//! | data | `aether.guest.v1.Exec`, `process.Process`, `filesystem.Filesystem`, `/files`, `/archive`, `/port`, `/health` |

pub mod access;
pub mod archive;
pub mod exec;
pub mod files;
pub mod filesystem;
mod forward;
pub mod guest;
pub mod http;
pub mod multipart;
mod names;
pub mod process;
pub mod quiesce;
mod secrets;
mod stats;
pub mod transfer;
pub mod watching;

use crate::Guest;
use crate::lane::Lane;
use aether_proto::channel::MESSAGE_SIZE;
use bytes::Bytes;
use connectrpc::{ConnectError, ConnectRpcService, Limits, Router};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Answer = Pin<Box<dyn Future<Output = Result<::http::Response<Body>, Infallible>> + Send>>;

/// Dispatches a lane's requests.
#[derive(Clone)]
pub struct Routes {
    guest: Arc<Guest>,
    lane: Lane,
    rpc: TowerToHyperService<ConnectRpcService>,
}

pub fn routes(guest: &Arc<Guest>, lane: Lane) -> Routes {
    let router = match lane {
        Lane::Control => Router::new().add_service(Arc::new(guest::Service(guest.clone()))),
        Lane::Data => Router::new()
            .add_service(Arc::new(exec::Service(guest.clone())))
            .add_service(Arc::new(process::Service(guest.clone())))
            .add_service(Arc::new(filesystem::Service(guest.clone()))),
    };
    let limits = Limits::default().with_max_request_body_size(MESSAGE_SIZE).with_max_message_size(MESSAGE_SIZE);
    let rpc = TowerToHyperService::new(ConnectRpcService::new(router).with_limits(limits));
    Routes { guest: guest.clone(), lane, rpc }
}

impl hyper::service::Service<::http::Request<Incoming>> for Routes {
    type Response = ::http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: ::http::Request<Incoming>) -> Answer {
        if self.lane == Lane::Data && http::is_ours(request.uri().path()) {
            return Box::pin(http::answer(self.guest.clone(), request));
        }
        let answer = self.rpc.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|body| body.map_err(|never| match never {}).boxed_unsync()))
        })
    }
}

/// An error of the kernel as Connect says it.
pub fn io_error(what: &str, error: &std::io::Error) -> ConnectError {
    use std::io::ErrorKind;
    let message = format!("{what}: {error}");
    match error.kind() {
        ErrorKind::NotFound => ConnectError::not_found(message),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ConnectError::permission_denied(message),
        ErrorKind::AlreadyExists => ConnectError::already_exists(message),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ConnectError::resource_exhausted(message),
        ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::InvalidInput
        | ErrorKind::InvalidFilename
        | ErrorKind::DirectoryNotEmpty
        | ErrorKind::InvalidData => ConnectError::invalid_argument(message),
        _ => ConnectError::internal(message),
    }
}
