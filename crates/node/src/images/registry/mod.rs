//! Pulling from a registry, by the OCI distribution protocol.
//!
//! Nothing a registry says is believed: manifests and blobs are checked
//! against their digests and sizes while they stream, everything is bounded,
//! and where requests go is guarded ([`guard`]). Failures that may pass are
//! retried with growing pauses; a blob that was cut off goes on where it
//! stopped. The protocol is spoken here and not by a library, because those
//! at hand follow redirects to anywhere and cannot resume.

mod auth;
mod guard;
mod layer;
mod session;

use super::blobs::{Folders, Pin, Pins};
use super::flight::Reporter;
use super::manifest::{self, Descriptor, Document, Manifest, Platform, Resolved};
use super::record::{Phase, PullSpec};
use super::{ImageError, ImagesConfig, text};
use aether_core::{Live, Rng, TenantId};
use futures::stream::{StreamExt, TryStreamExt};
use reqwest::header::CONTENT_TYPE;
use session::{Failure, Session};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::timeout;

/// Layers that are fetched at the same time.
const PARALLEL: usize = 3;

pub(super) struct Registry {
    config: Live<ImagesConfig>,
    folders: Folders,
    rng: Arc<dyn Rng>,
}

/// An image whose layers are here, spared by collections while this lives.
pub(super) struct Pulled {
    pub image: Resolved,
    _pins: Vec<Pin>,
}

/// Two pulls with the same key are the same work.
pub(super) fn flight_key(spec: &PullSpec) -> String {
    let who = spec
        .credentials
        .as_ref()
        .map(|c| manifest::sha256(format!("{}\0{}", c.username, c.password.expose()).as_bytes()));
    format!("{} {:?} {} {who:?}", spec.reference, spec.platform, spec.insecure)
}

impl Registry {
    pub(super) fn new(config: &Live<ImagesConfig>, folders: Folders, rng: Arc<dyn Rng>) -> Result<Self, ImageError> {
        Ok(Self { config: config.clone(), folders, rng })
    }

    /// The node's own loopback is the operator's: others than the default
    /// tenant reach it only where the operator opened it.
    pub(super) fn check_tenant(&self, tenant: &TenantId, spec: &PullSpec) -> Result<(), ImageError> {
        let registry = &spec.reference.registry;
        let config = self.config.get();
        let opened = config.allow_insecure_hosts.iter().chain(&config.allow_hosts);
        if *tenant == TenantId::default_tenant()
            || !guard::is_loopback_name(registry)
            || opened.into_iter().any(|host| host.eq_ignore_ascii_case(registry))
        {
            return Ok(());
        }
        Err(ImageError::Refused(format!("{registry} is the node's own loopback, which is not open to this tenant")))
    }

    pub(super) async fn pull(
        &self,
        spec: &PullSpec,
        pins: &Pins,
        report: &Reporter,
    ) -> Result<Arc<Pulled>, ImageError> {
        let config = self.config.get();
        let session = Session::new(&config, spec, self.rng.clone())?;
        let whole = config.timeouts.whole;
        match timeout(whole, self.pull_whole(&session, spec, config.max_image_bytes, pins, report)).await {
            Ok(done) => done.map(Arc::new),
            Err(_) => Err(session.slow(&format!("the whole pull took more than {} s", whole.as_secs()))),
        }
    }

    async fn pull_whole(
        &self,
        session: &Session,
        spec: &PullSpec,
        max_bytes: u64,
        pins: &Pins,
        report: &Reporter,
    ) -> Result<Pulled, ImageError> {
        report.report(Phase::Resolve, 0, 0);
        let platform = Platform::parse(spec.platform.as_deref())?;
        let image = resolve(session, spec, &platform).await?;
        let total = Manifest::check_total(&image.layers, max_bytes)?;
        let _pins = image.layers.iter().map(|l| pins.pin(&l.digest)).collect();
        let done = AtomicU64::new(0);
        report.report(Phase::Download, 0, total);
        let advance = |n: u64| report.report(Phase::Download, done.fetch_add(n, Ordering::Relaxed) + n, total);
        let mut seen = BTreeSet::new();
        let distinct: Vec<Descriptor> = image.layers.iter().filter(|l| seen.insert(&l.digest)).cloned().collect();
        futures::stream::iter(distinct.into_iter().map(|layer| layer::fetch(session, &self.folders, layer, &advance)))
            .buffer_unordered(PARALLEL)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(Pulled { image, _pins })
    }
}

/// From the reference to one manifest and its config, all verified.
async fn resolve(session: &Session, spec: &PullSpec, platform: &Platform) -> Result<Resolved, ImageError> {
    let reference = spec.reference.to_string();
    let wanted = spec.reference.digest.as_deref().or(spec.reference.tag.as_deref()).unwrap_or("latest");
    let (mut digest, mut document) = document(session, wanted, None).await.map_err(|e| named(e, &reference))?;
    let mut hops = 0;
    let manifest = loop {
        match document {
            Document::Manifest(manifest) => break manifest,
            Document::Index(_) if hops == 2 => return Err(ImageError::invalid("its indexes are nested too deep")),
            Document::Index(index) => {
                let chosen = platform.choose(&index, &reference)?;
                (digest, document) = self::document(session, &chosen.digest, Some(chosen.size)).await?;
                hops += 1;
            }
        }
    };
    let config = config(session, &manifest.config).await?;
    let image = manifest.resolve(digest, &config)?;
    image.check_platform(platform, &reference)?;
    Ok(image)
}

/// A 404 on the first question means that the image is not there.
fn named(e: ImageError, reference: &str) -> ImageError {
    match e {
        ImageError::NotInRegistry(_) => ImageError::NotInRegistry(reference.to_owned()),
        other => other,
    }
}

async fn document(session: &Session, wanted: &str, size: Option<u64>) -> Result<(String, Document), ImageError> {
    let path = format!("manifests/{wanted}");
    let (kind, claimed, body) = session
        .retry(|| async {
            let response = session.get(&path, 0).await?;
            let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let (kind, claimed) = (header(CONTENT_TYPE.as_str()), header("docker-content-digest"));
            let body = session.body(response, manifest::MAX_MANIFEST, "the manifest").await?;
            Ok::<_, Failure>((kind, claimed, body))
        })
        .await?;
    let digest = manifest::sha256(&body);
    let expected = if aether_core::image::is_digest(wanted) { Some(wanted) } else { claimed.as_deref() };
    if expected.is_some_and(|e| e.starts_with("sha256:") && e != digest) {
        return Err(session.lying("the manifest has another digest than it should"));
    }
    if size.is_some_and(|s| s != body.len() as u64) {
        return Err(session.lying("the manifest has another size than its index says"));
    }
    let kind = kind.unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let document = match kind {
        manifest::OCI_INDEX | manifest::DOCKER_LIST | manifest::OCI_MANIFEST | manifest::DOCKER_MANIFEST => {
            manifest::parse_document(&body)?
        }
        other => {
            return Err(session.lying(&format!("the manifest's media type is {:?}", text::clip(other, 100))));
        }
    };
    let is_index = matches!(kind, manifest::OCI_INDEX | manifest::DOCKER_LIST);
    if is_index != matches!(document, Document::Index(_)) {
        return Err(session.lying(&format!("what it calls {kind} is something else")));
    }
    Ok((digest, document))
}

async fn config(session: &Session, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
    let path = format!("blobs/{}", descriptor.digest);
    let body = session
        .retry(|| async {
            let response = session.get(&path, 0).await?;
            session.body(response, manifest::MAX_CONFIG, "the config").await
        })
        .await
        .map_err(|e| layer::missing(session, e, &descriptor.digest))?;
    if body.len() as u64 != descriptor.size || manifest::sha256(&body) != descriptor.digest {
        return Err(session.lying("the config has another digest or size than the manifest says"));
    }
    Ok(body)
}
