//! The engine end to end, over the backends of this crate: orchestrator, agents and everything between them
//! are real. And cases that depend on no composition.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use orch_core::{
    Error, Orchestrator,
    consensus::{Consensus, LocalConsensus, StoreConsensus},
    engine::{Agent, AgentConfig, EngineConfig, EventKind, OutputRange, TaskFilter, TaskView},
    model::{AttemptEnd, AttemptId, Exit, Resources, TaskId, TaskSpec, Timestamp, WorkKind},
    output::{
        FileOutput, FileOutputConfig, MemoryOutput, OutputError, OutputPiece, OutputStore, StoreOutput,
    },
    runtime::{Found, FoundState, OutputStream, Progress, Runtime as _, RuntimeError, Started, Work},
    scheduler::{Pending, Plan, Scheduler, Snapshot},
    state::{ClusterConfig, Rejection, TaskResult, TaskStatus, TimeoutKind},
    store::{Key, MemoryStore, StateStore, StoreError, Txn, Write},
    testkit::{
        Layered, OutputLayer, RuntimeLayer, SimulatedRuntime,
        engine::{EngineHarness, Parts, run_all},
    },
};
use tokio::sync::{Mutex, watch};

/// Groups over stores in memory.
struct InMemory {
    stores: Mutex<BTreeMap<String, Arc<dyn StateStore>>>,
    decide: Decide,
    members: usize,
    /// Directory for output in files.
    dir: Option<tempfile::TempDir>,
}

type Decide = fn(Arc<dyn StateStore>) -> Arc<dyn Consensus>;

impl InMemory {
    fn new(members: usize, decide: Decide) -> Self {
        Self { stores: Mutex::default(), decide, members, dir: None }
    }
}

#[async_trait]
impl EngineHarness for InMemory {
    async fn member(&self, group: &str, _: usize) -> Parts {
        let mut stores = self.stores.lock().await;
        let store = stores.entry(group.into()).or_insert_with(|| Arc::new(MemoryStore::default())).clone();
        Parts { consensus: (self.decide)(store.clone()), store }
    }

    fn members(&self) -> usize {
        self.members
    }

    async fn output(&self) -> Option<Arc<dyn OutputStore>> {
        let dir = self.dir.as_ref()?.path().join(TaskId::generate().to_string());
        Some(Arc::new(FileOutput::open(FileOutputConfig::new(dir)).await.expect("a new directory")))
    }

    /// A shutdown closes the store, and records in memory are lost.
    fn reopens(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_works_where_nothing_is_kept() {
    run_all(&InMemory::new(1, |_| Arc::new(LocalConsensus::in_memory()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_works_with_records_of_its_own() {
    run_all(&InMemory::new(1, |store| Arc::new(LocalConsensus::durable(store)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_works_with_output_in_files() {
    let harness = InMemory::new(1, |store| Arc::new(LocalConsensus::durable(store)));
    run_all(&InMemory { dir: Some(tempfile::tempdir().unwrap()), ..harness }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_works_over_one_store_for_all() {
    run_all(&InMemory::new(2, |store| Arc::new(StoreConsensus::new(store)))).await;
}

fn quick() -> EngineConfig {
    EngineConfig {
        heartbeat_interval: Duration::from_millis(50),
        node_timeout: Duration::from_millis(400),
        assignments_wait: Duration::from_millis(200),
        shutdown_grace: Duration::from_millis(200),
        ..EngineConfig::default()
    }
}

fn hang(name: &str) -> TaskSpec {
    TaskSpec::program(name, "hang")
}

/// It is dropped without a shutdown; the suite has the case of one that is shut down.
#[tokio::test]
async fn decisions_outlive_an_orchestrator_that_is_dropped() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let build = async || {
        let consensus = Arc::new(LocalConsensus::durable(store.clone()));
        Orchestrator::builder()
            .store(store.clone())
            .consensus(consensus)
            .engine(quick())
            .build()
            .await
            .unwrap()
    };
    let before = build().await;
    let task = before.submit(hang("survives")).await.unwrap();
    drop(before);
    assert_eq!(build().await.get(task).unwrap().status(), TaskStatus::Pending);
}

#[tokio::test]
async fn parts_that_cannot_work_together_are_refused_with_the_way_out() {
    let engine = EngineConfig { node_timeout: Duration::from_millis(1), ..EngineConfig::default() };
    let error = Orchestrator::builder().engine(engine).build().await.unwrap_err().to_string();
    assert!(error.contains("at least twice heartbeat_interval"), "{error}");
}

#[tokio::test]
async fn a_full_cluster_refuses_more_and_takes_it_later() {
    let cluster = ClusterConfig { unfinished_max: 1, ..ClusterConfig::default() };
    let orch = Orchestrator::builder().cluster(cluster).build().await.unwrap();
    let first = orch.submit(hang("first")).await.unwrap();
    let full = orch.submit(hang("second")).await;
    assert!(matches!(full, Err(Error::Rejected(Rejection::QueueFull { limit: 1 }))), "{full:?}");
    orch.cancel(first, "").await.unwrap();
    orch.submit(hang("second")).await.unwrap();
}

#[tokio::test]
async fn ten_thousand_tasks_at_once_are_taken_in_timed_out_and_lost_without_trouble() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let orch = Orchestrator::builder().store(store).engine(quick()).build().await.unwrap();
    let waiting = hang("w").queue_timeout(Duration::from_millis(300));
    let ids = orch.submit_all(vec![waiting; 10_000]).await.unwrap();
    let limit = TimeoutKind::Queue;
    for id in ids {
        assert_eq!(orch.wait(id).await.unwrap().record.result(), Some(&TaskResult::TimedOut { limit }));
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_host_that_is_its_own_node_starts_again_on_its_records() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let build = async || {
        let consensus = Arc::new(LocalConsensus::durable(store.clone()));
        let builder = Orchestrator::builder().store(store.clone()).consensus(consensus).engine(quick());
        builder.local_node().unwrap().build().await.unwrap()
    };
    let first = build().await;
    let task = first.submit(TaskSpec::program("one", "true")).await.unwrap();
    first.wait(task).await.unwrap();
    drop(first);
    let second = build().await;
    let task = second.submit(TaskSpec::program("two", "true")).await.unwrap();
    assert_eq!(second.wait(task).await.unwrap().status(), TaskStatus::Succeeded);
}

fn node_config(node: &str) -> AgentConfig {
    let mut config = AgentConfig::local(node, [WorkKind::Program]).expect("a valid name");
    config.node.capacity = Resources::new(4000, 4 << 30);
    config
}

#[tokio::test]
async fn a_node_must_be_able_to_run_what_it_offers_and_be_the_only_one() {
    let refused = async |builder: orch_core::engine::Builder| match builder.build().await {
        Err(Error::Composition(why)) => why,
        other => panic!("{other:?}"),
    };
    let images = AgentConfig::local("a", [WorkKind::Image]).unwrap();
    let builder = Orchestrator::builder().node(images, Arc::new(SimulatedRuntime::new()));
    let why = refused(builder).await;
    assert!(why.contains("offers work of kind image, which its simulated runtime cannot run"), "{why}");
    let two = Orchestrator::builder()
        .node(node_config("a"), Arc::new(SimulatedRuntime::new()))
        .node(node_config("b"), Arc::new(SimulatedRuntime::new()));
    let why = refused(two).await;
    assert!(why.contains("called more than once"), "{why}");
}

#[derive(Debug)]
struct Panics;

impl Scheduler for Panics {
    fn name(&self) -> &'static str {
        "panics"
    }

    fn plan(&self, _: Snapshot<'_>, _: &[Pending<'_>]) -> Plan {
        panic!("out of ideas")
    }
}

#[tokio::test]
async fn a_scheduler_that_panics_places_nothing_and_the_status_says_so() {
    let node = (node_config("a"), Arc::new(SimulatedRuntime::new()));
    let orch =
        Orchestrator::builder().scheduler(Arc::new(Panics)).node(node.0, node.1).build().await.unwrap();
    let task = orch.submit(TaskSpec::program("t", "true")).await.unwrap();
    assert_eq!(orch.get(task).unwrap().status(), TaskStatus::Pending);
    assert_eq!(orch.explain(task).unwrap(), None);
    let trouble = orch.status().scheduler_error.unwrap();
    assert!(trouble.ends_with("out of ideas"), "{trouble}");
    orch.cancel(task, "enough").await.unwrap();
    orch.shutdown().await.unwrap();
}

/// Runtime that panics in the step that the task is named after.
#[derive(Debug)]
struct Fragile(SimulatedRuntime);

impl Fragile {
    fn step(work: &Work, step: &str) {
        assert_ne!(work.spec.name, step, "fell over");
    }
}

#[async_trait]
impl RuntimeLayer for Fragile {
    fn below(&self) -> &SimulatedRuntime {
        &self.0
    }
    async fn prepare(&self, work: &Work, progress: &Progress) -> Result<(), RuntimeError> {
        Self::step(work, "prepare");
        self.0.prepare(work, progress).await
    }
    async fn start(&self, work: &Work) -> Result<Started, RuntimeError> {
        Self::step(work, "start");
        self.0.start(work).await
    }
    async fn wait(&self, attempt: AttemptId) -> Result<Exit, RuntimeError> {
        let is_it = |found: &Found| found.attempt == attempt && found.state == FoundState::Running;
        assert!(!self.0.list().await?.iter().any(is_it), "fell over");
        self.0.wait(attempt).await
    }
}

#[tokio::test]
async fn a_runtime_that_panics_fails_the_attempt_and_nothing_else() {
    let runtime = SimulatedRuntime::new();
    let fragile = Arc::new(Layered(Fragile(runtime.clone())));
    let orch = Orchestrator::builder().node(node_config("a"), fragile).build().await.unwrap();
    for (name, program) in [("prepare", "true"), ("start", "true"), ("wait", "hang")] {
        let task = orch.submit(TaskSpec::program(name, program)).await.unwrap();
        let done = orch.wait(task).await.unwrap();
        assert_eq!(done.status(), TaskStatus::Failed, "{name}");
        let Some(AttemptEnd::StartFailed { failure }) = done.record.last_end() else { panic!("{done:?}") };
        assert!(failure.message.contains("fell over"), "{failure:?}");
    }
    let well = orch.submit(TaskSpec::program("well", "true")).await.unwrap();
    assert_eq!(orch.wait(well).await.unwrap().status(), TaskStatus::Succeeded);
    orch.shutdown().await.unwrap();
    assert!(runtime.list().await.unwrap().is_empty(), "what ran when it panicked was removed");
}

#[tokio::test]
async fn a_list_is_what_a_look_at_every_task_finds() {
    let orch = Orchestrator::builder().build().await.unwrap();
    let spec = |number: usize| {
        TaskSpec::program(format!("t{}", number % 7), "true").label("team", (number % 3).to_string())
    };
    let ids = orch.submit_all((0..900).map(spec)).await.unwrap();
    for id in ids.iter().step_by(5) {
        orch.cancel(*id, "").await.unwrap();
    }
    let everything = TaskFilter { limit: usize::MAX, ..TaskFilter::default() };
    let all = orch.list(&everything);
    assert_eq!(all.iter().map(|view| view.record.id).collect::<Vec<_>>(), ids, "in order of submission");
    let check = |filter: TaskFilter, wanted: &dyn Fn(&TaskView) -> bool| {
        let after = filter.after_seq;
        let matching: Vec<&TaskView> = all.iter().filter(|view| wanted(view)).collect();
        let rising = matching.iter().filter(|view| after.is_none_or(|after| view.record.seq > after));
        let falling = matching.iter().rev().filter(|view| after.is_none_or(|after| view.record.seq < after));
        let ids = |views: Vec<&&TaskView>| -> Vec<TaskId> {
            views.into_iter().map(|view| view.record.id).take(filter.limit).collect()
        };
        for (newest_first, expected) in [(false, ids(rising.collect())), (true, ids(falling.collect()))] {
            let filter = TaskFilter { newest_first, ..filter.clone() };
            let found: Vec<TaskId> = orch.list(&filter).iter().map(|view| view.record.id).collect();
            assert_eq!(found, expected, "{filter:?}");
            assert_eq!(orch.count(&filter), matching.len() as u64, "{filter:?}");
        }
    };
    for limit in [0, 1, 300, usize::MAX] {
        for after_seq in [None, Some(0), Some(511), Some(10_000)] {
            let base = TaskFilter { limit, after_seq, ..TaskFilter::default() };
            check(base.clone(), &|_| true);
            for status in [TaskStatus::Pending, TaskStatus::Cancelled] {
                check(TaskFilter { statuses: vec![status], ..base.clone() }, &|view| view.status() == status);
            }
            check(TaskFilter { name: Some("t3".into()), ..base.clone() }, &|view| {
                view.record.spec.name == "t3"
            });
            let label = Some(("team".to_owned(), "1".to_owned()));
            check(TaskFilter { label, ..base.clone() }, &|view| view.record.spec.labels["team"] == "1");
            for length in [1, 6, 8, 9, 36] {
                let prefix = ids[17].to_string()[..length].to_owned();
                let begins = |view: &TaskView| view.record.id.to_string().starts_with(&prefix);
                check(TaskFilter { id_prefix: Some(prefix.clone()), ..base.clone() }, &begins);
            }
        }
    }
    let none = TaskFilter { id_prefix: Some("no id".into()), ..TaskFilter::default() };
    assert!(orch.list(&none).is_empty());
    assert_eq!(
        orch.status().tasks,
        BTreeMap::from([(TaskStatus::Pending, 720), (TaskStatus::Cancelled, 180)])
    );
}

#[tokio::test]
async fn events_of_the_future_are_not_those_of_the_past() {
    let orch = Orchestrator::builder().build().await.unwrap();
    orch.submit(TaskSpec::program("t", "true")).await.unwrap();
    let now = orch.status().revision;
    assert!(orch.events_from(now).is_ok());
    assert!(matches!(orch.events_from(now.next()), Err(Error::EventsCompacted { .. })));
}

#[tokio::test]
async fn a_reader_that_has_seen_everything_resumes_after_a_restart() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let (config, runtime) = (node_config("a"), SimulatedRuntime::new());
    let build = async || {
        let consensus = Arc::new(LocalConsensus::durable(store.clone()));
        let builder = Orchestrator::builder().store(store.clone()).consensus(consensus);
        builder.node(config.clone(), Arc::new(runtime.clone())).build().await.unwrap()
    };
    let first = build().await;
    let mut events = first.events();
    let task = first.submit(TaskSpec::program("said", "say").args(["words"])).await.unwrap();
    first.wait(task).await.unwrap();
    let seen = loop {
        let event = events.next().await.unwrap().unwrap();
        match event.kind {
            EventKind::Task(record) if record.is_finished() => break event.revision,
            _ => {}
        }
    };
    drop((events, first));
    // Revisions of the store that are not decisions.
    store.commit(Txn::of(vec![Write::put(Key::new("observed/other").unwrap(), "x")])).await.unwrap();
    let second = build().await;
    let mut resumed = second.events_from(seen).unwrap();
    let later = second.submit(TaskSpec::program("later", "true")).await.unwrap();
    loop {
        let EventKind::Task(record) = resumed.next().await.unwrap().unwrap().kind else { continue };
        assert_eq!(record.id, later, "nothing is told twice");
        if record.is_finished() {
            break;
        }
    }
    second.shutdown().await.unwrap();
}

/// Checks what the suite of output stores does not see: that a task's output is in the builder's store, that
/// it is moved there from an earlier store, and that output without a task is deleted.
#[tokio::test]
async fn output_has_a_place_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let build = async |output: Option<Arc<dyn OutputStore>>| {
        let builder = Orchestrator::builder()
            .store(store.clone())
            .consensus(Arc::new(LocalConsensus::durable(store.clone())))
            .engine(quick());
        match output {
            Some(output) => builder.output(output).build().await.unwrap(),
            None => builder.build().await.unwrap(),
        }
    };
    let files = async || {
        let output = FileOutput::open(FileOutputConfig::new(dir.path())).await.unwrap();
        Arc::new(output) as Arc<dyn OutputStore>
    };
    let stored = async || store.scan("observed/output/", None, 10).await.unwrap().entries.len();
    let piece = |task: TaskId, data: &'static str| {
        let attempt = AttemptId { task, attempt: std::num::NonZeroU32::MIN };
        let time = Some(Timestamp::from_millis(77_000));
        let (limit, stream) = (1 << 20, OutputStream::Stdout);
        OutputPiece { attempt, limit, stream, offset: 0, time, data: data.into() }
    };

    let before = build(None).await;
    let (early, unknown) = (before.submit(hang("early")).await.unwrap(), TaskId::generate());
    let old = StoreOutput::open(store.clone(), 1 << 20).await.unwrap();
    old.append(vec![piece(early, "said before"), piece(unknown, "whose?")]).await.unwrap();
    assert_eq!(stored().await, 2);
    drop(before);

    let output = files().await;
    output.append(vec![piece(unknown, "whose?")]).await.unwrap();
    let after = build(Some(output)).await;
    assert_eq!(stored().await, 0);
    let range = OutputRange { times: true, ..OutputRange::default() };
    let moved = after.logs_in(early, range).await.unwrap().next().await.unwrap().unwrap();
    assert_eq!((&moved.data[..], moved.time), (&b"said before"[..], Some(Timestamp::from_millis(77_000))));
    let runtime = SimulatedRuntime::new();
    let agent =
        Agent::start(AgentConfig::local("a", [WorkKind::Program]).unwrap(), Arc::new(runtime), after.link());
    agent.registered().await.unwrap();
    let said = after.submit(TaskSpec::program("said", "say").args(["words"])).await.unwrap();
    let mut followed = after.logs(said, true).await.unwrap();
    assert_eq!(&followed.next().await.unwrap().unwrap().data[..], b"words\n");
    after.wait(said).await.unwrap();
    assert!(followed.next().await.is_none());
    drop((agent, followed, after));

    let again = files_when_free(dir.path()).await;
    let last = build(Some(again.clone())).await;
    let mut tasks = again.tasks().await;
    tasks.sort();
    let mut expected = [early, said];
    expected.sort();
    assert_eq!(tasks, expected, "the output of no task is gone");
    assert_eq!(last.logs(said, false).await.unwrap().text().await.unwrap(), "words\n");
    assert_eq!(stored().await, 0);
}

/// Opens the files once the dropped orchestrator has released them.
async fn files_when_free(dir: &std::path::Path) -> Arc<dyn OutputStore> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        match FileOutput::open(FileOutputConfig::new(dir)).await {
            Ok(output) => return Arc::new(output),
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    }
}

/// Output store that returns errors for a while, as a full disk does.
#[derive(Debug)]
struct Full(MemoryOutput, watch::Sender<bool>, watch::Sender<usize>);

#[async_trait]
impl OutputLayer for Full {
    fn below(&self) -> &dyn OutputStore {
        &self.0
    }

    async fn append(&self, pieces: Vec<OutputPiece>) -> Result<(), OutputError> {
        if *self.1.borrow() && !pieces.is_empty() {
            self.2.send_modify(|refused| *refused += 1);
            return Err(OutputError::Store(StoreError::Closed));
        }
        self.0.append(pieces).await
    }
}

#[tokio::test]
async fn output_that_cannot_be_kept_is_sent_again() {
    let full = Full(MemoryOutput::new(1 << 20), watch::Sender::new(true), watch::Sender::new(0));
    let full = Arc::new(Layered(full));
    let orch = Orchestrator::builder().output(full.clone()).engine(quick()).build().await.unwrap();
    let mut config = AgentConfig::local("a", [WorkKind::Program]).unwrap();
    config.observe_every = Duration::from_millis(5);
    let _agent = Agent::start(config, Arc::new(SimulatedRuntime::new()), orch.link());
    let task = orch.submit(TaskSpec::program("said", "say").args(["words"])).await.unwrap();
    full.0.2.subscribe().wait_for(|refused| *refused > 1).await.unwrap();
    assert_eq!(orch.logs(task, false).await.unwrap().text().await.unwrap(), "");
    assert!(!orch.get(task).unwrap().record.is_finished(), "its end waits for its output");
    full.0.1.send_replace(false);
    orch.wait(task).await.unwrap();
    assert_eq!(orch.logs(task, false).await.unwrap().text().await.unwrap(), "words\n");
}
