//! The ten kinds, each in its forms.

use super::super::recycle::Stranger;
use super::plant::{Planter, anyone_of, as_uid, loops_over};
use super::{groups, is_mounted, output};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

impl Planter {
    pub(super) fn vmms(&mut self) {
        let qemu = ["-M", "none", "-display", "none", "-S", "-nodefaults"];
        for form in ["without a group", "in its group", "in the group of a living one", "stopped"] {
            let slot = self.slot();
            let uid = self.uid_base + slot;
            let child = as_uid(uid, "qemu-system-x86_64", &qemu).spawn().expect("qemu");
            let pid = child.id();
            match form {
                "in its group" => self.join(pid, slot),
                "in the group of a living one" => self.join(pid, self.living),
                "stopped" => drop(nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid.cast_signed()),
                    nix::sys::signal::Signal::SIGSTOP,
                )),
                _ => {}
            }
            self.plant_process("vmm", form, uid, child);
        }
    }

    pub(super) fn uids(&mut self) {
        let deaf = "trap '' TERM HUP INT QUIT; while :; do sleep 1; done";
        let storm = "while :; do (sleep 0.03 &); sleep 0.01; done";
        let forms = [("plain", "exec sleep 1000"), ("deaf to signals", deaf), ("forking", storm)];
        for (form, script) in forms {
            let uid = self.uid_base + self.slot();
            let child = as_uid(uid, "sh", &["-c", script]).process_group(0).spawn().expect("sh");
            self.plant_process("uid", form, uid, child);
        }
        let uid = self.uid_base + self.slot();
        let mut away = as_uid(uid, "sh", &["-c", "setsid sleep 1000 & exit"]).spawn().expect("sh");
        away.wait().expect("ends");
        self.plant("uid", "without a parent", move || anyone_of(uid));
        let uid = self.uid_base + self.slot();
        let id = uid.to_string();
        let inner = ["-mpnif", "setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "sleep", "1000"];
        let child = Command::new("unshare").args(inner).stderr(std::process::Stdio::null()).spawn().expect("unshare");
        std::thread::sleep(std::time::Duration::from_millis(100));
        self.plant_process("uid", "in namespaces of its own", uid, child);
        let converter = self.uid_base - 1;
        let child = as_uid(converter, "sleep", &["1000"]).spawn().expect("sleep");
        self.plant_process("uid", "the converter's", converter, child);
    }

    fn link_there(&self, name: &str) -> impl FnMut() -> bool + 'static {
        let (netns, name) = (self.netns.clone(), name.to_owned());
        move || Command::new("ip").args(["-n", &netns, "link", "show", &name]).output().expect("ip").status.success()
    }

    pub(super) fn taps(&mut self) {
        let netns = self.netns.clone();
        let (one, held) = (self.slot(), self.slot());
        let name = format!("{}-{one}", self.prefix);
        output("ip", &["-n", &netns, "tuntap", "add", "name", &name, "mode", "tap"]);
        let there = self.link_there(&name);
        self.plant("tap", "on the host", there);
        let name = self.new_name();
        output("ip", &["-n", &netns, "tuntap", "add", "name", &name, "mode", "tap", "multi_queue"]);
        output("ip", &["-n", &netns, "link", "set", &name, "up"]);
        let there = self.link_there(&name);
        self.plant("tap", "that is up", there);
        let name = format!("{}-{held}", self.prefix);
        let pair = ["-n", &netns, "link", "add", &name, "type", "veth", "peer", "name", "peer0"];
        output("ip", &pair);
        self.plant("tap", "a link's end", self.link_there(&name));
        let (slot, uid) = (self.slot(), self.uid_base + self.next + 400);
        let space = self.bind_namespace(slot);
        let inside = format!("--net={}", space.display());
        output("nsenter", &[&inside, "ip", "tuntap", "add", "name", "tap0", "mode", "tap", "user", &uid.to_string()]);
        self.plant("tap", "in a slot's namespace", move || is_mounted(&space));
    }

    /// A namespace bound where that slot's is.
    fn bind_namespace(&self, name: impl std::fmt::Display) -> PathBuf {
        let space = self.base.join(format!("run/netns/{}-{name}", self.prefix));
        std::fs::write(&space, b"").expect("a file to bind to");
        output("unshare", &[&format!("--net={}", space.display()), "true"]);
        space
    }

    pub(super) fn namespaces(&mut self) {
        let slot = self.slot();
        let space = self.bind_namespace(slot);
        self.plant("namespace", "bound", move || space.exists());
        let slot = self.slot();
        let space = self.bind_namespace(slot);
        output("mount", &["--bind", "/proc/self/ns/net", &space.display().to_string()]);
        self.plant("namespace", "bound twice", move || space.exists());
        let space = self.bind_namespace("0042");
        self.plant("namespace", "oddly numbered", move || space.exists());
        let spaces = self.base.join("run/netns");
        let bare = spaces.join(self.new_name());
        std::fs::write(&bare, b"").expect("writes");
        self.plant("namespace", "a bare file", move || bare.exists());
        let folder = spaces.join(self.new_name());
        std::fs::create_dir_all(folder.join("in/it")).expect("folders");
        self.plant("namespace", "a folder", move || folder.exists());
        let odd = spaces.join(OsStr::from_bytes(&[self.prefix.as_bytes(), b"-\xff\xfe\n"].concat()));
        std::fs::write(&odd, b"").expect("writes");
        self.plant("namespace", "of no text", move || odd.exists());
        let (slot, uid) = (self.slot(), self.uid_base + self.next + 100);
        let space = self.bind_namespace(slot);
        let inside = format!("--net={}", space.display());
        let id = uid.to_string();
        let sleeper = [&inside, "setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "sleep", "1000"];
        let mut child = Command::new("nsenter").args(sleeper).spawn().expect("nsenter");
        while !anyone_of(uid) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        self.plant("namespace", "with somebody in it", move || {
            let _ = child.try_wait();
            space.exists() || anyone_of(uid)
        });
    }

    fn nft(&self, rules: &str) -> String {
        output("nsenter", &[&self.host(), "nft", rules])
    }

    pub(super) fn rules(&mut self) {
        let slot = self.slot();
        let space = self.bind_namespace(slot);
        let inside = format!("--net={}", space.display());
        output("nsenter", &[&inside, "nft", "add table inet left; add chain inet left c"]);
        self.plant("rules", "in a namespace", move || space.exists());
        let prefix = self.prefix.clone();
        let net = format!("inet {prefix}_net");
        for (form, rules, seen) in [
            ("an older table", format!("add table ip {prefix}_old"), format!("{prefix}_old")),
            (
                "a table with rules",
                format!("add table inet {prefix}_9; add chain inet {prefix}_9 c; add rule inet {prefix}_9 c drop"),
                format!("{prefix}_9"),
            ),
            ("of another family", format!("add table netdev {prefix}_net"), format!("netdev {prefix}_net")),
            ("a chain in the node's table", format!("add chain {net} left_over"), "left_over".to_owned()),
            (
                "a rule in the node's table",
                format!("insert rule {net} from_sandbox ip daddr 10.66.66.66 accept"),
                "10.66.66.66".to_owned(),
            ),
        ] {
            self.nft(&rules);
            let host = self.host();
            self.plant("rules", form, move || output("nsenter", &[&host, "nft", "list", "ruleset"]).contains(&seen));
        }
    }

    fn plant_groups(&mut self, form: &str, name: &str, make: impl Fn(&Path)) {
        let mut all = Vec::new();
        for parent in groups(&self.parent) {
            let group = parent.join(name);
            make(&group);
            all.push(group);
        }
        if form == "in one hierarchy" {
            for group in all.split_off(1) {
                std::fs::remove_dir(group).expect("takes it back");
            }
        }
        self.plant("cgroup", form, move || all.iter().any(|group| group.exists()));
    }

    pub(super) fn cgroups(&mut self) {
        let make = |group: &Path| std::fs::create_dir(group).expect("a cgroup");
        for form in ["empty", "in one hierarchy"] {
            let name = format!("slot-{}", self.slot());
            self.plant_groups(form, &name, make);
        }
        let name = format!("slot-{}", self.slot());
        self.plant_groups("with groups in it", &name, |group| {
            std::fs::create_dir_all(group.join("a/b")).expect("groups");
            std::fs::create_dir(group.join("c")).expect("a group");
        });
        for (form, name) in [("oddly numbered", "slot-007"), ("with a space", "left over")] {
            self.plant_groups(form, name, make);
        }
        let slot = self.slot();
        let stranger = stranger();
        self.join(stranger.identity.pid, slot);
        let all: Vec<PathBuf> =
            groups(&self.parent).into_iter().map(|parent| parent.join(format!("slot-{slot}"))).collect();
        self.inside.push(stranger);
        self.plant("cgroup", "with root's process in it", move || all.iter().any(|group| group.exists()));
    }

    pub(super) fn jail_roots(&mut self) {
        let victim = self.victim.path().to_owned();
        let root = self.folder(self.next + 500).join("root");
        std::fs::create_dir_all(root.join("locked")).expect("folders");
        for name in [&b"-rf"[..], b"new\nline", b"\xff\xfe", b"a b\tc\\040", b"..."] {
            std::fs::write(root.join(OsStr::from_bytes(name)), b"x").expect("writes");
        }
        symlink(&victim, root.join("link")).expect("a link");
        symlink("/", root.join("root")).expect("a link");
        std::fs::hard_link(victim.join("precious"), root.join("hard")).expect("a hard link");
        std::fs::set_permissions(root.join("locked"), PermissionsExt::from_mode(0o0)).expect("a mode");
        drop(std::os::unix::net::UnixListener::bind(root.join("socket")).expect("a socket"));
        output("mkfifo", &[&root.join("fifo").display().to_string()]);
        self.plant("jail root", "with hostile names and links", move || root.exists());
        let deep = self.folder(self.next + 501);
        std::fs::create_dir_all((0..300).fold(deep.clone(), |at, _| at.join("d"))).expect("folders");
        self.plant("jail root", "deep", move || deep.exists());
        for (form, name) in
            [("oddly numbered", "0077"), ("as the groups are named", "slot-5"), ("with odd words", "a\n b")]
        {
            let odd = self.folder(name);
            std::fs::create_dir_all(odd.join("root")).expect("folders");
            self.plant("jail root", form, move || odd.exists());
        }
        let file = self.folder(self.next + 502);
        std::fs::write(&file, b"x").expect("writes");
        self.plant("jail root", "a file", move || file.exists());
        let link = self.folder(self.next + 503);
        symlink(&victim, &link).expect("a link");
        self.plant("jail root", "a link", move || link.symlink_metadata().is_ok());
    }

    fn tmpfs(at: &Path) {
        std::fs::create_dir_all(at).expect("folders");
        nix::mount::mount(Some("left"), at, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>).expect("mounts");
    }

    pub(super) fn mounts(&mut self) {
        let bind = |from: &Path, at: &Path| {
            nix::mount::mount(Some(from), at, None::<&str>, nix::mount::MsFlags::MS_BIND, None::<&str>).expect("binds");
        };
        for (form, below) in
            [("below a root", "root/mnt"), ("with an odd name", "root/a b\tc\nd\\040"), ("on the folder", "")]
        {
            let at = self.new_folder().join(below);
            Self::tmpfs(&at);
            self.plant("mount", form, move || is_mounted(Path::new(at.to_str().expect("text").trim_end_matches('/'))));
        }
        let at = self.new_folder().join("root/mnt");
        for _ in 0..3 {
            Self::tmpfs(&at);
        }
        Self::tmpfs(&at.join("inner"));
        self.plant("mount", "stacked", move || is_mounted(&at));
        let at = self.new_folder().join("root/mnt");
        Self::tmpfs(&at);
        let stranger = stranger_in(&at);
        self.inside.push(stranger);
        self.plant("mount", "busy", move || is_mounted(&at));
        let at = self.new_folder().join("root/victim");
        std::fs::create_dir_all(&at).expect("folders");
        bind(self.victim.path(), &at);
        self.plant("mount", "of a folder that is somebody's", move || is_mounted(&at));
        let at = self.base.join("state/disks/agtmount.disk");
        std::fs::write(&at, b"").expect("writes");
        bind(&self.victim.path().join("precious"), &at);
        self.plant("mount", "over a file", move || at.exists());
    }

    /// Whether this machine has loop devices at all.
    pub(super) fn try_loops(&self) -> bool {
        let file = self.victim.path().join("disk");
        std::fs::write(&file, vec![0; 1 << 20]).expect("writes");
        let made = Command::new("losetup").args(["--find", &file.display().to_string()]).output();
        let works = made.as_ref().is_ok_and(|o| o.status.success());
        if !works {
            println!("not covered: loop devices do not work on this machine: {made:?}");
        }
        works
    }

    fn loop_over(&self, file: &Path) {
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("folders");
        std::fs::write(file, vec![0; 1 << 20]).expect("writes");
        output("losetup", &["--find", &file.display().to_string()]);
    }

    pub(super) fn loop_devices(&mut self) {
        let file = self.new_folder().join("root/disk");
        self.loop_over(&file);
        self.plant("loop", "in a jail root", move || loops_over(&file) > 0);
        let file = self.base.join("state/disks/agtlooped.disk");
        self.loop_over(&file);
        std::fs::remove_file(&file).expect("removes");
        self.plant("loop", "over a removed disk", move || loops_over(&file) > 0);
        let root = self.new_folder().join("root");
        let file = root.join("disk");
        self.loop_over(&file);
        output("mke2fs", &["-q", "-F", &file.display().to_string()]);
        std::fs::create_dir(root.join("mnt")).expect("a folder");
        let mount = root.join("mnt");
        output("mount", &["-o", "loop", &file.display().to_string(), &mount.display().to_string()]);
        self.plant("loop", "mounted", move || loops_over(&file) > 0 || is_mounted(&mount));
    }

    pub(super) fn files(&mut self) {
        let (disks, logs) = (self.base.join("state/disks"), self.base.join("state/logs"));
        for (form, path) in [
            ("a disk", disks.join("agtnobody.disk")),
            ("half a disk", disks.join("agtnobody.disk.new")),
            ("a log", logs.join("agtnobody.log")),
            ("a name like an option", disks.join("-rf")),
            ("a name of no text", disks.join(OsStr::from_bytes(b"\xff\n.disk"))),
            ("a name of no letters", logs.join(" ")),
        ] {
            std::fs::write(&path, b"x").expect("writes");
            self.plant("file", form, move || path.exists());
        }
        let folder = disks.join("agtfolder.disk");
        std::fs::create_dir_all(folder.join("in/it")).expect("folders");
        self.plant("file", "a folder", move || folder.exists());
        let link = disks.join("agtlink.disk");
        symlink(self.victim.path(), &link).expect("a link");
        self.plant("file", "a link", move || link.symlink_metadata().is_ok());
    }
}

/// Root's own process, like any other.
fn stranger() -> Stranger {
    Stranger::of(Command::new("sleep").arg("100000").spawn().expect("sleep"))
}

fn stranger_in(folder: &Path) -> Stranger {
    Stranger::of(Command::new("sleep").arg("100000").current_dir(folder).spawn().expect("sleep"))
}
