//! A runtime of your own: tasks are asynchronous functions of this program, found by their names.
//!
//! `cargo run -p orch-core --example closures`

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use orch_core::{
    Orchestrator,
    engine::AgentConfig,
    model::{AttemptId, Exit, TaskSpec, Timestamp, WorkKind, Workload},
    runtime::{
        Found, FoundState, Logs, Progress, Runtime, RuntimeCapabilities, RuntimeError, RuntimeErrorKind,
        RuntimeEvents, Started, Usage, Work,
    },
    state::TaskStatus,
};
use tokio::{sync::watch, task::AbortHandle};

type Job = Arc<dyn Fn(Vec<String>) -> Pin<Box<dyn Future<Output = i32> + Send>> + Send + Sync>;

/// Runs functions. Nothing outlives the process, so there is nothing to adopt.
#[derive(Default)]
struct Functions {
    jobs: HashMap<&'static str, Job>,
    attempts: Mutex<BTreeMap<AttemptId, Running>>,
}

struct Running {
    exit: watch::Receiver<Option<Exit>>,
    handle: AbortHandle,
    at: Timestamp,
}

impl std::fmt::Debug for Functions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Functions").field("jobs", &self.jobs.keys()).finish_non_exhaustive()
    }
}

impl Functions {
    fn with<F>(mut self, name: &'static str, job: impl Fn(Vec<String>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = i32> + Send + 'static,
    {
        self.jobs.insert(name, Arc::new(move |args| Box::pin(job(args))));
        self
    }

    fn find(&self, work: &Work) -> Result<Job, RuntimeError> {
        let Workload::Program { program } = &work.spec.workload else {
            return Err(RuntimeError::new(RuntimeErrorKind::Unsupported, "only functions run here"));
        };
        let job = self.jobs.get(program.as_str()).cloned();
        job.ok_or_else(|| {
            RuntimeError::new(RuntimeErrorKind::InvalidSpec, format!("no function {program:?}"))
        })
    }

    fn exit(&self, attempt: AttemptId) -> Result<watch::Receiver<Option<Exit>>, RuntimeError> {
        let attempts = self.attempts.lock().expect("nobody panics with it");
        attempts.get(&attempt).map(|known| known.exit.clone()).ok_or_else(|| RuntimeError::not_found(attempt))
    }
}

#[async_trait]
impl Runtime for Functions {
    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities::new("functions", WorkKind::Program)
    }

    async fn prepare(&self, work: &Work, _: &Progress) -> Result<(), RuntimeError> {
        self.find(work).map(drop)
    }

    async fn start(&self, work: &Work) -> Result<Started, RuntimeError> {
        let job = self.find(work)?;
        let mut attempts = self.attempts.lock().expect("nobody panics with it");
        // Starting twice is starting once.
        let known = attempts.entry(work.attempt).or_insert_with(|| {
            let (ended, exit) = watch::channel(None);
            let running = tokio::spawn(job(work.spec.args.clone()));
            let handle = running.abort_handle();
            tokio::spawn(async move {
                // Cancelled, or panicked: as a signal would have it.
                let code = running.await.unwrap_or(137);
                ended.send_replace(Some(Exit::from_code(code)));
            });
            Running { exit, handle, at: Timestamp::now() }
        });
        Ok(Started { handle: work.attempt.to_string(), at: known.at })
    }

    async fn adopt(&self, attempt: AttemptId) -> Result<Started, RuntimeError> {
        Err(RuntimeError::not_found(attempt))
    }

    async fn wait(&self, attempt: AttemptId) -> Result<Exit, RuntimeError> {
        let mut exit = self.exit(attempt)?;
        let ended = exit.wait_for(Option::is_some).await.map(|exit| *exit);
        ended.ok().flatten().ok_or_else(|| RuntimeError::not_found(attempt))
    }

    async fn stop(&self, attempt: AttemptId, _: Duration) -> Result<(), RuntimeError> {
        self.kill(attempt).await
    }

    async fn kill(&self, attempt: AttemptId) -> Result<(), RuntimeError> {
        if let Some(known) = self.attempts.lock().expect("nobody panics with it").get(&attempt) {
            known.handle.abort();
        }
        self.wait(attempt).await.map(drop)
    }

    async fn remove(&self, attempt: AttemptId) -> Result<(), RuntimeError> {
        if self.exit(attempt).is_ok() {
            self.kill(attempt).await?;
            self.attempts.lock().expect("nobody panics with it").remove(&attempt);
        }
        Ok(())
    }

    async fn logs(&self, attempt: AttemptId, follow: bool) -> Result<Logs, RuntimeError> {
        let mut exit = self.exit(attempt)?;
        // A function prints nothing; who follows waits for its end.
        let end = stream::once(async move {
            if follow {
                let _ = exit.wait_for(Option::is_some).await;
            }
        });
        Ok(end.filter_map(|()| async { None }).boxed())
    }

    async fn stats(&self, _: AttemptId) -> Result<Usage, RuntimeError> {
        Err(RuntimeError::new(RuntimeErrorKind::Unsupported, "functions are not measured"))
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        let attempts = self.attempts.lock().expect("nobody panics with it");
        let found = |(attempt, known): (&AttemptId, &Running)| Found {
            attempt: *attempt,
            handle: attempt.to_string(),
            state: known.exit.borrow().map_or(FoundState::Running, FoundState::Ended),
            started_at: Some(known.at),
        };
        Ok(attempts.iter().map(found).collect())
    }

    async fn events(&self) -> Result<RuntimeEvents, RuntimeError> {
        Ok(stream::pending().boxed())
    }
}

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    orch_core::block_on(async {
        let functions = Functions::default()
            .with("count", |args| async move { i32::from(args.len() != 2) })
            .with("sleep", |_| async {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                0
            });
        let node = AgentConfig::local("functions", [WorkKind::Program])?;
        let orch = Orchestrator::builder().node(node, Arc::new(functions)).build().await?;
        let counts = orch.submit(TaskSpec::program("counts", "count").args(["one", "two"])).await?;
        let sleeps = orch.submit(TaskSpec::program("sleeps", "sleep")).await?;
        let unknown = orch.submit(TaskSpec::program("unknown", "fly")).await?;
        assert_eq!(orch.wait(counts).await?.status(), TaskStatus::Succeeded);
        assert_eq!(orch.wait(unknown).await?.status(), TaskStatus::Failed);
        orch.cancel(sleeps, "enough").await?;
        assert_eq!(orch.wait(sleeps).await?.status(), TaskStatus::Cancelled);
        orch.shutdown().await?;
        Ok(())
    })
}
