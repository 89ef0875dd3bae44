//! PAX records and GNU long names against the header and against each other.

use super::liar::*;
use super::{Case, Expect, holds, refused};

const TWO_PAX: &str = "two PAX headers describe one member";
const TWO_NAMES: &str = "two long names describe one member";
const MALFORMED: &str = "a PAX header holds a malformed record";
const NO_NUMBER: &str = "is not a number";
const DANGLING: &str = "ends after an extension header";
const SPARSE: &str = "sparse files in layers are not supported";

pub(super) fn cases() -> Vec<Case> {
    let mut all = who_wins();
    all.extend(sizes());
    all.extend(malformed());
    all.extend(attributes());
    all
}

fn who_wins() -> Vec<Case> {
    let ok = || holds(&["-rw-r--r-- ok =1"]);
    let x = || file("x", "x");
    let named = |name: &str| extension(b'x', record("path", name));
    let prefixed = |magic: &[u8]| file("ok", "x").field(MAGIC, magic).field(PREFIX, "../..");
    vec![
        Case::layer("a PAX path over a bad name", vec![file("../x", "x").pax(&[("path", b"ok")])], ok()),
        Case::layer("a GNU long name over a bad name", vec![file("../x", "x").gnu_name("ok")], ok()),
        Case::layer("a PAX path after a GNU long name", vec![x().gnu_name("../x").pax(&[("path", b"ok")])], ok()),
        Case::layer("a GNU long name after a PAX path", vec![x().pax(&[("path", b"ok")]).gnu_name("../x")], ok()),
        Case::layer("a PAX path twice in one header", vec![x().pax(&[("path", b"../x"), ("path", b"ok")])], ok()),
        Case::layer("a PAX path taken back", vec![file("ok", "x").pax(&[("path", b"../x"), ("path", b"")])], ok()),
        Case::layer(
            "a PAX path in other letters",
            vec![file("ok", "x").pax(&[("PATH", b"../x"), ("path ", b"../x")])],
            ok(),
        ),
        Case::layer("two PAX headers", vec![x().pax(&[("path", b"a")]).pax(&[("path", b"b")])], refused(TWO_PAX)),
        Case::layer("two GNU long names", vec![x().gnu_name("a").gnu_name("b")], refused(TWO_NAMES)),
        Case::layer("two GNU long links", vec![symlink("x", "y").gnu_link("a").gnu_link("b")], refused(TWO_NAMES)),
        Case::layer("a global PAX path", vec![file("ok", "x").after(extension(b'g', record("path", "../x")))], ok()),
        Case::layer(
            "a global PAX size",
            vec![file("ok", "x").after(extension(b'g', record("size", "99999999")))],
            ok(),
        ),
        Case::layer("a global PAX header of noise", vec![file("ok", "x").after(extension(b'g', [0xff; 700]))], ok()),
        Case::layer(
            "a global header between a PAX header and its member",
            vec![file("y", "x").after([named("ok"), extension(b'g', record("comment", "c"))].concat())],
            ok(),
        ),
        Case::layer("a prefix in a GNU header", vec![prefixed(b"ustar  \0")], ok()),
        Case::layer("a prefix in a header without magic", vec![prefixed(b"")], ok()),
        Case::layer("a prefix with a broken magic", vec![prefixed(b"ustar\x0099")], ok()),
        Case::layer("a PAX linkpath for a file", vec![file("ok", "x").pax(&[("linkpath", b"/etc/passwd")])], ok()),
        Case::layer(
            "a PAX linkpath over a symlink's target",
            vec![symlink("x", "a").pax(&[("linkpath", b"/b")])],
            holds(&["lrwxrwxrwx x -> /b"]),
        ),
        Case::layer(
            "a PAX linkpath and a GNU long link",
            vec![symlink("x", "a").gnu_link("c").pax(&[("linkpath", b"/b")])],
            holds(&["lrwxrwxrwx x -> /b"]),
        ),
        Case::layer(
            "a PAX linkpath taken back",
            vec![symlink("x", "a").pax(&[("linkpath", b"")])],
            holds(&["lrwxrwxrwx x -> a"]),
        ),
        Case::layer("a PAX path with a slash at its end for a file", vec![x().pax(&[("path", b"ok/")])], ok()),
        Case::layer("a PAX path that ends in a folder's dot", vec![x().pax(&[("path", b"ok/.")])], ok()),
        Case::layer("a name without type that ends in a slash", vec![Entry::new(0, "d/")], holds(&["drw-r--r-- d"])),
        Case::layer(
            "a PAX path that makes a whiteout",
            vec![file("keep", "x").pax(&[("path", b".wh.ok")]), file("ok", "x")],
            ok(),
        ),
        Case::raw(
            "a PAX header and nothing after it",
            [extension(b'x', record("path", "x")), vec![0; 1024]].concat(),
            refused(DANGLING),
        ),
        Case::raw(
            "a GNU long name and nothing after it",
            [extension(b'L', "x\0"), vec![0; 1024]].concat(),
            refused(DANGLING),
        ),
        Case::raw(
            "a GNU long link and nothing after it",
            [extension(b'K', "x\0"), vec![0; 1024]].concat(),
            refused(DANGLING),
        ),
        Case::raw(
            "a global header and nothing after it",
            [extension(b'g', record("comment", "x")), vec![0; 1024]].concat(),
            holds(&[]),
        ),
    ]
}

fn sizes() -> Vec<Case> {
    let inner = tar([file("hidden", "x")]);
    let carrier = |claimed: u64, pax: &str| file("x", &inner).size(claimed).pax(&[("size", pax.as_bytes())]);
    let whole = inner.len().to_string();
    let with = |size: &str| file("x", "x").pax(&[("size", size.as_bytes())]);
    let mut all = vec![
        Case::layer(
            "a PAX size that hides members in a body",
            vec![carrier(0, &whole)],
            holds(&[&format!("-rw-r--r-- x ={whole}")]),
        ),
        Case::layer(
            "a PAX size that bares members of a body",
            vec![carrier(inner.len() as u64, "0")],
            holds(&["-rw-r--r-- hidden =1", "-rw-r--r-- x =0"]),
        ),
        Case::layer(
            "a PAX size below the header's",
            vec![file("x", "four").size(1 << 30).pax(&[("size", b"4")])],
            holds(&["-rw-r--r-- x =4"]),
        ),
        Case::layer(
            "a PAX size taken back",
            vec![file("x", "four").pax(&[("size", b"99999"), ("size", b"")])],
            holds(&["-rw-r--r-- x =4"]),
        ),
        Case::layer(
            "a PAX size with zeros in front",
            vec![with("0000000000000000000001")],
            holds(&["-rw-r--r-- x =1"]),
        ),
        Case::layer(
            "a PAX size for a folder",
            vec![dir("d").pax(&[("size", b"512")]), file("x", "x")],
            holds(&["drwxr-xr-x d", "-rw-r--r-- x =1"]),
        ),
        Case::layer(
            "a PAX size for a symlink",
            vec![symlink("l", "y").pax(&[("size", b"1048576")]), file("x", "x")],
            holds(&["lrwxrwxrwx l -> y", "-rw-r--r-- x =1"]),
        ),
        Case::layer("a PAX size far above what comes", vec![with("1000000000000")], refused("is truncated")),
        Case::layer("a PAX size of 2^63", vec![with("9223372036854775808")], refused("is truncated")),
        Case::layer("a PAX size of 2^64-1", vec![with("18446744073709551615")], refused("a size overflows")),
        Case::layer("a PAX size of 2^64-511", vec![with("18446744073709551105")], refused("a size overflows")),
    ];
    for bad in ["18446744073709551616", "-1", "+1", " 1", "1 ", "1.0", "1e3", "0x10", "١", "1\n", "1\0", "one"] {
        all.push(Case::layer(format!("a PAX size of {bad:?}"), vec![with(bad)], refused(NO_NUMBER)));
    }
    for (key, bad) in [
        ("uid", "-1"),
        ("uid", "root"),
        ("gid", "1.5"),
        ("gid", "0x0"),
        ("mtime", "soon"),
        ("mtime", "99999999999999999999999"),
    ] {
        let entry = file("x", "x").pax(&[(key, bad.as_bytes())]);
        all.push(Case::layer(format!("a PAX {key} of {bad}"), vec![entry], refused(NO_NUMBER)));
    }
    for (key, bad) in [("uid", "4294967296"), ("gid", "18446744073709551615")] {
        let entry = file("x", "x").pax(&[(key, bad.as_bytes())]);
        all.push(Case::layer(format!("a PAX {key} of {bad}"), vec![entry], refused("is too large")));
    }
    for good in ["-5", "-99999999999999999999", "1.999999999", "18446744073709551615"] {
        let entry = file("x", "x").pax(&[("mtime", good.as_bytes())]);
        all.push(Case::layer(format!("a PAX mtime of {good}"), vec![entry], holds(&["-rw-r--r-- x =1"])));
    }
    all.push(Case::layer(
        "the largest uid and gid by PAX",
        vec![file("x", "x").pax(&[("uid", b"4294967294"), ("gid", b"4294967294")])],
        holds(&["-rw-r--r-- x =1 @4294967294/4294967294"]),
    ));
    all
}

fn malformed() -> Vec<Case> {
    let bad: [(&str, &[u8]); 18] = [
        ("one byte short", b"10 path=ab\n"),
        ("one byte long", b"12 path=ab\n"),
        ("no newline", b"11 path=abX"),
        ("a length of zero", b"0 path=ab\n"),
        ("a negative length", b"-1 path=ab\n"),
        ("a length with a plus", b"+11 path=ab\n"),
        ("no length", b" path=ab\n"),
        ("no space", b"11path=ab\n"),
        ("no equals sign", b"10 path-ab\n"),
        ("no key", b"6 =ab\n"),
        ("a length beyond the header", b"9999 path=ab\n"),
        ("a length beyond all numbers", b"99999999999999999999999999 path=ab\n"),
        ("a length in hexadecimal", b"0xb path=ab\n"),
        ("a tab for a space", b"11\tpath=ab\n"),
        ("a length that ends before its space", b"1 path=ab\n"),
        ("noise after a good record", b"11 path=ab\nX"),
        ("zeros after a good record", b"11 path=ab\n\0\0\0\0"),
        ("nothing but zeros", &[0; 32]),
    ];
    let x = || file("x", "x");
    let mut all: Vec<Case> = bad
        .into_iter()
        .map(|(what, body)| {
            Case::layer(format!("a PAX record with {what}"), vec![x().after(extension(b'x', body))], refused(MALFORMED))
        })
        .collect();
    let long = Entry::new(b'x', "h").size(4096).body(record("path", "y")).unpadded();
    all.push(Case::raw("a PAX header that ends in the middle", long.bytes(), refused("is truncated")));
    let giant = Entry::new(b'x', "h").size(1 << 40);
    all.push(Case::layer("a PAX header of a terabyte", vec![giant, x()], Expect::TooLarge("an extension header")));
    let giant = Entry::new(b'g', "h").size((1 << 20) + 1);
    all.push(Case::layer("a global PAX header above 1 MiB", vec![giant, x()], Expect::TooLarge("an extension header")));
    let negative = Entry::new(b'L', "h").field(SIZE, base256(-1, 12));
    all.push(Case::layer("a GNU long name of negative size", vec![negative, x()], refused("is not a number")));
    all.push(Case::layer("an empty PAX header", vec![x().after(extension(b'x', ""))], holds(&["-rw-r--r-- x =1"])));
    type Records<'a> = &'a [(&'a str, &'a [u8])];
    let sparse: [(&str, Records<'_>); 4] = [
        ("GNU sparse format 0.0", &[("GNU.sparse.size", b"99"), ("GNU.sparse.numblocks", b"1")]),
        ("GNU sparse format 0.1", &[("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"99")]),
        (
            "GNU sparse format 1.0",
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"../x"),
                ("GNU.sparse.realsize", b"99999999999"),
            ],
        ),
        ("a sparse name alone", &[("GNU.sparse.name", b"../../x")]),
    ];
    for (what, records) in sparse {
        all.push(Case::layer(what, vec![x().pax(records)], refused(SPARSE)));
    }
    all.push(Case::layer(
        "an old GNU sparse file",
        vec![Entry::new(b'S', "x").field(MAGIC, "ustar  \0").size(1)],
        refused(SPARSE),
    ));
    all
}

fn attributes() -> Vec<Case> {
    let key = |name: &str| format!("SCHILY.xattr.{name}");
    let with = |name: &str, value: &[u8]| vec![file("x", "x").pax(&[(&key(name), value)])];
    let none = || Expect::Attributes(vec![]);
    let long = "n".repeat(300);
    let many: Vec<(String, &[u8])> = (0..65).map(|n| (key(&format!("user.n{n}")), &b"v"[..])).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    let mut all: Vec<Case> = [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "trusted.overlay.metacopy",
        "user.overlay.opaque",
        "user.overlay.redirect",
        "security.selinux",
        "security.ima",
        "security.evm",
        "security.apparmor",
        "system.posix_acl_access",
        "trusted.x",
        "btrfs.compression",
        "user",
        "",
    ]
    .into_iter()
    .map(|name| Case::layer(format!("the attribute {name:?}"), with(name, b"y"), none()))
    .collect();
    all.push(Case::layer(
        "an attribute of users",
        with("user.a=b", b"c\n12 path=../x\n"),
        Expect::Attributes(vec![r"x user.a=b=c\n12 path=../x\n".to_owned()]),
    ));
    all.push(Case::layer(
        "an attribute by libarchive's key",
        vec![file("x", "x").pax(&[("LIBARCHIVE.xattr.user.a", b"eQ")])],
        none(),
    ));
    all.push(Case::layer(
        "attributes that come as ACLs and flags",
        vec![file("x", "x").pax(&[("SCHILY.acl.access", b"user::rwx"), ("SCHILY.fflags", b"uimmutable")])],
        none(),
    ));
    all.push(Case::layer(
        "an attribute's name of 305 bytes",
        with(&format!("user.{long}"), b"y"),
        refused("the extended attribute"),
    ));
    all.push(Case::layer(
        "an attribute's value of 65,537 bytes",
        with("user.a", &[b'v'; 65_537]),
        refused("the extended attribute"),
    ));
    all.push(Case::layer("a NUL in an attribute's name", with("user.a\0b", b"y"), refused("the extended attribute")));
    all.push(Case::layer("65 attributes", vec![file("x", "x").pax(&many)], refused("too many extended attributes")));
    all
}
