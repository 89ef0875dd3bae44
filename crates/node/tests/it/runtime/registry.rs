//! A registry in the node's namespace: every repository there has the tiny
//! image, of its own digest.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

type Blobs = Arc<BTreeMap<String, Vec<u8>>>;

#[derive(Clone, Default)]
struct Repositories(Arc<Mutex<BTreeMap<String, Blobs>>>);

impl Repositories {
    /// Digest to content, and under "index" the image's index.
    fn of(&self, name: &str) -> Blobs {
        let mut all = self.0.lock();
        all.entry(name.to_owned()).or_insert_with(|| Arc::new(unpack(&aether_tiny::archive(name)))).clone()
    }
}

fn unpack(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut blobs = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").display().to_string();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).expect("reads");
        let name = match path.strip_prefix("blobs/sha256/") {
            Some(digest) => format!("sha256:{digest}"),
            None => path.trim_end_matches(".json").to_owned(),
        };
        blobs.insert(name, data);
    }
    blobs
}

/// Answers its `host:port` inside of the namespace.
pub(super) fn serve(listener: std::net::TcpListener) -> String {
    let address = listener.local_addr().expect("an address").to_string();
    let app = axum::Router::new()
        .route("/v2/t/{name}/{kind}/{what}", axum::routing::get(answer))
        .with_state(Repositories::default());
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn answer(State(all): State<Repositories>, Path((name, kind, what)): Path<(String, String, String)>) -> Response {
    let blobs = all.of(&name);
    let key = if what.starts_with("sha256:") { what.as_str() } else { "index" };
    let media = match (kind.as_str(), key) {
        ("manifests", "index") => "application/vnd.oci.image.index.v1+json",
        ("manifests", _) => "application/vnd.oci.image.manifest.v1+json",
        _ => "application/octet-stream",
    };
    match blobs.get(key) {
        Some(data) => ([(header::CONTENT_TYPE, media)], data.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
