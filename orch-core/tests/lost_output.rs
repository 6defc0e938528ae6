//! Output that cannot be kept: ends do not wait for it for ever, and readers are told.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use orch_core::{
    Orchestrator,
    consensus::LocalConsensus,
    engine::{Agent, AgentConfig, OutputChunk, OutputRange},
    model::{TaskId, TaskSpec, WorkKind},
    output::{MemoryOutput, NewOutput, OutputError, OutputStore},
    runtime::OutputStream,
    state::TaskStatus,
    store::{MemoryStore, StateStore, StoreError},
    testkit::{Layered, OutputLayer, SimulatedRuntime},
};

/// Store of output on a disk that is full, or not.
#[derive(Debug)]
struct Disk(MemoryOutput, AtomicBool);

#[async_trait]
impl OutputLayer for Disk {
    fn below(&self) -> &dyn OutputStore {
        &self.0
    }

    async fn append(&self, pieces: Vec<NewOutput>) -> Result<(), OutputError> {
        match self.1.load(Ordering::SeqCst) {
            true => Err(OutputError::Store(StoreError::Closed)),
            false => self.0.append(pieces).await,
        }
    }
}

async fn build(store: &Arc<dyn StateStore>, output: &Arc<Layered<Disk>>) -> Orchestrator {
    let consensus = Arc::new(LocalConsensus::durable(store.clone()));
    let builder = Orchestrator::builder().store(store.clone()).consensus(consensus);
    builder.output(output.clone()).build().await.unwrap()
}

async fn said(orch: &Orchestrator, words: &str) -> TaskId {
    let task = orch.submit(TaskSpec::program("said", "say").args([words])).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(60), orch.wait(task)).await;
    assert_eq!(end.expect("an end waits for output no longer").unwrap().status(), TaskStatus::Succeeded);
    task
}

async fn read(orch: &Orchestrator, task: TaskId, range: OutputRange) -> Vec<OutputChunk> {
    let mut reader = orch.logs_in(task, range).await.unwrap();
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.next().await {
        chunks.push(chunk.unwrap());
    }
    chunks
}

#[tokio::test(start_paused = true)]
async fn an_end_waits_for_its_output_for_the_grace_and_the_loss_is_told() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let output = Arc::new(Layered(Disk(MemoryOutput::new(1 << 20), AtomicBool::new(true))));
    let orch = build(&store, &output).await;
    let config = AgentConfig::local("a", [WorkKind::Program]).unwrap();
    let agent = Agent::start(config, Arc::new(SimulatedRuntime::new()), orch.link());
    let lost = said(&orch, "words").await;
    output.0.1.store(false, Ordering::SeqCst);
    let kept = said(&orch, "more words").await;

    let check = async |orch: &Orchestrator| {
        for range in [OutputRange::default(), OutputRange { tail: Some(10), ..OutputRange::default() }] {
            let chunks = read(orch, lost, range).await;
            let [OutputChunk { stream: OutputStream::Stdout, offset: 6, lost: 6, data, .. }] = &chunks[..]
            else {
                panic!("{chunks:?}")
            };
            assert!(data.is_empty());
        }
        let text = orch.logs(lost, true).await.unwrap().text().await.unwrap();
        assert!(
            text.contains("up to 6 bytes of the standard output of attempt 1 could not be kept"),
            "{text}"
        );
        assert_eq!(orch.logs(kept, true).await.unwrap().text().await.unwrap(), "more words\n");
    };
    check(&orch).await;
    agent.leave().await;
    drop(orch);
    check(&build(&store, &output).await).await;
}
