//! What a stack of layers adds up to: names and headers only, in memory.
//!
//! Layers are applied lowest first, with the meaning that unpacking them one
//! after the other into one folder would have: hard links share a node,
//! symlinks among the parents are followed (inside the root only), a folder
//! replaces a file and the other way round. Each name remembers the layer
//! that set it, because a whiteout hides what lower layers brought and never
//! what its own layer brings, whichever comes first in the archive.

use super::error::{ConvertError, show};
use super::member::{Kind, MAX_PATH, Member, Meta};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) type Id = u32;
pub(crate) const ROOT: Id = 0;
const MAX_DEPTH: usize = 512;
const MAX_NAME: usize = 255;
const MAX_SYMLINK_HOPS: u32 = 40;
const WHITEOUT: &[u8] = b".wh.";
/// Older unions' own files (`.wh..wh.plnk` and so on), without meaning here.
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

#[derive(Clone, Debug)]
pub(crate) struct Dentry {
    pub id: Id,
    layer: u16,
}

#[derive(Clone, Debug)]
pub(crate) enum NodeKind {
    Dir(BTreeMap<Box<[u8]>, Dentry>),
    /// Where its body is: layer, and the member's number in it.
    File {
        layer: u16,
        ordinal: u32,
        size: u64,
    },
    Symlink(Box<[u8]>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub kind: NodeKind,
    pub meta: Meta,
}

pub(crate) struct Tree {
    nodes: Vec<Node>,
    /// Hard links are names without a node of their own.
    links: u64,
    max_entries: u64,
    /// Folders that hold nothing of lower layers any more, in the layer that
    /// is being applied: so that many whiteouts of one folder cost one walk.
    pruned: BTreeSet<Id>,
    current: u16,
}

/// A folder that no member describes.
fn implied_dir() -> Node {
    Node { kind: NodeKind::Dir(BTreeMap::new()), meta: Meta { mode: 0o755, ..Meta::default() } }
}

impl Tree {
    pub(crate) fn new(max_entries: u64) -> Self {
        Self { nodes: vec![implied_dir()], links: 0, max_entries, pruned: BTreeSet::new(), current: 0 }
    }

    pub(crate) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    /// The folder's names; empty for anything else.
    pub(crate) fn children(&self, id: Id) -> impl Iterator<Item = (&[u8], Id)> {
        let dir = match &self.node(id).kind {
            NodeKind::Dir(children) => Some(children),
            _ => None,
        };
        dir.into_iter().flatten().map(|(name, d)| (&**name, d.id))
    }

    /// Applies one member. `ordinal` is its number in the layer.
    pub(crate) fn apply(&mut self, layer: u16, ordinal: u32, mut member: Member) -> Result<(), ConvertError> {
        if layer != self.current {
            self.current = layer;
            self.pruned.clear();
        }
        let written = std::mem::take(&mut member.path);
        let path = components(&written)?;
        let Some((base, parents)) = path.split_last() else {
            return self.apply_root(member);
        };
        if path.iter().any(|c| c.starts_with(WHITEOUT_META) && *c != OPAQUE) {
            return Ok(());
        }
        if parents.iter().any(|c| c.starts_with(WHITEOUT)) {
            return Err(ConvertError::invalid(format!("{} lies in a whiteout", show(&written))));
        }
        if let Some(hidden) = base.strip_prefix(WHITEOUT) {
            return self.whiteout(parents, base, hidden, layer);
        }
        // The guest's overlay would take such a device for a whiteout.
        if member.kind == Kind::Char(0, 0) {
            return Ok(());
        }
        self.put_member(parents, base, layer, ordinal, member)
    }

    /// Adds a folder at the top unless the name is taken.
    pub(crate) fn ensure_top_dir(&mut self, name: &[u8], mode: u32) -> Result<(), ConvertError> {
        if self.child(ROOT, name).is_none() {
            let mut node = implied_dir();
            node.meta.mode = mode;
            let id = self.add(node)?;
            self.insert(ROOT, name, Dentry { id, layer: self.current });
        }
        Ok(())
    }

    fn apply_root(&mut self, member: Member) -> Result<(), ConvertError> {
        if member.kind != Kind::Dir {
            return Err(ConvertError::invalid("the root is not a folder"));
        }
        self.nodes[ROOT as usize].meta = member.meta;
        Ok(())
    }

    fn put_member(
        &mut self,
        parents: &[&[u8]],
        base: &[u8],
        layer: u16,
        ordinal: u32,
        member: Member,
    ) -> Result<(), ConvertError> {
        let parent = self.make_parents(parents, layer)?;
        let existing = self.child(parent, base).map(|d| d.id);
        let kind = match member.kind {
            Kind::Dir => {
                if let Some(id) = existing.filter(|id| self.is_dir(*id)) {
                    self.nodes[id as usize].meta = member.meta;
                    self.insert(parent, base, Dentry { id, layer });
                    return Ok(());
                }
                NodeKind::Dir(BTreeMap::new())
            }
            Kind::Link(target) => {
                let id = self.link_target(&target)?;
                self.links += 1;
                self.check_number()?;
                self.insert(parent, base, Dentry { id, layer });
                return Ok(());
            }
            Kind::File => NodeKind::File { layer, ordinal, size: member.size },
            Kind::Symlink(target) => NodeKind::Symlink(target.into()),
            Kind::Char(major, minor) => NodeKind::Char(major, minor),
            Kind::Block(major, minor) => NodeKind::Block(major, minor),
            Kind::Fifo => NodeKind::Fifo,
        };
        let id = self.add(Node { kind, meta: member.meta })?;
        self.insert(parent, base, Dentry { id, layer });
        Ok(())
    }

    fn link_target(&self, target: &[u8]) -> Result<Id, ConvertError> {
        let missing = || ConvertError::invalid(format!("a hard link points to {}, which is not there", show(target)));
        let path = components(target)?;
        let (base, parents) = path.split_last().ok_or_else(missing)?;
        let parent = self.find_parents(parents)?.ok_or_else(missing)?;
        let id = self.child(parent, base).ok_or_else(missing)?.id;
        if self.is_dir(id) {
            return Err(ConvertError::invalid(format!("a hard link points to the folder {}", show(target))));
        }
        Ok(id)
    }

    fn whiteout(&mut self, parents: &[&[u8]], base: &[u8], hidden: &[u8], layer: u16) -> Result<(), ConvertError> {
        let Some(parent) = self.find_parents(parents)? else { return Ok(()) };
        if base == OPAQUE {
            self.prune_children(parent, layer);
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(ConvertError::invalid("a whiteout names nothing"));
        }
        self.prune_child(parent, hidden, layer);
        Ok(())
    }

    /// Takes away what lower layers brought under this name.
    fn prune_child(&mut self, parent: Id, name: &[u8], layer: u16) {
        let Some(dentry) = self.child(parent, name).cloned() else { return };
        if self.is_dir(dentry.id) {
            self.prune_children(dentry.id, layer);
        }
        if dentry.layer >= layer {
            return;
        }
        if self.children(dentry.id).next().is_none() {
            self.remove(parent, name);
        } else {
            // The layer put something into a folder that it does not
            // describe: the folder is a new one.
            self.nodes[dentry.id as usize].meta = implied_dir().meta;
            self.insert(parent, name, Dentry { id: dentry.id, layer });
        }
    }

    fn prune_children(&mut self, dir: Id, layer: u16) {
        if !self.is_dir(dir) || !self.pruned.insert(dir) {
            return;
        }
        let names: Vec<Box<[u8]>> = self.children(dir).map(|(name, _)| name.into()).collect();
        for name in names {
            self.prune_child(dir, &name, layer);
        }
    }

    /// Walks to a folder; what is missing is made (`make` = the layer), or
    /// the answer is none.
    fn walk(&mut self, path: &[&[u8]], make: u16) -> Result<Id, ConvertError> {
        let mut steps = Steps::new(path);
        while let Some(name) = steps.next_name() {
            let here = steps.here();
            let Some(id) = self.child(here, &name).map(|d| d.id) else {
                check_component(&name)?;
                // A symlink's target may say so, and no folder is called so.
                if name.starts_with(WHITEOUT) {
                    return Err(ConvertError::invalid(format!("a symlink leads into the whiteout {}", show(&name))));
                }
                let id = self.add(implied_dir())?;
                self.insert(here, &name, Dentry { id, layer: make });
                steps.enter(id, &name)?;
                continue;
            };
            if !steps.through(self, id, &name)? {
                return Err(ConvertError::invalid(format!("{} is needed as a folder and is none", show(&name))));
            }
        }
        Ok(steps.here())
    }

    fn make_parents(&mut self, path: &[&[u8]], layer: u16) -> Result<Id, ConvertError> {
        self.walk(path, layer)
    }

    fn find_parents(&self, path: &[&[u8]]) -> Result<Option<Id>, ConvertError> {
        let mut steps = Steps::new(path);
        while let Some(name) = steps.next_name() {
            let Some(id) = self.child(steps.here(), &name).map(|d| d.id) else { return Ok(None) };
            if !steps.through(self, id, &name)? {
                return Ok(None);
            }
        }
        Ok(Some(steps.here()))
    }

    fn child(&self, dir: Id, name: &[u8]) -> Option<&Dentry> {
        match &self.node(dir).kind {
            NodeKind::Dir(children) => children.get(name),
            _ => None,
        }
    }

    fn is_dir(&self, id: Id) -> bool {
        matches!(self.node(id).kind, NodeKind::Dir(_))
    }

    fn check_number(&self) -> Result<(), ConvertError> {
        if self.nodes.len() as u64 + self.links > self.max_entries {
            return Err(ConvertError::TooLarge { what: "the number of files".into(), limit: self.max_entries });
        }
        Ok(())
    }

    fn add(&mut self, node: Node) -> Result<Id, ConvertError> {
        self.check_number()?;
        self.nodes.push(node);
        Ok((self.nodes.len() - 1) as Id)
    }

    fn insert(&mut self, dir: Id, name: &[u8], dentry: Dentry) {
        if let NodeKind::Dir(children) = &mut self.nodes[dir as usize].kind {
            children.insert(name.into(), dentry);
        }
    }

    fn remove(&mut self, dir: Id, name: &[u8]) {
        if let NodeKind::Dir(children) = &mut self.nodes[dir as usize].kind {
            children.remove(name);
        }
    }
}

/// A walk along path components and the symlinks among them, never above
/// the root.
struct Steps {
    stack: Vec<(Id, usize)>,
    /// Components still to go, the next one last.
    pending: Vec<Box<[u8]>>,
    hops: u32,
}

impl Steps {
    fn new(path: &[&[u8]]) -> Self {
        Self { stack: vec![(ROOT, 0)], pending: path.iter().rev().map(|c| (*c).into()).collect(), hops: 0 }
    }

    fn here(&self) -> Id {
        self.stack.last().map_or(ROOT, |s| s.0)
    }

    fn next_name(&mut self) -> Option<Box<[u8]>> {
        while let Some(name) = self.pending.pop() {
            match &*name {
                b"" | b"." => {}
                b".." => {
                    if self.stack.len() > 1 {
                        self.stack.pop();
                    }
                }
                _ => return Some(name),
            }
        }
        None
    }

    fn enter(&mut self, id: Id, name: &[u8]) -> Result<(), ConvertError> {
        let len = self.stack.last().map_or(0, |s| s.1) + name.len() + 1;
        if self.stack.len() >= MAX_DEPTH || len > MAX_PATH - MAX_NAME {
            return Err(ConvertError::invalid("a folder lies too deep"));
        }
        self.stack.push((id, len));
        Ok(())
    }

    /// Into a folder, or on along a symlink; false where it is neither.
    fn through(&mut self, tree: &Tree, id: Id, name: &[u8]) -> Result<bool, ConvertError> {
        match &tree.node(id).kind {
            NodeKind::Dir(_) => self.enter(id, name)?,
            NodeKind::Symlink(target) => {
                self.hops += 1;
                if self.hops > MAX_SYMLINK_HOPS {
                    return Err(ConvertError::invalid(format!("too many symlinks on the way to {}", show(name))));
                }
                if target.starts_with(b"/") {
                    self.stack.truncate(1);
                }
                self.pending.extend(target.split(|b| *b == b'/').rev().map(Box::from));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The components of a member's path. Absolute ones count from the root;
/// `..` is refused.
fn components(path: &[u8]) -> Result<Vec<&[u8]>, ConvertError> {
    let mut out = Vec::new();
    for c in path.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".") {
        if c == b".." {
            return Err(ConvertError::invalid(format!("the path {} leads upwards", show(path))));
        }
        check_component(c)?;
        out.push(c);
    }
    if out.len() > MAX_DEPTH {
        return Err(ConvertError::invalid(format!("the path {} is too deep", show(path))));
    }
    Ok(out)
}

fn check_component(name: &[u8]) -> Result<(), ConvertError> {
    if name.len() > MAX_NAME {
        return Err(ConvertError::invalid(format!("the name {} is too long", show(name))));
    }
    Ok(())
}
