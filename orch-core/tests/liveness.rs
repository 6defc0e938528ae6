//! Nodes whose heartbeats stop, are slow or return, and the state of their work.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use orch_core::{
    Orchestrator,
    consensus::StoreConsensus,
    engine::{
        Agent, AgentConfig, AgentHandle, Assignments, AssignmentsQuery, ControlLink, LinkError, Observation,
        Registered, Registration, Reported,
    },
    model::{
        AttemptEnd, NodeId, NodeLossPolicy, NodeState, Report, Resources, RestartPolicy, Session, TaskSpec,
        WorkKind,
    },
    runtime::{Progress, Runtime, RuntimeError, RuntimeErrorKind, Work},
    state::TaskStatus,
    store::{
        CommitError, Entry, Key, MemoryStore, Page, Position, StateStore, StoreCapabilities, StoreError, Txn,
    },
    testkit::{Layered, RuntimeLayer, SimulatedRuntime, StoreLayer},
};
use tokio::sync::{Notify, watch};

/// Longer than anything here takes, so that a hang is reported with its name.
const PATIENCE: Duration = Duration::from_secs(3600);

async fn join(link: Arc<dyn ControlLink>, node: &str) -> AgentHandle {
    join_with(link, &config(node), &SimulatedRuntime::new()).await
}

/// The configuration of a node, which its agent keeps when it is started again.
fn config(node: &str) -> AgentConfig {
    let mut config = AgentConfig::local(node, [WorkKind::Program]).unwrap();
    config.node.capacity = Resources::new(4000, 4 << 30);
    config
}

async fn join_with(
    link: Arc<dyn ControlLink>,
    config: &AgentConfig,
    runtime: &SimulatedRuntime,
) -> AgentHandle {
    let agent = Agent::start(config.clone(), Arc::new(runtime.clone()), link);
    agent.registered().await.unwrap();
    agent
}

fn state_of(orch: &Orchestrator, node: &str) -> NodeState {
    orch.node(&NodeId::new(node).unwrap()).unwrap().record.state
}

/// Waits until the condition holds.
async fn until(orch: &Orchestrator, what: &str, is_so: impl Fn() -> bool) {
    let mut events = orch.events();
    let looked = async {
        while !is_so() {
            events.next().await.unwrap().unwrap();
        }
    };
    assert!(tokio::time::timeout(PATIENCE, looked).await.is_ok(), "{what}");
}

/// Store that delays every call.
#[derive(Debug)]
struct Slow(MemoryStore, Duration);

#[async_trait]
impl StoreLayer for Slow {
    fn below(&self) -> &dyn StateStore {
        &self.0
    }
    fn capabilities(&self) -> StoreCapabilities {
        self.0.capabilities().shared(true)
    }
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        tokio::time::sleep(self.1).await;
        self.0.get(key).await
    }
    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        tokio::time::sleep(self.1).await;
        self.0.scan(prefix, after, limit).await
    }
    async fn commit(&self, txn: Txn) -> Result<Position, CommitError> {
        tokio::time::sleep(self.1).await;
        self.0.commit(txn).await
    }
    async fn head(&self) -> Result<Position, StoreError> {
        tokio::time::sleep(self.1).await;
        self.0.head().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_is_lost_and_a_living_one_is_not_however_slow_the_store_is() {
    for lag in [0, 200, 700, 1100].map(Duration::from_millis) {
        let store: Arc<dyn StateStore> = Arc::new(Layered(Slow(MemoryStore::default(), lag)));
        let member = async |name: &str| {
            let consensus = Arc::new(StoreConsensus::named(store.clone(), name));
            Orchestrator::builder().store(store.clone()).consensus(consensus).build().await.unwrap()
        };
        let (one, two) = (member("one").await, member("two").await);
        let (a, _b, _c) =
            (join(one.link(), "a").await, join(one.link(), "b").await, join(two.link(), "c").await);
        a.leave().await;
        let died = tokio::time::Instant::now();
        until(&two, &format!("{lag:?}: the dead node is never lost"), || {
            state_of(&two, "a") == NodeState::Lost
        })
        .await;
        assert!(died.elapsed() < Duration::from_secs(30), "{lag:?}: {:?}", died.elapsed());
        let mut events = two.events();
        tokio::time::sleep(Duration::from_secs(120)).await;
        while let Ok(event) = tokio::time::timeout(Duration::ZERO, events.next()).await {
            if let orch_core::engine::EventKind::Node(record) = event.unwrap().unwrap().kind {
                assert_eq!((lag, record.state), (lag, NodeState::Ready), "{}", record.spec.id);
            }
        }
    }
}

/// State of the link to the control side.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Open,
    /// Calls fail.
    Cut,
    /// Calls get no response, except an outdated one: the last assignments that had work.
    Mute,
    /// Assignments are late: they come once the node takes nothing new any more.
    Late,
}

#[derive(Debug)]
struct Road {
    link: Arc<dyn ControlLink>,
    way: Mutex<Way>,
    old: Mutex<Option<Assignments>>,
    /// Notified of registrations and reports that get no response.
    unanswered: Notify,
    /// Set by a registration that takes nothing new.
    drains: watch::Sender<bool>,
}

impl Road {
    fn to(orch: &Orchestrator, way: Way) -> Arc<Self> {
        let (link, way) = (orch.link(), Mutex::new(way));
        let (old, unanswered, drains) = (Mutex::default(), Notify::new(), watch::Sender::new(false));
        Arc::new(Self { link, way, old, unanswered, drains })
    }

    fn set(&self, way: Way) {
        *self.way.lock().unwrap() = way;
    }

    fn is(&self, way: Way) -> bool {
        *self.way.lock().unwrap() == way
    }

    async fn pass(&self) -> Result<(), LinkError> {
        if self.is(Way::Mute) {
            std::future::pending::<()>().await;
        }
        match self.is(Way::Cut) {
            true => Err(LinkError::Unavailable("it is cut".into())),
            false => Ok(()),
        }
    }

    async fn pass_noticed(&self) -> Result<(), LinkError> {
        if self.is(Way::Mute) {
            self.unanswered.notify_one();
        }
        self.pass().await
    }
}

#[async_trait]
impl ControlLink for Road {
    async fn register(&self, registration: Registration) -> Result<Registered, LinkError> {
        self.pass_noticed().await?;
        let drains = registration.spec.max_tasks == 0;
        let registered = self.link.register(registration).await;
        self.drains.send_replace(drains);
        registered
    }
    async fn heartbeat(&self, session: &Session) -> Result<(), LinkError> {
        self.pass().await?;
        self.link.heartbeat(session).await
    }
    async fn assignments(
        &self,
        session: &Session,
        query: AssignmentsQuery,
    ) -> Result<Assignments, LinkError> {
        let old = if self.is(Way::Mute) { self.old.lock().unwrap().take() } else { None };
        if let Some(old) = old {
            return Ok(old);
        }
        self.pass().await?;
        if self.is(Way::Late) {
            self.drains.subscribe().wait_for(|drains| *drains).await.unwrap();
        }
        let answer = self.link.assignments(session, query).await?;
        if !answer.run.is_empty() {
            *self.old.lock().unwrap() = Some(answer.clone());
        }
        Ok(answer)
    }
    async fn report(&self, session: &Session, reports: Vec<Report>) -> Result<Reported, LinkError> {
        self.pass_noticed().await?;
        self.link.report(session, reports).await
    }
    async fn observe(&self, session: &Session, observations: Vec<Observation>) -> Result<(), LinkError> {
        self.pass().await?;
        self.link.observe(session, observations).await
    }
}

#[tokio::test(start_paused = true)]
async fn work_that_is_taken_back_is_seen_running_again() {
    let orch = Orchestrator::builder().build().await.unwrap();
    let link = Road::to(&orch, Way::Open);
    let _agent = join(link.clone(), "a").await;
    let policy = NodeLossPolicy { replace: false, ..NodeLossPolicy::default() };
    let spec = TaskSpec { node_loss: Some(policy.into()), ..TaskSpec::program("t", "hang") };
    let task = orch.submit(spec).await.unwrap();
    let status = || orch.get(task).unwrap().status();
    until(&orch, "it never runs", || status() == TaskStatus::Running).await;
    link.set(Way::Cut);
    until(&orch, "its node is never lost", || status() == TaskStatus::Disconnected).await;
    link.set(Way::Open);
    until(&orch, "it is not seen running again", || status() == TaskStatus::Running).await;
    assert_eq!(orch.get(task).unwrap().record.attempts_made, 1);
}

/// Runtime in which `prepare` fails with very long messages.
#[derive(Debug)]
struct Verbose(SimulatedRuntime);

#[async_trait]
impl RuntimeLayer for Verbose {
    fn below(&self) -> &SimulatedRuntime {
        &self.0
    }
    async fn prepare(&self, _: &Work, progress: &Progress) -> Result<(), RuntimeError> {
        progress.say("y".repeat(20 << 20));
        Err(RuntimeError::new(RuntimeErrorKind::InvalidSpec, "x".repeat(20 << 20)))
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_with_endless_words_is_a_failure() {
    let mut config = AgentConfig::local("a", [WorkKind::Program]).unwrap();
    config.node.capacity = Resources::new(4000, 4 << 30);
    let runtime = Arc::new(Layered(Verbose(SimulatedRuntime::new())));
    let orch = Orchestrator::builder().node(config, runtime).build().await.unwrap();
    let task = orch.submit(TaskSpec::program("t", "true")).await.unwrap();
    let done = tokio::time::timeout(PATIENCE, orch.wait(task)).await.expect("it never ends").unwrap();
    assert_eq!(done.status(), TaskStatus::Failed);
    let Some(AttemptEnd::StartFailed { failure }) = done.record.last_end() else { panic!("{done:?}") };
    assert_eq!(failure.message.len(), 1024);
}

#[tokio::test(start_paused = true)]
async fn an_agent_leaves_while_its_registration_has_no_answer() {
    let orch = Orchestrator::builder().build().await.unwrap();
    let link = Road::to(&orch, Way::Mute);
    let config = AgentConfig::local("a", [WorkKind::Program]).unwrap();
    let agent = Agent::start(config, Arc::new(SimulatedRuntime::new()), link.clone());
    link.unanswered.notified().await;
    let began = tokio::time::Instant::now();
    tokio::time::timeout(PATIENCE, agent.leave()).await.expect("it never ends");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_agent_leaves_while_it_repeats_how_work_ended() {
    let orch = Orchestrator::builder().build().await.unwrap();
    let link = Road::to(&orch, Way::Open);
    let agent = join(link.clone(), "a").await;
    let task = orch.submit(TaskSpec::program("t", "true")).await.unwrap();
    orch.wait(task).await.unwrap();
    link.set(Way::Mute);
    tokio::time::timeout(PATIENCE, link.unanswered.notified()).await.expect("it reports the end again");
    tokio::time::timeout(PATIENCE, agent.leave()).await.expect("it never ends");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_drained_before_its_first_assignments_stops_what_was_left() {
    let (orch, runtime) = (Orchestrator::builder().build().await.unwrap(), SimulatedRuntime::new());
    let config = config("a");
    let agent = join_with(orch.link(), &config, &runtime).await;
    let task = orch.submit(TaskSpec::program("t", "hang").restart(RestartPolicy::Never)).await.unwrap();
    until(&orch, "it never runs", || orch.get(task).unwrap().status() == TaskStatus::Running).await;
    agent.leave().await;
    let again = join_with(Road::to(&orch, Way::Late), &config, &runtime).await;
    tokio::time::timeout(PATIENCE, again.drain(Duration::from_secs(1))).await.expect("it never ends");
    assert_eq!(runtime.list().await.unwrap(), []);
    let done = tokio::time::timeout(PATIENCE, orch.wait(task)).await.expect("it never ends").unwrap();
    assert_eq!((done.record.last_end(), runtime.starts().len()), (Some(&AttemptEnd::Stopped), 1));
}
