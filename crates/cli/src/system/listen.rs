//! The listeners: bound here, so that a port in use is our error, with a
//! remedy, before anything is started.

use crate::config::{Config, Listen};
use crate::error::CliError;
use aether_control::ApiListeners;
use nix::unistd::{Group, chown};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};

const GROUP: &str = "aether";
const SOCKET_MODE: u32 = 0o660;
const BACKLOG: u32 = 1024;

/// The socket's file; gone when the server is, however it ended.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub(super) async fn bind(config: &Config) -> Result<(ApiListeners, SocketFile), CliError> {
    let mut listeners = ApiListeners::default();
    if let Listen::On(addresses) = &config.server.address {
        for address in addresses {
            listeners.tcp.push(tcp(*address)?);
        }
    }
    let path = config.socket();
    listeners.unix.push(unix(&path).await?);
    Ok((listeners, SocketFile(path)))
}

fn tcp(address: SocketAddr) -> Result<TcpListener, CliError> {
    let bound = (|| {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    })();
    bound.map_err(|e| {
        let remedy = match e.kind() {
            ErrorKind::AddrInUse => "Another program listens there: stop it, or choose another --address.",
            ErrorKind::PermissionDenied => "Ports below 1024 need root.",
            ErrorKind::AddrNotAvailable => "This machine does not have that address: choose another --address.",
            _ => "Choose another --address.",
        };
        CliError::with_remedy(format!("cannot listen on {address}: {e}"), remedy)
    })
}

/// Bound beside its place, given its mode and group, then put there: at no
/// moment can anyone connect who should not.
async fn unix(path: &Path) -> Result<UnixListener, CliError> {
    let cannot = |e: std::io::Error| CliError::failed(format!("cannot make the socket {}: {e}", path.display()));
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(CliError::with_remedy(
                format!("{} is in the way: it is not a socket", path.display()),
                "Move it away, or set server.socket to another path.",
            ));
        }
        Ok(_) if UnixStream::connect(path).await.is_ok() => {
            return Err(CliError::with_remedy(
                format!("another server listens on {}", path.display()),
                "Stop it first, or give this one its own server.run_dir.",
            ));
        }
        _ => {}
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let _ = std::fs::remove_file(beside);
    let listener = UnixListener::bind(beside).map_err(cannot)?;
    std::fs::set_permissions(beside, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(cannot)?;
    if let Ok(Some(group)) = Group::from_name(GROUP)
        && let Err(e) = chown(beside, None, Some(group.gid))
    {
        tracing::warn!("the group {GROUP} cannot use the socket: {e}");
    }
    std::fs::rename(beside, path).map_err(cannot)?;
    Ok(listener)
}

/// The addresses that were really bound: port 0 becomes a number.
pub(super) fn addresses(listeners: &ApiListeners) -> Vec<SocketAddr> {
    listeners.tcp.iter().filter_map(|l| l.local_addr().ok()).collect()
}
