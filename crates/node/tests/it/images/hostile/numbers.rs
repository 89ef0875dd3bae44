//! Header fields that are no numbers, too large, negative, or lies; and the
//! kinds of members.

use super::liar::*;
use super::{Case, Expect, Site, holds, refused};

const NO_NUMBER: &str = "is not a number";
const TRUNCATED: &str = "is truncated";
const CHECKSUM: &str = "a wrong checksum";
const UNKNOWN: &str = "of the unknown tar type";

pub(super) fn cases(site: &Site) -> Vec<Case> {
    let mut all = sizes();
    all.extend(others(site));
    all.extend(checksums());
    all.extend(kinds());
    all
}

fn sizes() -> Vec<Case> {
    let x = |field: &[u8]| vec![file("x", "four").field(SIZE, field)];
    let mut all = Vec::new();
    for bad in ["-0000000001", "+0000000004", "00000000008", "0x000000004", "4.000000000", "four", "4 4", "4\n", "1e3"]
    {
        all.push(Case::layer(format!("an octal size of {bad:?}"), x(bad.as_bytes()), refused(NO_NUMBER)));
    }
    for (what, bad) in [
        ("a size of -1", -1i128),
        ("a size of -512", -512),
        ("a size of -2^63", -(1 << 63)),
        ("a size of -2^70", -(1 << 70)),
    ] {
        all.push(Case::layer(format!("{what} in base 256"), x(&base256(bad, 12)), refused(NO_NUMBER)));
    }
    for (what, bad) in [("2^64", 1i128 << 64), ("2^64+4", (1 << 64) + 4), ("2^72+4", (1 << 72) + 4), ("2^94", 1 << 94)]
    {
        all.push(Case::layer(format!("a size of {what} in base 256"), x(&base256(bad, 12)), refused(NO_NUMBER)));
    }
    for (what, bad) in [("2^63", 1i128 << 63), ("2^40", 1 << 40), ("5000", 5000)] {
        all.push(Case::layer(
            format!("a size of {what} in base 256, not there"),
            x(&base256(bad, 12)),
            refused(TRUNCATED),
        ));
    }
    all.push(Case::layer("a size of 2^64-1 in base 256", x(&base256((1 << 64) - 1, 12)), refused("a size overflows")));
    for (what, good) in [
        ("zeros in base 256", base256(4, 12)),
        ("spaces around", b"   4 ".to_vec()),
        ("no zeros", b"4".to_vec()),
        ("all twelve digits", b"000000000004".to_vec()),
    ] {
        all.push(Case::layer(format!("a size of 4 with {what}"), x(&good), holds(&["-rw-r--r-- x =4"])));
    }
    all.push(Case::layer("the largest octal size, not there", x(b"777777777777"), refused(TRUNCATED)));
    all.push(Case::layer(
        "a blank size for an empty file",
        vec![file("x", "").field(SIZE, b"")],
        holds(&["-rw-r--r-- x =0"]),
    ));
    all.push(Case::layer("a size below the body", vec![file("x", [b'z'; 2000]).size(4)], refused(CHECKSUM)));
    all.push(Case::layer("a size above the body", vec![file("x", "four").size(5000)], refused(TRUNCATED)));
    all.push(Case::layer("a size that swallows the next member", vec![file("x", "").size(512), file("y", "y")], {
        // The body of y is then no header.
        refused(CHECKSUM)
    }));
    all.push(Case::layer(
        "a folder with a body that is not there",
        vec![dir("d").size(1 << 33), file("x", "x")],
        holds(&["drwxr-xr-x d", "-rw-r--r-- x =1"]),
    ));
    all.push(Case::layer("a folder with a body", vec![dir("d").size(512).body([b'z'; 512])], refused(CHECKSUM)));
    all.push(Case::layer(
        "a fifo with a body that is not there",
        vec![Entry::new(b'6', "f").size(99), file("x", "x")],
        holds(&["prw-r--r-- f", "-rw-r--r-- x =1"]),
    ));
    let hidden = open_tar([file("hidden", "x")]);
    all.push(Case::layer(
        "members in a folder's body",
        vec![dir("d").size(hidden.len() as u64).body(&hidden)],
        holds(&["drwxr-xr-x d", "-rw-r--r-- hidden =1"]),
    ));
    all
}

fn others(site: &Site) -> Vec<Case> {
    let x = || file("x", "x");
    let plain = || holds(&["-rw-r--r-- x =1"]);
    let device = |major: &[u8]| Entry::new(b'3', "x").field(MAJOR, major);
    let mut all = vec![
        Case::layer("a mode with every bit", vec![x().field(MODE, "7777777")], holds(&["-rwsrwsrwt x =1"])),
        Case::layer("a mode that says folder", vec![x().field(MODE, "0040755")], holds(&["-rwxr-xr-x x =1"])),
        Case::layer("a mode that says device", vec![x().field(MODE, "0020644")], plain()),
        Case::layer("a mode of letters", vec![x().field(MODE, "rwxrwxr")], refused(NO_NUMBER)),
        Case::layer("a negative mode", vec![x().field(MODE, base256(-1, 8))], refused(NO_NUMBER)),
        Case::layer("a negative uid", vec![x().field(UID, base256(-1, 8))], refused(NO_NUMBER)),
        Case::layer("a uid of -0", vec![x().field(UID, "-0000000")], refused(NO_NUMBER)),
        Case::layer("a uid of 2^32", vec![x().field(UID, base256(1 << 32, 8))], refused("is too large")),
        Case::layer("a uid of 2^55", vec![x().field(UID, base256(1 << 55, 8))], refused("is too large")),
        Case::layer(
            "the largest uid in base 256",
            vec![x().field(UID, base256(0xffff_fffe, 8))],
            holds(&["-rw-r--r-- x =1 @4294967294/0"]),
        ),
        Case::layer("a blank uid", vec![x().field(UID, b"")], plain()),
        Case::layer("a time before 1970", vec![x().field(MTIME, base256(-1, 12))], plain()),
        Case::layer("a time in the far future", vec![x().field(MTIME, base256(1 << 62, 12))], plain()),
        Case::layer("a time of noise", vec![x().field(MTIME, "yesterday")], plain()),
        Case::layer("a major number of 4,096", vec![device(b"0010000")], refused("an impossible device number")),
        Case::layer(
            "a minor number of 1,048,576",
            vec![Entry::new(b'4', "x").device(8, 0o4000000)],
            refused("an impossible device number"),
        ),
        Case::layer("a negative major number", vec![device(&base256(-1, 8))], refused(NO_NUMBER)),
        Case::layer("a major number of noise", vec![device(b"noise")], refused(NO_NUMBER)),
        Case::layer(
            "a device of large numbers",
            vec![Entry::new(b'4', "x").device(0xff, 0xff)],
            holds(&["brw-r--r-- x #255,255"]),
        ),
    ];
    let [one, two] = site.reserved.map(u64::from);
    for (what, entries) in [
        ("a file", vec![file("x", "").uid(one), file("y", "").uid(two)]),
        ("a folder", vec![dir("x").uid(one), dir("y").uid(two)]),
        ("a hidden file", vec![file("x", "").uid(one), file("y", "").uid(two), file("x", ""), file("y", "")]),
    ] {
        all.push(Case::layer(
            format!("{what} of the converter's own user"),
            entries,
            refused("which the node keeps for itself"),
        ));
    }
    let by_pax = [one, two].map(|id| file("x", "").pax(&[("gid", id.to_string().as_bytes())]));
    all.push(Case::layer(
        "a file of the converter's own group by PAX",
        by_pax.to_vec(),
        refused("which the node keeps for itself"),
    ));
    all
}

fn checksums() -> Vec<Case> {
    let mut blank = file("x", "x").bytes();
    blank[148..156].fill(b' ');
    let mut signed = file("\u{ff}\u{ff}", "x").bytes();
    let sum: i32 = signed[..148].iter().chain(&signed[156..512]).map(|b| i32::from(*b as i8)).sum::<i32>() + 8 * 32;
    signed[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut flipped = file("x", "x").bytes();
    flipped[3] = b'y';
    vec![
        Case::layer("a checksum that is off by one", vec![file("x", "x").wrong_checksum()], refused(CHECKSUM)),
        Case::layer(
            "a wrong checksum in the second member",
            vec![file("x", "x"), file("y", "y").wrong_checksum()],
            refused(CHECKSUM),
        ),
        Case::raw("a blank checksum", blank, refused(CHECKSUM)),
        Case::raw("a checksum of signed bytes", signed, refused(CHECKSUM)),
        Case::raw("a name changed after the checksum", flipped, refused(CHECKSUM)),
        Case::raw("a block of noise", vec![0xa5; 512], refused(CHECKSUM)),
        Case::raw(
            "a web page for a layer",
            [b"<!DOCTYPE html><html>".to_vec(), vec![b' '; 2000]].concat(),
            refused(CHECKSUM),
        ),
        Case::raw("a web page shorter than a header", b"<!DOCTYPE html><html>".to_vec(), refused(TRUNCATED)),
        Case::raw("a program for a layer", std::fs::read("/bin/true").expect("a program"), refused(CHECKSUM)),
    ]
}

fn kinds() -> Vec<Case> {
    let node = |kind: u8, major, minor| Entry::new(kind, "x").device(major, minor);
    let mut all = vec![
        // Kept, as images need them; they act inside the guest only.
        Case::layer("a setuid program", vec![file("su", "x").mode(0o4755)], holds(&["-rwsr-xr-x su =1"])),
        Case::layer("a setgid folder", vec![dir("d").mode(0o2777)], holds(&["drwxrwsrwx d"])),
        Case::layer("a setuid symlink", vec![symlink("l", "x").mode(0o6777)], holds(&["lrwxrwxrwx l -> x"])),
        Case::layer("a disk's device", vec![node(b'4', 8, 0)], holds(&["brw-r--r-- x #8,0"])),
        Case::layer("the memory's device", vec![node(b'3', 1, 1)], holds(&["crw-r--r-- x #1,1"])),
        Case::layer("a fifo", vec![Entry::new(b'6', "x")], holds(&["prw-r--r-- x"])),
        // An overlay would take it for a whiteout.
        Case::layer("a whiteout device", vec![node(b'3', 0, 0)], holds(&[])),
        Case::layer("a whiteout device in a folder", vec![Entry::new(b'3', "d/x").device(0, 0)], holds(&[])),
        Case::layers(
            "a whiteout device over a file",
            vec![vec![file("x", "x")], vec![node(b'3', 0, 0)]],
            holds(&["-rw-r--r-- x =1"]),
        ),
        Case::layer("a block device 0:0", vec![node(b'4', 0, 0)], holds(&["brw-r--r-- x #0,0"])),
        Case::layer(
            "a whiteout device with blank numbers",
            vec![Entry::new(b'3', "x").field(MAJOR, b"").field(337..345, b"")],
            holds(&[]),
        ),
        Case::layer(
            "a contiguous file",
            vec![file("x", "x")].into_iter().map(|e| e.field(156..157, b"7")).collect(),
            holds(&["-rw-r--r-- x =1"]),
        ),
        Case::layer(
            "a file of the oldest kind",
            vec![file("x", "x").field(156..157, b"\0")],
            holds(&["-rw-r--r-- x =1"]),
        ),
    ];
    for kind in *b"89ADIMNVXZaz ~\xff\x01" {
        let name = format!("a member of type {:?}", char::from(kind));
        all.push(Case::layer(name, vec![Entry::new(kind, "x")], refused(UNKNOWN)));
    }
    all.push(Case::layer(
        "an unknown member with a body",
        vec![file("x", "x").field(156..157, b"Z")],
        Expect::Refused(UNKNOWN),
    ));
    all
}
