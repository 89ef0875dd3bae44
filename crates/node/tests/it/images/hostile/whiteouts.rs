//! Whiteouts: of what is not theirs, of themselves, of the root.

use super::liar::*;
use super::{Case, Expect, holds, refused};

const NOTHING: &str = "a whiteout names nothing";
const INSIDE: &str = "lies in a whiteout";
const OPAQUE: &str = ".wh..wh..opq";

pub(super) fn cases() -> Vec<Case> {
    let mut all = odd_names();
    all.extend(what_they_hide());
    all
}

fn odd_names() -> Vec<Case> {
    let mut all = Vec::new();
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh..."] {
        let entries = vec![dir("d"), file(name, "")];
        all.push(Case::layer(format!("a whiteout named {name}"), entries, refused(NOTHING)));
    }
    for name in [".wh.d/x", ".wh.d/.wh.x", "a/.wh.d/b/c", ".wh..wh..opq/x", ".wh../x"] {
        all.push(Case::layer(format!("a file at {name}"), vec![file(name, "x")], refused(INSIDE)));
    }
    // What older unions left in their folders.
    for name in [".wh..wh.plnk", ".wh..wh.aufs", ".wh..wh.orph/x", "d/.wh..wh.plnk/1.2"] {
        let expect = holds(&["-rw-r--r-- x =1"]);
        all.push(Case::layer(
            format!("a union's own {name}"),
            vec![file("x", "x"), file(name, "evil").mode(0o4755)],
            expect,
        ));
    }
    for (what, entry) in [
        ("a folder", dir(".wh.x")),
        ("a symlink", symlink(".wh.x", "/etc/passwd")),
        ("a hard link", hard(".wh.x", "nowhere")),
        ("a fifo", Entry::new(b'6', ".wh.x")),
        ("a device", Entry::new(b'4', ".wh.x").device(8, 0)),
        ("a setuid file with a body", file(".wh.x", "evil").mode(0o4777)),
    ] {
        let layers = vec![vec![file("x", "x"), file("y", "y")], vec![entry]];
        all.push(Case::layers(format!("a whiteout that is {what}"), layers, holds(&["-rw-r--r-- y =1"])));
    }
    let long = format!(".wh.{}", "n".repeat(252));
    all.push(Case::layer(
        "a whiteout's name of 256 bytes",
        vec![file("x", "").pax(&[("path", long.as_bytes())])],
        refused("is too long"),
    ));
    all
}

fn what_they_hide() -> Vec<Case> {
    let below = || vec![file("d/a", "x"), file("d/b", "x"), file("e", "x")];
    let all_below = ["drwxr-xr-x d", "-rw-r--r-- d/a =1", "-rw-r--r-- d/b =1", "-rw-r--r-- e =1"];
    let over = |name: &str, upper: Vec<Entry>, lines: &[&str]| Case::layers(name, vec![below(), upper], holds(lines));
    let many = 2000;
    vec![
        over("a whiteout of what is not there", vec![file(".wh.zz", "")], &all_below),
        over("a whiteout below what is not there", vec![file("zz/.wh.a", "")], &all_below),
        over("a whiteout below a file", vec![file("e/.wh.a", "")], &all_below),
        over("an opaque whiteout of a file", vec![file(format!("e/{OPAQUE}"), "")], &all_below),
        over("an opaque whiteout of what is not there", vec![file(format!("zz/{OPAQUE}"), "")], &all_below),
        over("an opaque root", vec![file(OPAQUE, ""), file("new", "x")], &["-rw-r--r-- new =1"]),
        over("an opaque root after its own file", vec![file("new", "x"), file(OPAQUE, "")], &["-rw-r--r-- new =1"]),
        over(
            "an opaque folder twice",
            vec![file(format!("d/{OPAQUE}"), ""), file("d/n", "x"), file(format!("d/{OPAQUE}"), "")],
            &["drwxr-xr-x d", "-rw-r--r-- d/n =1", "-rw-r--r-- e =1"],
        ),
        over(
            "a whiteout of its own layer's file",
            vec![file("n", "x"), file(".wh.n", "")],
            &[&all_below[..], &["-rw-r--r-- n =1"]].concat(),
        ),
        over(
            "a whiteout before its own layer's file",
            vec![file(".wh.e", ""), file("e", "four")],
            &["drwxr-xr-x d", "-rw-r--r-- d/a =1", "-rw-r--r-- d/b =1", "-rw-r--r-- e =4"],
        ),
        over(
            "a whiteout after its own layer's file",
            vec![file("e", "four"), file(".wh.e", "")],
            &["drwxr-xr-x d", "-rw-r--r-- d/a =1", "-rw-r--r-- d/b =1", "-rw-r--r-- e =4"],
        ),
        over(
            "a whiteout of a folder with its own layer's file",
            vec![file("d/n", "x"), file(".wh.d", "")],
            &["drwxr-xr-x d", "-rw-r--r-- d/n =1", "-rw-r--r-- e =1"],
        ),
        over(
            "a whiteout and then a symlink in its place",
            vec![file(".wh.d", ""), symlink("d", "/etc"), file("d/x", "x")],
            &["lrwxrwxrwx d -> /etc", "drwxr-xr-x etc", "-rw-r--r-- etc/x =1", "-rw-r--r-- e =1"],
        ),
        over(
            "a whiteout with upward steps in its name",
            vec![file("d/./.wh.a", "")],
            &["drwxr-xr-x d", "-rw-r--r-- d/b =1", "-rw-r--r-- e =1"],
        ),
        over("a whiteout of a mount point", vec![file(".wh.proc", ""), file(".wh.dev", "")], &all_below),
        Case::layers(
            "a whiteout through a lower layer's symlink",
            vec![vec![file("etc/a", "x"), symlink("d", "/etc")], vec![file("d/.wh.a", "")]],
            holds(&["drwxr-xr-x etc", "lrwxrwxrwx d -> /etc"]),
        ),
        Case::layers(
            "a whiteout of a symlink spares its target",
            vec![vec![file("t/a", "x"), symlink("d", "/t")], vec![file(".wh.d", "")]],
            holds(&["drwxr-xr-x t", "-rw-r--r-- t/a =1"]),
        ),
        Case::layers(
            "a whiteout of one of two hard links",
            vec![vec![file("a", "x"), hard("b", "a")], vec![file(".wh.a", "")]],
            holds(&["-rw-r--r-- b =1"]),
        ),
        Case::layers(
            "a whiteout taken back by a third layer",
            vec![vec![file("a", "x")], vec![file(".wh.a", "")], vec![file("a", "four")]],
            holds(&["-rw-r--r-- a =4"]),
        ),
        Case::layer(
            "a whiteout in the lowest layer",
            vec![file("a", "x"), file(".wh.a", ""), file(".wh.b", "")],
            holds(&["-rw-r--r-- a =1"]),
        ),
        Case::layers(
            "a thousand whiteouts of one large folder",
            vec![
                (0..many).map(|n| file(format!("d/f{n}"), "")).collect(),
                (0..1000)
                    .map(|_| file(".wh.d", ""))
                    .chain((0..1000).map(|_| file(format!("d/{OPAQUE}"), "")))
                    .collect(),
            ],
            holds(&[]),
        ),
        Case::layers(
            "every file of a large folder hidden one by one",
            vec![
                (0..many).map(|n| file(format!("d/f{n}"), "")).collect(),
                (0..many).map(|n| file(format!("d/.wh.f{n}"), "")).collect(),
            ],
            holds(&["drwxr-xr-x d"]),
        ),
        Case::layers(
            "40 layers that hide each other",
            (0..40).map(|n| vec![file(format!(".wh.f{}", n - 1), ""), file(format!("f{n}"), "x")]).collect(),
            Expect::Holds(vec!["-rw-r--r-- f39 =1".into()]),
        ),
    ]
}
