//! [`SimulatedRuntime`]: attempts that exist in memory only. For tests and benchmarks of the layers above a
//! runtime.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::{
    model::{AttemptId, Exit, TaskId, TaskSpec, Timestamp, WorkKind, Workload},
    runtime::{
        Found, FoundState, LogChunk, Logs, OutputStream, Progress, Runtime, RuntimeCapabilities,
        RuntimeError, RuntimeErrorKind, RuntimeEvents, Started, Usage, Work,
    },
};

/// Runtime of "programs" that it knows by name: `true`, `false`, `exit CODE`, `say WORDS` (prints them and
/// ends), `hang` (until it is stopped or [`SimulatedRuntime::finish`] ends it). Clones share everything, as
/// the incarnations of one agent share an engine. The engine can be switched off.
#[derive(Clone, Debug, Default)]
pub struct SimulatedRuntime {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    attempts: Mutex<BTreeMap<AttemptId, Attempt>>,
    starts: Mutex<Vec<AttemptId>>,
    off: AtomicBool,
}

#[derive(Debug)]
struct Attempt {
    exit: watch::Sender<Option<Exit>>,
    output: Bytes,
    started_at: Timestamp,
}

impl SimulatedRuntime {
    /// Engine without work.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Switches the engine off or on. While it is off every call returns [`RuntimeErrorKind::Unavailable`],
    /// and the work continues.
    pub fn set_available(&self, available: bool) {
        self.shared.off.store(!available, Ordering::SeqCst);
        // Waiting tasks must notice.
        for attempt in self.attempts().values() {
            attempt.exit.send_modify(|_| {});
        }
    }

    /// First attempt of a new task that runs a program with its arguments, parted by blanks: `say hello`.
    #[must_use]
    pub fn work(command: &str) -> Work {
        let (program, args) = command.split_once(' ').unwrap_or((command, ""));
        let spec = TaskSpec::program("example", program).args(args.split_whitespace());
        let attempt = AttemptId { task: TaskId::generate(), attempt: NonZeroU32::MIN };
        Work { attempt, spec: spec.into(), secrets: BTreeMap::new() }
    }

    /// Ends a hanging attempt.
    pub fn finish(&self, attempt: AttemptId, exit: Exit) {
        if let Some(attempt) = self.attempts().get(&attempt) {
            end(attempt, exit);
        }
    }

    /// Attempts in the order in which they were started. An attempt must never be listed twice.
    #[must_use]
    pub fn starts(&self) -> Vec<AttemptId> {
        self.shared.starts.lock().clone()
    }

    fn attempts(&self) -> MutexGuard<'_, BTreeMap<AttemptId, Attempt>> {
        self.shared.attempts.lock()
    }

    fn check(&self) -> Result<(), RuntimeError> {
        match self.shared.off.load(Ordering::SeqCst) {
            true => {
                Err(RuntimeError::new(RuntimeErrorKind::Unavailable, "the simulated engine is switched off"))
            }
            false => Ok(()),
        }
    }

    fn watch(&self, attempt: AttemptId) -> Result<watch::Receiver<Option<Exit>>, RuntimeError> {
        self.check()?;
        let attempts = self.attempts();
        let known = attempts.get(&attempt).ok_or_else(|| RuntimeError::not_found(attempt))?;
        Ok(known.exit.subscribe())
    }
}

fn end(attempt: &Attempt, exit: Exit) {
    attempt.exit.send_if_modified(|known| {
        let first = known.is_none();
        known.get_or_insert(exit);
        first
    });
}

#[async_trait]
impl Runtime for SimulatedRuntime {
    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities::new("simulated", WorkKind::Program).adopts()
    }

    async fn prepare(&self, _: &Work, _: &Progress) -> Result<(), RuntimeError> {
        self.check()
    }

    async fn start(&self, work: &Work) -> Result<Started, RuntimeError> {
        self.check()?;
        let Workload::Program { program } = &work.spec.workload else {
            return Err(RuntimeError::new(RuntimeErrorKind::Unsupported, "only programs are simulated"));
        };
        let first = work.spec.args.first().map(String::as_str);
        let (exit, output) = match program.as_str() {
            "true" => (Some(0), String::new()),
            "false" => (Some(1), String::new()),
            "exit" => (first.and_then(|code| code.parse().ok()), String::new()),
            "say" => (Some(0), work.spec.args.join(" ") + "\n"),
            "hang" => (None, String::new()),
            other => {
                return Err(RuntimeError::new(
                    RuntimeErrorKind::InvalidSpec,
                    format!("no program {other:?}"),
                ));
            }
        };
        let mut attempts = self.attempts();
        let known = attempts.entry(work.attempt).or_insert_with(|| {
            self.shared.starts.lock().push(work.attempt);
            Attempt {
                exit: watch::Sender::new(exit.map(Exit::from_code)),
                output: output.into(),
                started_at: Timestamp::now(),
            }
        });
        Ok(Started { handle: work.attempt.to_string(), at: known.started_at })
    }

    async fn adopt(&self, attempt: AttemptId) -> Result<Started, RuntimeError> {
        self.check()?;
        let attempts = self.attempts();
        let known = attempts.get(&attempt).ok_or_else(|| RuntimeError::not_found(attempt))?;
        Ok(Started { handle: attempt.to_string(), at: known.started_at })
    }

    async fn wait(&self, attempt: AttemptId) -> Result<Exit, RuntimeError> {
        let mut exit = self.watch(attempt)?;
        loop {
            self.check()?;
            if let Some(exit) = *exit.borrow_and_update() {
                return Ok(exit);
            }
            exit.changed().await.map_err(|_| RuntimeError::not_found(attempt))?;
        }
    }

    async fn stop(&self, attempt: AttemptId, _: Duration) -> Result<(), RuntimeError> {
        self.watch(attempt)?;
        self.finish(attempt, Exit::from_code(143));
        Ok(())
    }

    async fn kill(&self, attempt: AttemptId) -> Result<(), RuntimeError> {
        self.watch(attempt)?;
        self.finish(attempt, Exit::from_code(137));
        Ok(())
    }

    async fn remove(&self, attempt: AttemptId) -> Result<(), RuntimeError> {
        self.check()?;
        if let Some(attempt) = self.attempts().remove(&attempt) {
            end(&attempt, Exit::from_code(137));
        }
        Ok(())
    }

    async fn logs(&self, attempt: AttemptId, follow: bool) -> Result<Logs, RuntimeError> {
        let mut exit = self.watch(attempt)?;
        let output = self.attempts().get(&attempt).map(|known| known.output.clone()).unwrap_or_default();
        let written = (!output.is_empty()).then_some(Ok(LogChunk {
            stream: OutputStream::Stdout,
            offset: 0,
            data: output,
        }));
        let ended = stream::once(async move {
            if follow {
                let _ = exit.wait_for(Option::is_some).await;
            }
        });
        Ok(stream::iter(written).chain(ended.filter_map(|()| async { None })).boxed())
    }

    async fn stats(&self, _: AttemptId) -> Result<Usage, RuntimeError> {
        Err(RuntimeError::new(RuntimeErrorKind::Unsupported, "the simulated engine measures nothing"))
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        self.check()?;
        let found = |(attempt, known): (&AttemptId, &Attempt)| Found {
            attempt: *attempt,
            handle: attempt.to_string(),
            state: known.exit.borrow().map_or(FoundState::Running, FoundState::Ended),
            started_at: Some(known.started_at),
        };
        Ok(self.attempts().iter().map(found).collect())
    }

    async fn events(&self) -> Result<RuntimeEvents, RuntimeError> {
        self.check()?;
        Ok(stream::pending().boxed())
    }
}
