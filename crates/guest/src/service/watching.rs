//! Watchers as E2B's clients use them: a stream of events, or events kept
//! until they are asked for.
//!
//! Both are bounded: so many watchers at a time, so many events kept of each.
//! Whoever misses events is told so (`data_loss`), and can look for itself.

use super::filesystem::failed;
use crate::process::users::Account;
use crate::watch::{Ended, Options, Watcher};
use crate::{Guest, lock, sys};
use aether_proto::guest::filesystem::{
    self as wire, __buffa::oneof::watch_dir_response::Event, FilesystemEvent, watch_dir_response,
};
use connectrpc::ConnectError;
use futures::Stream;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Of both kinds. The kernel gives one user 128 by default, and programs of
/// the sandbox want some too.
const WATCHERS: usize = 64;
/// Kept of one watcher until it is asked.
const EVENTS: usize = 4096;
/// After this long without a question a kept watcher makes room for others.
const IDLE_MS: u64 = 10 * 60 * 1000;

/// The kept watchers, and how many there are of all.
pub struct Watchers {
    room: Arc<Semaphore>,
    kept: Mutex<(u64, BTreeMap<String, Kept>)>,
}

impl Default for Watchers {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(WATCHERS)), kept: Mutex::default() }
    }
}

/// Filled by a task that ends with it.
struct Kept {
    queue: Arc<Mutex<Queue>>,
    task: tokio::task::JoinHandle<()>,
    asked_ms: u64,
    /// Here, not in the task: what is removed makes room at once.
    _permit: OwnedSemaphorePermit,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default)]
struct Queue {
    events: VecDeque<FilesystemEvent>,
    /// Told at the next question, once.
    lost: bool,
    /// Told at each question after the last event.
    failed: Option<String>,
}

/// What was asked for, checked.
pub struct Asked {
    pub account: Account,
    pub path: PathBuf,
    pub options: Options,
    pub network_mounts: bool,
}

impl Watchers {
    fn permit(&self) -> Result<OwnedSemaphorePermit, ConnectError> {
        let take = || self.room.clone().try_acquire_owned().ok();
        take()
            .or_else(|| {
                self.drop_idle();
                take()
            })
            .ok_or_else(|| ConnectError::resource_exhausted(format!("{WATCHERS} watchers are open: remove one")))
    }

    /// The one that was not asked for the longest time, if that was long ago.
    fn drop_idle(&self) {
        let before = sys::uptime_ms().saturating_sub(IDLE_MS);
        let mut kept = lock(&self.kept);
        let idle = kept.1.iter().filter(|(_, it)| it.asked_ms < before).min_by_key(|(_, it)| it.asked_ms);
        if let Some(id) = idle.map(|(id, _)| id.clone()) {
            kept.1.remove(&id);
        }
    }

    pub async fn create(&self, guest: &Guest, asked: Asked) -> Result<String, ConnectError> {
        let permit = self.permit()?;
        let watcher = open(asked).await?;
        let queue = Arc::new(Mutex::new(Queue::default()));
        let task = guest.work.spawn(fill(watcher, queue.clone()));
        let mut kept = lock(&self.kept);
        kept.0 += 1;
        let id = format!("w{}", kept.0);
        kept.1.insert(id.clone(), Kept { queue, task, asked_ms: sys::uptime_ms(), _permit: permit });
        Ok(id)
    }

    pub fn events(&self, id: &str) -> Result<Vec<FilesystemEvent>, ConnectError> {
        let queue = {
            let mut kept = lock(&self.kept);
            let found = kept.1.get_mut(id).ok_or_else(|| unknown(id))?;
            found.asked_ms = sys::uptime_ms();
            found.queue.clone()
        };
        let mut queue = lock(&queue);
        if std::mem::take(&mut queue.lost) {
            queue.events.clear();
            return Err(missed());
        }
        match &queue.failed {
            Some(why) if queue.events.is_empty() => Err(ConnectError::internal(why.clone())),
            _ => Ok(queue.events.drain(..).collect()),
        }
    }

    pub fn remove(&self, id: &str) -> Result<(), ConnectError> {
        lock(&self.kept).1.remove(id).map(drop).ok_or_else(|| unknown(id))
    }
}

fn unknown(id: &str) -> ConnectError {
    let id: String = id.chars().take(64).collect();
    ConnectError::not_found(format!("watcher with id {id:?} not found"))
}

fn missed() -> ConnectError {
    ConnectError::data_loss("more happened than could be kept: look at the folder again")
}

async fn open(asked: Asked) -> Result<Watcher, ConnectError> {
    let Asked { account, path, options, network_mounts } = asked;
    let shown = path.clone();
    if !network_mounts && on_network(&path) {
        let message = format!("{} is on a network mount, whose events are unreliable", path.display());
        return Err(ConnectError::invalid_argument(message));
    }
    Watcher::open(account, path, options).await.map_err(|error| failed(&shown, &error))
}

/// NFS, the three of SMB, and FUSE.
fn on_network(path: &Path) -> bool {
    const KINDS: [i64; 5] = [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42, 0x6573_5546];
    nix::sys::statfs::statfs(path).is_ok_and(|stat| KINDS.contains(&stat.filesystem_type().0))
}

async fn fill(mut watcher: Watcher, queue: Arc<Mutex<Queue>>) {
    loop {
        match watcher.take().await {
            Ok(events) => {
                let mut queue = lock(&queue);
                if queue.lost {
                    continue;
                }
                if queue.events.len() + events.len() > EVENTS {
                    queue.lost = true;
                    queue.events = VecDeque::new();
                } else {
                    queue.events.extend(events);
                }
            }
            Err(Ended::Gone) => return,
            Err(Ended::Lost) => {
                let mut queue = lock(&queue);
                queue.lost = true;
                queue.failed = Some("the watch ended when it missed events: make another".to_owned());
                return;
            }
            Err(Ended::Failed(error)) => {
                lock(&queue).failed = Some(format!("the watch ended: {error}"));
                return;
            }
        }
    }
}

/// `start`, then events, with a sign of life in silence; ends with the folder.
pub async fn stream(
    watchers: &Watchers,
    asked: Asked,
    every: Duration,
) -> Result<impl Stream<Item = Result<wire::WatchDirResponse, ConnectError>> + Send + use<>, ConnectError> {
    let permit = watchers.permit()?;
    let path = asked.path.clone();
    let watcher = open(asked).await?;
    let start: Event = watch_dir_response::StartEvent::default().into();
    let state = Some((watcher, VecDeque::from([start]), permit));
    Ok(futures::stream::unfold(state, move |state| {
        let path = path.clone();
        async move {
            let (mut watcher, mut waiting, permit) = state?;
            loop {
                if let Some(event) = waiting.pop_front() {
                    let answer = wire::WatchDirResponse { event: Some(event), ..Default::default() };
                    return Some((Ok(answer), Some((watcher, waiting, permit))));
                }
                if tokio::time::timeout(every, watcher.ready()).await.is_err() {
                    waiting.push_back(watch_dir_response::KeepAlive::default().into());
                    continue;
                }
                match watcher.take().await {
                    Ok(events) => waiting.extend(events.into_iter().map(Event::from)),
                    Err(Ended::Gone) => return None,
                    Err(Ended::Lost) => return Some((Err(missed()), None)),
                    Err(Ended::Failed(error)) => return Some((Err(failed(&path, &error)), None)),
                }
            }
        }
    }))
}
