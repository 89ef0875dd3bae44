//! Pulling: from Debian's docker-registry, and from a server that lies.

use super::archives::{Blob, Image, Layer, paths, sha256};
use super::{config, open, quiet, tenant};
use crate::jail::Scratch;
use aether_core::secret::Secret;
use aether_node::images::{Credentials, ImageError, Images, PullSpec};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn image() -> Image {
    Image::new(vec![
        Layer::new().file("bin/x", "x".repeat(200_000)).gzip(),
        Blob::plain(Layer::new().file("y", "y").tar()),
    ])
}

/// What a path is answered with.
type Answer = Arc<dyn Fn(u32, &HeaderMap) -> Response + Send + Sync>;

/// A registry of our own making, with every request counted by path.
#[derive(Clone, Default)]
struct Fake {
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    asked: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl Fake {
    async fn serve(self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let app = axum::Router::new().fallback(answer).with_state(self);
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }

    fn on(&self, path: &str, f: impl Fn(u32, &HeaderMap) -> Response + Send + Sync + 'static) {
        self.answers.lock().expect("lock").insert(path.to_owned(), Arc::new(f));
    }

    fn give(&self, path: &str, kind: &'static str, data: Vec<u8>) {
        self.on(path, move |_, _| ([(header::CONTENT_TYPE, kind)], data.clone()).into_response());
    }

    /// Everything as it should be, under `/v2/t/img` with the tag `1`.
    fn honest(image: &Image) -> Self {
        let fake = Self::default();
        fake.give("/v2/t/img/manifests/1", MANIFEST, image.manifest.clone());
        fake.give(&format!("/v2/t/img/manifests/{}", image.digest()), MANIFEST, image.manifest.clone());
        for (digest, data) in image.blobs() {
            fake.give(&format!("/v2/t/img/blobs/{digest}"), "application/octet-stream", data);
        }
        fake
    }

    fn times(&self, path: &str) -> u32 {
        self.asked.lock().expect("lock").get(path).copied().unwrap_or(0)
    }
}

async fn answer(State(fake): State<Fake>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let n = {
        let mut asked = fake.asked.lock().expect("lock");
        let n = asked.entry(path.clone()).or_insert(0);
        *n += 1;
        *n
    };
    let found = fake.answers.lock().expect("lock").get(&path).cloned();
    match found {
        Some(answer) => answer(n, request.headers()),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn layer_path(image: &Image) -> String {
    format!("/v2/t/img/blobs/{}", sha256(&image.layers[0].data))
}

async fn images(scratch: &Scratch) -> Images {
    let mut config = config(&scratch.0);
    config.timeouts.backoff = Duration::from_millis(5);
    config.timeouts.retries = 2;
    config.timeouts.idle = Duration::from_secs(2);
    open(config).await
}

async fn pull(images: &Images, address: &str) -> Result<aether_node::images::ImageRecord, ImageError> {
    let spec = PullSpec::parse(&format!("{address}/t/img:1")).expect("reference");
    images.pull(&tenant("default"), spec, quiet()).await
}

/// Pulls from a registry that misbehaves once.
async fn refused(name: &str, spoil: impl FnOnce(&Fake, &Image)) -> ImageError {
    let scratch = Scratch::new(name);
    let image = image();
    let fake = Fake::honest(&image);
    spoil(&fake, &image);
    let images = images(&scratch).await;
    let error = pull(&images, &fake.serve().await).await.expect_err("must fail");
    assert!(images.list(&tenant("default")).await.expect("list").is_empty());
    assert_eq!(std::fs::read_dir(scratch.0.join("tmp")).expect("tmp").count(), 0, "partial files stay");
    error
}

#[tokio::test]
async fn ten_pulls_are_one_download() {
    let scratch = Scratch::new("single");
    let image = image();
    let fake = Fake::honest(&image);
    let address = fake.clone().serve().await;
    let images = images(&scratch).await;
    let all = futures::future::join_all((0..10).map(|_| pull(&images, &address))).await;
    let first = all[0].clone().expect("pull");
    assert!(all.iter().all(|r| r.as_ref().is_ok_and(|r| r.digest == first.digest)));
    assert_eq!((fake.times("/v2/t/img/manifests/1"), fake.times(&layer_path(&image))), (1, 1));
    assert!(paths(&first.device).contains(&"bin/x".to_owned()));
    // A tag is asked for again; what is here is not fetched again.
    pull(&images, &address).await.expect("again");
    assert_eq!((fake.times("/v2/t/img/manifests/1"), fake.times(&layer_path(&image))), (2, 1));
}

#[tokio::test]
async fn a_wrong_digest_is_refused() {
    let error = refused("digest", |fake, image| {
        let mut data = image.layers[0].data.clone();
        data[100] ^= 1;
        fake.give(&layer_path(image), "application/octet-stream", data);
    });
    assert!(matches!(error.await, ImageError::Lying { .. }));
    let error = refused("manifest", |fake, image| {
        let manifest = image.manifest.clone();
        fake.on("/v2/t/img/manifests/1", move |_, _| {
            ([("content-type", MANIFEST), ("docker-content-digest", &sha256(b"else"))], manifest.clone())
                .into_response()
        });
    });
    assert!(matches!(error.await, ImageError::Lying { .. }));
}

#[tokio::test]
async fn wrong_sizes_types_and_documents_are_refused() {
    let longer = refused("longer", |fake, image| {
        let data = [image.layers[0].data.clone(), vec![0; 10]].concat();
        fake.give(&layer_path(image), "application/octet-stream", data);
    });
    assert!(matches!(longer.await, ImageError::Lying { .. }));
    let html = refused("html", |fake, _| fake.give("/v2/t/img/manifests/1", "text/html", b"<html>".to_vec()));
    assert!(matches!(html.await, ImageError::Lying { .. }));
    let huge = refused("huge", |fake, _| fake.give("/v2/t/img/manifests/1", MANIFEST, vec![b' '; (4 << 20) + 1]));
    assert!(matches!(huge.await, ImageError::Lying { .. }));
    let junk = refused("junk", |fake, _| fake.give("/v2/t/img/manifests/1", MANIFEST, b"{".to_vec()));
    assert!(matches!(junk.await, ImageError::Invalid(_)));
    let gone = refused("gone", |fake, image| fake.on(&layer_path(image), |_, _| StatusCode::NOT_FOUND.into_response()));
    assert!(matches!(gone.await, ImageError::Lying { .. }));
}

#[tokio::test]
async fn a_name_that_is_not_there_is_not_found() {
    let error =
        refused("missing", |fake, _| fake.on("/v2/t/img/manifests/1", |_, _| StatusCode::NOT_FOUND.into_response()));
    let error = error.await;
    assert!(matches!(&error, ImageError::NotInRegistry(name) if name.ends_with("/t/img:1")), "{error}");
    assert_eq!(error.agent_code(), "IMAGE_NOT_FOUND");
}

#[tokio::test]
async fn redirects_to_internal_addresses_are_refused() {
    for target in [
        "http://169.254.169.254/latest/",
        "https://10.0.0.1/x",
        "http://127.0.0.1:1/x",
        "https://[fd00:ec2::254]/",
        "file:///etc/shadow",
    ] {
        let error = refused("redirect", |fake, image| {
            fake.on(&layer_path(image), move |_, _| {
                (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, target)]).into_response()
            });
        });
        let error = error.await;
        assert!(matches!(error, ImageError::Refused(_)), "{target}: {error}");
    }
    let realm = refused("realm", |fake, _| {
        fake.on("/v2/t/img/manifests/1", |_, _| {
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, r#"Bearer realm="https://10.0.0.1/token""#)])
                .into_response()
        });
    });
    assert!(matches!(realm.await, ImageError::Refused(_)));
}

#[tokio::test]
async fn server_errors_are_retried_and_then_told() {
    let scratch = Scratch::new("retry");
    let image = image();
    let fake = Fake::honest(&image);
    let manifest = image.manifest.clone();
    fake.on("/v2/t/img/manifests/1", move |n, _| match n {
        1 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        2 => (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "0")]).into_response(),
        _ => ([(header::CONTENT_TYPE, MANIFEST)], manifest.clone()).into_response(),
    });
    pull(&images(&scratch).await, &fake.serve().await).await.expect("the third attempt");
    let error = refused("busy", |fake, _| {
        fake.on("/v2/t/img/manifests/1", |_, _| StatusCode::TOO_MANY_REQUESTS.into_response());
    });
    assert!(matches!(error.await, ImageError::Busy { .. }));
}

#[tokio::test]
async fn a_cut_layer_goes_on_where_it_stopped() {
    let scratch = Scratch::new("resume");
    let image = image();
    let fake = Fake::honest(&image);
    let (data, resumed) = (image.layers[0].data.clone(), Arc::new(AtomicU32::new(0)));
    let seen = resumed.clone();
    fake.on(&layer_path(&image), move |_, headers| {
        let Some(range) = headers.get(header::RANGE).and_then(|r| r.to_str().ok()) else {
            // Half of it, then the connection breaks.
            let half = data[..data.len() / 2].to_vec();
            let cut = futures::stream::once(async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Err(std::io::Error::other("cut"))
            });
            let body = futures::StreamExt::chain(futures::stream::iter([Ok(half)]), cut);
            return axum::body::Body::from_stream(body).into_response();
        };
        let from: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().expect("range");
        seen.store(from as u32, Ordering::Relaxed);
        let span = format!("bytes {from}-{}/{}", data.len() - 1, data.len());
        (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, span)], data[from..].to_vec()).into_response()
    });
    pull(&images(&scratch).await, &fake.serve().await).await.expect("resumed");
    assert!(resumed.load(Ordering::Relaxed) > 0, "it was never asked to resume");
}

#[tokio::test]
async fn a_registry_that_stalls_or_is_down_is_told() {
    let error = refused("stall", |fake, image| {
        fake.on(&layer_path(image), |_, _| {
            axum::body::Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>()).into_response()
        });
    });
    assert!(matches!(error.await, ImageError::TooSlow { .. }));
    let scratch = Scratch::new("down");
    let error = pull(&images(&scratch).await, "127.0.0.1:1").await.expect_err("nobody listens");
    assert!(matches!(error, ImageError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn the_platform_is_chosen_from_an_index() {
    let scratch = Scratch::new("index");
    let ours = image();
    let other = Image::for_platform(vec![Layer::new().file("other", "").gzip()], "s390x");
    let fake = Fake::honest(&ours);
    let (arch, digest) = (if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, ours.digest());
    let describe = |image: &Image, arch: &str| {
        serde_json::json!({
            "mediaType": MANIFEST, "digest": image.digest(), "size": image.manifest.len(),
            "platform": {"os": "linux", "architecture": arch},
        })
    };
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX,
        "manifests": [describe(&other, "s390x"), describe(&ours, arch)]});
    fake.give("/v2/t/img/manifests/1", INDEX, index.to_string().into_bytes());
    let address = fake.serve().await;
    let images = images(&scratch).await;
    assert_eq!(pull(&images, &address).await.expect("pull").digest, digest);
    let mut spec = PullSpec::parse(&format!("{address}/t/img:1")).expect("reference");
    spec.platform = Some("linux/riscv64".into());
    let error = images.pull(&tenant("default"), spec, quiet()).await.expect_err("not there");
    assert!(matches!(&error, ImageError::NoPlatform { available, .. } if available.contains("s390x")), "{error}");
}

#[tokio::test]
async fn bearer_tokens_are_fetched_with_the_credentials() {
    let scratch = Scratch::new("bearer");
    let image = image();
    let fake = Fake::honest(&image);
    let address = fake.clone().serve().await;
    let (manifest, at) = (image.manifest.clone(), address.clone());
    fake.on("/v2/t/img/manifests/1", move |_, headers| {
        if headers.get(header::AUTHORIZATION).is_some_and(|a| a == "Bearer good") {
            return ([(header::CONTENT_TYPE, MANIFEST)], manifest.clone()).into_response();
        }
        let challenge = format!(r#"Bearer realm="http://{at}/token",service="reg",scope="repository:t/img:pull""#);
        (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response()
    });
    fake.on("/token", |_, headers| match headers.get(header::AUTHORIZATION) {
        Some(a) if a == "Basic bWU6c2VjcmV0" => r#"{"token":"good"}"#.into_response(),
        _ => StatusCode::UNAUTHORIZED.into_response(),
    });
    let images = images(&scratch).await;
    let error = pull(&images, &address).await.expect_err("no credentials");
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    let mut spec = PullSpec::parse(&format!("{address}/t/img:1")).expect("reference");
    spec.credentials = Some(Credentials { username: "me".into(), password: Secret::new("secret") });
    images.pull(&tenant("default"), spec.clone(), quiet()).await.expect("with credentials");
    assert!(!format!("{spec:?} {error:?}").contains("secret"));
}
