//! The merged tree as one tar stream: folders, links and devices first, then
//! the files in the order in which their bodies lie in the layers, so that
//! each layer is read once, forwards.

use super::error::ConvertError;
use super::member::{Members, Meta};
use super::pax;
use super::tree::{Id, NodeKind, ROOT, Tree};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use tar::{EntryType, Header};

const BLOCK: usize = 512;

/// A file that survived and everything it is called.
struct Survivor {
    id: Id,
    size: u64,
    path: Vec<u8>,
    links: Vec<Vec<u8>>,
}

/// What is to be copied, by layer and member number.
pub(crate) struct Bodies(BTreeMap<(u16, u32), Survivor>);

impl Bodies {
    /// Of this layer: whether anything is wanted at all.
    pub(crate) fn wants(&self, layer: u16) -> bool {
        self.0.range((layer, 0)..=(layer, u32::MAX)).next().is_some()
    }
}

/// Writes everything without a body and tells which bodies are to follow.
/// The root itself has no header: the filesystem maker takes none, and is
/// told on its command line to make it root's with mode 0755.
pub(crate) fn write_tree(tree: &Tree, out: &mut impl Write) -> Result<Bodies, ConvertError> {
    let mut bodies = BTreeMap::new();
    // Folders still to be listed; deep trees must not need a deep stack.
    let mut todo: Vec<(Id, Vec<u8>)> = vec![(ROOT, Vec::new())];
    while let Some((dir, prefix)) = todo.pop() {
        for (name, id) in tree.children(dir) {
            let path = [prefix.as_slice(), name].concat();
            let node = tree.node(id);
            match &node.kind {
                NodeKind::Dir(_) => {
                    let path = [path.as_slice(), b"/"].concat();
                    write_header(out, &path, EntryType::Directory, &node.meta, Extra::default())?;
                    todo.push((id, path));
                }
                NodeKind::File { layer, ordinal, size } => {
                    bodies
                        .entry((*layer, *ordinal))
                        .and_modify(|s: &mut Survivor| s.links.push(path.clone()))
                        .or_insert_with(|| Survivor { id, size: *size, path, links: Vec::new() });
                }
                NodeKind::Symlink(target) => {
                    let extra = Extra { link: target, ..Extra::default() };
                    write_header(out, &path, EntryType::Symlink, &node.meta, extra)?;
                }
                NodeKind::Char(major, minor) => {
                    let extra = Extra { device: Some((*major, *minor)), ..Extra::default() };
                    write_header(out, &path, EntryType::Char, &node.meta, extra)?;
                }
                NodeKind::Block(major, minor) => {
                    let extra = Extra { device: Some((*major, *minor)), ..Extra::default() };
                    write_header(out, &path, EntryType::Block, &node.meta, extra)?;
                }
                NodeKind::Fifo => write_header(out, &path, EntryType::Fifo, &node.meta, Extra::default())?,
            }
        }
    }
    Ok(Bodies(bodies))
}

/// Copies what survived of one layer. Stops reading after the last body.
pub(crate) fn write_bodies<R: Read>(
    tree: &Tree,
    bodies: &Bodies,
    layer: u16,
    members: &mut Members<R>,
    out: &mut impl Write,
) -> Result<(), ConvertError> {
    let mut wanted = bodies.0.range((layer, 0)..=(layer, u32::MAX)).peekable();
    let mut ordinal = 0u32;
    while let Some(((_, next), survivor)) = wanted.peek() {
        let member = members.next()?.ok_or_else(|| ConvertError::invalid("a layer changed while it was read"))?;
        if ordinal == *next {
            if member.size != survivor.size {
                return Err(ConvertError::invalid("a layer changed while it was read"));
            }
            let meta = &tree.node(survivor.id).meta;
            write_header(
                out,
                &survivor.path,
                EntryType::Regular,
                meta,
                Extra { size: survivor.size, ..Extra::default() },
            )?;
            io::copy(&mut members.body(), out)?;
            pad(out, survivor.size)?;
            for link in &survivor.links {
                write_header(out, link, EntryType::Link, meta, Extra { link: &survivor.path, ..Extra::default() })?;
            }
            wanted.next();
        }
        ordinal += 1;
    }
    Ok(())
}

/// Two empty blocks end a tar.
pub(crate) fn write_end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0u8; 2 * BLOCK])?;
    out.flush()
}

#[derive(Default)]
struct Extra<'a> {
    link: &'a [u8],
    size: u64,
    device: Option<(u32, u32)>,
}

fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    let rest = (size.wrapping_neg() % BLOCK as u64) as usize;
    out.write_all(&[0u8; BLOCK][..rest])
}

/// Octal fields of the header hold this much.
const MAX_OCTAL_ID: u32 = 0o7_777_777;
const MAX_OCTAL_SIZE: u64 = 0o77_777_777_777;

fn write_header(out: &mut impl Write, path: &[u8], kind: EntryType, meta: &Meta, extra: Extra<'_>) -> io::Result<()> {
    let records = records(path, kind, meta, &extra);
    if !records.is_empty() {
        let mut header = base(EntryType::XHeader, records.len() as u64);
        fill(&mut header, b"pax", b"");
        header.set_cksum();
        out.write_all(header.as_bytes())?;
        out.write_all(&records)?;
        pad(out, records.len() as u64)?;
    }
    let mut header = base(kind, if extra.size > MAX_OCTAL_SIZE { 0 } else { extra.size });
    fill(&mut header, path, extra.link);
    header.set_mode(meta.mode);
    header.set_uid(u64::from(if meta.uid > MAX_OCTAL_ID { 0 } else { meta.uid }));
    header.set_gid(u64::from(if meta.gid > MAX_OCTAL_ID { 0 } else { meta.gid }));
    header.set_mtime(u64::from(meta.mtime));
    if let (Some((major, minor)), Some(ustar)) = (extra.device, header.as_ustar_mut()) {
        ustar.set_device_major(major);
        ustar.set_device_minor(minor);
    }
    header.set_cksum();
    out.write_all(header.as_bytes())
}

/// What does not fit into the header.
fn records(path: &[u8], kind: EntryType, meta: &Meta, extra: &Extra<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    if path.len() > 100 {
        pax::push_record(&mut out, b"path", path);
    }
    if extra.link.len() > 100 {
        pax::push_record(&mut out, b"linkpath", extra.link);
    }
    if extra.size > MAX_OCTAL_SIZE {
        pax::push_record(&mut out, b"size", extra.size.to_string().as_bytes());
    }
    if meta.uid > MAX_OCTAL_ID {
        pax::push_record(&mut out, b"uid", meta.uid.to_string().as_bytes());
    }
    if meta.gid > MAX_OCTAL_ID {
        pax::push_record(&mut out, b"gid", meta.gid.to_string().as_bytes());
    }
    if !kind.is_hard_link() {
        for (name, value) in &meta.xattrs {
            pax::push_xattr(&mut out, name, value);
        }
    }
    out
}

fn base(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Names as bytes, cut to the field: longer ones are in a PAX record.
fn fill(header: &mut Header, path: &[u8], link: &[u8]) {
    if let Some(ustar) = header.as_ustar_mut() {
        let n = path.len().min(ustar.name.len());
        ustar.name[..n].copy_from_slice(&path[..n]);
        let n = link.len().min(ustar.linkname.len());
        ustar.linkname[..n].copy_from_slice(&link[..n]);
    }
}
