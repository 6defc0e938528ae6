//! Orchestrators beside others, and their shutdown: members that decide over one store, resources after the
//! last handle is dropped, and agents that drain.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use orch_core::{
    Error, Orchestrator,
    consensus::{StoreConsensus, StoreConsensusConfig},
    engine::{
        Agent, AgentConfig, AgentHandle, AssignmentsQuery, ControlLink, EngineConfig, EventKind, LinkError,
    },
    environment::Environment,
    model::{
        AttemptEnd, AttemptId, Exit, NodeId, NodeState, Resources, RestartPolicy, TaskSpec, Timestamp,
        WorkKind,
    },
    runtime::{Found, FoundState, Runtime as _, RuntimeError},
    state::TaskStatus,
    store::{Key, MemoryStore, StateStore, Txn, Write},
    testkit::{Layered, RuntimeLayer, SimulatedRuntime, StoreLayer},
};
use tokio::sync::oneshot;

/// Longer than anything here takes, so that a hang is reported with its name.
const PATIENCE: Duration = Duration::from_secs(3600);

fn agent_config(node: &str) -> AgentConfig {
    let mut config = AgentConfig::local(node, [WorkKind::Program]).unwrap();
    config.node.capacity = Resources::new(4000, 4 << 30);
    config
}

async fn join(link: Arc<dyn ControlLink>, node: &str, runtime: &SimulatedRuntime) -> AgentHandle {
    let agent = Agent::start(agent_config(node), Arc::new(runtime.clone()), link);
    agent.registered().await.unwrap();
    agent
}

async fn member(store: &Arc<dyn StateStore>, name: &str) -> Orchestrator {
    let consensus = Arc::new(StoreConsensus::named(store.clone(), name));
    Orchestrator::builder().store(store.clone()).consensus(consensus).build().await.unwrap()
}

fn shared_store() -> Arc<dyn StateStore> {
    Arc::new(MemoryStore::default())
}

fn state_of(orch: &Orchestrator, node: &NodeId) -> Option<NodeState> {
    orch.nodes().iter().find(|known| known.id() == node).map(|known| known.record.state)
}

/// Waits until the member sees the node in this state.
async fn until(orch: &Orchestrator, node: &NodeId, state: NodeState) {
    let mut events = orch.events();
    let looked = async {
        while state_of(orch, node) != Some(state) {
            events.next().await.unwrap().unwrap();
        }
    };
    assert!(tokio::time::timeout(PATIENCE, looked).await.is_ok(), "{node} never became {state:?}");
}

/// Lets time pass and checks that no member declared the node lost meanwhile.
async fn stays_ready(members: &[&Orchestrator], node: &NodeId, time: Duration) {
    let mut streams: Vec<_> = members.iter().map(|orch| orch.events()).collect();
    tokio::time::sleep(time).await;
    for (orch, events) in members.iter().zip(&mut streams) {
        assert_eq!(state_of(orch, node), Some(NodeState::Ready));
        while let Ok(event) = tokio::time::timeout(Duration::ZERO, events.next()).await {
            if let EventKind::Node(record) = event.unwrap().unwrap().kind {
                assert_eq!(record.state, NodeState::Ready);
            }
        }
    }
}

fn told(member: &str) -> Key {
    Key::new(format!("observed/members/{member}")).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_node_that_one_member_hears_is_alive_for_all() {
    let (store, node) = (shared_store(), NodeId::new("a").unwrap());
    let (one, two) = (member(&store, "one").await, member(&store, "two").await);
    let agent = join(one.link(), "a", &SimulatedRuntime::new()).await;
    until(&two, &node, NodeState::Ready).await;
    stays_ready(&[&one, &two], &node, Duration::from_secs(120)).await;

    agent.leave().await;
    for orch in [&one, &two] {
        until(orch, &node, NodeState::Lost).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_to_another_member_is_not_lost_again() {
    let (store, node) = (shared_store(), NodeId::new("a").unwrap());
    let (one, two) = (member(&store, "one").await, member(&store, "two").await);
    let runtime = SimulatedRuntime::new();
    join(one.link(), "a", &runtime).await.leave().await;
    until(&one, &node, NodeState::Lost).await;
    until(&two, &node, NodeState::Lost).await;
    let _agent = join(two.link(), "a", &runtime).await;
    until(&one, &node, NodeState::Ready).await;
    stays_ready(&[&one, &two], &node, Duration::from_secs(120)).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_member_dies_is_lost_for_the_others() {
    let (store, node) = (shared_store(), NodeId::new("a").unwrap());
    let (one, two) = (member(&store, "one").await, member(&store, "two").await);
    let _agent = join(one.link(), "a", &SimulatedRuntime::new()).await;
    stays_ready(&[&one, &two], &node, Duration::from_secs(60)).await;
    let died = tokio::time::Instant::now();
    drop(one);
    until(&two, &node, NodeState::Lost).await;
    assert!(died.elapsed() >= EngineConfig::default().node_timeout - Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn what_members_tell_is_cleaned_up_and_need_not_be_readable() {
    let (store, node) = (shared_store(), NodeId::new("a").unwrap());
    let dead = ["{", r#"{"v":2}"#, r#"{"v":1,"nodes":["a","unknown"]}"#].into_iter().enumerate();
    let writes = dead.map(|(number, text)| Write::put(told(&format!("dead-{number}")), text)).collect();
    store.commit(Txn::of(writes)).await.unwrap();
    let (one, two) = (member(&store, "one").await, member(&store, "two").await);
    let _agent = join(one.link(), "a", &SimulatedRuntime::new()).await;
    stays_ready(&[&one, &two], &node, Duration::from_secs(60)).await;
    let keys = async || {
        let page = store.scan("observed/members/", None, 100).await.unwrap();
        page.entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>()
    };
    assert_eq!(keys().await, [told("one")], "what nobody repeats is deleted");
    drop(one);
    let mut changes = store.watch("observed/members/", store.head().await.unwrap()).await.unwrap();
    while !keys().await.is_empty() {
        futures_util::StreamExt::next(&mut changes).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn members_of_one_store_need_a_name_the_store_and_time() {
    let store = shared_store();
    let refused = async |name: &str, engine: EngineConfig, with_store: bool| {
        let consensus = Arc::new(StoreConsensus::named(store.clone(), name));
        let mut builder = Orchestrator::builder().consensus(consensus).engine(engine);
        if with_store {
            builder = builder.store(store.clone());
        }
        match builder.build().await {
            Err(Error::Composition(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let storeless = refused("one", EngineConfig::default(), false).await;
    assert!(storeless.contains("to .store(...) too"), "{storeless}");
    let (heartbeat_interval, node_timeout) = (Duration::from_secs(3), Duration::from_secs(7));
    let hasty = EngineConfig { heartbeat_interval, node_timeout, ..EngineConfig::default() };
    let hasty = refused("one", hasty, true).await;
    assert!(hasty.contains("at least three times heartbeat_interval"), "{hasty}");
    for name in ["", "a/b", "..", "a\nb", &"x".repeat(600)] {
        let error = refused(name, EngineConfig::default(), true).await;
        assert!(error.contains("must be one part of a key"), "{error}");
    }
}

/// Store of this process that reports when its last handle is dropped. Its records stay, as in a file.
#[derive(Debug)]
struct Held {
    file: Arc<MemoryStore>,
    _released: oneshot::Sender<()>,
}

impl Held {
    fn open(file: &Arc<MemoryStore>) -> (Arc<Layered<Self>>, oneshot::Receiver<()>) {
        let (released, told) = oneshot::channel();
        (Arc::new(Layered(Self { file: file.clone(), _released: released })), told)
    }
}

impl StoreLayer for Held {
    fn below(&self) -> &dyn StateStore {
        &*self.file
    }
}

/// Host that is its own node, over the records of a file.
async fn host(
    file: &Arc<MemoryStore>,
    config: &AgentConfig,
    runtime: &SimulatedRuntime,
) -> (Orchestrator, oneshot::Receiver<()>) {
    let (store, released) = Held::open(file);
    let builder = Orchestrator::builder().store(store).node(config.clone(), Arc::new(runtime.clone()));
    (builder.build().await.unwrap(), released)
}

/// An error means that the sender was dropped, and the store with it.
async fn gone(released: oneshot::Receiver<()>) {
    assert!(tokio::time::timeout(PATIENCE, released).await.expect("the store is still held").is_err());
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_releases_the_store_and_leaves_work_alone() {
    let (file, runtime, config) = (Arc::default(), SimulatedRuntime::new(), agent_config("a"));
    let (first, mut released) = host(&file, &config, &runtime).await;
    let (clone, link, mut events) = (first.clone(), first.link(), first.events());
    let task = first.submit(TaskSpec::program("goes on", "hang")).await.unwrap();
    while first.get(task).unwrap().status() != TaskStatus::Running {
        events.next().await.unwrap().unwrap();
    }
    drop(first);
    assert_eq!(clone.get(task).unwrap().status(), TaskStatus::Running);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(released.try_recv() == Err(oneshot::error::TryRecvError::Empty), "a clone holds it");
    let session = clone.nodes()[0].record.current_session();
    let told = link.assignments(&session, AssignmentsQuery::default()).await.unwrap();
    let (waiting, a) = (link.clone(), session.clone());
    let waiting = tokio::spawn(async move {
        waiting.assignments(&a, AssignmentsQuery::after(told.cursor, told.revision)).await
    });
    tokio::task::yield_now().await;
    drop(clone);
    assert!(matches!(waiting.await.unwrap(), Err(LinkError::Closed)), "nobody waits for what is gone");
    gone(released).await;
    let late = link.heartbeat(&session).await;
    assert!(matches!(late, Err(LinkError::Closed)), "{late:?}");
    assert_eq!(runtime.list().await.unwrap()[0].state, FoundState::Running);

    let (second, _) = host(&file, &config, &runtime).await;
    runtime.finish(runtime.starts()[0], Exit::from_code(0));
    assert_eq!(second.wait(task).await.unwrap().status(), TaskStatus::Succeeded);
    assert_eq!(runtime.starts().len(), 1, "it was taken over");
}

#[test]
fn the_last_handle_may_be_dropped_anywhere() {
    let (file, runtime, config) = (Arc::default(), SimulatedRuntime::new(), agent_config("a"));
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (outside, released) = tokio.block_on(host(&file, &config, &runtime));
    drop(outside);
    tokio.block_on(gone(released));
    let (after, released) = tokio.block_on(host(&file, &config, &runtime));
    drop(tokio);
    drop(after);
    assert!(released.blocking_recv().is_err());
}

#[derive(Debug, PartialEq)]
enum Oddity {
    /// Work uses its whole grace period to stop.
    StopsSlowly,
    /// Attempts are removed as soon as they were listed.
    PrunedOnceListed,
}

#[derive(Debug)]
struct Odd(SimulatedRuntime, Oddity);

#[async_trait]
impl RuntimeLayer for Odd {
    fn below(&self) -> &SimulatedRuntime {
        &self.0
    }
    async fn stop(&self, attempt: AttemptId, grace: Duration) -> Result<(), RuntimeError> {
        if self.1 == Oddity::StopsSlowly {
            tokio::time::sleep(grace).await;
        }
        self.0.stop(attempt, grace).await
    }
    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        let found = self.0.list().await?;
        if self.1 == Oddity::PrunedOnceListed {
            for one in &found {
                self.0.remove(one.attempt).await?;
            }
        }
        Ok(found)
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_drains_gives_each_task_its_own_grace() {
    let orch = Orchestrator::builder().build().await.unwrap();
    let runtime = SimulatedRuntime::new();
    let agent = Agent::start(
        agent_config("a"),
        Arc::new(Layered(Odd(runtime.clone(), Oddity::StopsSlowly))),
        orch.link(),
    );
    agent.registered().await.unwrap();
    let mut events = orch.events();
    let graces = [Duration::from_secs(5), Duration::from_secs(300)];
    let spec = |grace| TaskSpec::program("slow", "hang").stop_grace(grace).restart(RestartPolicy::Never);
    let tasks = orch.submit_all(graces.map(spec)).await.unwrap();
    while tasks.iter().any(|task| orch.get(*task).unwrap().status() != TaskStatus::Running) {
        events.next().await.unwrap().unwrap();
    }
    agent.drain(Duration::from_secs(1)).await;
    for task in tasks {
        assert_eq!(orch.get(task).unwrap().record.last_end(), Some(&AttemptEnd::Stopped));
    }
    assert!(runtime.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn work_that_was_removed_while_the_agent_was_away_is_lost_and_not_run_again() {
    let orch = Orchestrator::builder().build().await.unwrap();
    let (config, runtime) = (agent_config("a"), SimulatedRuntime::new());
    let agent = Agent::start(config.clone(), Arc::new(runtime.clone()), orch.link());
    agent.registered().await.unwrap();
    let spec = TaskSpec::program("once", "hang").restart(RestartPolicy::Never);
    let task = orch.submit(spec).await.unwrap();
    let mut events = orch.events();
    while orch.get(task).unwrap().status() != TaskStatus::Running {
        events.next().await.unwrap().unwrap();
    }
    agent.leave().await;
    let odd = Arc::new(Layered(Odd(runtime.clone(), Oddity::PrunedOnceListed)));
    let _again = Agent::start(config, odd, orch.link());
    let done = orch.wait(task).await.unwrap();
    assert_eq!(done.status(), TaskStatus::Failed);
    assert!(matches!(done.record.last_end(), Some(AttemptEnd::Lost { .. })), "{done:?}");
    assert_eq!(runtime.starts().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_nobody_waits_for_any_more_can_be_repeated_or_dropped() {
    let orch = Orchestrator::builder()
        .node(agent_config("a"), Arc::new(Layered(Odd(SimulatedRuntime::new(), Oddity::StopsSlowly))))
        .build()
        .await
        .unwrap();
    let task = orch.submit(TaskSpec::program("slow", "hang").restart(RestartPolicy::Never)).await.unwrap();
    let mut events = orch.events();
    while orch.get(task).unwrap().status() != TaskStatus::Running {
        events.next().await.unwrap().unwrap();
    }
    assert!(
        tokio::time::timeout(Duration::from_secs(1), orch.shutdown()).await.is_err(),
        "it waits for the task"
    );
    orch.shutdown().await.unwrap();
    assert_eq!(
        orch.get(task).unwrap().record.last_end(),
        Some(&AttemptEnd::Stopped),
        "the second one waited as well"
    );
}

#[tokio::test(start_paused = true)]
async fn work_that_waits_for_an_engine_that_is_away_goes_elsewhere() {
    let (away, idle) = (SimulatedRuntime::new(), SimulatedRuntime::new());
    let orch = Orchestrator::builder().build().await.unwrap();
    let first = join(orch.link(), "a", &away).await;
    away.set_available(false);
    let hang = |restart| TaskSpec { restart, ..TaskSpec::program("t", "hang") };
    let moves = orch.submit(hang(RestartPolicy::OnFailure)).await.unwrap();
    let stays = orch.submit(hang(RestartPolicy::Never)).await.unwrap();
    let second = join(orch.link(), "b", &idle).await;
    let mut events = orch.events();
    let moved = async {
        while idle.starts().is_empty() {
            events.next().await.unwrap().unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, moved).await.expect("node b has nothing to do");
    assert_eq!(idle.starts(), [AttemptId { task: moves, attempt: 2.try_into().unwrap() }]);
    let record = orch.get(moves).unwrap().record;
    let end = record.attempts[0].end.clone();
    assert!(
        matches!(&end, Some(AttemptEnd::Lost { message }) if message.contains("was not started")),
        "{end:?}"
    );

    away.set_available(true);
    let started = async {
        while away.starts().is_empty() {
            events.next().await.unwrap().unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, started).await.expect("it waits for the engine");
    assert_eq!(away.starts(), [AttemptId { task: stays, attempt: 1.try_into().unwrap() }]);
    drop((first, second));
}

#[tokio::test(start_paused = true)]
async fn an_agent_leaves_while_its_engine_is_down_and_a_stop_is_pending() {
    let orch = Orchestrator::builder().build().await.unwrap();
    let runtime = SimulatedRuntime::new();
    let agent = join(orch.link(), "a", &runtime).await;
    runtime.set_available(false);
    let task = orch.submit(TaskSpec::program("stuck", "hang")).await.unwrap();
    let mut events = orch.events();
    while orch.get(task).unwrap().observed.is_none_or(|observed| observed.progress.is_none()) {
        events.next().await.unwrap().unwrap();
    }
    orch.cancel(task, "").await.unwrap();
    // Virtual time, in which the agent gets the event and asks the engine repeatedly.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(tokio::time::timeout(PATIENCE, agent.leave()).await.is_ok());
}

/// Clock with an offset.
#[derive(Debug)]
struct Ahead(Duration);

impl Environment for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp::now().after(self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_clock_is_ahead_of_all_others_goes_on_by_theirs() {
    let (store, hour) = (shared_store(), Duration::from_secs(3600));
    let one = member(&store, "one").await;
    let agent = join(one.link(), "a", &SimulatedRuntime::new()).await;
    stays_ready(&[&one], &NodeId::new("a").unwrap(), Duration::from_secs(3)).await;
    let environment = Arc::new(Ahead(hour));
    let config = StoreConsensusConfig {
        member: Some("two".into()),
        environment: environment.clone(),
        ..StoreConsensusConfig::default()
    };
    let consensus = Arc::new(StoreConsensus::with_config(store.clone(), config));
    let parts = Orchestrator::builder().store(store.clone()).environment(environment);
    let two = parts.consensus(consensus.clone()).build().await.unwrap();
    let task = two.submit(TaskSpec::program("t", "true")).await.unwrap();
    let ahead = two.get(task).unwrap().record.submitted_at.since(Timestamp::now());
    assert!(ahead < hour / 2, "the cluster is {ahead:?} ahead");
    agent.leave().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_waits_some_heartbeats_for_word_of_a_member_that_is_gone() {
    let store = shared_store();
    let last_words = r#"{"v":1,"nodes":["a"],"at":1}"#;
    store.commit(Txn::of(vec![Write::put(told("gone"), last_words)])).await.unwrap();
    let (interval, began) = (EngineConfig::default().heartbeat_interval, tokio::time::Instant::now());
    let orch = member(&store, "here").await;
    let waited = began.elapsed();
    assert!((interval * 3..interval * 4).contains(&waited), "{waited:?}");
    orch.submit(TaskSpec::program("t", "true")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_agent_ends_with_the_orchestrator_of_its_process() {
    let runtime = SimulatedRuntime::new();
    let first = Orchestrator::builder().build().await.unwrap();
    let agent = join(first.link(), "a", &runtime).await;
    let task = first.submit(TaskSpec::program("t", "hang")).await.unwrap();
    let mut events = first.events();
    while runtime.starts().is_empty() {
        events.next().await.unwrap().unwrap();
    }
    first.shutdown().await.unwrap();
    tokio::time::timeout(PATIENCE, agent.ended()).await.expect("it does not ask for ever");
    let left = runtime.list().await.unwrap();
    assert_eq!(left.iter().map(|found| found.attempt.task).collect::<Vec<_>>(), [task], "its work goes on");

    let late = Agent::start(agent_config("a"), Arc::new(runtime), first.link());
    tokio::time::timeout(PATIENCE, late.ended()).await.expect("there is nobody to register with");
}

#[tokio::test(start_paused = true)]
async fn an_orchestrator_that_opens_a_store_takes_it_from_the_one_before() {
    let store = Arc::new(MemoryStore::default());
    let open = async || Orchestrator::builder().store(store.clone()).build().await.unwrap();
    let first = open().await;
    let kept = first.submit(TaskSpec::program("kept", "true")).await.unwrap();
    let second = open().await;
    let late = first.submit(TaskSpec::program("late", "true")).await.unwrap_err();
    let late = orch_core::with_causes(&late).to_string();
    assert!(late.contains("another orchestrator has opened this store"), "{late}");
    let also = second.submit(TaskSpec::program("also", "true")).await.unwrap();
    assert!(first.submit(TaskSpec::program("late", "true")).await.is_err(), "it has stopped");
    drop((first, second));
    let third = open().await;
    let mut known: Vec<_> =
        third.list(&orch_core::engine::TaskFilter::default()).iter().map(|task| task.record.id).collect();
    let mut acknowledged = [kept, also];
    known.sort();
    acknowledged.sort();
    assert_eq!(known, acknowledged, "both could go on, and then nobody could read the store");
}
