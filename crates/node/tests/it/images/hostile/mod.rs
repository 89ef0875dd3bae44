//! Hostile images, each by name: converted safely, or refused for a reason
//! that docs/images.md gives. All go the real way: `Images::import`, the
//! jailed converter, sqfstar; what comes out is read with unsquashfs.
//!
//! Audited after each case: the folders around the store, and what the store
//! holds. Afterwards: the machine's own files that hostile names aim at.

mod audit;
mod compressed;
mod configs;
mod documents;
mod extensions;
mod layouts;
mod liar;
mod lies;
mod links;
mod names;
mod numbers;
mod registries;
mod server;
mod whiteouts;

use super::archives::{Blob, Image};
use super::{config, converter_uid, open, quiet, tenant};
use crate::jail::Scratch;
use aether_core::Code;
use aether_counted::Counted;
use aether_node::images::{ImageError, Images};
use liar::{Entry, tar};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Of an image in these tests: small, so that bombs are quick.
const MAX_BYTES: u64 = 24 << 20;
/// Of one image.
const MAX_FILES: u64 = 4_000;
/// No case may take longer; a stuck one is a failure, not a stuck run.
const LONG: Duration = Duration::from_secs(120);

/// What must come of a case.
#[derive(Clone, Debug)]
enum Expect {
    /// Exactly this in the device, one line each as [`contents`] writes them,
    /// beside the folders that every device has.
    Holds(Vec<String>),
    /// The file `x`, and in the whole device these extended attributes alone.
    Attributes(Vec<String>),
    /// Not valid; the words are in the message and in the docs.
    Refused(&'static str),
    TooLarge(&'static str),
    OtherPlatform,
}

fn holds(lines: &[&str]) -> Expect {
    Expect::Holds(lines.iter().map(|l| (*l).to_owned()).collect())
}

fn refused(words: &'static str) -> Expect {
    Expect::Refused(words)
}

struct Case {
    name: String,
    archive: Vec<u8>,
    expect: Expect,
}

impl Case {
    /// The archive as it is imported.
    fn archive(name: impl Into<String>, archive: Vec<u8>, expect: Expect) -> Self {
        Self { name: name.into(), archive, expect }
    }

    /// A layer's blob in an archive that is otherwise as it should be.
    fn blobs(name: impl Into<String>, layers: Vec<Blob>, expect: Expect) -> Self {
        Self::archive(name, Image::new(layers).oci_archive(None), expect)
    }

    /// A layer's tar, byte by byte.
    fn raw(name: impl Into<String>, tar: Vec<u8>, expect: Expect) -> Self {
        Self::blobs(name, vec![Blob::plain(tar)], expect)
    }

    fn layers(name: impl Into<String>, layers: Vec<Vec<Entry>>, expect: Expect) -> Self {
        Self::blobs(name, layers.into_iter().map(|l| Blob::plain(tar(l))).collect(), expect)
    }

    fn layer(name: impl Into<String>, entries: Vec<Entry>, expect: Expect) -> Self {
        Self::layers(name, vec![entries], expect)
    }
}

/// Where absolute names may point to.
struct Site {
    outer: PathBuf,
    /// The converters' users: one per lane.
    reserved: [u32; 2],
}

impl Site {
    /// Canaries around the stores.
    fn plant(outer: PathBuf) -> Self {
        use std::os::unix::fs::{PermissionsExt, symlink};
        std::fs::create_dir_all(outer.join("home/.ssh")).expect("create");
        for (name, text) in [("canary", "alive"), ("home/.ssh/authorized_keys", "none"), ("passwd", "root:x:0:0\n")] {
            std::fs::write(outer.join(name), text).expect("plant");
        }
        std::fs::set_permissions(outer.join("canary"), std::fs::Permissions::from_mode(0o600)).expect("chmod");
        symlink("canary", outer.join("link")).expect("symlink");
        Self { outer, reserved: [converter_uid(), converter_uid()] }
    }

    fn path(&self, name: &str) -> String {
        self.outer.join(name).to_str().expect("plain").to_owned()
    }
}

/// What a device holds: `mode path`, then `-> target`, `=size`, `#device` and
/// `@owner` where they say something. Control and other odd bytes escaped.
fn contents(device: &Path) -> Result<Vec<String>, String> {
    let out = Command::new("unsquashfs").arg("-lln").arg(device).output().expect("unsquashfs");
    if !out.status.success() {
        return Err(format!("unsquashfs: {}", String::from_utf8_lossy(&out.stderr)));
    }
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for line in out.stdout.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let begins =
            line.len() > 11 && b"dlcbps-".contains(&line[0]) && line.windows(14).any(|w| w == b" squashfs-root");
        match lines.last_mut() {
            // A name with a newline in it goes on here.
            Some(last) if !begins => last.extend([b"\n", line].concat()),
            _ => lines.push(line.to_vec()),
        }
    }
    let mut found: Vec<String> = lines.iter().filter_map(|l| shown(&l.escape_ascii().to_string())).collect();
    found.sort();
    Ok(found)
}

/// The extended attributes in the device, as `path name=value`: unpacked into
/// a folder of their own, which holds the file `x` alone.
fn attributes(device: &Path) -> Result<Vec<String>, String> {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("out");
    let done = Command::new("unsquashfs").args(["-q", "-n", "-d"]).arg(&out).arg(device).output().expect("unsquashfs");
    if !done.status.success() {
        return Err(format!("unsquashfs: {}", String::from_utf8_lossy(&done.stderr)));
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&out).expect("list").flatten() {
        for name in xattr::list(entry.path()).expect("attributes") {
            let value = xattr::get(entry.path(), &name).expect("attribute").unwrap_or_default();
            let (path, value) = (entry.file_name(), value.escape_ascii().to_string());
            found.push(format!("{} {}={value}", path.to_string_lossy(), name.to_string_lossy()));
        }
    }
    Ok(found)
}

/// One line of unsquashfs, shorter.
fn shown(line: &str) -> Option<String> {
    let (head, path) = line.split_once(" squashfs-root")?;
    let Some(path) = path.strip_prefix('/') else {
        return (!head.starts_with("drwxr-xr-x 0/0 ")).then(|| format!("the root is {head}"));
    };
    let words: Vec<&str> = head.split_whitespace().collect();
    let (mode, owner) = (*words.first()?, *words.get(1)?);
    let mut out = format!("{mode} {path}");
    match mode.as_bytes().first()? {
        b'-' => out += &format!(" ={}", words.get(2)?),
        // "1,  3" is two words.
        b'c' | b'b' => {
            out += &format!(
                " #{}",
                head.split(owner).nth(1)?.split_whitespace().take_while(|w| !w.contains('-')).collect::<String>()
            )
        }
        _ => {}
    }
    if owner != "0/0" {
        out += &format!(" @{owner}");
    }
    Some(out)
}

/// In every device; a case names them only where it changes them.
const ALWAYS: [(&str, &str); 6] = [
    ("drwxr-xr-x", "dev"),
    ("drwxr-xr-x", "etc"),
    ("dr-xr-xr-x", "proc"),
    ("drwxr-xr-x", "run"),
    ("dr-xr-xr-x", "sys"),
    ("drwxrwxrwt", "tmp"),
];

fn expected(lines: &[String]) -> Vec<String> {
    let path = |line: &str| line.split(' ').nth(1).unwrap_or_default().to_owned();
    let named: BTreeSet<String> = lines.iter().map(|l| path(l)).collect();
    let always = ALWAYS.iter().filter(|(_, p)| !named.contains(*p)).map(|(mode, p)| format!("{mode} {p}"));
    let mut all: Vec<String> = lines.iter().cloned().chain(always).collect();
    all.sort();
    all
}

/// Whether the message has words that users can look up: those quoted in the
/// docs' table of what is refused.
fn documented(message: &str) -> bool {
    let docs = include_str!("../../../../../../docs/images.md");
    let table = docs.split("## What is refused").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the table");
    let said = table.lines().filter_map(|line| line.strip_prefix('|')?.rsplit('|').nth(1));
    said.flat_map(|words| words.split('`').skip(1).step_by(2)).any(|words| message.contains(words))
}

async fn judge(images: &Images, case: &Case) -> Result<(), String> {
    let owner = tenant("default");
    let import = images.import(&owner, None, case.archive.as_slice(), quiet());
    let got = tokio::time::timeout(LONG, import).await.map_err(|_| "it took too long".to_owned())?;
    match (&case.expect, got) {
        (Expect::Holds(lines), Ok(record)) => {
            let (found, wanted) = (contents(&record.device)?, expected(lines));
            images.remove(&owner, &record.digest).await.map_err(|e| format!("cannot be removed: {e}"))?;
            if found != wanted {
                return Err(format!("holds {found:#?}, not {wanted:#?}"));
            }
            Ok(())
        }
        (Expect::Attributes(lines), Ok(record)) => {
            let (held, found) = (contents(&record.device)?, attributes(&record.device)?);
            images.remove(&owner, &record.digest).await.map_err(|e| format!("cannot be removed: {e}"))?;
            let wanted = expected(&["-rw-r--r-- x =1".to_owned()]);
            if found != *lines || held != wanted { Err(format!("holds {held:?} with {found:?}")) } else { Ok(()) }
        }
        (Expect::Refused(words), Err(e @ ImageError::Invalid(_))) => worded(words, &e, Code::BadRequest),
        (Expect::TooLarge(words), Err(e @ ImageError::TooLarge { .. })) => worded(words, &e, Code::PayloadTooLarge),
        (Expect::OtherPlatform, Err(ImageError::NoPlatform { .. })) => Ok(()),
        (expect, Ok(record)) => {
            let held = contents(&record.device);
            images.remove(&owner, &record.digest).await.map_err(|e| format!("cannot be removed: {e}"))?;
            Err(format!("converted, not {expect:?}: {held:?}"))
        }
        (expect, Err(e)) => Err(format!("{e:?}, not {expect:?}")),
    }
}

fn worded(words: &str, e: &ImageError, code: Code) -> Result<(), String> {
    let text = e.to_string();
    if !text.contains(words) || e.code() != code {
        return Err(format!("the reason is {text:?}, not {words:?}"));
    }
    if !documented(&text) {
        return Err(format!("docs/images.md does not know {text:?}"));
    }
    if text.contains("/outer/a/")
        || text.contains("/outer/b/")
        || text.chars().any(char::is_control)
        || text.len() > 600
    {
        return Err(format!("the reason is not fit to be shown: {text:?}"));
    }
    Ok(())
}

fn clip(text: &str) -> String {
    text.chars().take(2000).collect()
}

/// One store and its share of the cases, one after the other.
async fn lane(store: PathBuf, uid: u32, outer: PathBuf, stores: Vec<PathBuf>, cases: Vec<Case>) -> Vec<String> {
    let mut settings = config(&store);
    (settings.converter_uid, settings.max_image_bytes, settings.max_files) = (uid, MAX_BYTES, MAX_FILES);
    let images = open(settings).await;
    let before = audit::around(&outer, &stores);
    let mut wrong = Vec::new();
    for case in &cases {
        let began = tokio::time::Instant::now();
        let mut said: Vec<String> = judge(&images, case).await.err().into_iter().collect();
        said.extend(audit::difference(&before, &audit::around(&outer, &stores)));
        said.extend(audit::odd_in_store(&store));
        images.gc().await.expect("gc");
        said.extend(audit::left_in_store(&store).into_iter().map(|name| format!("{name} stays, and nothing needs it")));
        if began.elapsed() > Duration::from_secs(2) {
            println!("{}: {} ms", case.name, began.elapsed().as_millis());
        }
        wrong.extend(said.into_iter().map(|s| format!("{}: {}", case.name, clip(&s))));
    }
    let kept = images.list(&tenant("default")).await.expect("list");
    wrong.extend(kept.iter().map(|r| format!("{} is still there", r.digest)));
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_image_is_converted_safely_or_refused_with_a_reason() {
    let scratch = Scratch::new("hostile");
    let site = Site::plant(scratch.0.join("outer"));
    let all = cases(&site);
    let names: BTreeSet<&str> = all.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names.len(), all.len(), "each case has a name of its own");
    let mut counted = Counted::new("hostile_images", 27, "hostile archives and manifests", 0);
    (counted.n, counted.faults) = (all.len() as u64, all.len() as u64);
    let machine = audit::machine();
    let stores = [scratch.0.join("outer/a"), scratch.0.join("outer/b")];
    let mut shares = [Vec::new(), Vec::new()];
    all.into_iter().enumerate().for_each(|(n, case)| shares[n % 2].push(case));
    let [one, two] = shares;
    let run = |n: usize, cases| {
        tokio::spawn(lane(stores[n].clone(), site.reserved[n], site.outer.clone(), stores.to_vec(), cases))
    };
    let (one, two) = (run(0, one), run(1, two));
    let mut wrong = one.await.expect("lane");
    wrong.extend(two.await.expect("lane"));
    wrong.extend(audit::difference(&machine, &audit::machine()));
    counted.failures = wrong.len() as u64;
    drop(counted);
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// `AETHER_HOSTILE` narrows them to the names that hold it.
fn cases(site: &Site) -> Vec<Case> {
    let only = std::env::var("AETHER_HOSTILE").unwrap_or_default();
    let mut all = names::cases(site);
    all.extend(links::cases(site));
    all.extend(extensions::cases());
    all.extend(numbers::cases(site));
    all.extend(whiteouts::cases());
    all.extend(compressed::cases());
    all.extend(layouts::cases(site));
    all.extend(documents::cases());
    all.extend(configs::cases());
    all.retain(|case| case.name.contains(&only));
    all
}
