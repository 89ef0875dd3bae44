//! What a caller that is narrowed to images sees of the tenant's: the nodes
//! know of tenants alone, so every answer and every request about images goes
//! through here. An image out of reach is as absent as another tenant's.

use super::Caller;
use crate::problem::ApiError;
use aether_core::api::ImageInfo;
use aether_core::image::is_digest;

/// As the caller sees it: with the names that it reaches. `None`: not at all.
pub(super) fn seen(caller: &Caller, mut image: ImageInfo) -> Option<ImageInfo> {
    let Some(reach) = caller.reach() else { return Some(image) };
    let by_digest = reach.admits_image(&image.digest);
    image.names.retain(|name| reach.admits_image(name));
    (by_digest || !image.names.is_empty()).then_some(image)
}

/// Whether the caller reaches all that the image is called.
pub(super) fn whole(caller: &Caller, image: &ImageInfo) -> bool {
    caller.reach().is_none_or(|reach| {
        let names = image.names.iter().all(|name| reach.admits_image(name));
        reach.admits_image(&image.digest) || (names && !image.names.is_empty())
    })
}

/// A name that is asked for; whether a digest is in reach, only the image that
/// it names can tell.
pub(super) fn asked(caller: &Caller, name: &str) -> Result<(), ApiError> {
    match caller.reach() {
        Some(reach) if !is_digest(name) && !reach.admits_image(name) => Err(ApiError::not_found("image")),
        _ => Ok(()),
    }
}

/// A name that shall come to be.
pub(super) fn named(caller: &Caller, name: &str) -> Result<(), ApiError> {
    match caller.reach() {
        Some(reach) if !reach.admits_image(name) => Err(refusal(caller)),
        _ => Ok(()),
    }
}

/// Only who reaches all images says by itself what is in one.
pub(super) fn unbounded(caller: &Caller) -> Result<(), ApiError> {
    match caller.reach() {
        Some(reach) if !reach.images.is_empty() => Err(refusal(caller)),
        _ => Ok(()),
    }
}

pub(super) fn refusal(caller: &Caller) -> ApiError {
    let images = caller.reach().map(|reach| &reach.images).into_iter().flatten();
    let images: Vec<&str> = images.map(|pattern| pattern.as_str()).collect();
    ApiError::narrowed(&format!("the images {}", images.join(", ")))
}
