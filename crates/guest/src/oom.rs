//! Which processes the kernel killed for want of memory, from its own log.

use crate::events::EventLog;
use crate::lock;
use aether_proto::guest::aether::guest::v1::OutOfMemory;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone, Default)]
pub struct OomWatch {
    /// Newest last; a pid is asked for within moments of its end.
    killed: Arc<Mutex<VecDeque<u32>>>,
    watching: Arc<Mutex<bool>>,
}

impl OomWatch {
    /// A thread that reads `/dev/kmsg` from here on.
    pub fn start(&self, events: Arc<EventLog>) -> io::Result<()> {
        let mut log = File::open("/dev/kmsg")?;
        log.seek(SeekFrom::End(0))?;
        *lock(&self.watching) = true;
        let killed = self.killed.clone();
        let watch = move || {
            let mut record = vec![0; 8192];
            loop {
                match log.read(&mut record) {
                    Ok(0) => break,
                    Ok(count) => note(&record[..count], &killed, &events),
                    // EPIPE: records were overwritten before we read them.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
        };
        std::thread::Builder::new().name("oom".into()).stack_size(128 * 1024).spawn(watch)?;
        Ok(())
    }

    /// Whether this process was one of them. The kernel's line may come a
    /// moment after the end is seen.
    pub async fn killed(&self, pid: u32) -> bool {
        for _ in 0..10 {
            if lock(&self.killed).contains(&pid) {
                return true;
            }
            if !*lock(&self.watching) {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }
}

fn note(record: &[u8], killed: &Mutex<VecDeque<u32>>, events: &EventLog) {
    let Some((pid, process)) = parse(&String::from_utf8_lossy(record)) else { return };
    let mut killed = lock(killed);
    killed.push_back(pid);
    if killed.len() > 64 {
        killed.pop_front();
    }
    drop(killed);
    events.push(OutOfMemory { process, pid, ..Default::default() }.into());
}

/// `6,340,5,-;Out of memory: Killed process 123 (python3) total-vm:…`. User
/// programs may write to the log too, but with another facility.
fn parse(record: &str) -> Option<(u32, String)> {
    let (prefix, text) = record.split_once(';')?;
    let level: u32 = prefix.split(',').next()?.parse().ok()?;
    // The facility is above the three bits of the level; the kernel's is 0.
    if level >> 3 != 0 {
        return None;
    }
    let (_, rest) = text.split_once("Killed process ")?;
    let (pid, rest) = rest.split_once(" (")?;
    // The name may hold anything, brackets too.
    let name = rest.split_once(") total-vm").map_or(rest, |(name, _)| name);
    Some((pid.parse().ok()?, name.chars().take(64).collect()))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn kernel_lines_only() {
        let line = "3,812,94313,-;Out of memory: Killed process 123 (a) b) total-vm:9kB, anon-rss:3kB";
        assert_eq!(parse(line), Some((123, "a) b".into())));
        let group = "3,1,2,-;Memory cgroup out of memory: Killed process 7 (sh) total-vm:1kB";
        assert_eq!(parse(group), Some((7, "sh".into())));
        assert_eq!(parse(&line.replacen('3', "11", 1)), None);
        assert_eq!(parse("6,1,2,-;eth0: link up"), None);
        assert_eq!(parse("Killed process"), None);
    }
}
