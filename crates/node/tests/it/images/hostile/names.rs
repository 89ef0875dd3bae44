//! Names that lead out, are odd, or are no names at all.

use super::audit::MARK;
use super::liar::*;
use super::{Case, Expect, Site, holds, refused};

const UPWARDS: &str = "leads upwards";
const BAD_NAME: &str = "a name is empty, too long or holds a NUL";

pub(super) fn cases(site: &Site) -> Vec<Case> {
    let mut all = upwards();
    all.extend(absolute(site));
    all.extend(odd_bytes());
    all.extend(lengths());
    all
}

/// `..` anywhere in a member's own name is refused, by every kind of member.
fn upwards() -> Vec<Case> {
    let up = "../".repeat(12);
    let paths = [
        format!("../{MARK}"),
        format!("{up}tmp/{MARK}"),
        format!("a/../../{MARK}"),
        format!("/../{MARK}"),
        format!("./../{MARK}"),
        format!("a/b/../../../{MARK}"),
        format!("..//{MARK}"),
        format!("a/..//..//{MARK}"),
        format!("{MARK}/.."),
        format!("{MARK}/../x"),
        "..".to_owned(),
        "./..".to_owned(),
        "../".to_owned(),
        "//..//".to_owned(),
    ];
    let mut all: Vec<Case> = paths
        .iter()
        .map(|path| Case::layer(format!("a file named {path}"), vec![file(path, "x")], refused(UPWARDS)))
        .collect();
    let path = format!("../{MARK}");
    let kinds = [
        ("folder", dir(&path)),
        ("symlink", symlink(&path, "x")),
        ("hard link", hard(&path, "x")),
        ("fifo", Entry::new(b'6', &path)),
        ("character device", Entry::new(b'3', &path).device(1, 3)),
        ("block device", Entry::new(b'4', &path).device(8, 0)),
        ("contiguous file", Entry::new(b'7', &path)),
        ("old-style file", Entry::new(0, &path)),
        ("whiteout", file(format!("../.wh.{MARK}"), "")),
        ("opaque whiteout", file("../.wh..wh..opq", "")),
    ];
    for (kind, entry) in kinds {
        all.push(Case::layer(format!("a {kind} above the root"), vec![entry], refused(UPWARDS)));
    }
    let split = file(MARK, "x").field(PREFIX, "a/../..");
    all.push(Case::layer("upwards in the prefix field", vec![split], refused(UPWARDS)));
    all.push(Case::layer(
        "upwards across prefix and name",
        vec![file(format!("./{MARK}"), "x").field(PREFIX, "..")],
        refused(UPWARDS),
    ));
    all.push(Case::layer(
        "upwards by a PAX path",
        vec![file("x", "x").pax(&[("path", path.as_bytes())])],
        refused(UPWARDS),
    ));
    all.push(Case::layer("upwards by a GNU long name", vec![file("x", "x").gnu_name(&path)], refused(UPWARDS)));
    all.push(Case::layer("a hard link's target upwards", vec![hard("x", "../../etc/passwd")], refused(UPWARDS)));
    all.push(Case::layer(
        "a hard link's PAX target upwards",
        vec![hard("x", "y").pax(&[("linkpath", b"../../etc/passwd")])],
        refused(UPWARDS),
    ));
    all.push(Case::layer(
        "a hard link's GNU target upwards",
        vec![hard("x", "y").gnu_link("../../etc/passwd")],
        refused(UPWARDS),
    ));
    all
}

/// Absolute names count from the image's root.
fn absolute(site: &Site) -> Vec<Case> {
    let canary = site.path("canary");
    let inside = |path: &str, size: usize| {
        let path = path.trim_matches('/');
        let mut lines: Vec<String> =
            path.match_indices('/').map(|(i, _)| format!("drwxr-xr-x {}", &path[..i])).collect();
        lines.push(format!("-rw-r--r-- {path} ={size}"));
        Expect::Holds(lines)
    };
    let mut all: Vec<Case> = [
        "/etc/passwd",
        "//etc//passwd",
        "/./etc/passwd",
        "///etc/shadow",
        "/etc/cron.d/x",
        "/root/.ssh/authorized_keys",
        "/proc/self/mem",
        "/sys/power/state",
        "/dev/sda",
        "/etc/ld.so.preload",
    ]
    .into_iter()
    .map(|path| {
        let clean: Vec<&str> = path.split('/').filter(|c| !c.is_empty() && *c != ".").collect();
        let mut expect = inside(&clean.join("/"), 4);
        // Mount points that the layer does not describe are plain folders.
        if let Expect::Holds(lines) = &mut expect {
            lines.iter_mut().for_each(|l| *l = l.trim_end().to_owned());
        }
        Case::layer(format!("a file named {path}"), vec![file(path, "evil")], expect)
    })
    .collect();
    all.push(Case::layer("the canary's own path", vec![file(&canary, "dead")], inside(&canary, 4)));
    all.push(Case::layer(
        "the canary's own path by PAX",
        vec![file("x", "dead").pax(&[("path", canary.as_bytes())])],
        inside(&canary, 4),
    ));
    all.push(Case::layer("a hard link to the canary", vec![hard("x", &canary)], refused("which is not there")));
    all.push(Case::layer("the root as a file", vec![file("/", "x")], refused("the root is not a folder")));
    all.push(Case::layer("the root as a symlink", vec![symlink("./", "/etc")], refused("the root is not a folder")));
    all.push(Case::layer(
        "the root as a hard link",
        vec![file("a", ""), hard(".", "a")],
        refused("the root is not a folder"),
    ));
    all.push(Case::layer(
        "the root as a device",
        vec![Entry::new(b'4', "/").device(8, 0)],
        refused("the root is not a folder"),
    ));
    all.push(Case::layer(
        "the root writable for all and another's",
        vec![dir("./").mode(0o7777).uid(1000)],
        holds(&[]),
    ));
    all
}

fn odd_bytes() -> Vec<Case> {
    let kept: [(&str, &[u8], &str); 14] = [
        ("a newline in a name", b"a\nb", r"a\nb"),
        ("a newline that looks like another line", b"a\n-rwsr-xr-x 0 0", r"a\n-rwsr-xr-x 0 0"),
        ("a carriage return in a name", b"a\rb", r"a\rb"),
        ("a terminal's escape sequence in a name", b"\x1b[2Jx", r"\x1b[2Jx"),
        ("a bell and a backspace in a name", b"\x07\x08x", r"\x07\x08x"),
        ("a DEL in a name", b"\x7fx", r"\x7fx"),
        ("a name that is not UTF-8", b"\xff\xfex", r"\xff\xfex"),
        ("an overlong UTF-8 slash in a name", b"..\xc0\xaf..\xc0\xafx", r"..\xc0\xaf..\xc0\xafx"),
        ("a cut UTF-8 sequence", b"x\xe2\x82", r"x\xe2\x82"),
        ("a right-to-left override in a name", b"x\xe2\x80\xaegnp.exe", r"x\xe2\x80\xaegnp.exe"),
        ("backslashes as separators", b"..\\..\\x", r"..\\..\\x"),
        ("a drive letter", b"C:\\x", r"C:\\x"),
        ("a name that looks like an option", b"-rf", "-rf"),
        ("three dots", b"...", "..."),
    ];
    let mut all: Vec<Case> = kept
        .into_iter()
        .map(|(what, name, shown)| {
            Case::layer(what, vec![file(name, "x")], holds(&[&format!("-rw-r--r-- {shown} =1")]))
        })
        .collect();
    let spaces = file(" ", "x");
    all.push(Case::layer("a name of one space", vec![spaces], holds(&["-rw-r--r--   =1"])));
    all.push(Case::layer(
        "shell words in a name",
        vec![file("$(id);`id`|x", "x")],
        holds(&["-rw-r--r-- $(id);`id`|x =1"]),
    ));
    all.push(Case::layer("a glob as a name", vec![file("*", "x")], holds(&["-rw-r--r-- * =1"])));
    all.push(Case::layer("a name in quotes", vec![file("\"'x", "x")], holds(&["-rw-r--r-- \\\"\\'x =1"])));
    all.push(Case::layer(
        "the reader's own root as a name",
        vec![file("squashfs-root/x", "x")],
        holds(&["drwxr-xr-x squashfs-root", "-rw-r--r-- squashfs-root/x =1"]),
    ));
    all.push(Case::layer("an arrow in a name", vec![file("x -> y", "x")], holds(&["-rw-r--r-- x -> y =1"])));
    for (what, entry) in [
        ("a NUL in a PAX path", file("x", "x").pax(&[("path", b"a\0b")])),
        ("a NUL at the end of a PAX path", file("x", "x").pax(&[("path", b"a\0")])),
        ("a PAX path of one NUL", file("x", "x").pax(&[("path", b"\0")])),
        ("a NUL in a GNU long name", file("x", "x").gnu_name("a\0b")),
        ("two NULs at the end of a GNU long name", file("x", "x").gnu_name("a\0")),
        ("an empty GNU long name", file("x", "x").gnu_name("")),
        ("an empty name", file("", "x")),
        ("a NUL first in the name field", file("\0abc", "x")),
        ("a NUL in a symlink's PAX target", symlink("x", "y").pax(&[("linkpath", b"a\0b")])),
        ("a NUL in a hard link's GNU target", hard("x", "y").gnu_link("a\0b")),
    ] {
        all.push(Case::layer(what, vec![entry], refused(BAD_NAME)));
    }
    all
}

fn lengths() -> Vec<Case> {
    let name = |n: usize| "n".repeat(n);
    let path = |parts: usize, part: usize| vec![name(part); parts].join("/");
    let pax = |path: &str| file("x", "x").pax(&[("path", path.as_bytes())]);
    let folders = |path: &str| {
        let mut lines: Vec<String> =
            path.match_indices('/').map(|(i, _)| format!("drwxr-xr-x {}", &path[..i])).collect();
        lines.push(format!("-rw-r--r-- {path} =1"));
        Expect::Holds(lines)
    };
    let deepest = path(500, 1);
    vec![
        Case::layer("a name field that is full to the last byte", vec![file(name(100), "x")], folders(&name(100))),
        Case::layer("a name of 255 bytes", vec![pax(&name(255))], folders(&name(255))),
        Case::layer("a name of 256 bytes", vec![pax(&name(256))], refused("is too long")),
        Case::layer("a folder's name of 256 bytes", vec![pax(&format!("{}/x", name(256)))], refused("is too long")),
        Case::layer("500 folders within each other", vec![pax(&deepest)], folders(&deepest)),
        Case::layer("600 folders within each other", vec![pax(&path(600, 1))], refused("is too deep")),
        Case::layer("a path of 4,095 bytes in deep folders", vec![pax(&path(128, 31))], refused("lies too deep")),
        Case::layer("a path of 4,096 bytes", vec![pax(&format!("{}x", path(128, 31)))], refused(BAD_NAME)),
        Case::layer("a path of 64 KiB", vec![pax(&path(4096, 15))], refused(BAD_NAME)),
        Case::layer("a GNU long name of 64 KiB", vec![file("x", "x").gnu_name(path(4096, 15))], refused(BAD_NAME)),
        Case::layer(
            "a GNU long name of 1 MiB and more",
            vec![file("x", "x").gnu_name(name(1 << 20))],
            Expect::TooLarge("an extension header"),
        ),
        Case::layer("a PAX path of 1 MiB and more", vec![pax(&name(1 << 20))], Expect::TooLarge("an extension header")),
        Case::layer(
            "a symlink's target of 5,000 bytes",
            vec![symlink("x", "y").gnu_link(name(5000))],
            refused(BAD_NAME),
        ),
        Case::layer(
            "folders made deeper step by step through links",
            (0..12)
                .flat_map(|n| {
                    let at = if n == 0 { String::new() } else { format!("l{}/", n - 1) };
                    let down = path(60, 1);
                    [
                        dir("x").pax(&[("path", format!("{at}{down}").as_bytes())]),
                        symlink(format!("l{n}"), format!("{at}{down}")),
                    ]
                })
                .collect(),
            refused("lies too deep"),
        ),
    ]
}
