//! Layers that end too early, grow too much, or are packed in odd ways.

use super::liar::*;
use super::{Case, Expect, MAX_BYTES, holds, refused};
use crate::images::archives::{Blob, sha256};
use std::io::Write;

const TRUNCATED: &str = "is truncated";
const BROKEN: &str = "cannot be decompressed or is truncated";
const TOO_BIG: &str = "the uncompressed size";

pub(super) fn cases() -> Vec<Case> {
    let mut all = cut();
    all.extend(ends());
    all.extend(packed());
    all.extend(bombs());
    all
}

/// The blob as it is, claimed to hold `tar`.
fn claimed(data: Vec<u8>, tar: &[u8]) -> Blob {
    Blob { data, diff_id: sha256(tar), media_type: "application/vnd.oci.image.layer.v1.tar+gzip" }
}

fn cut() -> Vec<Case> {
    let whole = tar([file("a", [b'a'; 600]), file("b", "b")]);
    let mut all: Vec<Case> = [
        (1, "one byte"),
        (100, "the name field"),
        (511, "all but a byte of a header"),
        (512, "a header"),
        (513, "a byte of the body"),
        (1100, "the body"),
        (1112, "the body and no padding"),
        (1537, "two members and a byte"),
    ]
    .into_iter()
    .map(|(at, what)| Case::raw(format!("a layer cut after {what}"), whole[..at].to_vec(), refused(TRUNCATED)))
    .collect();
    let gzip = Blob::gzip(&whole).data;
    let zstd = Blob::zstd(&whole).data;
    for (what, packed) in [("gzip", &gzip), ("zstd", &zstd)] {
        for (how, at) in
            [("in its header", 6), ("in the middle", packed.len() / 2), ("before its last byte", packed.len() - 1)]
        {
            all.push(Case::blobs(
                format!("a {what} layer cut {how}"),
                vec![claimed(packed[..at].to_vec(), &whole)],
                refused(BROKEN),
            ));
        }
    }
    let mut crc = gzip.clone();
    let n = crc.len();
    crc[n - 8] ^= 1;
    all.push(Case::blobs("a gzip layer with a wrong checksum", vec![claimed(crc, &whole)], refused(BROKEN)));
    let mut size = gzip.clone();
    size[n - 1] ^= 1;
    all.push(Case::blobs("a gzip layer with a wrong size at its end", vec![claimed(size, &whole)], refused(BROKEN)));
    all.push(Case::blobs(
        "a gzip layer with noise after it",
        vec![claimed([gzip.clone(), b"noise".to_vec()].concat(), &whole)],
        refused(BROKEN),
    ));
    all.push(Case::blobs(
        "a zstd layer with noise after it",
        vec![claimed([zstd, b"noise".to_vec()].concat(), &whole)],
        refused(BROKEN),
    ));
    all
}

fn ends() -> Vec<Case> {
    let x = || holds(&["-rw-r--r-- x =1"]);
    let member = open_tar([file("x", "x")]);
    vec![
        Case::raw("a layer of nothing", vec![], holds(&[])),
        Case::raw("a layer of one empty block", vec![0; 512], holds(&[])),
        Case::raw("a layer without an end", member.clone(), x()),
        Case::raw("a layer with one empty block at its end", [member.clone(), vec![0; 512]].concat(), x()),
        Case::raw("members after the end", [tar([file("x", "x")]), tar([file("hidden", "x")])].concat(), x()),
        Case::raw(
            "members after one empty block",
            [member.clone(), vec![0; 512], tar([file("hidden", "x")])].concat(),
            x(),
        ),
        Case::raw("noise after the end", [tar([file("x", "x")]), vec![0xa5; 3000]].concat(), x()),
        Case::raw("a megabyte of zeros after the end", [tar([file("x", "x")]), vec![0; 1 << 20]].concat(), x()),
    ]
}

fn packed() -> Vec<Case> {
    let x = || holds(&["-rw-r--r-- x =1"]);
    let layer = tar([file("x", "x")]);
    let relabelled = |blob: Blob, media_type| vec![Blob { media_type, ..blob }];
    let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
    let two = [open_tar([file("x", "x")]), tar([file("y", "y")])];
    let members = [Blob::gzip(&two[0]).data, Blob::gzip(&two[1]).data].concat();
    let twice = Blob::gzip(&Blob::gzip(&layer).data);
    // A frame that may be skipped, of the largest size it can claim.
    let skippable = [b"\x50\x2a\x4d\x18\xff\xff\xff\xff".to_vec(), Blob::zstd(&layer).data].concat();
    let skipped = [b"\x50\x2a\x4d\x18\x04\0\0\0skip".to_vec(), Blob::zstd(&layer).data].concat();
    // A frame whose window is 2 TiB.
    let window = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x01, 0x00, 0x00];
    vec![
        Case::blobs("a plain layer that is called gzip", relabelled(Blob::plain(layer.clone()), gzip), x()),
        Case::blobs("a zstd layer that is called gzip", relabelled(Blob::zstd(&layer), gzip), x()),
        Case::blobs(
            "a gzip layer that is called plain",
            relabelled(Blob::gzip(&layer), "application/vnd.oci.image.layer.v1.tar"),
            x(),
        ),
        Case::blobs(
            "a layer of two gzip members",
            vec![claimed(members, &two.concat())],
            holds(&["-rw-r--r-- x =1", "-rw-r--r-- y =1"]),
        ),
        Case::blobs("a layer packed twice", vec![twice], refused(TRUNCATED)),
        Case::blobs("a zstd layer after a frame to skip", vec![claimed(skipped, &layer)], x()),
        Case::blobs("a zstd frame to skip that never ends", vec![claimed(skippable, &layer)], refused(BROKEN)),
        Case::blobs("a zstd window of 2 TiB", vec![claimed(window, &layer)], refused(BROKEN)),
        Case::blobs("a bzip2 layer", vec![claimed(b"BZh91AY&SY".to_vec(), &layer)], refused("compressed with bzip2")),
        Case::blobs("an xz layer", vec![claimed(b"\xfd7zXZ\0\0\x04".to_vec(), &layer)], refused("compressed with xz")),
        Case::blobs(
            "an lz4 layer",
            vec![claimed([b"\x04\x22\x4d\x18".to_vec(), vec![1; 600]].concat(), &layer)],
            refused("a wrong checksum"),
        ),
        Case::blobs(
            "a zip for a layer",
            vec![claimed([b"PK\x03\x04".to_vec(), vec![1; 600]].concat(), &layer)],
            refused("a wrong checksum"),
        ),
        Case::blobs(
            "a layer that is not what the config says",
            vec![Blob { diff_id: sha256(b"else"), ..Blob::gzip(&layer) }],
            refused("and the image's config says"),
        ),
        Case::blobs(
            "a second layer that is not what the config says",
            vec![Blob::gzip(&layer), Blob { diff_id: sha256(b"else"), ..Blob::plain(tar([file("y", "")])) }],
            refused("and the image's config says"),
        ),
        Case::blobs(
            "a diff_id of the packed layer",
            vec![{
                let b = Blob::gzip(&layer);
                Blob { diff_id: sha256(&b.data), ..b }
            }],
            refused("and the image's config says"),
        ),
        Case::blobs(
            "two layers whose diff_ids are swapped",
            {
                let (a, b) = (Blob::gzip(&layer), Blob::gzip(&tar([file("y", "")])));
                vec![Blob { diff_id: b.diff_id.clone(), ..a.clone() }, Blob { diff_id: a.diff_id, ..b }]
            },
            refused("and the image's config says"),
        ),
    ]
}

/// `n` zeros, packed piece by piece.
fn zeros(n: u64, mut into: impl Write) {
    let piece = vec![0u8; 1 << 20];
    for _ in 0..n >> 20 {
        into.write_all(&piece).expect("pack");
    }
}

fn gzip_of(head: &[u8], n: u64) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(head).expect("pack");
    zeros(n, &mut out);
    out.finish().expect("pack")
}

fn zstd_of(head: &[u8], n: u64) -> Vec<u8> {
    let mut out = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("pack");
    out.write_all(head).expect("pack");
    zeros(n, &mut out);
    out.finish().expect("pack")
}

fn bombs() -> Vec<Case> {
    let big = MAX_BYTES * 3;
    let head = open_tar([file("x", "").size(big)]);
    let too_big = || Expect::TooLarge(TOO_BIG);
    let bomb = |data: Vec<u8>| vec![claimed(data, b"")];
    let noise = |n: u64| file(format!("n{n}"), vec![n as u8; 9 << 20]);
    let many = (0..30u64).map(|n| file(format!("f{n}"), vec![0; 1 << 20])).collect::<Vec<_>>();
    let names = (0..4_200).map(|n| file(format!("d{}/f{n}", n % 50), "")).collect::<Vec<_>>();
    let links = [file("a", "")].into_iter().chain((0..4_200).map(|n| hard(format!("l{n}"), "a"))).collect::<Vec<_>>();
    let implied = (0..420).map(|n| file(format!("d{n}/1/2/3/4/5/6/7/8/9/x"), "")).collect::<Vec<_>>();
    let again = (0..4_200).map(|_| file("x", "")).collect::<Vec<_>>();
    let files = || Expect::TooLarge("the number of files");
    let gzip = |entries: Vec<Entry>| vec![Blob::gzip(&tar(entries))];
    vec![
        Case::blobs("a gzip bomb in a file", bomb(gzip_of(&head, big)), too_big()),
        Case::blobs("a zstd bomb in a file", bomb(zstd_of(&head, big)), too_big()),
        Case::blobs("a gzip bomb after the end", bomb(gzip_of(&tar([file("x", "")]), big)), too_big()),
        Case::blobs("a zstd bomb after the end", bomb(zstd_of(&tar([file("x", "")]), big)), too_big()),
        Case::blobs(
            "a gzip bomb in a hidden file",
            bomb(gzip_of(&open_tar([file(".wh.x", "").size(big)]), big)),
            too_big(),
        ),
        Case::blobs(
            "a zstd bomb of eight gigabytes",
            bomb(zstd_of(&open_tar([file("x", "").size(1 << 33)]), 1 << 30)),
            too_big(),
        ),
        Case::blobs(
            "many gzip members that are a bomb together",
            bomb({
                let one = gzip_of(&[], 4 << 20);
                [gzip_of(&head, 0), one.repeat(20)].concat()
            }),
            too_big(),
        ),
        Case::blobs(
            "three layers that are too large together",
            (0..3).map(|n| Blob::gzip(&tar([noise(n)]))).collect(),
            too_big(),
        ),
        Case::blobs(
            "one layer ten times, too large together",
            vec![Blob::gzip(&tar([file("x", vec![1; 3 << 20])])); 10],
            too_big(),
        ),
        Case::blobs("thirty files that are too large together", gzip(many), too_big()),
        Case::blobs("more files than are allowed", gzip(names), files()),
        Case::blobs("more hard links than are allowed", gzip(links), files()),
        Case::blobs("more folders that nobody describes than are allowed", gzip(implied), files()),
        Case::blobs("one name more often than there may be files", gzip(again), files()),
        Case::blobs(
            "hard links of many layers, too many together",
            (0..7)
                .map(|l| {
                    Blob::gzip(&tar([file("a", "")]
                        .into_iter()
                        .chain((0..700).map(|n| hard(format!("l{l}-{n}"), "a")))))
                })
                .collect(),
            files(),
        ),
    ]
}
