//! What is planted, how it is seen that it is still there, and what must
//! stay: the forms of each kind are in `kinds`.

use super::super::recycle::Stranger;
use super::super::world::World;
use super::{groups, output};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Something that was planted.
pub(super) struct Orphan {
    kind: &'static str,
    form: String,
    pub there: Box<dyn FnMut() -> bool>,
}

impl Orphan {
    pub(super) fn name(&self) -> String {
        format!("{}: {}", self.kind, self.form)
    }
}

/// Not the node's, and like it: must outlive everything.
struct Bystander {
    what: &'static str,
    there: Box<dyn Fn() -> bool>,
}

/// A command that becomes a slot's, or a stranger's, uid.
pub(in super::super) fn as_uid(uid: u32, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).uid(uid).gid(uid).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

pub(super) fn anyone_of(uid: u32) -> bool {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|e| std::fs::read_to_string(e.path().join("status")).ok()).any(|status| {
        let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next());
        field("Uid:") == Some(&uid.to_string()) && !field("State:").is_some_and(|s| s.starts_with(['Z', 'X']))
    })
}

/// Loop devices over a file whose path holds these words.
pub(super) fn loops_over(path: &Path) -> usize {
    let entries = std::fs::read_dir("/sys/block").expect("/sys/block").flatten();
    let files = entries.filter_map(|e| std::fs::read(e.path().join("loop/backing_file")).ok());
    files.filter(|file| file.starts_with(path.as_os_str().as_bytes())).count()
}

pub(super) struct Planter {
    pub(super) base: PathBuf,
    pub(super) prefix: String,
    pub(super) netns: String,
    pub(super) uid_base: u32,
    pub(super) parent: String,
    pub(super) living: u32,
    pub(super) next: u32,
    loops: bool,
    pub(super) victim: tempfile::TempDir,
    bystanders: Vec<Bystander>,
    /// Root's own, for a round: in our group, in our mount.
    pub(super) inside: Vec<Stranger>,
    orphans: Vec<Orphan>,
}

impl Planter {
    pub(super) fn new(world: &World, living: &[u32]) -> Self {
        let setup = &world.setup;
        // On the same file system as the slots' folders, for hard links.
        let victim = tempfile::tempdir_in("/run").expect("a folder");
        std::fs::write(victim.path().join("precious"), b"kept").expect("writes");
        let mut planter = Self {
            base: setup.base.clone(),
            prefix: setup.prefix.clone(),
            netns: world.netns.clone(),
            uid_base: setup.uid_base,
            parent: setup.cgroup_parent(),
            living: living[0],
            next: 0,
            loops: true,
            victim,
            bystanders: Vec::new(),
            inside: Vec::new(),
            orphans: Vec::new(),
        };
        planter.loops = planter.try_loops();
        planter.bystand();
        planter
    }

    /// Each kind in each form.
    pub(super) fn round(&mut self, world: &World) -> Vec<Orphan> {
        assert_eq!(world.setup.uid_base, self.uid_base);
        self.next = 0;
        self.inside.clear();
        self.vmms();
        self.uids();
        self.taps();
        self.namespaces();
        self.rules();
        self.cgroups();
        self.jail_roots();
        self.mounts();
        if self.loops {
            self.loop_devices();
        }
        self.files();
        std::mem::take(&mut self.orphans)
    }

    pub(super) fn assert_strangers_untouched(&self) {
        let touched: Vec<_> = self.bystanders.iter().filter(|b| !(b.there)()).map(|b| b.what).collect();
        assert!(touched.is_empty(), "strangers were touched: {touched:?}");
        for stranger in &self.inside {
            assert!(stranger.is_untouched(), "root's own process was touched: {:?}", stranger.identity);
        }
    }

    /// Some that the node could use itself, the rest beyond its slots.
    pub(super) fn slot(&mut self) -> u32 {
        self.next += 1;
        if self.next <= 6 { 9 + self.next } else { 100 + self.next }
    }

    pub(super) fn plant(&mut self, kind: &'static str, form: &str, mut there: impl FnMut() -> bool + 'static) {
        assert!(there(), "{kind}: {form} was not planted");
        self.orphans.push(Orphan { kind, form: form.to_owned(), there: Box::new(there) });
    }

    pub(super) fn folder(&self, slot: impl std::fmt::Display) -> PathBuf {
        self.base.join(format!("run/slots/{slot}"))
    }

    pub(super) fn new_folder(&mut self) -> PathBuf {
        let slot = self.slot();
        self.folder(slot)
    }

    pub(super) fn new_name(&mut self) -> String {
        let slot = self.slot();
        format!("{}-{slot}", self.prefix)
    }

    pub(super) fn host(&self) -> String {
        format!("--net=/run/netns/{}", self.netns)
    }

    pub(super) fn plant_process(&mut self, kind: &'static str, form: &str, uid: u32, mut child: Child) {
        self.plant(kind, form, move || {
            // Waited for, or it stays a zombie of ours.
            let _ = child.try_wait();
            anyone_of(uid)
        });
    }

    pub(super) fn join(&self, pid: u32, slot: u32) {
        for parent in groups(&self.parent) {
            let group = parent.join(format!("slot-{slot}"));
            std::fs::create_dir_all(&group).expect("a cgroup");
            std::fs::write(group.join("cgroup.procs"), pid.to_string()).expect("joins");
        }
    }

    /// Strangers that look like the node's own.
    fn bystand(&mut self) {
        let mut stay = |what, there: Box<dyn Fn() -> bool>| {
            assert!(there(), "{what}");
            self.bystanders.push(Bystander { what, there });
        };
        for uid in [self.uid_base + 65_010, self.uid_base - 2] {
            let stranger = Stranger::of(as_uid(uid, "sleep", &["100000"]).spawn().expect("sleep"));
            stay("a process of a uid beside the range", Box::new(move || stranger.is_untouched()));
        }
        for (link, peer) in [(format!("{}0-3", self.prefix), "other0"), (format!("{}-lan", self.prefix), "other1")] {
            let netns = self.netns.clone();
            output("ip", &["-n", &netns, "link", "add", &link, "type", "veth", "peer", "name", peer]);
            let shown = move || Command::new("ip").args(["-n", &netns, "link", "show", &link]).output().expect("ip");
            stay("a link whose name begins as ours", Box::new(move || shown().status.success()));
        }
        let host = format!("--net=/run/netns/{}", self.netns);
        let table = format!("{}x_net", self.prefix);
        output("nsenter", &[&host, "nft", &format!("add table inet {table}")]);
        let listed = move || output("nsenter", &[&host, "nft", "list", "tables"]).contains(&table);
        stay("a table whose prefix begins as ours", Box::new(listed));
        let victim = self.victim.path().to_owned();
        let precious = move || std::fs::read(victim.join("precious")).is_ok_and(|text| text == b"kept");
        stay("a file that links and mounts lead to", Box::new(precious));
        if self.loops {
            let disk = self.victim.path().join("disk");
            stay("a loop device over somebody's file", Box::new(move || loops_over(&disk) == 1));
        }
    }
}

impl Drop for Planter {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-j").arg(self.victim.path().join("disk")).output().map(|out| {
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            let device = text.split(':').next().unwrap_or_default().to_owned();
            Command::new("losetup").args(["-d", &device]).status()
        });
    }
}
