//! The merge against a model that does the same the simple way: a map from
//! path to file, in which every layer first hides and then adds.

use super::member::{Kind, Member, Members, Meta};
use super::tree::{NodeKind, ROOT, Tree};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Op {
    Dir(String),
    File(String, u8),
    Symlink(String),
    Whiteout(String),
    Opaque(String),
}

impl Op {
    fn member(&self) -> Member {
        let meta = |mode| Meta { mode, ..Meta::default() };
        let hide = |path: &str| match path.rsplit_once('/') {
            Some((dir, name)) => format!("{dir}/.wh.{name}"),
            None => format!(".wh.{path}"),
        };
        let (path, kind, mode) = match self {
            Op::Dir(p) => (format!("./{p}/"), Kind::Dir, 0o700),
            Op::File(p, n) => (p.clone(), Kind::File, u32::from(*n)),
            Op::Symlink(p) => (p.clone(), Kind::Symlink(b"/nowhere/at/all".to_vec()), 0o777),
            Op::Whiteout(p) => (hide(p), Kind::File, 0),
            Op::Opaque(p) => (format!("{p}/.wh..wh..opq"), Kind::File, 0),
        };
        Member { path: path.into_bytes(), kind, meta: meta(mode), size: 0 }
    }
}

/// Mode of each path; folders are `None`-sized, links have a letter.
type Model = BTreeMap<String, (char, u32)>;

fn below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

/// One layer. Errors where a parent is no folder, as the tree does.
fn model_layer(lower: &Model, ops: &[Op]) -> Option<Model> {
    let mut old = lower.clone();
    for op in ops {
        match op {
            Op::Whiteout(p) => old.retain(|path, _| path != p && !below(path, p)),
            Op::Opaque(p) => old.retain(|path, _| !below(path, p)),
            _ => {}
        }
    }
    let mut merged = old;
    for op in ops {
        let (path, kind, mode) = match op {
            Op::Dir(p) => (p, 'd', 0o700),
            Op::File(p, n) => (p, 'f', u32::from(*n)),
            Op::Symlink(p) => (p, 'l', 0o777),
            _ => continue,
        };
        for (i, _) in path.match_indices('/') {
            let parent = &path[..i];
            match merged.get(parent) {
                None => drop(merged.insert(parent.to_owned(), ('d', 0o755))),
                Some(('d', _)) => {}
                Some(_) => return None,
            }
        }
        if kind != 'd' || merged.get(path).is_some_and(|(k, _)| *k != 'd') {
            merged.retain(|other, _| !below(other, path));
        }
        merged.insert(path.clone(), (kind, mode));
    }
    Some(merged)
}

fn flatten(tree: &Tree) -> Model {
    let mut out = Model::new();
    let mut todo = vec![(ROOT, String::new())];
    while let Some((dir, prefix)) = todo.pop() {
        for (name, id) in tree.children(dir) {
            let path = format!("{prefix}{}", String::from_utf8_lossy(name));
            let node = tree.node(id);
            let kind = match node.kind {
                NodeKind::Dir(_) => 'd',
                NodeKind::Symlink(_) => 'l',
                _ => 'f',
            };
            out.insert(path.clone(), (kind, node.meta.mode));
            if kind == 'd' {
                todo.push((id, format!("{path}/")));
            }
        }
    }
    out
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => path().prop_map(Op::Dir),
        4 => (path(), 0u8..).prop_map(|(p, n)| Op::File(p, n)),
        1 => path().prop_map(Op::Symlink),
        2 => path().prop_map(Op::Whiteout),
        1 => path().prop_map(Op::Opaque),
    ]
}

/// Whiteouts first, as image builders write them.
fn hides_first(mut ops: Vec<Op>) -> Vec<Op> {
    ops.sort_by_key(|op| !matches!(op, Op::Whiteout(_) | Op::Opaque(_)));
    ops
}

fn apply(layers: &[Vec<Op>]) -> Result<Tree, ConvertError> {
    let mut tree = Tree::new(10_000);
    for (n, ops) in layers.iter().enumerate() {
        for (ordinal, op) in ops.iter().enumerate() {
            tree.apply(n as u16, ordinal as u32, op.member())?;
        }
    }
    Ok(tree)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn merging_is_what_the_model_says(layers in proptest::collection::vec(proptest::collection::vec(op(), 0..8), 1..4)) {
        let layers: Vec<Vec<Op>> = layers.into_iter().map(hides_first).collect();
        // A symlink among the parents leads elsewhere; the model knows none.
        let links = layers.iter().flatten().any(|op| matches!(op, Op::Symlink(_)));
        let model = layers.iter().try_fold(Model::new(), |lower, ops| model_layer(&lower, ops));
        match (apply(&layers), model) {
            (Ok(tree), Some(model)) => prop_assert_eq!(flatten(&tree), model),
            (Err(_), Some(model)) => prop_assert!(false, "refused, model: {:?}", model),
            (Ok(_), None) => prop_assert!(links, "accepted what has a file for a folder"),
            (Err(_), None) => {}
        }
    }

    #[test]
    fn reading_never_panics(data in proptest::collection::vec(0u8.., 0..2048)) {
        let mut members = Members::new(data.as_slice());
        while let Ok(Some(_)) = members.next() {}
    }
}

#[test]
fn a_whiteout_hides_lower_layers_only() {
    let layers = vec![
        vec![Op::File("d/old".into(), 1), Op::File("x".into(), 1)],
        vec![Op::File("x".into(), 2), Op::Whiteout("x".into()), Op::File("d/new".into(), 3), Op::Whiteout("d".into())],
    ];
    let merged = flatten(&apply(&layers).expect("valid"));
    let paths: Vec<&str> = merged.keys().map(String::as_str).collect();
    assert_eq!(paths, ["d", "d/new", "x"]);
    assert_eq!(merged["x"], ('f', 2));
}

#[test]
fn paths_that_lead_out_or_too_deep_are_refused() {
    let long = "n".repeat(256);
    let deep = vec!["a"; 600].join("/");
    for bad in ["../x", "a/../../x", long.as_str(), deep.as_str(), ".wh.a/b", ".wh."] {
        let op = Op::File(bad.into(), 0);
        assert!(apply(&[vec![op]]).is_err(), "{bad}");
    }
    let absolute = apply(&[vec![Op::File("/etc/x".into(), 0)]]).expect("counts from the root");
    assert!(flatten(&absolute).contains_key("etc/x"));
}

#[test]
fn the_number_of_files_is_bounded() {
    let mut tree = Tree::new(3);
    let added = (0..5).try_for_each(|n| tree.apply(0, n, Op::File(format!("f{n}"), 0).member()));
    assert!(matches!(added, Err(ConvertError::TooLarge { .. })));
}
