//! [`Agent`]: the loop of a node. It registers, takes assignments, runs attempts, reports and sends
//! heartbeats.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use orch_base::backoff::Backoff;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tracing::{debug, info, warn};

use super::{
    attempt::{AttemptContext, AttemptControl, Desired, Over, drive},
    command_queue::CommandQueue,
    config::AgentConfig,
    handle::{AgentCommand, AgentHandle, AgentState},
    heartbeat::beat,
    outbox::Outbox,
    position::Position,
    query::ask,
    runtime_events::watch_runtime,
    runtime_health::RuntimeHealth,
    tombstones::Tombstones,
};
use crate::{
    engine::link::{
        Assignment, Assignments, ControlLink, LinkError, ObservationKind, Registered, Registration,
    },
    fault::EngineFault,
    model::{
        AttemptEnd, AttemptId, IncarnationId, NodeSpec, Report, ReportKind, Session, SharedSpec, TaskSpec,
        clipped_words,
    },
    runtime::{FoundState, Runtime, RuntimeEvent},
    store::Revision,
};

/// The side of a node.
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    link: Arc<dyn ControlLink>,
    context: Arc<AttemptContext>,
    incarnation: IncarnationId,
    /// Registrations so far.
    registrations: u64,
    commands: CommandQueue,
    state: watch::Sender<AgentState>,
    session: watch::Sender<Option<Session>>,
    /// The highest revision that an answer has named since the registration.
    at_least: Revision,
    /// While draining: the longest that what runs may take to stop.
    stop_grace: watch::Sender<Duration>,
    attempts: HashMap<AttemptId, Driven>,
    ended: Tombstones,
    running: JoinSet<Done>,
    /// Work that the next incarnation does as well: it is left when the agent leaves.
    errands: JoinSet<()>,
    /// Attempts of an earlier incarnation that no assignment has named yet.
    found: BTreeMap<AttemptId, FoundState>,
    /// Set while the agent takes nothing new; what runs is stopped at this time.
    draining: Option<Instant>,
    /// Draining has begun to stop what still runs.
    stopping: bool,
}

#[derive(Debug)]
struct Driven {
    desired: watch::Sender<Desired>,
    unhealthy: watch::Sender<Option<String>>,
    stop_grace: Duration,
}

/// Why one session with the control side ended.
enum SessionEnd {
    Lost(String),
    Fenced(String),
    /// The control side has ended with its process.
    Closed,
    Over,
}

/// Result of work in the background.
enum Done {
    Driven(AttemptId, Option<Over>),
    Dropped,
}

impl Agent {
    /// Starts an agent in the background. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(config: AgentConfig, runtime: Arc<dyn Runtime>, link: Arc<dyn ControlLink>) -> AgentHandle {
        let environment = config.environment.clone();
        let session = watch::Sender::new(None);
        let outbox = Outbox::start(&*environment, session.subscribe(), link.clone(), config.observe_every);
        let context = Arc::new(AttemptContext {
            node: config.node.id.clone(),
            outbox,
            secrets: config.secrets.clone(),
            starts: Semaphore::new(config.starts_in_flight.max(1)),
            settled_after: config.observe_every,
            usage_every: config.usage_every.filter(|_| runtime.capabilities().stats),
            health: RuntimeHealth::new(environment.clone()),
            environment: environment.clone(),
            runtime,
        });
        let (commands, queue) = mpsc::channel(4);
        let (state, watched) = watch::channel(AgentState::Connecting("starting".into()));
        let (stop_grace, longest) = watch::channel(Duration::ZERO);
        let agent = Self {
            incarnation: IncarnationId::of_random(environment.random()),
            registrations: 0,
            config,
            link,
            context,
            commands: CommandQueue::new(queue),
            state,
            session,
            at_least: Revision::ZERO,
            stop_grace,
            attempts: HashMap::new(),
            ended: Tombstones::default(),
            running: JoinSet::new(),
            errands: JoinSet::new(),
            found: BTreeMap::new(),
            draining: None,
            stopping: false,
        };
        AgentHandle {
            commands,
            state: watched,
            stop_grace: longest,
            task: environment.spawn(Box::pin(agent.run())),
        }
    }

    async fn run(mut self) {
        if self.find_what_is_here().await.is_none() {
            return;
        }
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        loop {
            let Some(registered) = self.register_unless_told_to_end().await else {
                return self.leave().await;
            };
            let why = match registered {
                Ok(heartbeat_interval) => {
                    info!(node = %self.config.node.id, "registered");
                    self.state.send_replace(AgentState::Registered);
                    backoff.reset();
                    match self.session(heartbeat_interval).await {
                        SessionEnd::Over => return,
                        SessionEnd::Closed => return self.leave().await,
                        SessionEnd::Fenced(why) => return self.give_way(why).await,
                        SessionEnd::Lost(why) => AgentState::Connecting(why),
                    }
                }
                Err(LinkError::Fenced(why)) => return self.give_way(why).await,
                Err(LinkError::Closed) => return self.leave().await,
                Err(LinkError::NameTaken(why)) => {
                    warn!(node = %self.config.node.id, %why, "registration refused");
                    // The cluster gave up what this agent runs before another one could have the name.
                    self.give_up_everything();
                    AgentState::Refused(why)
                }
                Err(LinkError::Refused(why)) => {
                    warn!(node = %self.config.node.id, %why, "registration refused");
                    AgentState::Refused(why)
                }
                Err(error) => {
                    debug!(%error, "not registered; trying again");
                    AgentState::Connecting(error.to_string())
                }
            };
            self.state.send_replace(why);
            tokio::select! {
                () = tokio::time::sleep(backoff.next_delay()) => {}
                done = next_done(&mut self.running) => self.note_done(done),
                _ = self.commands.next() => {
                    // Without the control side nothing can be reported; what runs is left to the next
                    // incarnation.
                    self.leave().await;
                    return;
                }
            }
        }
    }

    /// `None` when the agent is told to end, and the control side gives no answer.
    async fn register_unless_told_to_end(&mut self) -> Option<Result<Duration, LinkError>> {
        const PATIENCE: Duration = Duration::from_secs(2);
        let (link, registration) = (self.link.clone(), self.registration());
        let asked = link.register(registration);
        tokio::pin!(asked);
        let answer = tokio::select! {
            answer = &mut asked => answer,
            command = self.commands.next() => {
                // Where it is answered soon, the work can end in good command.
                self.commands.put_back(command);
                tokio::time::timeout(PATIENCE, asked).await.ok()?
            }
        };
        Some(answer.map(|registered| self.note_registered(registered)))
    }

    /// Registers as the node is now; says how often it should be heard of.
    async fn register(&mut self) -> Result<Duration, LinkError> {
        let registration = self.registration();
        let registered = self.link.register(registration).await?;
        Ok(self.note_registered(registered))
    }

    fn registration(&mut self) -> Registration {
        // One that drains stays closed when it comes back.
        let max_tasks = if self.draining.is_some() { 0 } else { self.config.node.max_tasks };
        let driven = self.attempts.iter().filter(|(_, driven)| *driven.desired.borrow() <= Desired::Stopped);
        let found = self.found.iter().filter(|(_, state)| **state != FoundState::Lost);
        let held = driven.map(|(attempt, _)| *attempt).chain(found.map(|(attempt, _)| *attempt)).collect();
        let last_error = self.context.health.last_error();
        let spec = NodeSpec { max_tasks, last_error, ..self.config.node.clone() };
        self.registrations += 1;
        let (incarnation, number) = (self.incarnation, self.registrations);
        Registration { spec, incarnation, number, held }
    }

    fn note_registered(&mut self, registered: Registered) -> Duration {
        // Not the later one: the control side may have lost its state and begun anew.
        self.at_least = registered.revision;
        self.session.send_replace(Some(registered.session));
        registered.heartbeat_interval
    }

    /// Removes everything and ends: the node belongs to a newer process.
    async fn give_way(mut self, why: String) {
        warn!(node = %self.config.node.id, %why, "this agent ends");
        self.give_up_everything();
        self.collect_all().await;
        self.collect_errands().await;
        self.state.send_replace(AgentState::Fenced(why));
    }

    /// Nothing that is here is wanted any more.
    fn give_up_everything(&mut self) {
        self.attempts.values().for_each(|driven| advance(&driven.desired, Desired::Removed));
        for (attempt, _) in std::mem::take(&mut self.found) {
            self.remove_in_background(attempt);
        }
    }

    /// Asks the runtime until it answers; `None` when the agent is told to end meanwhile.
    async fn find_what_is_here(&mut self) -> Option<()> {
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        loop {
            match self.context.runtime.list().await {
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
                () = tokio::time::sleep(backoff.next_delay()) => {}
                _ = self.commands.next() => return None,
            }
        }
    }

    /// Works with the control side until it is lost or the agent ends.
    async fn session(&mut self, heartbeat_interval: Duration) -> SessionEnd {
        let link = self.link.clone();
        let heartbeats = beat(link.clone(), self.session.subscribe(), heartbeat_interval);
        let mut events = watch_runtime(self.context.clone());
        let mut engine = self.context.health.watch();
        let mut position = Position::default();
        let asked = ask(link.clone(), self.session.subscribe(), position.query(self.at_least));
        tokio::pin!(heartbeats, asked);
        loop {
            if self.is_drained() {
                return SessionEnd::Over;
            }
            let stop_at = self.draining.filter(|_| !self.stopping);
            tokio::select! {
                answer = &mut asked => match answer {
                    Ok(assignments) => {
                        position.advance(&assignments);
                        self.at_least = self.at_least.max(assignments.revision);
                        self.ended.confirm(assignments.revision);
                        self.reconcile(assignments);
                        asked.set(ask(link.clone(), self.session.subscribe(), position.query(self.at_least)));
                    }
                    Err(error) => return session_end(error),
                },
                error = &mut heartbeats => return session_end(error),
                done = next_done(&mut self.running) => self.note_done(done),
                Some(done) = self.errands.join_next() => note_errand(done),
                Some(event) = events.recv() => self.note(event),
                Ok(()) = engine.changed() => {
                    if let Err(error) = self.tell_what_it_offers().await {
                        return session_end(error);
                    }
                }
                command = self.commands.next() => match command {
                    AgentCommand::Drain(grace) => {
                        self.draining = Some(Instant::now() + grace);
                        self.tell_stop_grace();
                        // Where that is not heard, what is placed here waits for the agent's next
                        // incarnation.
                        if let Err(error) = self.tell_what_it_offers().await {
                            return session_end(error);
                        }
                    }
                    AgentCommand::Leave => {
                        self.leave().await;
                        return SessionEnd::Over;
                    }
                },
                () = until(stop_at) => {
                    self.stopping = true;
                    info!(attempts = self.attempts.len(), "stopping what still runs");
                    self.attempts.values().for_each(|driven| advance(&driven.desired, Desired::Stopped));
                }
            }
        }
    }

    /// Whether an agent that drains has nothing left, from an earlier incarnation neither.
    fn is_drained(&self) -> bool {
        let is_empty = self.running.is_empty() && self.errands.is_empty() && self.found.is_empty();
        self.draining.is_some() && is_empty
    }

    /// Says how long the work that is here may take to stop.
    fn tell_stop_grace(&self) {
        let longest = self.attempts.values().map(|driven| driven.stop_grace).max().unwrap_or_default();
        self.stop_grace.send_if_modified(|grace| {
            let longer = longest > *grace;
            *grace = longest.max(*grace);
            longer
        });
    }

    fn note_done(&mut self, done: Done) {
        let Done::Driven(attempt, over) = done else { return };
        self.attempts.remove(&attempt);
        if let Some(Over { end, known_at }) = over {
            self.at_least = self.at_least.max(known_at);
            self.ended.note(attempt, end, known_at);
        }
    }

    /// Waits for everything in the background to end.
    async fn collect_all(&mut self) {
        while !self.running.is_empty() {
            let done = next_done(&mut self.running).await;
            self.note_done(done);
        }
    }

    async fn collect_errands(&mut self) {
        while let Some(done) = self.errands.join_next().await {
            note_errand(done);
        }
    }

    /// Makes what is here what should be here.
    fn reconcile(&mut self, assignments: Assignments) {
        let Assignments { complete, run, named, stop, superseded, .. } = assignments;
        if complete {
            let run = run.iter().map(|assignment| assignment.attempt);
            let wanted: BTreeSet<AttemptId> = run.chain(named).chain(stop.iter().copied()).collect();
            for (attempt, driven) in &self.attempts {
                if !wanted.contains(attempt) {
                    advance(&driven.desired, Desired::Removed);
                }
            }
            let orphans: Vec<AttemptId> =
                self.found.keys().filter(|found| !wanted.contains(*found)).copied().collect();
            for orphan in orphans {
                info!(attempt = %orphan, "removing what an earlier incarnation left behind");
                self.found.remove(&orphan);
                self.remove_in_background(orphan);
            }
        }
        for attempt in superseded {
            match self.attempts.get(&attempt) {
                Some(driven) => advance(&driven.desired, Desired::Removed),
                None if self.found.remove(&attempt).is_some() => self.remove_in_background(attempt),
                None => {}
            }
        }
        for assignment in run {
            // One that drains takes over what is here, to stop it in time, and nothing else.
            if self.draining.is_none() || self.found.contains_key(&assignment.attempt) {
                let desired = if self.stopping { Desired::Stopped } else { Desired::Running };
                self.drive(assignment, desired);
            }
        }
        if self.draining.is_some() {
            self.tell_stop_grace();
        }
        for attempt in stop {
            match self.attempts.get(&attempt) {
                Some(driven) => advance(&driven.desired, Desired::Stopped),
                None => {
                    let spec = SharedSpec::from(TaskSpec::program("stopped", "true"));
                    self.drive(Assignment { attempt, spec, started: false }, Desired::Stopped);
                }
            }
        }
    }

    fn drive(&mut self, assignment: Assignment, desired: Desired) {
        let attempt = assignment.attempt;
        if self.attempts.contains_key(&attempt) {
            return;
        }
        if let Some(end) = self.ended.get(attempt).filter(|_| !EngineFault::EndsForgotten.is_made()) {
            // Either that answer is older than the end, or the control side has lost it.
            return self.repeat_end(attempt, end.clone());
        }
        let here = self.found.remove(&attempt);
        let (desired, watched) = watch::channel(desired);
        let (unhealthy, failing) = watch::channel(None);
        let stop_grace = assignment.spec.stop.grace;
        self.attempts.insert(attempt, Driven { desired, unhealthy, stop_grace });
        let (context, control) =
            (self.context.clone(), AttemptControl { desired: watched, unhealthy: failing });
        self.running.spawn(async move {
            let over = drive(context, assignment, here, control).await;
            Done::Driven(attempt, over)
        });
    }

    /// Reports again how an attempt ended.
    fn repeat_end(&mut self, attempt: AttemptId, end: AttemptEnd) {
        debug!(%attempt, %end, "it has ended already; reporting that again");
        let outbox = self.context.outbox.clone();
        let report = Report { attempt, node: self.config.node.id.clone(), kind: ReportKind::Ended(end) };
        self.errands.spawn(async move {
            outbox.report(report).await;
        });
    }

    fn remove_in_background(&mut self, attempt: AttemptId) {
        let runtime = self.context.runtime.clone();
        self.errands.spawn(async move {
            if let Err(error) = runtime.remove(attempt).await {
                warn!(%attempt, %error, "what an earlier incarnation left behind could not be removed");
            }
        });
    }

    fn note(&mut self, event: RuntimeEvent) {
        let RuntimeEvent::Health { attempt, healthy, output } = event else { return };
        self.context.outbox.try_observe(attempt, ObservationKind::Health(healthy));
        if let Some(driven) = self.attempts.get(&attempt).filter(|_| !healthy) {
            driven.unhealthy.send_replace(Some(clipped_words(&output)));
        }
    }

    /// Registers again, because what the node offers has changed. A control side that does not answer for a
    /// moment hears of it with the next registration.
    async fn tell_what_it_offers(&mut self) -> Result<(), LinkError> {
        const PATIENCE: Duration = Duration::from_secs(2);
        match tokio::time::timeout(PATIENCE, self.register()).await {
            Ok(Err(error @ (LinkError::Fenced(_) | LinkError::NotRegistered | LinkError::NameTaken(_)))) => {
                Err(error)
            }
            Ok(Err(error)) => {
                debug!(%error, "the change of what the node offers was not heard");
                Ok(())
            }
            Ok(Ok(_)) => Ok(()),
            Err(_) => {
                debug!("the change of what the node offers was not answered in time");
                Ok(())
            }
        }
    }

    /// Leaves everything to the next incarnation.
    async fn leave(&mut self) {
        self.attempts.values().for_each(|driven| advance(&driven.desired, Desired::Left));
        self.collect_all().await;
    }
}

/// The next end of something in the background; never, when there is nothing. Cancel safe.
async fn next_done(running: &mut JoinSet<Done>) -> Done {
    match running.join_next().await {
        Some(Ok(done)) => done,
        Some(Err(error)) => {
            // What drives an attempt catches the panics of others.
            warn!(%error, "an attempt was dropped");
            Done::Dropped
        }
        None => std::future::pending().await,
    }
}

fn note_errand(done: Result<(), tokio::task::JoinError>) {
    if let Err(error) = done {
        warn!(%error, "something was left undone");
    }
}

fn session_end(error: LinkError) -> SessionEnd {
    match error {
        LinkError::Fenced(why) => SessionEnd::Fenced(why),
        LinkError::Closed => SessionEnd::Closed,
        other => SessionEnd::Lost(other.to_string()),
    }
}

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

fn advance(desired: &watch::Sender<Desired>, to: Desired) {
    desired.send_if_modified(|desired| {
        let forward = to > *desired;
        *desired = to.max(*desired);
        forward
    });
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
