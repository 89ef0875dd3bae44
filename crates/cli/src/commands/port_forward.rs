//! `aether port-forward`: a listener here, a WebSocket per connection.

use super::{Context, agent_path};
use crate::args::{OutputFormat, PortForwardArgs};
use crate::client::websocket;
use crate::error::CliError;
use crate::output::{line, raw};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

const BUFFER: usize = 32 * 1024;
const EOF: &str = "eof";
/// After an error of the listener itself, such as too many open files.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn port_forward(context: &Context, args: PortForwardArgs) -> Result<u8, CliError> {
    // An agent that is not there is told now, not at the first connection.
    let _: aether_core::api::AgentInfo = context.client.get(&agent_path(&args.agent, "")?).await?;
    let mut listeners = Vec::new();
    for (local, port) in &args.ports {
        let address = SocketAddr::new(args.address, *local);
        let listener = TcpListener::bind(address).await.map_err(|e| {
            CliError::with_remedy(
                format!("cannot listen on {address}: {e}"),
                "Write another LOCAL port, as in 9000:80, or 0:80 for a free one.",
            )
        })?;
        let at = listener.local_addr().map_err(|e| CliError::failed(format!("cannot tell the port: {e}")))?;
        match context.printer.format {
            OutputFormat::Table => line(&format!("{at} -> {port}"))?,
            _ => raw(format!("{}\n", serde_json::json!({ "local": at.to_string(), "port": port })).as_bytes())?,
        }
        listeners.push((listener, agent_path(&args.agent, &format!("/ports/{port}"))?));
    }
    let all = listeners.into_iter().map(|(listener, path)| accept(context, listener, path));
    tokio::select! {
        _ = futures::future::join_all(all) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(0)
}

async fn accept(context: &Context, listener: TcpListener, path: String) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (client, path, printer) = (context.client.clone(), path.clone(), context.printer);
                tokio::spawn(async move {
                    if let Err(e) = carry(&client, &path, stream).await {
                        printer.talk(e.render(false).trim_end());
                    }
                });
            }
            Err(e) => {
                context.printer.talk(&format!("cannot accept a connection: {e}"));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// One connection, until both directions have ended or either end is gone.
async fn carry(client: &crate::client::Client, path: &str, stream: TcpStream) -> Result<(), CliError> {
    let socket = websocket::connect(client, path).await?;
    let _ = stream.set_nodelay(true);
    let (mut reader, mut writer) = stream.into_split();
    let (mut sink, mut source) = socket.split();
    let inward = async {
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = reader.read(&mut buffer).await.map_err(|e| e.to_string())?;
            let message = match count {
                0 => Message::Text(EOF.into()),
                _ => Message::Binary(Bytes::copy_from_slice(&buffer[..count])),
            };
            sink.send(message).await.map_err(|e| e.to_string())?;
            if count == 0 {
                return Ok::<_, String>(sink);
            }
        }
    };
    let outward = async {
        loop {
            match source.next().await {
                Some(Ok(Message::Binary(data))) => writer.write_all(&data).await.map_err(|e| e.to_string())?,
                Some(Ok(Message::Text(_))) => return writer.shutdown().await.map_err(|e| e.to_string()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Err("the connection broke".to_owned()),
                Some(Ok(_)) => {}
            }
        }
    };
    // An error in either direction ends both: a reset here, a goodbye there.
    if let Ok((mut sink, ())) = tokio::try_join!(inward, outward) {
        let _ = sink.close().await;
    }
    Ok(())
}
