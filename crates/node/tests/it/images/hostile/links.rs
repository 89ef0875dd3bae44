//! Links of both kinds: out of the root, to each other, in circles, and what
//! is written through them.

use super::liar::*;
use super::{Case, Expect, Site, holds, refused};

const CIRCLE: &str = "too many symlinks";
const NOT_THERE: &str = "which is not there";
const NO_FOLDER: &str = "is needed as a folder and is none";
const NO_TARGET: &str = "has no target";

pub(super) fn cases(site: &Site) -> Vec<Case> {
    let mut all = kept_as_data(site);
    all.extend(written_through(site));
    all.extend(circles());
    all.extend(hard_links());
    all.extend(replaced());
    all
}

/// A symlink is text: where it points matters inside the guest only.
fn kept_as_data(site: &Site) -> Vec<Case> {
    let canary = site.path("canary");
    let mut all = Vec::new();
    for target in [
        "/etc/shadow",
        "../../../../etc/shadow",
        "/proc/self/mem",
        "/proc/1/root",
        "..",
        "/",
        "//",
        ".",
        "x",
        "/dev/kmsg",
    ] {
        let line = format!("lrwxrwxrwx x -> {target}");
        all.push(Case::layer(format!("a symlink to {target}"), vec![symlink("x", target)], holds(&[&line])));
    }
    all.push(Case::layer(
        "a symlink to the canary",
        vec![symlink("x", &canary)],
        holds(&[&format!("lrwxrwxrwx x -> {canary}")]),
    ));
    all.push(Case::layer(
        "an escape sequence in a symlink's target",
        vec![symlink("x", "\n\x1b[31m")],
        holds(&[r"lrwxrwxrwx x -> \n\x1b[31m"]),
    ));
    all.push(Case::layer(
        "a symlink's target that is not UTF-8",
        vec![symlink("x", b"\xff\xfe")],
        holds(&[r"lrwxrwxrwx x -> \xff\xfe"]),
    ));
    all.push(Case::layer(
        "a symlink with a body that is not there",
        vec![symlink("x", "y").size(1 << 30)],
        holds(&["lrwxrwxrwx x -> y"]),
    ));
    all.push(Case::layer("a symlink without a target", vec![symlink("x", "")], refused(NO_TARGET)));
    all.push(Case::layer("a hard link without a target", vec![hard("x", "")], refused(NO_TARGET)));
    all
}

/// Symlinks among the parents are followed, in the image's root only.
fn written_through(site: &Site) -> Vec<Case> {
    let outer = site.path("");
    let outer = outer.trim_end_matches('/');
    let through = |target: &str| vec![symlink("d", target), file("d/x", "evil")];
    let etc = |target: &str| holds(&["drwxr-xr-x etc", "-rw-r--r-- etc/x =4", &format!("lrwxrwxrwx d -> {target}")]);
    let mut all = Vec::new();
    for target in ["/etc", "../../../../etc", "etc", "./etc/.", "/etc/../etc", "/../etc", "//etc//", "x/../../etc"] {
        let expect = match target {
            "x/../../etc" => {
                holds(&["drwxr-xr-x etc", "drwxr-xr-x x", "-rw-r--r-- etc/x =4", "lrwxrwxrwx d -> x/../../etc"])
            }
            _ => etc(target),
        };
        all.push(Case::layer(format!("a file through a symlink to {target}"), through(target), expect));
    }
    let mut lines: Vec<String> =
        outer[1..].match_indices('/').map(|(i, _)| format!("drwxr-xr-x {}", &outer[1..=i])).collect();
    lines.extend([format!("drwxr-xr-x {}", &outer[1..]), format!("lrwxrwxrwx d -> {outer}")]);
    let with = |line: String| Expect::Holds(lines.iter().cloned().chain([line]).collect());
    all.push(Case::layer(
        "the canary through a symlink to its folder",
        vec![symlink("d", outer), file("d/canary", "dead")],
        with(format!("-rw-r--r-- {}/canary =4", &outer[1..])),
    ));
    all.push(Case::layers(
        "the canary through a symlink of a lower layer",
        vec![vec![symlink("d", outer)], vec![file("d/canary", "dead")]],
        with(format!("-rw-r--r-- {}/canary =4", &outer[1..])),
    ));
    all.push(Case::layer(
        "a whiteout of the canary through a symlink",
        vec![symlink("d", outer), file("d/.wh.canary", "")],
        holds(&[&format!("lrwxrwxrwx d -> {outer}")]),
    ));
    all.push(Case::layer(
        "an opaque whiteout of the canary's folder through a symlink",
        vec![symlink("d", outer), file("d/.wh..wh..opq", "")],
        holds(&[&format!("lrwxrwxrwx d -> {outer}")]),
    ));
    all.push(Case::layer(
        "a hard link to the canary through a symlink",
        vec![symlink("d", outer), hard("x", "d/canary")],
        refused(NOT_THERE),
    ));
    all.push(Case::layer(
        "a symlink set twice, then used",
        vec![symlink("d", "/a"), symlink("d", "/etc"), file("d/x", "evil")],
        etc("/etc"),
    ));
    all.push(Case::layer(
        "a symlink through /proc/self/root",
        through("/proc/self/root"),
        holds(&[
            "drwxr-xr-x proc",
            "drwxr-xr-x proc/self",
            "drwxr-xr-x proc/self/root",
            "-rw-r--r-- proc/self/root/x =4",
            "lrwxrwxrwx d -> /proc/self/root",
        ]),
    ));
    all.push(Case::layer(
        "a file through a symlink to the root",
        through("/"),
        holds(&["-rw-r--r-- x =4", "lrwxrwxrwx d -> /"]),
    ));
    all.push(Case::layer(
        "a file through a chain of three symlinks",
        vec![symlink("a", "b"), symlink("b", "c"), symlink("c", "/etc"), file("a/x", "evil")],
        holds(&[
            "drwxr-xr-x etc",
            "-rw-r--r-- etc/x =4",
            "lrwxrwxrwx a -> b",
            "lrwxrwxrwx b -> c",
            "lrwxrwxrwx c -> /etc",
        ]),
    ));
    all.push(Case::layer(
        "a folder through a symlink",
        vec![symlink("d", "/etc"), dir("d/x").mode(0o700)],
        holds(&["drwxr-xr-x etc", "drwx------ etc/x", "lrwxrwxrwx d -> /etc"]),
    ));
    all.push(Case::layer(
        "a symlink through a symlink",
        vec![symlink("d", "/etc"), symlink("d/x", "/")],
        holds(&["drwxr-xr-x etc", "lrwxrwxrwx etc/x -> /", "lrwxrwxrwx d -> /etc"]),
    ));
    all
}

fn circles() -> Vec<Case> {
    let chain = |n: usize| (0..n).map(move |i| symlink(format!("l{i}"), format!("l{}", i + 1)));
    let doubled = (0..30).map(|n| match n {
        0 => symlink("l0", "."),
        n => symlink(format!("l{n}"), format!("l{0}/l{0}", n - 1)),
    });
    vec![
        Case::layer("a symlink to itself", vec![symlink("a", "a"), file("a/x", "")], refused(CIRCLE)),
        Case::layer(
            "two symlinks to each other",
            vec![symlink("a", "b"), symlink("b", "a"), file("a/x", "")],
            refused(CIRCLE),
        ),
        Case::layer("a symlink below itself", vec![symlink("a", "a/b"), file("a/x", "")], refused(CIRCLE)),
        Case::layer("a circle through ..", vec![symlink("d/a", "../d/a"), file("d/a/x", "")], refused(CIRCLE)),
        Case::layer("a circle across layers", vec![symlink("a", "b")], holds(&["lrwxrwxrwx a -> b"])),
        Case::layers(
            "a circle closed by an upper layer",
            vec![vec![symlink("a", "b")], vec![symlink("b", "/a"), file("a/x", "")]],
            refused(CIRCLE),
        ),
        Case::layer("a chain of 41 symlinks", chain(41).chain([file("l0/x", "")]).collect(), refused(CIRCLE)),
        Case::layer(
            "symlinks that double with each step",
            doubled.chain([file("l29/x", "")]).collect(),
            refused(CIRCLE),
        ),
        Case::layer("a hard link through a circle", vec![symlink("a", "a"), hard("x", "a/b")], refused(CIRCLE)),
        Case::layer("a whiteout through a circle", vec![symlink("a", "a"), file("a/.wh.b", "")], refused(CIRCLE)),
        Case::layer(
            "a circle that nothing uses",
            vec![symlink("a", "b"), symlink("b", "a")],
            holds(&["lrwxrwxrwx a -> b", "lrwxrwxrwx b -> a"]),
        ),
    ]
}

fn hard_links() -> Vec<Case> {
    vec![
        Case::layer(
            "a hard link to a symlink that leads out",
            vec![symlink("a", "/etc/shadow"), hard("x", "a")],
            holds(&["lrwxrwxrwx a -> /etc/shadow", "lrwxrwxrwx x -> /etc/shadow"]),
        ),
        Case::layer(
            "a hard link to a hard link",
            vec![file("a", "one"), hard("b", "a"), hard("c", "b")],
            holds(&["-rw-r--r-- a =3", "-rw-r--r-- b =3", "-rw-r--r-- c =3"]),
        ),
        Case::layer("a hard link to itself", vec![hard("a", "a")], refused(NOT_THERE)),
        Case::layer(
            "a hard link over its own target",
            vec![file("a", "x"), hard("a", "a")],
            holds(&["-rw-r--r-- a =1"]),
        ),
        Case::layer("a hard link to what comes later", vec![hard("x", "a"), file("a", "x")], refused(NOT_THERE)),
        Case::layer(
            "a hard link to a folder",
            vec![dir("d"), hard("x", "d")],
            refused("a hard link points to the folder"),
        ),
        Case::layer("a hard link to the root", vec![hard("x", "/")], refused(NOT_THERE)),
        Case::layer("a hard link to what its layer hides", vec![file("x", "")], holds(&["-rw-r--r-- x =0"])),
        Case::layers(
            "a hard link to what its layer has hidden",
            vec![vec![file("a", "x")], vec![file(".wh.a", ""), hard("b", "a")]],
            refused(NOT_THERE),
        ),
        Case::layers(
            "a hard link to what its layer hides later",
            vec![vec![file("a", "x")], vec![hard("b", "a"), file(".wh.a", "")]],
            holds(&["-rw-r--r-- b =1"]),
        ),
        Case::layer(
            "a hard link through a symlink",
            vec![file("etc/a", "x"), symlink("d", "/etc"), hard("x", "d/a")],
            holds(&["drwxr-xr-x etc", "-rw-r--r-- etc/a =1", "lrwxrwxrwx d -> /etc", "-rw-r--r-- x =1"]),
        ),
        Case::layer("a hard link below a file", vec![file("a", ""), hard("x", "a/b")], refused(NOT_THERE)),
        Case::layer(
            "a hard link to a device",
            vec![Entry::new(b'3', "null").device(1, 3), hard("x", "null")],
            holds(&["crw-r--r-- null #1,3", "crw-r--r-- x #1,3"]),
        ),
        Case::layer(
            "a hard link to a whiteout device",
            vec![Entry::new(b'3', "gone").device(0, 0), hard("x", "gone")],
            refused(NOT_THERE),
        ),
        Case::layer(
            "a hard link that would change its target's mode",
            vec![file("a", "x").mode(0o600), hard("x", "a").mode(0o4777)],
            holds(&["-rw------- a =1", "-rw------- x =1"]),
        ),
        Case::layer(
            "a hard link that carries a body",
            vec![file("a", "x"), hard("x", "a").size(600).body([b'z'; 600])],
            refused("a wrong checksum"),
        ),
        Case::layer(
            "a file over one of two hard links",
            vec![file("a", "one"), hard("b", "a"), file("b", "longer")],
            holds(&["-rw-r--r-- a =3", "-rw-r--r-- b =6"]),
        ),
        Case::layers(
            "a file over a lower layer's hard link",
            vec![vec![file("a", "one"), hard("b", "a")], vec![file("a", "longer")]],
            holds(&["-rw-r--r-- a =6", "-rw-r--r-- b =3"]),
        ),
        Case::layer(
            "1,000 hard links to one file",
            [file("a", "x")].into_iter().chain((0..1000).map(|n| hard(format!("l{n}"), "a"))).collect(),
            {
                let links = (0..1000).map(|n| format!("-rw-r--r-- l{n} =1"));
                Expect::Holds(links.chain(["-rw-r--r-- a =1".to_owned()]).collect())
            },
        ),
    ]
}

fn replaced() -> Vec<Case> {
    vec![
        Case::layer(
            "a file over a symlink is not written through it",
            vec![symlink("x", "/etc/passwd"), file("x", "evil")],
            holds(&["-rw-r--r-- x =4"]),
        ),
        Case::layer(
            "a folder over a symlink to a folder",
            vec![symlink("d", "/etc"), dir("d"), file("d/x", "evil")],
            holds(&["drwxr-xr-x d", "-rw-r--r-- d/x =4"]),
        ),
        Case::layer(
            "a symlink over a folder that is not empty",
            vec![file("d/a", ""), symlink("d", "/etc"), file("d/x", "evil")],
            holds(&["lrwxrwxrwx d -> /etc", "drwxr-xr-x etc", "-rw-r--r-- etc/x =4"]),
        ),
        Case::layer("a file as a folder", vec![file("a", ""), file("a/b", "")], refused(NO_FOLDER)),
        Case::layer(
            "a symlink to a file as a folder",
            vec![file("a", ""), symlink("l", "a"), file("l/b", "")],
            refused(NO_FOLDER),
        ),
        Case::layer("a fifo as a folder", vec![Entry::new(b'6', "a"), file("a/b", "")], refused(NO_FOLDER)),
        Case::layer(
            "a device as a folder",
            vec![Entry::new(b'4', "a").device(8, 0), file("a/b", "")],
            refused(NO_FOLDER),
        ),
        Case::layers(
            "a lower layer's file as a folder",
            vec![vec![file("a", "")], vec![file("a/b", "")]],
            refused(NO_FOLDER),
        ),
        Case::layer(
            "a file over a folder that is not empty",
            vec![file("d/a/b", ""), file("d", "x")],
            holds(&["-rw-r--r-- d =1"]),
        ),
        Case::layer(
            "one name 500 times",
            (0..500).map(|n| file("x", vec![b'x'; n])).collect(),
            holds(&["-rw-r--r-- x =499"]),
        ),
        Case::layer(
            "/proc as a symlink",
            vec![symlink("proc", "/etc"), file("proc/x", "x")],
            holds(&["lrwxrwxrwx proc -> /etc", "drwxr-xr-x etc", "-rw-r--r-- etc/x =1"]),
        ),
        Case::layer("/dev as a file", vec![file("dev", "x")], holds(&["-rw-r--r-- dev =1"])),
    ]
}
