//! The converter: layers in, one merged tar stream out.
//!
//! Runs as its own jailed process (`aether image-convert`): no network, no
//! capabilities, own uid, layers read-only, standard output a pipe to the
//! filesystem maker. It keeps names and headers in memory and bodies nowhere:
//!
//! 1. each layer is read once, lowest first: hashed, and its members applied
//!    to a tree ([`tree`]);
//! 2. the tree is written, then each layer that still has living files is
//!    read again and those bodies are copied ([`write`]).
//!
//! Not here: verifying compressed digests (done while they were downloaded),
//! making the filesystem, starting processes.

mod error;
mod member;
mod number;
mod pax;
mod source;
mod tree;
mod write;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

pub use error::ConvertError;

/// Reading a tar, for archives too.
pub(super) mod archive {
    pub(in super::super) use super::member::{Kind, Members};
}

use member::Members;
use serde::{Deserialize, Serialize};
use source::Layer;
use std::cell::Cell;
use std::ffi::OsString;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::rc::Rc;
use tree::Tree;

/// The hidden verb's name on the command line.
pub const VERB: &str = "image-convert";
/// Part of a device's identity: raise it whenever the same layers would give
/// another device.
pub const VERSION: &str = "sqfs-lz4-1";

/// Exit codes of the verb.
pub const EXIT_INVALID: i32 = 65;
pub const EXIT_TOO_LARGE: i32 = 66;
pub const EXIT_IO: i32 = 74;

/// Folders that a guest mounts on, made where the image has none.
const MOUNT_POINTS: [(&[u8], u32); 6] =
    [(b"dev", 0o755), (b"etc", 0o755), (b"proc", 0o555), (b"run", 0o755), (b"sys", 0o555), (b"tmp", 0o1777)];

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvertLimits {
    /// Of all layers together, uncompressed.
    pub bytes: u64,
    pub entries: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvertLayer {
    pub path: PathBuf,
    /// Digest of the uncompressed layer, from the image's config.
    pub diff_id: String,
}

/// What the verb is told, as JSON in its one argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvertPlan {
    pub layers: Vec<ConvertLayer>,
    pub limits: ConvertLimits,
    /// No file may belong to it: the converter's own, which becomes root's
    /// when the device is finished.
    pub reserved_id: u32,
}

/// Merges the layers and writes the tar.
pub fn run(plan: &ConvertPlan, out: impl Write) -> Result<(), ConvertError> {
    let mut tree = Tree::new(plan.limits.entries);
    let budget = Rc::new(Cell::new(plan.limits.bytes));
    for (n, layer) in plan.layers.iter().enumerate() {
        let n = layer_number(n)?;
        read_layer(&mut tree, n, layer, plan, &budget)?;
    }
    for (name, mode) in MOUNT_POINTS {
        tree.ensure_top_dir(name, mode)?;
    }
    let mut out = BufWriter::with_capacity(256 << 10, out);
    let bodies = write::write_tree(&tree, &mut out)?;
    let budget = Rc::new(Cell::new(plan.limits.bytes));
    for (n, layer) in plan.layers.iter().enumerate() {
        let n = layer_number(n)?;
        if bodies.wants(n) {
            let mut input = Layer::open(&layer.path, false, &budget)?;
            let written = write::write_bodies(&tree, &bodies, n, &mut Members::new(&mut input), &mut out);
            written.map_err(|e| explain(e, &input, &plan.limits))?;
        }
    }
    write::write_end(&mut out)?;
    Ok(())
}

fn layer_number(n: usize) -> Result<u16, ConvertError> {
    u16::try_from(n).map_err(|_| ConvertError::invalid("too many layers"))
}

fn read_layer(
    tree: &mut Tree,
    n: u16,
    layer: &ConvertLayer,
    plan: &ConvertPlan,
    budget: &Rc<Cell<u64>>,
) -> Result<(), ConvertError> {
    let (limits, reserved) = (&plan.limits, plan.reserved_id);
    let mut input = Layer::open(&layer.path, true, budget)?;
    let applied = apply_members(tree, n, limits, reserved, &mut Members::new(&mut input));
    applied.map_err(|e| explain(e, &input, limits))?;
    let digest = input.finish(limits)?;
    if digest != layer.diff_id {
        return Err(ConvertError::invalid(format!(
            "layer {n} is {digest}, and the image's config says {}",
            layer.diff_id
        )));
    }
    Ok(())
}

fn apply_members<R: std::io::Read>(
    tree: &mut Tree,
    n: u16,
    limits: &ConvertLimits,
    reserved: u32,
    members: &mut Members<R>,
) -> Result<(), ConvertError> {
    let mut ordinal = 0u32;
    while let Some(member) = members.next()? {
        if u64::from(ordinal) >= limits.entries {
            return Err(ConvertError::TooLarge { what: "the number of files".into(), limit: limits.entries });
        }
        if member.meta.uid == reserved || member.meta.gid == reserved {
            return Err(ConvertError::invalid(format!(
                "a file belongs to {reserved}, which the node keeps for itself"
            )));
        }
        tree.apply(n, ordinal, member)?;
        ordinal += 1;
    }
    Ok(())
}

fn explain(e: ConvertError, input: &Layer, limits: &ConvertLimits) -> ConvertError {
    match e {
        ConvertError::Io(e) => input.explain(e, limits),
        other => other,
    }
}

/// The hidden verb: merges to standard output; the verdict is the exit code,
/// its reason one line on standard error.
pub fn main(mut args: impl Iterator<Item = OsString>) -> ! {
    let plan = args.next().and_then(|a| a.into_string().ok()).map(|a| serde_json::from_str::<ConvertPlan>(&a));
    let Some(Ok(plan)) = plan else {
        eprintln!("the plan cannot be read");
        std::process::exit(EXIT_IO);
    };
    let code = match run(&plan, std::io::stdout().lock()) {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("{e}");
            match e {
                ConvertError::Invalid(_) => EXIT_INVALID,
                ConvertError::TooLarge { .. } => EXIT_TOO_LARGE,
                ConvertError::Io(_) => EXIT_IO,
            }
        }
    };
    std::process::exit(code)
}
