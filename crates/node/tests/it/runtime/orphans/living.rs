//! What must be the same before and after: all that the living sandboxes
//! have on the host, by inode and number, and what is not the node's at all.

use super::super::recycle::identity;
use super::super::world::World;
use super::{groups, output};
use std::collections::BTreeMap;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::Path;

/// Facts by their names.
pub(super) type Facts = BTreeMap<String, String>;

/// Slots with processes: the living, while nothing is planted.
pub(super) fn slots(world: &World) -> Vec<u32> {
    let mut slots: Vec<u32> = world.setup.processes().iter().map(|pid| uid_of(*pid) - world.setup.uid_base).collect();
    slots.dedup();
    slots
}

fn uid_of(pid: nix::unistd::Pid) -> u32 {
    std::fs::metadata(format!("/proc/{pid}")).expect("lives").uid()
}

fn inode(path: &Path) -> String {
    path.symlink_metadata().map_or("nothing".into(), |m| format!("{}:{}", m.dev(), m.ino()))
}

fn listing(dir: &Path) -> String {
    let mut all: Vec<String> = std::fs::read_dir(dir)
        .expect("a folder")
        .flatten()
        .map(|e| format!("{} {}", e.file_name().display(), e.ino()))
        .collect();
    all.sort();
    all.join("\n")
}

pub(super) fn facts(world: &World, slots: &[u32]) -> Facts {
    let (setup, mut facts) = (&world.setup, Facts::new());
    let mut say = |name: String, fact: String| drop(facts.insert(name, fact));
    for slot in slots {
        let uid = setup.uid_base + slot;
        let pids: Vec<u32> = (setup.processes().into_iter())
            .filter(|pid| std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|m| m.uid() == uid))
            .map(|pid| pid.as_raw().cast_unsigned())
            .collect();
        say(format!("{slot} processes"), format!("{:?}", pids.iter().map(|p| identity(*p)).collect::<Vec<_>>()));
        for pid in &pids {
            let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            say(format!("{slot} mounts of {pid}"), mounts);
            let group = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            say(format!("{slot} groups of {pid}"), group);
        }
        let name = format!("{}-{slot}", setup.prefix);
        let space = setup.base.join("run/netns").join(&name);
        let inside = format!("--net={}", space.display());
        say(format!("{slot} namespace"), std::fs::metadata(&space).map_or("gone".into(), |m| m.ino().to_string()));
        say(format!("{slot} tap and link"), output("nsenter", &[&inside, "ip", "-o", "link"]));
        say(format!("{slot} rules"), output("nsenter", &[&inside, "nft", "-s", "list", "ruleset"]));
        say(format!("{slot} host's link"), output("ip", &["-n", &world.netns, "-o", "link", "show", &name]));
        for parent in groups(&setup.cgroup_parent()) {
            let group = parent.join(format!("slot-{slot}"));
            say(format!("{slot} group {}", group.display()), inode(&group));
        }
        let folder = setup.base.join(format!("run/slots/{slot}"));
        say(format!("{slot} folder"), inode(&folder));
        say(format!("{slot} files"), listing(&folder));
    }
    say("disks".into(), listing(&setup.base.join("state/disks")));
    let host = format!("--net=/run/netns/{}", world.netns);
    let table = format!("{}_net", setup.prefix);
    say("host's rules".into(), output("nsenter", &[&host, "nft", "list", "table", "inet", &table]));
    facts
}
