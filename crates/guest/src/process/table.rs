//! All processes by id. An id runs one process, ever: a repeated start meets
//! the first, until its outcome is forgotten ten minutes after the end.

use super::exec::{About, Exec};
use super::spawn::{Plan, spawn};
use super::{StartError, users};
use crate::identity::{self, Wanted};
use crate::{Guest, lock};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long an outcome is kept.
const OUTCOME_KEPT: Duration = Duration::from_secs(600);
/// Processes at once; the pid limit of the kernel comes later.
const RUNNING_LIMIT: usize = 2048;
/// Output of ended processes kept in all; the oldest goes first.
const ENDED_OUTPUT: u64 = 8 * 1024 * 1024;
/// Outcomes kept in all.
const ENDED_LIMIT: usize = 8192;

/// The main process's id in the table.
pub const MAIN: &str = "main";

#[derive(Default)]
pub struct ExecTable {
    execs: Mutex<BTreeMap<String, Arc<Exec>>>,
}

/// A start as asked for.
#[derive(Clone, Debug, Default)]
pub struct Start {
    pub id: String,
    pub about: About,
    pub user: String,
    pub stdin: bool,
    pub terminal: Option<(u16, u16)>,
    pub timeout: Option<Duration>,
    /// Lines go to the log ring too.
    pub logged: bool,
    /// A call to read the output from its beginning follows: until it comes
    /// nothing is overwritten.
    pub starter_attaches: bool,
    /// The id may be taken again once its process has ended.
    pub replace_ended: bool,
}

impl ExecTable {
    pub fn get(&self, id: &str) -> Option<Arc<Exec>> {
        lock(&self.execs).get(id).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Exec>> {
        lock(&self.execs).values().cloned().collect()
    }

    /// Must run on the runtime that owns processes. The flag says that the
    /// exec was there already.
    pub fn start(&self, guest: &Arc<Guest>, start: Start) -> Result<(Arc<Exec>, bool), StartError> {
        // Held over the fork: two starts of one id must not both run.
        let mut execs = lock(&self.execs);
        if let Some(found) = execs.get(&start.id)
            && (!start.replace_ended || found.running())
        {
            return Ok((found.clone(), true));
        }
        if execs.values().filter(|exec| exec.running()).count() >= RUNNING_LIMIT {
            return Err(StartError::Full(format!("{RUNNING_LIMIT} processes run already")));
        }
        forget_old(&mut execs);
        let exec = begin(guest, &start)?;
        execs.insert(start.id.clone(), exec.clone());
        drop(execs);
        if start.id != MAIN {
            let guest = guest.clone();
            let own = exec.clone();
            tokio::spawn(async move {
                own.ended().await;
                tokio::time::sleep(OUTCOME_KEPT).await;
                guest.execs.remove(&own);
            });
        }
        Ok((exec, false))
    }

    fn remove(&self, exec: &Arc<Exec>) {
        let mut execs = lock(&self.execs);
        if execs.get(&exec.id).is_some_and(|found| Arc::ptr_eq(found, exec)) {
            execs.remove(&exec.id);
        }
    }
}

fn begin(guest: &Arc<Guest>, start: &Start) -> Result<Arc<Exec>, StartError> {
    let root = Path::new("/");
    let account = users::find(root, &start.user)?;
    let wanted = {
        let identity = lock(&guest.identity);
        Wanted {
            env: identity::environment(&identity, &account, &start.about.env, start.terminal.is_some()),
            cwd: identity::folder(&identity, &account, start.about.cwd.as_deref())?,
        }
    };
    let plan = Plan {
        argv: start.about.argv.clone(),
        env: wanted.env,
        cwd: wanted.cwd,
        account,
        stdin: start.stdin,
        terminal: start.terminal,
    };
    match spawn(&plan, &guest.reaper) {
        Ok(spawned) => {
            let logs = start.logged.then(|| guest.logs.clone());
            let attaches = start.starter_attaches;
            Exec::adopt(start.id.clone(), start.about.clone(), spawned, start.timeout, logs, attaches)
                .map_err(|error| StartError::Full(format!("cannot watch the process: {error}")))
        }
        Err(StartError::Program { exit_code, message }) => {
            Ok(Exec::stillborn(start.id.clone(), start.about.clone(), exit_code, message))
        }
        Err(other) => Err(other),
    }
}

/// Keeps what ended processes hold within bounds, oldest first.
fn forget_old(execs: &mut BTreeMap<String, Arc<Exec>>) {
    let mut ended: Vec<Arc<Exec>> = execs.values().filter(|exec| !exec.running() && exec.id != MAIN).cloned().collect();
    ended.sort_by_key(|exec| std::cmp::Reverse(exec.started_at_ms));
    let mut held = 0;
    for (index, exec) in ended.iter().enumerate() {
        let (start, end) = exec.span();
        held += end - start;
        if held > ENDED_OUTPUT && exec.drained() {
            exec.forget_output();
        }
        if index >= ENDED_LIMIT {
            execs.remove(&exec.id);
        }
    }
}
