//! Environment of one case: a runtime, and the attempts that the case started.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;

use super::{Outcome, Program, RuntimeHarness};
use crate::{
    model::{AttemptId, TaskId, TaskSpec},
    runtime::{LogChunk, Logs, OutputStream, Progress, Runtime, RuntimeError, Secret, Work},
    testkit::{Failure, ensure},
};

pub(super) struct Bench<'a> {
    pub(super) harness: &'a dyn RuntimeHarness,
    runtime: Mutex<Option<Arc<dyn Runtime>>>,
    made: Mutex<BTreeSet<AttemptId>>,
}

impl<'a> Bench<'a> {
    pub(super) async fn new(harness: &'a dyn RuntimeHarness) -> Self {
        let runtime = Mutex::new(Some(harness.runtime().await));
        Self { harness, runtime, made: Mutex::default() }
    }

    pub(super) fn runtime(&self) -> Arc<dyn Runtime> {
        let held = self.runtime.lock();
        held.clone().expect("only a restart takes it away, and puts one back")
    }

    /// Drops the runtime and makes another over the same state.
    pub(super) async fn restart(&self) {
        drop(self.runtime.lock().take());
        let fresh = self.harness.runtime().await;
        *self.runtime.lock() = Some(fresh);
    }

    /// Attempt of `spec` that is not started yet and is removed after the case.
    pub(super) fn work(&self, spec: TaskSpec) -> Work {
        let attempt = AttemptId { task: TaskId::generate(), attempt: NonZeroU32::MIN };
        self.made.lock().insert(attempt);
        Work { attempt, spec: spec.into(), secrets: BTreeMap::new() }
    }

    pub(super) fn program(&self, program: &Program) -> Work {
        self.work(self.harness.program(program))
    }

    /// Prepares and starts the attempt.
    pub(super) async fn start(&self, work: &Work) -> Outcome<AttemptId> {
        let runtime = self.runtime();
        runtime.prepare(work, &Progress::none()).await?;
        runtime.start(work).await?;
        Ok(work.attempt)
    }

    /// Starts a program.
    pub(super) async fn run(&self, program: &Program) -> Outcome<AttemptId> {
        self.start(&self.program(program)).await
    }

    /// Starts a program and returns when it has printed the line `ready`.
    pub(super) async fn run_until_ready(&self, program: &Program) -> Outcome<AttemptId> {
        let attempt = self.run(program).await?;
        self.until_ready(attempt).await?;
        Ok(attempt)
    }

    pub(super) async fn until_ready(&self, attempt: AttemptId) -> Outcome {
        let mut logs = self.runtime().logs(attempt, true).await?;
        read_until(&mut logs, "ready\n").await.map(drop)
    }

    pub(super) async fn output(&self, attempt: AttemptId, follow: bool) -> Outcome<Output> {
        let chunks = self.runtime().logs(attempt, follow).await?.collect::<Vec<_>>().await;
        Output::of(&chunks.into_iter().collect::<Result<Vec<_>, RuntimeError>>()?)
    }

    /// Removes everything that the case made.
    pub(super) async fn clear(&self) -> Result<(), RuntimeError> {
        let made = std::mem::take(&mut *self.made.lock());
        let runtime = self.runtime();
        for attempt in made {
            runtime.remove(attempt).await?;
        }
        Ok(())
    }
}

/// Reads until the standard output so far contains `text`.
pub(super) async fn read_until(logs: &mut Logs, text: &str) -> Outcome<Vec<LogChunk>> {
    let (mut chunks, mut seen) = (Vec::new(), Vec::<u8>::new());
    while let Some(chunk) = logs.next().await {
        let chunk = chunk?;
        if chunk.stream == OutputStream::Stdout {
            seen.extend_from_slice(&chunk.data);
        }
        chunks.push(chunk);
        if String::from_utf8_lossy(&seen).contains(text) {
            return Ok(chunks);
        }
    }
    Err(Failure(format!("the output ended without {text:?}: {:?}", String::from_utf8_lossy(&seen))))
}

/// Output joined by stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// Offset of the first retained byte of standard output.
    pub(super) stdout_from: u64,
}

impl Output {
    pub(super) fn of(chunks: &[LogChunk]) -> Outcome<Self> {
        let (stdout_from, stdout) = join(chunks, OutputStream::Stdout)?;
        let (_, stderr) = join(chunks, OutputStream::Stderr)?;
        Ok(Self { stdout, stderr, stdout_from })
    }
}

fn join(chunks: &[LogChunk], stream: OutputStream) -> Outcome<(u64, String)> {
    let mut ours = chunks.iter().filter(|chunk| chunk.stream == stream).peekable();
    let from = ours.peek().map_or(0, |chunk| chunk.offset);
    let (mut next, mut bytes) = (from, Vec::new());
    for LogChunk { offset, data, .. } in ours {
        ensure!(*offset == next, "{stream:?} goes on at offset {offset}, not at {next}");
        next += byte_count(data);
        bytes.extend_from_slice(data);
    }
    Ok((from, String::from_utf8_lossy(&bytes).into_owned()))
}

fn byte_count(data: &Bytes) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}

/// Adds a secret to an attempt.
pub(super) fn with_secret(mut work: Work, name: &str, value: &str) -> Work {
    work.secrets.insert(name.into(), Secret::new(value));
    work
}
