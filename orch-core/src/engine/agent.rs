//! [`Agent`]: the side of a node. It registers, takes assignments, runs attempts, reports and says that it is there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt as _;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior},
};
use tracing::{debug, info, warn};

use super::{
    attempt::{Orders, Shared, Wish, drive},
    link::{Assignment, Assignments, ControlLink, Cursor, LinkError, Seen},
    node::local_capacity,
    outbox::Outbox,
    secrets::{NoSecrets, SecretSource},
};
use crate::{
    model::{AttemptId, IdError, InstanceId, NodeId, NodeSpec, WorkKind},
    runtime::{FoundState, Runtime, RuntimeEvent, RuntimeEvents},
};

/// What an agent is and how it behaves.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// What the node says about itself. Its `instance` must be the same after a restart of the agent, so that the cluster
    /// lets it take over its own work, and another for every other agent.
    pub node: NodeSpec,
    /// Where the values of secrets come from.
    pub secrets: Arc<dyn SecretSource>,
    /// How many attempts are started at a time.
    pub starts_in_flight: usize,
    /// How long observations are collected before they are sent.
    pub observe_every: Duration,
    /// How often usage is observed, if at all.
    pub usage_every: Option<Duration>,
}

impl AgentConfig {
    /// An agent for this machine, which offers all of it.
    ///
    /// # Errors
    /// When the name is no node id.
    pub fn local(node: impl AsRef<str>, kinds: impl IntoIterator<Item = WorkKind>) -> Result<Self, IdError> {
        Ok(Self::new(NodeSpec {
            id: NodeId::new(node)?,
            instance: InstanceId::generate(),
            capacity: local_capacity(),
            kinds: kinds.into_iter().collect(),
            max_tasks: NodeSpec::DEFAULT_MAX_TASKS,
            labels: BTreeMap::new(),
        }))
    }

    /// An agent for this node, with defaults for the rest.
    #[must_use]
    pub fn new(node: NodeSpec) -> Self {
        Self {
            node,
            secrets: Arc::new(NoSecrets),
            starts_in_flight: 8,
            observe_every: Duration::from_millis(50),
            usage_every: Some(Duration::from_secs(10)),
        }
    }
}

/// The side of a node.
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    link: Arc<dyn ControlLink>,
    shared: Arc<Shared>,
    orders: mpsc::Receiver<Order>,
    state: watch::Sender<AgentState>,
    /// While draining: the longest that what runs may take to stop.
    stop_grace: watch::Sender<Duration>,
    attempts: HashMap<AttemptId, Driven>,
    running: JoinSet<AttemptId>,
    /// Attempts of an earlier life that no assignment was seen for yet.
    found: BTreeMap<AttemptId, FoundState>,
    /// Set while the agent takes nothing new; what runs is stopped at this time.
    draining: Option<Instant>,
    /// Draining has begun to stop what still runs.
    stopping: bool,
}

#[derive(Debug)]
struct Driven {
    wish: watch::Sender<Wish>,
    unhealthy: watch::Sender<Option<String>>,
    stop_grace: Duration,
}

#[derive(Debug)]
enum Order {
    Drain(Duration),
    Leave,
}

/// How an agent gets on with the control side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentState {
    /// It has not reached it yet, or lost it. The text says what happened last.
    Connecting(String),
    /// It is registered and takes work.
    Registered,
    /// The control side will not have it. It goes on asking.
    Refused(String),
}

/// Steers an agent that runs in the background. Dropping it leaves the agent running.
#[derive(Debug)]
pub struct AgentHandle {
    orders: mpsc::Sender<Order>,
    state: watch::Receiver<AgentState>,
    stop_grace: watch::Receiver<Duration>,
    task: JoinHandle<()>,
}

impl AgentHandle {
    /// Waits until the agent is registered for the first time. Cancel safe.
    ///
    /// # Errors
    /// [`LinkError::Refused`] when the control side will not have it.
    pub async fn registered(&self) -> Result<(), LinkError> {
        let mut state = self.state.clone();
        let decided = state.wait_for(|state| !matches!(state, AgentState::Connecting(_))).await;
        match decided.as_deref() {
            Ok(AgentState::Refused(why)) => Err(LinkError::Refused(why.clone())),
            Ok(_) => Ok(()),
            Err(_) => Err(LinkError::Unavailable("the agent has ended".into())),
        }
    }

    /// How it gets on, now and whenever that changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<AgentState> {
        self.state.clone()
    }

    /// Takes nothing new, waits up to `grace` for what runs, stops the rest and waits for that to be reported, then ends.
    /// Stopping takes up to the longest grace that a task there asks for; then a report has half a minute to get through.
    pub async fn drain(mut self, grace: Duration) {
        self.drain_within(grace).await;
    }

    /// The same for an owner that may give up waiting; it must not be called again once it has returned.
    pub(super) async fn drain_within(&mut self, grace: Duration) {
        const REPORTING: Duration = Duration::from_secs(30);
        let begun = Instant::now();
        let _ = self.orders.send(Order::Drain(grace)).await;
        loop {
            // A control side that is gone must not hold this up for ever.
            let stop_grace = *self.stop_grace.borrow_and_update();
            let most = grace.saturating_add(stop_grace).saturating_add(REPORTING);
            tokio::select! {
                _ = &mut self.task => return,
                Ok(()) = self.stop_grace.changed() => {}
                () = tokio::time::sleep(most.saturating_sub(begun.elapsed())) => return self.task.abort(),
            }
        }
    }

    /// Ends at once and leaves everything running, for the next life of the agent to take over.
    pub async fn leave(self) {
        let _ = self.orders.send(Order::Leave).await;
        let _ = self.task.await;
    }

    /// The same without waiting for it.
    pub(super) fn dismiss(self) {
        if self.orders.try_send(Order::Leave).is_err() {
            // It has ended, or is told too much at a time to hear this.
            self.task.abort();
        }
    }
}

/// Why one session with the control side ended.
enum SessionEnd {
    Lost(String),
    Over,
}

impl Agent {
    /// Starts an agent in the background. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(config: AgentConfig, runtime: Arc<dyn Runtime>, link: Arc<dyn ControlLink>) -> AgentHandle {
        let outbox = Outbox::start(config.node.id.clone(), link.clone(), config.observe_every);
        let shared = Arc::new(Shared {
            node: config.node.id.clone(),
            outbox,
            secrets: config.secrets.clone(),
            starts: Semaphore::new(config.starts_in_flight.max(1)),
            quick: config.observe_every,
            usage_every: config.usage_every.filter(|_| runtime.capabilities().stats),
            runtime,
        });
        let (orders, ordered) = mpsc::channel(4);
        let (state, watched) = watch::channel(AgentState::Connecting("starting".into()));
        let (stop_grace, longest) = watch::channel(Duration::ZERO);
        let agent = Self {
            config,
            link,
            shared,
            orders: ordered,
            state,
            stop_grace,
            attempts: HashMap::new(),
            running: JoinSet::new(),
            found: BTreeMap::new(),
            draining: None,
            stopping: false,
        };
        AgentHandle { orders, state: watched, stop_grace: longest, task: tokio::spawn(agent.run()) }
    }

    async fn run(mut self) {
        if self.find_what_is_here().await.is_none() {
            return;
        }
        let mut delay = RETRY_MIN;
        loop {
            // One that drains stays closed when it comes back.
            let max_tasks = if self.draining.is_some() { 0 } else { self.config.node.max_tasks };
            let registered = self.link.register(NodeSpec { max_tasks, ..self.config.node.clone() }).await;
            match registered {
                Ok(registration) => {
                    info!(node = %self.config.node.id, "registered");
                    self.state.send_replace(AgentState::Registered);
                    delay = RETRY_MIN;
                    match self.session(registration.heartbeat_interval).await {
                        SessionEnd::Over => return,
                        SessionEnd::Lost(why) => {
                            self.state.send_replace(AgentState::Connecting(why));
                        }
                    }
                }
                Err(LinkError::Refused(why)) => {
                    warn!(node = %self.config.node.id, %why, "registration refused");
                    self.state.send_replace(AgentState::Refused(why));
                }
                Err(error) => {
                    debug!(%error, "not registered; trying again");
                    self.state.send_replace(AgentState::Connecting(error.to_string()));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = next_order(&mut self.orders) => {
                    // Without the control side nothing can be reported; what runs is left to the next life.
                    self.leave().await;
                    return;
                }
            }
            delay = (delay * 2).min(RETRY_MAX);
        }
    }

    /// Asks the runtime until it answers; `None` when the agent is told to end meanwhile.
    async fn find_what_is_here(&mut self) -> Option<()> {
        let mut delay = RETRY_MIN;
        loop {
            match self.shared.runtime.list().await {
                Ok(found) => {
                    self.found = found.into_iter().map(|found| (found.attempt, found.state)).collect();
                    return Some(());
                }
                Err(error) => {
                    warn!(%error, "the engine does not say what is here; trying again");
                    self.state.send_replace(AgentState::Connecting(error.to_string()));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => delay = (delay * 2).min(RETRY_MAX),
                _ = next_order(&mut self.orders) => return None,
            }
        }
    }

    /// Works with the control side until it is lost or the agent ends.
    async fn session(&mut self, heartbeat_interval: Duration) -> SessionEnd {
        let (link, node) = (self.link.clone(), self.config.node.id.clone());
        let heartbeats = beat(link.clone(), node.clone(), self.config.node.instance, heartbeat_interval);
        let mut events = watch_runtime(self.shared.runtime.clone());
        let mut cursor: Option<Cursor> = None;
        let asked = ask(link.clone(), node.clone(), cursor);
        tokio::pin!(heartbeats, asked);
        loop {
            if self.draining.is_some() && self.running.is_empty() {
                return SessionEnd::Over;
            }
            let stop_at = self.draining.filter(|_| !self.stopping);
            tokio::select! {
                answer = &mut asked => match answer {
                    Ok(assignments) => {
                        cursor = Some(assignments.cursor);
                        self.reconcile(assignments);
                        asked.set(ask(link.clone(), node.clone(), cursor));
                    }
                    Err(error) => return SessionEnd::Lost(error.to_string()),
                },
                why = &mut heartbeats => return SessionEnd::Lost(why),
                Some(ended) = self.running.join_next() => {
                    match ended {
                        Ok(attempt) => drop(self.attempts.remove(&attempt)),
                        Err(error) => warn!(%error, "an attempt was dropped"),
                    }
                }
                Some(event) = events.recv() => self.note(event),
                order = next_order(&mut self.orders) => match order {
                    Order::Drain(grace) => {
                        self.draining = Some(Instant::now() + grace);
                        let longest = self.attempts.values().map(|driven| driven.stop_grace).max();
                        self.stop_grace.send_replace(longest.unwrap_or_default());
                        self.take_no_more().await;
                    }
                    Order::Leave => {
                        self.leave().await;
                        return SessionEnd::Over;
                    }
                },
                () = until(stop_at) => {
                    self.stopping = true;
                    info!(attempts = self.attempts.len(), "stopping what still runs");
                    self.attempts.values().for_each(|driven| advance(&driven.wish, Wish::Stop));
                }
            }
        }
    }

    /// Makes what is here what should be here.
    fn reconcile(&mut self, assignments: Assignments) {
        let Assignments { complete, run, stop, gone, .. } = assignments;
        if complete {
            let wanted: BTreeSet<AttemptId> =
                run.iter().map(|assignment| assignment.attempt).chain(stop.iter().copied()).collect();
            for (attempt, driven) in &self.attempts {
                if !wanted.contains(attempt) {
                    advance(&driven.wish, Wish::Gone);
                }
            }
            let orphans: Vec<AttemptId> =
                self.found.keys().filter(|found| !wanted.contains(*found)).copied().collect();
            for orphan in orphans {
                info!(attempt = %orphan, "removing what an earlier life left behind");
                self.found.remove(&orphan);
                self.remove_in_background(orphan);
            }
        }
        for attempt in gone {
            match self.attempts.get(&attempt) {
                Some(driven) => advance(&driven.wish, Wish::Gone),
                None if self.found.remove(&attempt).is_some() => self.remove_in_background(attempt),
                None => {}
            }
        }
        if self.draining.is_none() {
            for assignment in run {
                self.drive(assignment, Wish::Run);
            }
        }
        for attempt in stop {
            match self.attempts.get(&attempt) {
                Some(driven) => advance(&driven.wish, Wish::Stop),
                None => {
                    let spec = Arc::new(crate::model::TaskSpec::program("stopped", "true"));
                    self.drive(Assignment { attempt, spec, started: false }, Wish::Stop);
                }
            }
        }
    }

    fn drive(&mut self, assignment: Assignment, wish: Wish) {
        let attempt = assignment.attempt;
        if self.attempts.contains_key(&attempt) {
            return;
        }
        let here = self.found.remove(&attempt);
        let (wish, wished) = watch::channel(wish);
        let (unhealthy, failing) = watch::channel(None);
        let stop_grace = assignment.spec.stop.grace;
        self.attempts.insert(attempt, Driven { wish, unhealthy, stop_grace });
        let (shared, orders) = (self.shared.clone(), Orders { wish: wished, unhealthy: failing });
        self.running.spawn(async move {
            drive(shared, assignment, here, orders).await;
            attempt
        });
    }

    fn remove_in_background(&mut self, attempt: AttemptId) {
        let runtime = self.shared.runtime.clone();
        self.running.spawn(async move {
            if let Err(error) = runtime.remove(attempt).await {
                warn!(%attempt, %error, "what an earlier life left behind could not be removed");
            }
            attempt
        });
    }

    fn note(&mut self, event: RuntimeEvent) {
        let RuntimeEvent::Health { attempt, healthy, output } = event else { return };
        self.shared.outbox.try_observe(attempt, Seen::Health(healthy));
        if let Some(driven) = self.attempts.get(&attempt).filter(|_| !healthy) {
            driven.unhealthy.send_replace(Some(output.chars().take(500).collect()));
        }
    }

    /// Has nothing more placed here. Where that is not heard, what is placed here waits for the agent's next life.
    async fn take_no_more(&self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        let closed = NodeSpec { max_tasks: 0, ..self.config.node.clone() };
        match tokio::time::timeout(PATIENCE, self.link.register(closed)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => debug!(%error, "the node was not closed"),
            Err(_) => debug!("closing the node was not answered in time"),
        }
    }

    /// Leaves everything to the next life.
    async fn leave(&mut self) {
        self.attempts.values().for_each(|driven| advance(&driven.wish, Wish::Leave));
        while self.running.join_next().await.is_some() {}
    }
}

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

fn advance(wish: &watch::Sender<Wish>, to: Wish) {
    wish.send_if_modified(|wish| {
        let forward = to > *wish;
        *wish = to.max(*wish);
        forward
    });
}

/// The next order; never, when the handle was dropped.
async fn next_order(orders: &mut mpsc::Receiver<Order>) -> Order {
    match orders.recv().await {
        Some(order) => order,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Asks for assignments; a control side that does not answer for a moment is asked again.
async fn ask(
    link: Arc<dyn ControlLink>,
    node: NodeId,
    after: Option<Cursor>,
) -> Result<Assignments, LinkError> {
    let mut delay = RETRY_MIN;
    loop {
        match link.assignments(&node, after).await {
            Err(LinkError::Unavailable(why)) => {
                debug!(%why, "no answer; asking again");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RETRY_MAX);
            }
            other => return other,
        }
    }
}

/// Says that the node is there until the control side does not know it any more; returns why.
async fn beat(link: Arc<dyn ControlLink>, node: NodeId, instance: InstanceId, every: Duration) -> String {
    let mut ticks = tokio::time::interval(every.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match tokio::time::timeout(every, link.heartbeat(&node, instance)).await {
            Ok(Err(LinkError::NotRegistered)) => return "the control side lost the node".into(),
            Ok(Err(error)) => debug!(%error, "a heartbeat was not heard"),
            Err(_) => debug!("a heartbeat was not answered in time"),
            Ok(Ok(())) => {}
        }
    }
}

/// The runtime's events, asked for again whenever they end. The task ends with the receiver.
fn watch_runtime(runtime: Arc<dyn Runtime>) -> mpsc::Receiver<RuntimeEvent> {
    let (found, events) = mpsc::channel(256);
    tokio::spawn(async move {
        loop {
            let stream: Option<RuntimeEvents> = tokio::select! {
                stream = runtime.events() => stream.ok(),
                () = found.closed() => return,
            };
            if let Some(mut stream) = stream {
                loop {
                    let next = tokio::select! {
                        next = stream.next() => next,
                        () = found.closed() => return,
                    };
                    let Some(Ok(event)) = next else { break };
                    if found.send(event).await.is_err() {
                        return;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY_MAX / 5) => {}
                () = found.closed() => return,
            }
        }
    });
    events
}
