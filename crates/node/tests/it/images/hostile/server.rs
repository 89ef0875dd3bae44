//! An HTTP server that does as it is told, down to the byte: it stalls, lies
//! about lengths, and never ends. A registry when all goes well.

use super::layouts::MANIFEST;
use crate::images::archives::Image;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What is sent, in order; then the connection is closed.
#[derive(Clone)]
pub(super) enum Step {
    Send(Vec<u8>),
    /// Until the other side goes away.
    Forever(Vec<u8>),
    /// One byte after each pause.
    Drip(Vec<u8>, Duration),
    Stall,
}

/// Which request of this path it is, from 1, and its head.
type Handler = Arc<dyn Fn(u32, &str) -> Vec<Step> + Send + Sync>;

#[derive(Clone, Default)]
pub(super) struct Server {
    routes: Arc<Mutex<BTreeMap<String, Handler>>>,
    asked: Arc<Mutex<BTreeMap<String, u32>>>,
}

pub(super) fn reply(status: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = body.len().to_string();
    [head(status, headers), format!("content-length: {length}\r\n\r\n").into_bytes(), body.to_vec()].concat()
}

/// A status line and headers, open for more.
pub(super) fn head(status: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let headers: String = headers.iter().map(|(k, v)| format!("{k}: {v}\r\n")).collect();
    format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}").into_bytes()
}

impl Server {
    pub(super) fn on(&self, path: &str, handler: impl Fn(u32, &str) -> Vec<Step> + Send + Sync + 'static) {
        self.routes.lock().expect("lock").insert(path.to_owned(), Arc::new(handler));
    }

    pub(super) fn always(&self, path: &str, answer: Vec<u8>) {
        self.on(path, move |_, _| vec![Step::Send(answer.clone())]);
    }

    /// Everything as it should be, under `/v2/t/img` with the tag `1`.
    pub(super) fn honest(&self, image: &Image) {
        let manifest = reply("200 OK", &[("content-type", MANIFEST)], &image.manifest);
        self.always("/v2/t/img/manifests/1", manifest.clone());
        self.always(&format!("/v2/t/img/manifests/{}", image.digest()), manifest);
        for (digest, data) in image.blobs() {
            self.always(&format!("/v2/t/img/blobs/{digest}"), reply("200 OK", &[], data));
        }
    }

    pub(super) fn times(&self, path: &str) -> u32 {
        self.asked.lock().expect("lock").get(path).copied().unwrap_or(0)
    }

    /// Answers until the test ends.
    pub(super) fn serve(self, listener: TcpListener) {
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let server = self.clone();
                tokio::spawn(async move { server.answer(connection).await });
            }
        });
    }

    async fn answer(&self, mut connection: TcpStream) -> std::io::Result<()> {
        let mut request = Vec::new();
        let mut buf = [0u8; 4096];
        while !request.windows(4).any(|w| w == b"\r\n\r\n") {
            match connection.read(&mut buf).await? {
                0 => return Ok(()),
                n => request.extend_from_slice(&buf[..n]),
            }
        }
        let request = String::from_utf8_lossy(&request).into_owned();
        let path = request.split(' ').nth(1).and_then(|p| p.split('?').next()).unwrap_or_default().to_owned();
        let n = {
            let mut asked = self.asked.lock().expect("lock");
            let n = asked.entry(path.clone()).or_insert(0);
            *n += 1;
            *n
        };
        let handler = self.routes.lock().expect("lock").get(&path).cloned();
        let steps = handler.map_or_else(|| vec![Step::Send(reply("404 Not Found", &[], ""))], |h| h(n, &request));
        for step in steps {
            perform(&mut connection, step).await?;
        }
        connection.shutdown().await
    }
}

async fn perform(connection: &mut TcpStream, step: Step) -> std::io::Result<()> {
    match step {
        Step::Send(data) => connection.write_all(&data).await,
        Step::Forever(data) => loop {
            connection.write_all(&data).await?;
        },
        Step::Drip(data, pause) => {
            for byte in data {
                connection.write_all(&[byte]).await?;
                tokio::time::sleep(pause).await;
            }
            Ok(())
        }
        // The other side's end is an end here.
        Step::Stall => {
            let mut buf = [0u8; 64];
            while connection.read(&mut buf).await? > 0 {}
            Ok(())
        }
    }
}
