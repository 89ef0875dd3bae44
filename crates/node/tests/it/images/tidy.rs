//! Names given anew, and what nobody uses given back.

use super::archives::{Image, Layer};
use super::{agent, config, open, quiet, tenant};
use crate::jail::Scratch;
use aether_node::images::{ImageError, Images, parse_reference};
use std::time::Duration;

async fn import(images: &Images, owner: &str, name: &str, text: &str) -> String {
    let image = Image::new(vec![Layer::new().file("text", text).gzip()]);
    let archive = image.oci_archive(Some(name));
    images.import(&tenant(owner), None, archive.as_slice(), quiet()).await.expect("import").digest
}

async fn names(images: &Images, owner: &str) -> Vec<String> {
    let mut all: Vec<_> = images.list(&tenant(owner)).await.expect("list").into_iter().flat_map(|r| r.names).collect();
    all.sort();
    all
}

#[tokio::test]
async fn a_name_is_added_and_moved() {
    let scratch = Scratch::new("tag");
    let images = open(config(&scratch.0)).await;
    let owner = tenant("default");
    let one = import(&images, "default", "example.org/one:1", "one").await;
    let two = import(&images, "default", "example.org/two:1", "two").await;
    let name = || parse_reference("example.org/mine:latest").expect("a name");
    let tagged = images.tag(&owner, "example.org/one:1", name()).await.expect("tags");
    assert_eq!((tagged.digest.as_str(), tagged.names.len()), (one.as_str(), 2));
    let moved = images.tag(&owner, &two, name()).await.expect("moves");
    assert_eq!(moved.digest, two);
    let found = images.resolve(&owner, "example.org/mine").await.expect("looks").expect("is there");
    assert_eq!(found.digest, two);
    assert_eq!(names(&images, "default").await, ["example.org/mine:latest", "example.org/one:1", "example.org/two:1"]);
    // Another tenant has neither the name nor the digest.
    for source in ["example.org/one:1", one.as_str()] {
        let foreign = images.tag(&tenant("acme"), source, name()).await;
        assert!(matches!(foreign, Err(ImageError::NotFound(_))), "{source}");
    }
}

#[tokio::test]
async fn prune_takes_what_no_agent_of_the_tenant_holds_and_frees_what_nobody_needs() {
    let scratch = Scratch::new("prune");
    let mut settings = config(&scratch.0);
    // What pruning removes does not wait for the grace of what has just lost its name.
    settings.gc_grace = Duration::from_secs(3600);
    let images = open(settings).await;
    let owner = tenant("default");
    let used = import(&images, "default", "example.org/used:1", "used").await;
    let unused = import(&images, "default", "example.org/unused:1", "unused").await;
    let shared = import(&images, "default", "example.org/shared:1", "shared").await;
    assert_eq!(import(&images, "acme", "example.org/shared:1", "shared").await, shared);
    let holder = agent();
    images.hold(&owner, &used, &holder).expect("holds");
    let device = images.resolve(&owner, &unused).await.expect("looks").expect("is there").device;
    let young = images.prune(&owner, Duration::from_secs(3600), false).await.expect("prunes");
    assert_eq!(young.images.len(), 0, "all are younger");
    let told = images.prune(&owner, Duration::ZERO, true).await.expect("tells");
    let digests = |pruned: &aether_node::images::Pruned| {
        let mut all: Vec<_> = pruned.images.iter().map(|r| r.digest.clone()).collect();
        all.sort();
        all
    };
    let mut expected = vec![unused.clone(), shared.clone()];
    expected.sort();
    assert_eq!((digests(&told), told.freed_bytes), (expected.clone(), 0));
    assert_eq!(names(&images, "default").await.len(), 3, "nothing is gone yet");
    let pruned = images.prune(&owner, Duration::ZERO, false).await.expect("prunes");
    assert_eq!(digests(&pruned), expected);
    assert!(pruned.freed_bytes > 0 && !device.exists(), "{pruned:?}");
    assert_eq!(names(&images, "default").await, ["example.org/used:1"]);
    let kept = images.resolve(&tenant("acme"), &shared).await.expect("looks").expect("acme has it still");
    assert!(kept.device.exists());
    images.release(&used, &holder);
    assert_eq!(images.prune(&owner, Duration::ZERO, false).await.expect("prunes").images.len(), 1);
    assert_eq!(images.prune(&owner, Duration::ZERO, false).await.expect("prunes").images.len(), 0, "twice is no error");
}
