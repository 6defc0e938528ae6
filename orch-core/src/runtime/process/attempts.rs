//! Attempts of one runtime, as known to this incarnation of the agent. It has exclusive use of the directory,
//! so that only launchers change anything besides.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use tokio::{
    process::Child,
    sync::{broadcast, watch},
    task::JoinHandle,
};

use super::{
    attempt_dir::{AttemptDir, OnDisk},
    blocking,
    changes::Changes,
    host::Host,
    processes::{Mark, Process, Snapshot, signal_all},
    readable,
    record::{Identity, Record},
    shell,
    sweeps::Sweeps,
};
use crate::{
    model::{AttemptId, Exit},
    runtime::{RuntimeError, RuntimeErrorKind, RuntimeEvent, Started},
};

/// Number of events that a reader may lag behind before it has to list again.
const EVENTS: usize = 1024;
/// Deadline for killed processes to exit. Longer means that the kernel cannot end them (a dead disk).
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Deadline for a launcher to exit after its program. Longer means that somebody has stopped it.
const LAUNCHER_TIMEOUT: Duration = Duration::from_secs(5);
/// Polling interval for conditions that are expected within milliseconds.
const SOON: Duration = Duration::from_millis(2);
/// Interval at which output of attempts of a shell of an earlier version is trimmed.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);

/// Phase of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Created,
    Running,
    /// The attempt has ended, and none of its processes is left.
    Ended(Exit),
    /// The attempt may have run, and its exit status is unknown. None of its processes is left.
    Lost,
    Removed,
}

/// State of one attempt.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) dir: AttemptDir,
    /// Locked while the attempt is started or removed.
    pub(super) changing: tokio::sync::Mutex<()>,
    phase: watch::Sender<Phase>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    record: Option<Record>,
    monitor: Option<JoinHandle<()>>,
    /// Whether this incarnation started it, and gave it no secrets as files.
    without_files: bool,
}

impl Attempt {
    fn new(dir: AttemptDir, phase: Phase, record: Option<Record>) -> Arc<Self> {
        let inner = Mutex::new(Inner { record, ..Inner::default() });
        Arc::new(Self {
            dir,
            changing: tokio::sync::Mutex::default(),
            phase: watch::Sender::new(phase),
            inner,
        })
    }

    pub(super) fn id(&self) -> AttemptId {
        self.dir.attempt()
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(super) fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(super) fn record(&self) -> Option<Record> {
        self.inner().record.clone()
    }

    /// Process id of the launcher, or empty where it is not known.
    pub(super) fn handle(&self) -> String {
        self.inner().record.as_ref().map(|record| record.launcher.pid().to_string()).unwrap_or_default()
    }

    pub(super) fn started(&self, host: &Host) -> Started {
        let at = self.record().and_then(|record| record.started_at(host)).unwrap_or_default();
        Started { handle: self.handle(), at }
    }

    /// Returns when the attempt does not run any more.
    pub(super) async fn over(&self) -> Phase {
        let mut phases = self.phases();
        let over = phases.wait_for(|phase| *phase != Phase::Running).await;
        over.map_or(Phase::Removed, |phase| *phase)
    }

    /// Notes whether the attempt gets files outside of its directory.
    pub(super) fn set_files(&self, some: bool) {
        self.inner().without_files = !some;
    }

    pub(super) fn may_have_files(&self) -> bool {
        !self.inner().without_files
    }

    fn mark(&self, host: &Host, program_known: bool) -> Mark {
        let record = self.record().filter(|record| record.launcher.is_of(host));
        let record = record.as_ref();
        Mark {
            attempt: self.id(),
            launcher: record
                .map(|record| &record.launcher)
                .filter(|one| one.is_alive(host))
                .map(Identity::pid),
            group: record.and_then(|record| record.program).filter(|_| program_known),
            pipes: record.and_then(|record| record.pipes),
            since_ticks: record.map_or(0, |record| record.launcher.start_ticks()),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

#[derive(Debug)]
pub(super) struct Attempts {
    base: PathBuf,
    pub(super) host: Host,
    all: Mutex<BTreeMap<AttemptId, Arc<Attempt>>>,
    events: broadcast::Sender<RuntimeEvent>,
    sweeps: Arc<Sweeps>,
    pub(super) changes: Arc<Changes>,
}

impl Attempts {
    /// Loads all attempts below `base`, and cleans up after those that ended while no agent ran.
    pub(super) fn load(base: PathBuf) -> io::Result<Self> {
        let host = Host::this()?;
        let mut all = BTreeMap::new();
        for dir in AttemptDir::all(&base)? {
            let (phase, record) = phase_of(&dir, &host);
            all.insert(dir.attempt(), Attempt::new(dir, phase, record));
        }
        settle_all(all.values(), &host)?;
        Ok(Self {
            base,
            host,
            all: Mutex::new(all),
            events: broadcast::Sender::new(EVENTS),
            sweeps: Arc::default(),
            changes: Arc::new(Changes::new()),
        })
    }

    pub(super) fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }

    pub(super) fn get(&self, attempt: AttemptId) -> Option<Arc<Attempt>> {
        self.all().get(&attempt).cloned()
    }

    pub(super) fn get_or_create(&self, attempt: AttemptId) -> Arc<Attempt> {
        let new = || Attempt::new(AttemptDir::new(&self.base, attempt), Phase::Created, None);
        Arc::clone(self.all().entry(attempt).or_insert_with(new))
    }

    pub(super) fn list(&self) -> Vec<Arc<Attempt>> {
        self.all().values().cloned().collect()
    }

    /// Forgets the attempt. Tasks that wait for it learn that it is removed.
    pub(super) fn forget(&self, attempt: &Attempt) {
        self.all().remove(&attempt.id());
        attempt.phase.send_replace(Phase::Removed);
    }

    /// Marks the attempt as running.
    pub(super) fn runs(self: &Arc<Self>, attempt: &Arc<Attempt>, record: Record, child: Option<Child>) {
        attempt.inner().record = Some(record);
        attempt.phase.send_replace(Phase::Running);
        self.attend(attempt, child);
    }

    /// Reads from disk the phase of an attempt that this incarnation did not start, as another launcher left
    /// it.
    pub(super) fn look(self: &Arc<Self>, attempt: &Arc<Attempt>) -> Phase {
        let (phase, record) = phase_of(&attempt.dir, &self.host);
        if let (Phase::Running | Phase::Ended(_) | Phase::Lost, Some(record)) = (phase, record) {
            // Also when it has ended: the monitor detects that and cleans up.
            self.runs(attempt, record, None);
        }
        attempt.phase()
    }

    /// Monitors the attempt while it runs, once.
    pub(super) fn attend(self: &Arc<Self>, attempt: &Arc<Attempt>, child: Option<Child>) {
        let mut inner = attempt.inner();
        let attended = inner.monitor.as_ref().is_some_and(|monitor| !monitor.is_finished());
        if attempt.phase() == Phase::Running && !attended {
            let (attempts, attempt) = (Arc::downgrade(self), Arc::clone(attempt));
            inner.monitor = Some(tokio::spawn(monitor(attempts, attempt, child)));
        }
    }

    /// Sends a signal to every process of the attempt.
    pub(super) async fn signal(&self, attempt: &Attempt, signal: Signal) -> Result<(), RuntimeError> {
        let (mark, members) = self.members(attempt, true).await?;
        let group = mark.sure_group();
        blocking(move || signal_all(&members, group, signal)).await
    }

    /// Kills all processes of the attempt, and returns when it has ended.
    pub(super) async fn end(&self, attempt: &Attempt) -> Result<(), RuntimeError> {
        let (began, mut phases) = (Instant::now(), attempt.phases());
        while attempt.phase() == Phase::Running {
            let left = self.kill(attempt, true).await?;
            if began.elapsed() > KILL_TIMEOUT {
                return Err(undead(attempt, left));
            }
            if left == 0 && began.elapsed() > LAUNCHER_TIMEOUT {
                let launcher = attempt.record().map(|record| record.launcher);
                blocking(move || launcher.map_or(Ok(()), |launcher| launcher.signal(Signal::KILL))).await?;
            }
            let patience = if left == 0 { SOON * 10 } else { SOON };
            let _ = tokio::time::timeout(patience, phases.wait_for(|phase| *phase != Phase::Running)).await;
        }
        Ok(())
    }

    /// Kills the remaining processes of an attempt, until there are none.
    pub(super) async fn clear(&self, attempt: &Attempt, program_known: bool) -> Result<(), RuntimeError> {
        let began = Instant::now();
        loop {
            match self.kill(attempt, program_known).await? {
                0 => return Ok(()),
                left if began.elapsed() > KILL_TIMEOUT => return Err(undead(attempt, left)),
                _ => tokio::time::sleep(SOON).await,
            }
        }
    }

    /// Kills all processes of the attempt but the launcher; returns their number.
    async fn kill(&self, attempt: &Attempt, program_known: bool) -> Result<usize, RuntimeError> {
        let (mark, members) = self.members(attempt, program_known).await?;
        let count = members.len();
        if count > 0 {
            let group = mark.sure_group();
            blocking(move || signal_all(&members, group, Signal::KILL)).await?;
        }
        Ok(count)
    }

    async fn members(
        &self,
        attempt: &Attempt,
        program_known: bool,
    ) -> Result<(Mark, Vec<Process>), RuntimeError> {
        let mark = attempt.mark(&self.host, program_known);
        let members = self.sweeps.snapshot(mark.since_ticks).await?.of(&mark);
        Ok((mark, members))
    }

    /// Cleans up when the launcher has exited, with its exit code if that is known.
    async fn settle(&self, attempt: &Attempt, code: Option<i32>) {
        let exit = match code {
            Some(code) => Some(Exit::from_code(code)),
            None => {
                let dir = attempt.dir.clone();
                blocking(move || Ok(dir.exit())).await.unwrap_or_default()
            }
        };
        let phase = exit.map_or(Phase::Lost, Phase::Ended);
        if let Err(error) = self.clear(attempt, true).await {
            tracing::warn!(attempt = %attempt.id(), %error, "cannot clean up after an attempt");
        }
        if attempt.may_have_files() {
            let dir = attempt.dir.clone();
            if let Err(error) = blocking(move || clear_files(&dir)).await {
                tracing::warn!(attempt = %attempt.id(), %error, "cannot remove the secrets of an attempt");
            }
        }
        // The end must be visible before anybody is notified of it.
        let over = attempt.phase.send_if_modified(|current| {
            let runs = *current == Phase::Running;
            if runs {
                *current = phase;
            }
            runs
        });
        if over && phase != Phase::Lost {
            let _ = self.events.send(RuntimeEvent::Ended { attempt: attempt.id() });
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<AttemptId, Arc<Attempt>>> {
        self.all.lock()
    }
}

fn phase_of(dir: &AttemptDir, host: &Host) -> (Phase, Option<Record>) {
    let record = match dir.look(host) {
        OnDisk::Absent | OnDisk::Created => return (Phase::Created, None),
        OnDisk::Unknown => return (Phase::Lost, None),
        OnDisk::Started(record) => record,
    };
    if let Some(exit) = record.exit {
        return (Phase::Ended(exit), Some(record));
    }
    if record.launcher.is_alive(host) {
        return (Phase::Running, Some(record));
    }
    // It may have ended between the two looks. Otherwise the exit status is unknown: a missing record is no
    // evidence of success or failure.
    (dir.exit().map_or(Phase::Lost, Phase::Ended), Some(record))
}

/// Cleans up after attempts that ended while no agent ran.
fn settle_all<'a>(attempts: impl Iterator<Item = &'a Arc<Attempt>>, host: &Host) -> io::Result<()> {
    let over: Vec<_> =
        attempts.filter(|attempt| matches!(attempt.phase(), Phase::Ended(_) | Phase::Lost)).collect();
    let began = Instant::now();
    // The process id may be reused by now: the program's group is not searched.
    let marks: Vec<_> = over.iter().map(|attempt| attempt.mark(host, false)).collect();
    while let Some(since) = marks.iter().map(|mark| mark.since_ticks).min() {
        let snapshot = Snapshot::take(since)?;
        let left: Vec<_> = marks.iter().flat_map(|mark| snapshot.of(mark)).collect();
        if left.is_empty() {
            break;
        }
        signal_all(&left, None, Signal::KILL)?;
        if began.elapsed() > KILL_TIMEOUT {
            tracing::warn!(
                processes = left.len(),
                "processes of ended attempts do not end though they were killed"
            );
            break;
        }
    }
    for attempt in over {
        // A crash of the machine may have left an incomplete file, which must not keep the others from being
        // adopted.
        if let Err(error) = clear_files(&attempt.dir) {
            tracing::warn!(attempt = %attempt.id(), %error, "cannot remove the secrets of an attempt");
        }
    }
    Ok(())
}

fn clear_files(dir: &AttemptDir) -> io::Result<()> {
    match dir.spec() {
        Ok(spec) => dir.clear_secrets(&spec),
        // The directory was removed by somebody else.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits for the launcher's exit. Continues after the runtime is dropped, to reap the child.
async fn monitor(attempts: Weak<Attempts>, attempt: Arc<Attempt>, child: Option<Child>) {
    let record = attempt.record();
    let is_of_shell = record.as_ref().is_some_and(|record| record.pipes.is_none());
    let ended = async {
        match (child, &record) {
            (Some(mut child), _) => child.wait().await.ok().and_then(|status| status.code()),
            (None, Some(record)) => {
                gone(&attempts, record).await;
                None
            }
            (None, None) => None,
        }
    };
    tokio::pin!(ended);
    let code = loop {
        tokio::select! {
            code = &mut ended => break code,
            () = tokio::time::sleep(TRIM_INTERVAL), if is_of_shell => trim(&attempt.dir).await,
        }
    };
    if is_of_shell {
        trim(&attempt.dir).await;
    }
    if let Some(attempts) = attempts.upgrade() {
        attempts.settle(&attempt, code).await;
    }
}

/// Returns when a process that is no child has exited.
async fn gone(attempts: &Weak<Attempts>, record: &Record) {
    let pid: Pid = record.launcher.pid();
    let Ok(pinned) = pidfd_open(pid, PidfdFlags::NONBLOCK).or_else(|_| pidfd_open(pid, PidfdFlags::empty()))
    else {
        return;
    };
    // The number may have been reused before it was pinned.
    let alive = attempts.upgrade().is_some_and(|attempts| record.launcher.is_alive(&attempts.host));
    if !alive {
        return;
    }
    if let Ok(pinned) = readable(pinned) {
        let _ = pinned.readable().await;
    }
}

async fn trim(dir: &AttemptDir) {
    let (dir, attempt) = (dir.clone(), dir.attempt());
    let trimmed = blocking(move || shell::trim(&dir, dir.spec()?.output_limit_bytes));
    if let Err(error) = trimmed.await {
        tracing::warn!(%attempt, %error, "cannot keep the output of an attempt within its limit");
    }
}

fn undead(attempt: &Attempt, left: usize) -> RuntimeError {
    let message = format!("{left} processes of attempt {} do not end though they were killed", attempt.id());
    RuntimeError::new(RuntimeErrorKind::Internal, message)
}
