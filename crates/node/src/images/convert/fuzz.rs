//! Layers as bytes: read, merged, written, and read again.

use super::member::{Kind, Member, Members};
use super::tree::Tree;
use super::{ConvertError, ConvertLimits, apply_members, layer_number, write};
use std::collections::BTreeSet;

const LIMITS: ConvertLimits = ConvertLimits { bytes: 1 << 20, entries: 500 };
const RESERVED: u32 = 4_000_000_000;
const BLOCK: usize = 512;

/// What the verb does, without files.
fn merged(layers: &[&[u8]]) -> Result<Vec<u8>, ConvertError> {
    let mut tree = Tree::new(LIMITS.entries);
    for (n, layer) in layers.iter().enumerate() {
        apply_members(&mut tree, layer_number(n)?, &LIMITS, RESERVED, &mut Members::new(*layer))?;
    }
    let mut out = Vec::new();
    let bodies = write::write_tree(&tree, &mut out)?;
    for (n, layer) in layers.iter().enumerate() {
        let n = layer_number(n)?;
        if bodies.wants(n) {
            write::write_bodies(&tree, &bodies, n, &mut Members::new(*layer), &mut out)?;
        }
    }
    write::write_end(&mut out)?;
    Ok(out)
}

fn members(tar: &[u8]) -> Vec<Member> {
    let mut members = Members::new(tar);
    std::iter::from_fn(|| members.next().expect("what we wrote can be read")).collect()
}

/// Checksums are set right, or hardly an input would come past the first
/// header; an input whose last byte is odd keeps its own.
fn mended(input: &[u8]) -> Vec<u8> {
    let mut tar = input.to_vec();
    if tar.last().is_some_and(|last| last % 2 == 1) {
        return tar;
    }
    for block in tar.chunks_exact_mut(BLOCK).filter(|block| &block[257..262] == b"ustar") {
        let sum = block[..148].iter().chain(&block[156..]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    tar
}

fn is_safe(member: &Member) {
    let path = &member.path;
    assert!(!path.is_empty() && path[0] != b'/' && path.len() <= 4096, "{:?}", String::from_utf8_lossy(path));
    for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
        assert!(part != b".." && part != b"." && !part.starts_with(b".wh."), "{:?}", String::from_utf8_lossy(path));
    }
    assert!(member.kind != Kind::Char(0, 0), "the overlay would take it for a whiteout");
    for (name, _) in &member.meta.xattrs {
        assert!(!name.starts_with(b"trusted.") && !name.starts_with(b"user.overlay."));
    }
    assert!(member.meta.uid != RESERVED && member.meta.gid != RESERVED);
}

#[test]
fn fuzz() {
    let words = &[
        "ustar\u{0}00",
        ".wh.",
        ".wh..wh..opq",
        "../",
        "/etc/passwd",
        "17 path=../../evil\n",
        "16 size=99999999\n",
        "31 SCHILY.xattr.user.overlay.x=y\n",
        "22 GNU.sparse.major=1\n",
        "00000000000\u{0}",
        "77777777777\u{0}",
    ];
    aether_fuzz::target("layers").max_len(32 << 10).memory(8 << 20).words(words).run(|input| {
        let tar = mended(input);
        // Two layers, cut in the middle: the second hides and replaces.
        let middle = tar.len() / 2 / BLOCK * BLOCK;
        let (lower, upper) = tar.split_at(middle);
        for layers in [&[lower, upper][..], &[&tar]] {
            let out = match merged(layers) {
                Ok(out) => out,
                Err(error) => {
                    assert!(error.to_string().len() <= 1024, "{error}");
                    continue;
                }
            };
            let found = members(&out);
            assert!(found.len() as u64 <= 2 * LIMITS.entries);
            let names: BTreeSet<_> = found.iter().map(|m| m.path.clone()).collect();
            assert_eq!(names.len(), found.len(), "a name comes twice");
            found.iter().for_each(is_safe);
            let again = merged(&[&out]).expect("a merged image is a valid layer");
            assert!(again == out, "merging what was merged changes it");
        }
    });
}
