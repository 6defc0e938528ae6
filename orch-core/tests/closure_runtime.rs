//! Runtime that runs closures in its own process, checked against the contract of runtimes: no shell, no
//! processes.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use orch_core::{
    model::{AttemptId, Exit, SecretTarget, StopSignal, TaskSpec, Timestamp, WorkKind, Workload},
    runtime::{
        Found, FoundState, LogChunk, Logs, OutputStream, Progress, Runtime, RuntimeCapabilities,
        RuntimeError, RuntimeErrorKind, RuntimeEvent, RuntimeEvents, Started, Usage, Work,
    },
    testkit::runtime::{Program, RuntimeHarness, run_all},
};
use tokio::{
    sync::{broadcast, watch},
    task::AbortHandle,
};

const NAME: &str = "closure";

/// One run of a closure.
#[derive(Debug)]
struct Job {
    work: Work,
    started: Started,
    state: watch::Sender<State>,
    task: Mutex<Option<AbortHandle>>,
}

#[derive(Debug, Default)]
struct State {
    chunks: Vec<LogChunk>,
    /// Bytes of each stream so far.
    written: BTreeMap<OutputStream, u64>,
    asked: Option<StopSignal>,
    exit: Option<Exit>,
    removed: bool,
}

impl Job {
    fn write(&self, stream: OutputStream, text: &str) {
        let limit = usize::try_from(self.work.spec.output_limit_bytes).unwrap();
        self.state.send_modify(|state| {
            // A task that is aborted may be at this point.
            if state.exit.is_some() {
                return;
            }
            let offset = state.written.entry(stream).or_default();
            state.chunks.push(LogChunk { stream, offset: *offset, data: text.to_owned().into() });
            *offset += text.len() as u64;
            while state.chunks.iter().map(|chunk| chunk.data.len()).sum::<usize>() > limit {
                state.chunks.remove(0);
            }
        });
    }

    async fn run(&self, program: &Program) -> i32 {
        let say = |text: &str| self.write(OutputStream::Stdout, text);
        match program {
            Program::Prints { pieces, code } => {
                pieces.iter().for_each(|(stream, text)| self.write(*stream, text));
                *code
            }
            Program::Counts { lines } => {
                (1..=*lines).for_each(|line| say(&format!("{line:019}\n")));
                self.write(OutputStream::Stderr, "error\n");
                0
            }
            Program::Sleeps => {
                say("ready\n");
                self.asked(|_| true).await;
                143
            }
            Program::Naps => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                0
            }
            Program::EndsWhenAsked { codes, last_words } => {
                say("ready\n");
                let asked = self.asked(|signal| codes.iter().any(|(one, _)| *one == signal)).await;
                if !last_words.is_empty() {
                    say(last_words);
                }
                codes.iter().find(|(one, _)| *one == asked).unwrap().1
            }
            Program::IgnoresStop => {
                say("ready\n");
                std::future::pending().await
            }
            Program::Ticks => {
                say("ready\n");
                loop {
                    say("tick\n");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            Program::IsKilled => 137,
            Program::ShowsInput => {
                let spec = &self.work.spec;
                let [.., one, two] = &spec.args[..] else { return 1 };
                let dir = spec.working_dir.as_deref().unwrap_or_default();
                say(&format!("{}|{one}|{two}|{dir}\n", spec.env["GREETING"]));
                0
            }
            Program::ShowsToken => {
                let value = self.work.secrets["token"].expose();
                say(std::str::from_utf8(value).unwrap());
                0
            }
            Program::Bursts => self.burst(),
            Program::BurstsWhenAsked { first } => {
                if *first {
                    say(&(Program::burst(OutputStream::Stdout) + "\n"));
                }
                say("ready\n");
                self.asked(|signal| signal == StopSignal::Term).await;
                self.burst()
            }
            Program::ShowsTokens { .. } | Program::EatsMemory => unreachable!("not declared"),
        }
    }

    fn burst(&self) -> i32 {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            self.write(stream, &Program::burst(stream));
        }
        0
    }

    async fn asked(&self, when: impl Fn(StopSignal) -> bool) -> StopSignal {
        let mut state = self.state.subscribe();
        state.wait_for(|state| state.asked.is_some_and(&when)).await.unwrap().asked.unwrap()
    }

    async fn over(&self) -> Result<Exit, RuntimeError> {
        let mut state = self.state.subscribe();
        let state = state.wait_for(|state| state.exit.is_some() || state.removed).await.unwrap();
        state.exit.filter(|_| !state.removed).ok_or_else(|| RuntimeError::not_found(self.work.attempt))
    }

    fn kill(&self) {
        if let Some(task) = self.task.lock().unwrap().take() {
            task.abort();
        }
        self.end(137);
    }

    fn end(&self, code: i32) {
        self.state.send_modify(|state| state.exit = state.exit.or(Some(Exit::from_code(code))));
    }
}

#[derive(Debug)]
struct Closures {
    jobs: Mutex<BTreeMap<AttemptId, Arc<Job>>>,
    events: broadcast::Sender<RuntimeEvent>,
}

impl Closures {
    fn jobs(&self) -> MutexGuard<'_, BTreeMap<AttemptId, Arc<Job>>> {
        self.jobs.lock().unwrap()
    }

    fn job(&self, attempt: AttemptId) -> Result<Arc<Job>, RuntimeError> {
        self.jobs().get(&attempt).cloned().ok_or_else(|| RuntimeError::not_found(attempt))
    }
}

fn plan(work: &Work) -> Result<Program, RuntimeError> {
    let refuse = |kind, message: &str| Err(RuntimeError::new(kind, message));
    if work.spec.isolation.user.is_some() {
        return refuse(RuntimeErrorKind::Unsupported, "closures have no users");
    }
    for secret in &work.spec.secrets {
        if matches!(secret.target, SecretTarget::File { .. }) {
            return refuse(RuntimeErrorKind::Unsupported, "closures have no files");
        }
        if !work.secrets.contains_key(&secret.name) {
            return refuse(RuntimeErrorKind::InvalidSpec, "no such secret");
        }
    }
    match &work.spec.workload {
        Workload::Program { program } if program == NAME => {
            Ok(serde_json::from_str(&work.spec.args[0]).unwrap())
        }
        _ => refuse(RuntimeErrorKind::InvalidSpec, "no such closure"),
    }
}

#[async_trait]
impl Runtime for Closures {
    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities::new("closures", WorkKind::Program)
    }

    async fn prepare(&self, work: &Work, _progress: &Progress) -> Result<(), RuntimeError> {
        plan(work).map(drop)
    }

    async fn start(&self, work: &Work) -> Result<Started, RuntimeError> {
        let program = plan(work)?;
        let mut jobs = self.jobs();
        if let Some(job) = jobs.get(&work.attempt) {
            return Ok(job.started.clone());
        }
        let started = Started { handle: work.attempt.to_string(), at: Timestamp::now() };
        let job = Arc::new(Job {
            work: work.clone(),
            started: started.clone(),
            state: watch::Sender::default(),
            task: Mutex::default(),
        });
        jobs.insert(work.attempt, Arc::clone(&job));
        let (running, events) = (Arc::clone(&job), self.events.clone());
        let task = tokio::spawn(async move {
            let code = running.run(&program).await;
            running.end(code);
            let _ = events.send(RuntimeEvent::Ended { attempt: running.work.attempt });
        });
        *job.task.lock().unwrap() = Some(task.abort_handle());
        Ok(started)
    }

    async fn adopt(&self, attempt: AttemptId) -> Result<Started, RuntimeError> {
        Ok(self.job(attempt)?.started.clone())
    }

    async fn wait(&self, attempt: AttemptId) -> Result<Exit, RuntimeError> {
        self.job(attempt)?.over().await
    }

    async fn stop(&self, attempt: AttemptId, grace: Duration) -> Result<(), RuntimeError> {
        let job = self.job(attempt)?;
        job.state.send_modify(|state| state.asked = Some(job.work.spec.stop.signal));
        if tokio::time::timeout(grace, job.over()).await.is_err() {
            job.kill();
        }
        Ok(())
    }

    async fn kill(&self, attempt: AttemptId) -> Result<(), RuntimeError> {
        self.job(attempt)?.kill();
        Ok(())
    }

    async fn remove(&self, attempt: AttemptId) -> Result<(), RuntimeError> {
        if let Some(job) = self.jobs().remove(&attempt) {
            job.kill();
            job.state.send_modify(|state| state.removed = true);
        }
        Ok(())
    }

    async fn logs(&self, attempt: AttemptId, follow: bool) -> Result<Logs, RuntimeError> {
        let job = self.job(attempt)?;
        if !follow {
            let chunks: Vec<_> = job.state.borrow().chunks.iter().cloned().map(Ok).collect();
            return Ok(stream::iter(chunks).boxed());
        }
        let (state, read) = (job.state.subscribe(), BTreeMap::<OutputStream, u64>::new());
        let logs = stream::unfold((state, read), |(mut state, mut read)| async move {
            let chunk = {
                let is_new =
                    |chunk: &&LogChunk| read.get(&chunk.stream).is_none_or(|end| chunk.offset >= *end);
                let there =
                    |state: &State| state.exit.is_some() || state.chunks.iter().any(|chunk| is_new(&chunk));
                let state = state.wait_for(there).await.ok()?;
                state.chunks.iter().find(is_new)?.clone()
            };
            read.insert(chunk.stream, chunk.offset + chunk.data.len() as u64);
            Some((Ok(chunk), (state, read)))
        });
        Ok(logs.boxed())
    }

    async fn stats(&self, _attempt: AttemptId) -> Result<Usage, RuntimeError> {
        Err(RuntimeError::new(RuntimeErrorKind::Unsupported, "closures are not measured"))
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        let found = |job: &Arc<Job>| Found {
            attempt: job.work.attempt,
            handle: job.started.handle.clone(),
            state: job.state.borrow().exit.map_or(FoundState::Running, FoundState::Ended),
            started_at: Some(job.started.at),
        };
        Ok(self.jobs().values().map(found).collect())
    }

    async fn events(&self) -> Result<RuntimeEvents, RuntimeError> {
        let events = stream::unfold(self.events.subscribe(), |mut events| async {
            Some((Ok(events.recv().await.ok()?), events))
        });
        Ok(events.boxed())
    }
}

struct Harness;

#[async_trait]
impl RuntimeHarness for Harness {
    async fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(Closures { jobs: Mutex::default(), events: broadcast::Sender::new(64) })
    }

    fn program(&self, program: &Program) -> TaskSpec {
        TaskSpec::program("job", NAME).args([serde_json::to_string(program).unwrap()])
    }

    fn secret_files(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_of_closures_conforms() {
    run_all(&Harness).await;
}
