//! The VMM's own control socket. Now only its greeting is read: it says that
//! QEMU has taken its whole command line.

use std::io;
use std::path::Path;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;

/// A greeting has some 200 bytes; the VMM counts as hostile.
const MAX_LINE: u64 = 4096;

pub(super) async fn greeting(socket: &Path) -> io::Result<()> {
    let stream = UnixStream::connect(socket).await?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut line).await?;
    if line.starts_with("{\"QMP\"") {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the VMM's control socket answered something else"))
}
