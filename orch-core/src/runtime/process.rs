//! Attempts as processes of the operating system. They go on when the agent ends, and the next one adopts them.

mod attempt_dir;
mod launch;
mod monitor;
mod output;
mod tree;

use std::{
    fs, io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use rustix::process::Signal;
use tokio::sync::broadcast::error::RecvError;

use self::{
    attempt_dir::{AttemptDir, State},
    launch::Launch,
    monitor::Monitors,
    output::STREAMS,
};
use super::{
    Found, FoundState, Logs, Progress, Runtime, RuntimeCapabilities, RuntimeError, RuntimeErrorKind,
    RuntimeEvents, Started, Usage, Work,
};
use crate::model::{AttemptId, Exit, StopSignal, WorkKind};

/// How long killed processes may take to be gone. Longer means that the kernel cannot end them (a dead disk).
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon to look again for something that takes a moment.
const SOON: Duration = Duration::from_millis(2);

/// Settings of a [`ProcessRuntime`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessRuntimeConfig {
    /// The directory that holds one directory for each attempt, made when it is missing. Local, and for one agent.
    pub dir: PathBuf,
    /// How often running attempts are looked at: how late an end is noticed at most, and how far output may grow
    /// beyond its limit meanwhile.
    pub poll_interval: Duration,
    /// The directory in which tasks may have secrets as files, on the same file system as `dir`. Without one, such
    /// tasks are refused. A file is there while its task runs, for the agent's user only; a path that is taken is
    /// an error.
    pub secret_dir: Option<PathBuf>,
    /// `dir` is removed when the runtime is dropped: nothing of it is worth another life.
    pub temporary: bool,
}

impl ProcessRuntimeConfig {
    /// Attempts in `dir`, looked at forty times a second.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), poll_interval: Duration::from_millis(25), secret_dir: None, temporary: false }
    }

    /// Attempts in `dir`, which is removed when the runtime is dropped.
    #[must_use]
    pub fn temporary(dir: impl Into<PathBuf>) -> Self {
        Self { temporary: true, ..Self::new(dir) }
    }
}

/// A [`Runtime`] for programs, without any engine. Linux.
///
/// A program gets a clean environment (`PATH`, `HOME` and `LANG` of the agent, then its own, its secrets, `ORCH_TASK`
/// and `ORCH_ATTEMPT`), no input, and a process group of its own. What it starts belongs to it as long as it stays in
/// the group or keeps `ORCH_ATTEMPT` in its environment, and is killed when the program has ended.
///
/// What ran when the machine went down is [`FoundState::Lost`]. Its output can still be read.
///
/// This is no sandbox. Isolation that was asked for and that plain processes cannot have is refused with
/// [`RuntimeErrorKind::Unsupported`]; the cpu limit is not enforced, the memory limit only for the data segment of each
/// process by itself, and setuid programs keep their rights.
#[derive(Debug)]
pub struct ProcessRuntime {
    dir: PathBuf,
    poll_interval: Duration,
    secret_dir: Option<PathBuf>,
    temporary: bool,
    monitors: Arc<Monitors>,
}

impl Drop for ProcessRuntime {
    fn drop(&mut self) {
        if self.temporary {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

impl ProcessRuntime {
    /// A runtime on the configured directory. What an earlier one left there is found by [`Runtime::list`].
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn new(config: ProcessRuntimeConfig) -> io::Result<Self> {
        fs::create_dir_all(&config.dir)?;
        let dir = fs::canonicalize(&config.dir)?;
        for attempt in AttemptDir::all(&dir)? {
            // It may have ended while nobody looked.
            match attempt.state() {
                State::Ended(..) => monitor::settle(&attempt)?,
                State::Lost(_) => {
                    // What went down with the machine may have left half a file, which must not keep the others
                    // from being adopted.
                    if let Err(error) = monitor::settle(&attempt) {
                        tracing::warn!(attempt = %attempt.attempt(), %error, "cannot clean up after a lost attempt");
                    }
                }
                State::Absent | State::Created | State::Running(_) => {}
            }
        }
        let ProcessRuntimeConfig { poll_interval, secret_dir, temporary, .. } = config;
        Ok(Self {
            dir,
            poll_interval,
            secret_dir,
            temporary,
            monitors: Arc::new(Monitors::new(poll_interval)),
        })
    }

    fn attempt(&self, attempt: AttemptId) -> AttemptDir {
        AttemptDir::new(&self.dir, attempt)
    }

    async fn state(&self, attempt: AttemptId) -> Result<State, RuntimeError> {
        let dir = self.attempt(attempt);
        blocking(move || Ok(dir.state())).await
    }

    /// The state of an attempt that was started and is not lost.
    async fn started(&self, attempt: AttemptId) -> Result<State, RuntimeError> {
        match self.state(attempt).await? {
            State::Absent | State::Created => Err(RuntimeError::not_found(attempt)),
            State::Lost(_) => Err(lost(attempt)),
            started => Ok(started),
        }
    }

    async fn kill_all(&self, attempt: AttemptId) -> Result<(), RuntimeError> {
        let begin = Instant::now();
        let dir = self.attempt(attempt);
        loop {
            let dir = dir.clone();
            let left = blocking(move || {
                let running = match dir.state() {
                    State::Running(identity) => {
                        identity.signal_group(Signal::KILL)?;
                        1
                    }
                    _ => 0,
                };
                Ok(running + tree::kill_marked(dir.attempt())?)
            });
            match left.await? {
                0 => return Ok(()),
                left if begin.elapsed() > KILL_TIMEOUT => {
                    let message =
                        format!("{left} processes of attempt {attempt} do not end though they were killed");
                    return Err(RuntimeError::new(RuntimeErrorKind::Internal, message));
                }
                _ => tokio::time::sleep(SOON).await,
            }
        }
    }
}

#[async_trait]
impl Runtime for ProcessRuntime {
    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities {
            name: "process",
            kind: WorkKind::Program,
            adopts: true,
            stats: true,
            health: false,
            memory_limit: false,
            cpu_limit: false,
        }
    }

    async fn prepare(&self, work: &Work, _progress: &Progress) -> Result<(), RuntimeError> {
        let (work, secret_dir) = (work.clone(), self.secret_dir.clone());
        blocking(move || Ok(Launch::plan(&work, secret_dir.as_deref()).map(|_| ()))).await?
    }

    async fn start(&self, work: &Work) -> Result<Started, RuntimeError> {
        let attempt = work.attempt;
        let dir = self.attempt(attempt);
        let (planned, directory, secret_dir) = (work.clone(), dir.clone(), self.secret_dir.clone());
        let child = blocking(move || {
            if !matches!(directory.state(), State::Absent | State::Created) {
                return Ok(Ok(None));
            }
            let launch = match Launch::plan(&planned, secret_dir.as_deref()) {
                Ok(launch) => launch,
                Err(error) => return Ok(Err(error)),
            };
            directory.create(&planned.spec)?;
            launch.spawn(&planned, &directory).map(|child| Ok(Some(child)))
        });
        let mut child = child.await??;
        let identity = loop {
            let ended = match &mut child {
                Some(child) => child.try_wait().map_err(|error| failed(&error))?.is_some(),
                None => false,
            };
            match self.state(attempt).await? {
                State::Ended(identity, _) if child.is_none() => break identity,
                State::Running(identity) | State::Ended(identity, _) => {
                    self.monitors.watch(&dir, child);
                    break identity;
                }
                State::Absent => return Err(RuntimeError::not_found(attempt)),
                // It may have done its work: running it again is not ours to decide.
                State::Lost(_) => return Err(lost(attempt)),
                State::Created if ended => {
                    let message =
                        "the shell that starts programs ended at once; is /proc there and the disk writable?";
                    return Err(RuntimeError::new(RuntimeErrorKind::Internal, message));
                }
                State::Created => tokio::time::sleep(SOON).await,
            }
        };
        let at = blocking(move || Ok(dir.started_at())).await?.unwrap_or_default();
        Ok(Started { handle: identity.pid().to_string(), at })
    }

    async fn adopt(&self, attempt: AttemptId) -> Result<Started, RuntimeError> {
        let dir = self.attempt(attempt);
        let identity = match self.started(attempt).await? {
            State::Running(identity) => {
                self.monitors.watch(&dir, None);
                identity
            }
            State::Ended(identity, _) => identity,
            State::Absent | State::Created | State::Lost(_) => return Err(RuntimeError::not_found(attempt)),
        };
        let at = blocking(move || Ok(dir.started_at())).await?.unwrap_or_default();
        Ok(Started { handle: identity.pid().to_string(), at })
    }

    async fn wait(&self, attempt: AttemptId) -> Result<Exit, RuntimeError> {
        match self.started(attempt).await? {
            State::Ended(_, exit) if !self.monitors.unsettled(attempt) => Ok(exit),
            _ => self
                .monitors
                .ended(&self.attempt(attempt))
                .await
                .ok_or_else(|| RuntimeError::not_found(attempt)),
        }
    }

    async fn stop(&self, attempt: AttemptId, grace: Duration) -> Result<(), RuntimeError> {
        if let State::Running(identity) = self.started(attempt).await? {
            let dir = self.attempt(attempt);
            blocking(move || identity.signal_group(signal(dir.spec()?.stop.signal))).await?;
            let _ = tokio::time::timeout(grace, self.monitors.ended(&self.attempt(attempt))).await;
        }
        self.kill_all(attempt).await
    }

    async fn kill(&self, attempt: AttemptId) -> Result<(), RuntimeError> {
        self.kill_all(attempt).await?;
        self.started(attempt).await.map(|_| ())
    }

    async fn remove(&self, attempt: AttemptId) -> Result<(), RuntimeError> {
        self.kill_all(attempt).await?;
        let dir = self.attempt(attempt);
        blocking(move || dir.remove()).await?;
        self.monitors.forget(attempt);
        Ok(())
    }

    async fn logs(&self, attempt: AttemptId, follow: bool) -> Result<Logs, RuntimeError> {
        // What a lost attempt wrote may say how far it came.
        if let State::Absent | State::Created = self.state(attempt).await? {
            return Err(RuntimeError::not_found(attempt));
        }
        let dir = self.attempt(attempt);
        let until = match follow {
            true => None,
            false => Some(self.ends(attempt).await?),
        };
        let reader = LogReader { dir, until, positions: [0; 2], turn: 0, poll_interval: self.poll_interval };
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
        match self.started(attempt).await? {
            State::Running(_) => blocking(move || Ok(tree::usage(&tree::marked(attempt)))).await,
            _ => Err(RuntimeError::not_found(attempt)),
        }
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        let base = self.dir.clone();
        let all = blocking(move || {
            let dirs = AttemptDir::all(&base)?.into_iter();
            Ok(dirs.map(|dir| (dir.state(), dir.started_at(), dir)).collect::<Vec<_>>())
        });
        let mut found = Vec::new();
        for (state, started_at, dir) in all.await? {
            let (state, handle) = match state {
                State::Absent => continue,
                State::Created => (FoundState::Created, String::new()),
                State::Ended(identity, exit) => (FoundState::Ended(exit), identity.pid().to_string()),
                State::Lost(identity) => (FoundState::Lost, identity.pid().to_string()),
                State::Running(identity) => {
                    self.monitors.watch(&dir, None);
                    (FoundState::Running, identity.pid().to_string())
                }
            };
            found.push(Found { attempt: dir.attempt(), handle, state, started_at });
        }
        Ok(found)
    }

    async fn events(&self) -> Result<RuntimeEvents, RuntimeError> {
        let events = self.monitors.events();
        // So that what an earlier agent started is watched too.
        self.list().await?;
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

impl ProcessRuntime {
    /// Where the outputs end now.
    async fn ends(&self, attempt: AttemptId) -> Result<[u64; 2], RuntimeError> {
        let dir = self.attempt(attempt);
        blocking(move || {
            let [stdout, stderr] = STREAMS.map(|stream| fs::metadata(dir.output(stream)));
            Ok([stdout?.len(), stderr?.len()])
        })
        .await
    }
}

/// Reads both outputs by turns.
struct LogReader {
    dir: AttemptDir,
    /// Where to stop; `None` to follow until the attempt has ended.
    until: Option<[u64; 2]>,
    positions: [u64; 2],
    turn: usize,
    poll_interval: Duration,
}

impl LogReader {
    async fn next(&mut self) -> Result<Option<super::LogChunk>, RuntimeError> {
        loop {
            let (dir, until, mut positions, mut turn) =
                (self.dir.clone(), self.until, self.positions, self.turn);
            let (chunk, positions, turn, running) = blocking(move || {
                // First whether it runs, then the output: what it wrote before its end is there by then.
                let running = matches!(dir.state(), State::Running(_));
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
                Ok((chunk, positions, turn, running))
            })
            .await?;
            (self.positions, self.turn) = (positions, turn);
            match chunk {
                Some(chunk) => return Ok(Some(chunk)),
                None if self.until.is_some() || !running => return Ok(None),
                None => tokio::time::sleep(self.poll_interval).await,
            }
        }
    }
}

fn lost(attempt: AttemptId) -> RuntimeError {
    let message =
        format!("attempt {attempt} was running when the machine went down; how it ended is unknown");
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

/// Runs what reads and writes files where that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| failed(&error)),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(RuntimeError::new(RuntimeErrorKind::Unavailable, "the agent is shutting down")),
        },
    }
}

fn failed(error: &io::Error) -> RuntimeError {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => RuntimeErrorKind::NoSpace,
        io::ErrorKind::NotFound => RuntimeErrorKind::NotFound,
        io::ErrorKind::ArgumentListTooLong | io::ErrorKind::AlreadyExists => RuntimeErrorKind::InvalidSpec,
        _ => RuntimeErrorKind::Internal,
    };
    RuntimeError::new(kind, format!("the directory of the attempt or its process: {error}"))
}
