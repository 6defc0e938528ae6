//! Attempts as processes of the operating system. They continue when the agent exits, and the next agent
//! adopts them.

mod attempt_dir;
mod attempts;
mod changes;
mod host;
mod launch;
mod output;
mod plan;
mod processes;
mod record;
mod shell;
mod sweeps;

use std::{
    fs::{self, File, TryLockError},
    io,
    os::fd::AsRawFd,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use rustix::process::Signal;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{broadcast::error::RecvError, watch},
};

use self::{
    attempt_dir::AttemptDir,
    attempts::{Attempt, Attempts, Phase},
    changes::Watch,
    launch::{Executable, Launch, Launched, NotLaunched, kind_of},
    output::STREAMS,
    plan::Plan,
};
use super::{
    Found, FoundState, LogChunk, Logs, Progress, Runtime, RuntimeCapabilities, RuntimeError,
    RuntimeErrorKind, RuntimeEvents, Started, Usage, Work,
};
use crate::model::{AttemptId, Exit, RestartPolicy, SecretTarget, StopSignal, WorkKind};

/// Settings of a [`ProcessRuntime`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessRuntimeConfig {
    /// Directory that holds one directory for each attempt, created when it is missing. Local, and for one
    /// runtime at a time.
    pub dir: PathBuf,
    /// Directory in which tasks may have secrets as files, on the same file system as `dir`. Without one,
    /// such tasks are rejected. A file exists while its task runs, readable by the agent's user only; a path
    /// that exists already is an error.
    pub secret_dir: Option<PathBuf>,
    /// Whether `dir` is removed when the runtime is dropped, so that nothing is kept for another incarnation.
    pub temporary: bool,
}

impl ProcessRuntimeConfig {
    /// Keeps attempts in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), secret_dir: None, temporary: false }
    }

    /// Keeps attempts in `dir`, which is removed when the runtime is dropped.
    #[must_use]
    pub fn temporary(dir: impl Into<PathBuf>) -> Self {
        Self { temporary: true, ..Self::new(dir) }
    }
}

/// [`Runtime`] for programs, without any engine. Linux, with `/proc`.
///
/// A program gets a clean environment (`PATH`, `HOME` and `LANG` of the agent, then its own, its secrets,
/// `ORCH_TASK` and `ORCH_ATTEMPT`), no input, pipes for its outputs, and a process group of its own. A
/// launcher runs beside it, which keeps the output and records the exit status.
///
/// Child processes belong to the attempt as long as they stay in the group, keep `ORCH_ATTEMPT` in their
/// environment, keep an output of the attempt open, or have a parent that does. All of these get the signal
/// that asks the attempt to stop, and are killed when the program has ended.
///
/// The exit status is known when the launcher recorded it. Otherwise (the machine or the container went down,
/// somebody killed the launcher) the attempt is [`FoundState::Lost`]. Its output can still be read.
///
/// Orphans become children of the first process of the machine or container, which has to reap them. An agent
/// that is the first process of a container does not: start the container with one that does (`docker run
/// --init`).
///
/// This is no sandbox. Requested isolation that plain processes cannot have is rejected with
/// [`RuntimeErrorKind::Unsupported`]; the cpu limit is not enforced, the memory limit only for the data
/// segment of each process by itself, and setuid programs keep their privileges.
#[derive(Debug)]
pub struct ProcessRuntime {
    dir: PathBuf,
    secret_dir: Option<PathBuf>,
    temporary: bool,
    attempts: Arc<Attempts>,
    executable: Arc<Executable>,
    /// Lock on the directory itself, so that it is removed with it. Launchers do not inherit it.
    lock: File,
}

impl Drop for ProcessRuntime {
    fn drop(&mut self) {
        if self.temporary {
            let _ = fs::remove_dir_all(&self.dir);
        }
        // Closing is not enough: a child of this process, before its exec, may hold a copy.
        let _ = self.lock.unlock();
    }
}

impl ProcessRuntime {
    /// Opens a runtime on the configured directory. Attempts of an earlier one are found by
    /// [`Runtime::list`].
    ///
    /// # Errors
    /// When the directory cannot be created or read; [`io::ErrorKind::WouldBlock`] when another runtime uses
    /// it.
    pub fn new(config: ProcessRuntimeConfig) -> io::Result<Self> {
        fs::create_dir_all(&config.dir)?;
        let dir = fs::canonicalize(&config.dir)?;
        let lock = lock(&dir)?;
        let attempts = Arc::new(Attempts::load(dir.clone())?);
        let executable = Arc::new(Executable::new()?);
        let ProcessRuntimeConfig { secret_dir, temporary, .. } = config;
        Ok(Self { dir, secret_dir, temporary, attempts, executable, lock })
    }

    /// Attempt that was started and is not lost.
    fn started(&self, attempt: AttemptId) -> Result<Arc<Attempt>, RuntimeError> {
        let found = self.attempts.get(attempt).ok_or_else(|| RuntimeError::not_found(attempt))?;
        match found.phase() {
            Phase::Created | Phase::Removed => Err(RuntimeError::not_found(attempt)),
            Phase::Lost => Err(lost(attempt)),
            Phase::Running | Phase::Ended(_) => {
                self.attempts.attend(&found, None);
                Ok(found)
            }
        }
    }
}

fn lock(dir: &PathBuf) -> io::Result<File> {
    let lock = File::open(dir)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            format!(
                "{} is in use by another process runtime; give each a directory of its own",
                dir.display()
            ),
        )),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[async_trait]
impl Runtime for ProcessRuntime {
    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities::new("process", WorkKind::Program).adopts().stats()
    }

    async fn prepare(&self, work: &Work, _progress: &Progress) -> Result<(), RuntimeError> {
        let (work, secret_dir) = (work.clone(), self.secret_dir.clone());
        blocking(move || Ok(Plan::of(&work, secret_dir.as_deref()).map(|_| ()))).await?
    }

    async fn start(&self, work: &Work) -> Result<Started, RuntimeError> {
        let start = Start {
            attempts: Arc::clone(&self.attempts),
            executable: Arc::clone(&self.executable),
            secret_dir: self.secret_dir.clone(),
            work: work.clone(),
        };
        // Continues when the caller is dropped: a launcher that has its plan must be tracked.
        join(tokio::spawn(start.run()).await)?
    }

    async fn adopt(&self, attempt: AttemptId) -> Result<Started, RuntimeError> {
        let found = self.started(attempt)?;
        Ok(found.started(&self.attempts.host))
    }

    async fn wait(&self, attempt: AttemptId) -> Result<Exit, RuntimeError> {
        match self.started(attempt)?.over().await {
            Phase::Ended(exit) => Ok(exit),
            Phase::Lost => Err(lost(attempt)),
            Phase::Created | Phase::Running | Phase::Removed => Err(RuntimeError::not_found(attempt)),
        }
    }

    async fn stop(&self, attempt: AttemptId, grace: Duration) -> Result<(), RuntimeError> {
        let found = self.started(attempt)?;
        if found.phase() == Phase::Running {
            let dir = found.dir.clone();
            let asked = blocking(move || dir.spec()).await.map(|spec| spec.stop.signal).unwrap_or_default();
            self.attempts.signal(&found, signal(asked)).await?;
            let _ = tokio::time::timeout(grace, found.over()).await;
        }
        self.attempts.end(&found).await
    }

    async fn kill(&self, attempt: AttemptId) -> Result<(), RuntimeError> {
        let found = self.started(attempt)?;
        self.attempts.end(&found).await
    }

    async fn remove(&self, attempt: AttemptId) -> Result<(), RuntimeError> {
        let Some(found) = self.attempts.get(attempt) else { return Ok(()) };
        let _changing = found.changing.lock().await;
        match found.phase() {
            Phase::Removed => return Ok(()),
            Phase::Running => {
                self.attempts.attend(&found, None);
                self.attempts.end(&found).await?;
            }
            // A launcher of an earlier incarnation may have started it just now.
            Phase::Created => self.attempts.clear(&found, false).await?,
            Phase::Ended(_) | Phase::Lost => {}
        }
        let (dir, files) = (found.dir.clone(), found.may_have_files());
        blocking(move || dir.remove(files)).await?;
        self.attempts.forget(&found);
        Ok(())
    }

    async fn logs(&self, attempt: AttemptId, follow: bool) -> Result<Logs, RuntimeError> {
        let found = self.attempts.get(attempt);
        // Output of a lost attempt may show its progress.
        let found = found.filter(|found| !matches!(found.phase(), Phase::Created | Phase::Removed));
        let found = found.ok_or_else(|| RuntimeError::not_found(attempt))?;
        self.attempts.attend(&found, None);
        let (until, watch) = match follow {
            true => (None, Some(self.attempts.changes.watch(&found.dir.path()))),
            false => {
                let dir = found.dir.clone();
                (Some(blocking(move || output::ends(&dir)).await?), None)
            }
        };
        let reader = LogReader {
            dir: found.dir.clone(),
            phases: found.phases(),
            watch,
            until,
            positions: [0; 2],
            turn: 0,
        };
        let logs = stream::unfold(Some(reader), |reader| async {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(reader))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(logs.boxed())
    }

    async fn stats(&self, attempt: AttemptId) -> Result<Usage, RuntimeError> {
        let found = self.started(attempt)?;
        match found.record() {
            Some(record) if found.phase() == Phase::Running => {
                let launcher = record.launcher.pid();
                blocking(move || Ok(processes::usage(processes::descendants(launcher)?))).await
            }
            _ => Err(RuntimeError::not_found(attempt)),
        }
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        let attempts = Arc::clone(&self.attempts);
        let all = attempts.list();
        all.iter().for_each(|attempt| attempts.attend(attempt, None));
        blocking(move || {
            let found = all.iter().filter_map(|attempt| {
                let state = match attempt.phase() {
                    Phase::Removed => return None,
                    Phase::Created => FoundState::Created,
                    Phase::Running => FoundState::Running,
                    Phase::Ended(exit) => FoundState::Ended(exit),
                    Phase::Lost => FoundState::Lost,
                };
                let started_at = attempt.record().and_then(|record| record.started_at(&attempts.host));
                Some(Found { attempt: attempt.id(), handle: attempt.handle(), state, started_at })
            });
            Ok(found.collect())
        })
        .await
    }

    async fn events(&self) -> Result<RuntimeEvents, RuntimeError> {
        let events = self.attempts.events();
        // Ensures that attempts of an earlier agent are watched too.
        for attempt in self.attempts.list() {
            self.attempts.attend(&attempt, None);
        }
        let events = stream::unfold(Some(events), |events| async {
            let mut events = events?;
            match events.recv().await {
                Ok(event) => Some((Ok(event), Some(events))),
                Err(RecvError::Closed) => None,
                Err(RecvError::Lagged(missed)) => {
                    let message =
                        format!("{missed} events were missed by a slow reader; list the attempts again");
                    Some((Err(RuntimeError::new(RuntimeErrorKind::Unavailable, message)), None))
                }
            }
        });
        Ok(events.boxed())
    }
}

/// One call of `start`.
struct Start {
    attempts: Arc<Attempts>,
    executable: Arc<Executable>,
    secret_dir: Option<PathBuf>,
    work: Work,
}

impl Start {
    async fn run(self) -> Result<Started, RuntimeError> {
        loop {
            let attempt = self.attempts.get_or_create(self.work.attempt);
            let _changing = attempt.changing.lock().await;
            match attempt.phase() {
                Phase::Removed => continue,
                Phase::Created => self.launch(&attempt).await?,
                Phase::Running => self.attempts.attend(&attempt, None),
                Phase::Ended(_) => {}
                // It may have done its work: the decision to run it again is not made here.
                Phase::Lost => return Err(lost(attempt.id())),
            }
            return Ok(attempt.started(&self.attempts.host));
        }
    }

    /// Launches the attempt; leaves nothing behind when nothing has run.
    async fn launch(&self, attempt: &Arc<Attempt>) -> Result<(), RuntimeError> {
        match self.try_launch(attempt).await {
            Ok(Launched::Started(record, child)) => self.attempts.runs(attempt, *record, Some(child)),
            Ok(Launched::Taken) => match self.attempts.look(attempt) {
                Phase::Running => {}
                _ => return Err(lost(attempt.id())),
            },
            Err(NotLaunched::Refused(error)) => {
                let dir = attempt.dir.clone();
                if let Err(error) = blocking(move || dir.remove(true)).await {
                    tracing::warn!(attempt = %attempt.id(), %error, "cannot remove an attempt that was not started");
                }
                self.attempts.forget(attempt);
                return Err(error);
            }
            Err(NotLaunched::Silent(message)) => match self.attempts.look(attempt) {
                Phase::Running => {}
                _ => return Err(RuntimeError::new(RuntimeErrorKind::Internal, message)),
            },
        }
        Ok(())
    }

    async fn try_launch(&self, attempt: &Arc<Attempt>) -> Result<Launched, NotLaunched> {
        let (work, secret_dir, dir) = (self.work.clone(), self.secret_dir.clone(), attempt.dir.clone());
        let (executable, host) = (Arc::clone(&self.executable), self.attempts.host.clone());
        let files = work.spec.secrets.iter().any(|secret| matches!(secret.target, SecretTarget::File { .. }));
        attempt.set_files(files);
        let launch = blocking(move || {
            let begin = || {
                let plan = Plan::of(&work, secret_dir.as_deref())?;
                // After a power failure, work that must not run twice must not be taken for work that never
                // ran.
                let sync = work.spec.restart == RestartPolicy::Never;
                dir.create(&work.spec, &host, sync).map_err(|error| failed(&error))?;
                let launch = Launch::begin(&executable, &plan, &dir)?;
                Ok((launch, plan.encode(&work.spec, &dir, &host)))
            };
            Ok(begin())
        });
        let (launch, plan) = launch.await.flatten().map_err(NotLaunched::Refused)?;
        launch.go(&plan).await
    }
}

/// Reads both outputs alternately.
struct LogReader {
    dir: AttemptDir,
    phases: watch::Receiver<Phase>,
    watch: Option<Watch>,
    /// End offsets; `None` to follow until the attempt has ended.
    until: Option<[u64; 2]>,
    positions: [u64; 2],
    turn: usize,
}

impl LogReader {
    async fn next(&mut self) -> Result<Option<LogChunk>, RuntimeError> {
        loop {
            // Check first whether it runs, then read: output from before its end is there by then.
            let running = *self.phases.borrow_and_update() == Phase::Running;
            let (dir, until, mut positions, mut turn) =
                (self.dir.clone(), self.until, self.positions, self.turn);
            let (chunk, positions, turn) = blocking(move || {
                let mut chunk = None;
                for _ in STREAMS {
                    let at = turn;
                    turn = 1 - turn;
                    if until.is_none_or(|until| positions[at] < until[at]) {
                        chunk = output::read(&dir, STREAMS[at], &mut positions[at])?;
                    }
                    if chunk.is_some() {
                        break;
                    }
                }
                Ok((chunk, positions, turn))
            })
            .await?;
            (self.positions, self.turn) = (positions, turn);
            match (chunk, &mut self.watch) {
                (Some(chunk), _) => return Ok(Some(chunk)),
                (None, Some(watch)) if running => tokio::select! {
                    () = watch.changed() => {}
                    changed = self.phases.changed() => changed.map_err(|_| gone())?,
                },
                (None, _) => return Ok(None),
            }
        }
    }
}

fn gone() -> RuntimeError {
    RuntimeError::new(RuntimeErrorKind::Unavailable, "the runtime was dropped")
}

fn lost(attempt: AttemptId) -> RuntimeError {
    let message = format!("attempt {attempt} was started, and nobody is left who knows how it ended");
    RuntimeError::new(RuntimeErrorKind::NotFound, message)
}

fn signal(asked: StopSignal) -> Signal {
    match asked {
        StopSignal::Term => Signal::TERM,
        StopSignal::Int => Signal::INT,
        StopSignal::Quit => Signal::QUIT,
        StopSignal::Hup => Signal::HUP,
        StopSignal::Usr1 => Signal::USR1,
        StopSignal::Usr2 => Signal::USR2,
        StopSignal::Kill => Signal::KILL,
        StopSignal::Winch => Signal::WINCH,
    }
}

/// Runs file access where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, RuntimeError> {
    join(tokio::task::spawn_blocking(work).await)?.map_err(|error| failed(&error))
}

/// Waits on a descriptor that is closed only with the result.
#[allow(deprecated, reason = "its successor is unsafe, for descriptors that somebody else may close")]
fn readable<T: AsRawFd>(descriptor: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

fn join<T>(done: Result<T, tokio::task::JoinError>) -> Result<T, RuntimeError> {
    done.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => RuntimeError::new(RuntimeErrorKind::Unavailable, "the agent is shutting down"),
    })
}

fn failed(error: &io::Error) -> RuntimeError {
    RuntimeError::new(kind_of(error), format!("the directory of the attempt or its process: {error}"))
}
