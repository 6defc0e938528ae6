//! The control side's own loop: it proposes ticks when something is due, suspects nodes that are silent, and deletes
//! observations that are void.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::future::{join, join_all};
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tracing::{debug, warn};

use super::{
    members::Members,
    orchestrator::Inner,
    pulse::Pulse,
    tasks::Observed,
    view::{Stale, View},
};
use crate::{
    consensus::FaultModel,
    model::{AttemptId, NodeId, NodeRecord, NodeState, Timestamp},
    scheduler::NodeView,
    state::{Command, Envelope},
    store::{CommitError, Key, StateStore, StoreError, Write, portions},
};

/// When each node was heard of last.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<HashMap<NodeId, LastHeard>>);

#[derive(Clone, Copy, Debug)]
struct LastHeard {
    at: Instant,
    /// When it said something to this member.
    directly: Option<Instant>,
    /// Which registration that was about. A new one is a sign of life, whichever member heard it.
    session: Option<u64>,
}

impl LastHeard {
    fn now() -> Self {
        Self { at: Instant::now(), directly: None, session: None }
    }
}

impl Heard {
    /// The node said something to this member.
    pub(super) fn note(&self, node: &NodeId) {
        let (mut heard, now) = (self.lock(), Instant::now());
        let last = match heard.get_mut(node) {
            Some(last) => last,
            None => heard.entry(node.clone()).or_insert_with(LastHeard::now),
        };
        (last.at, last.directly) = (now, Some(now));
    }

    /// Another member told that it hears these nodes.
    pub(super) fn note_told(&self, nodes: &BTreeSet<NodeId>) {
        let (mut heard, now) = (self.lock(), Instant::now());
        for node in nodes {
            // A node that is not known here yet counts from the first question on anyway.
            if let Some(last) = heard.get_mut(node) {
                last.at = now;
            }
        }
    }

    /// Nodes that said something to this member at or after `since`, or ever.
    pub(super) fn directly_since(&self, since: Option<Instant>) -> BTreeSet<NodeId> {
        let heard = self.lock();
        let directly = heard.iter().filter(|(_, last)| last.directly.is_some() && last.directly >= since);
        directly.map(|(node, _)| node.clone()).collect()
    }

    /// Silence of each of these nodes, in order of their ids. One that was never heard of counts from the
    /// first question on. All others are forgotten: the silence of a lost one counts from its return on.
    fn silence<'a>(&self, ready: &[&'a Arc<NodeView>]) -> Vec<(&'a NodeRecord, LastHeard)> {
        let (mut heard, now) = (self.lock(), Instant::now());
        let silent = ready.iter().map(|node| {
            let record = &*node.record;
            let last = match heard.get_mut(&record.spec.id) {
                Some(last) => last,
                None => heard.entry(record.spec.id.clone()).or_insert_with(LastHeard::now),
            };
            if last.session.replace(record.session) != Some(record.session) {
                last.at = now;
            }
            (record, *last)
        });
        let silent = silent.collect();
        if heard.len() > ready.len() {
            heard.retain(|id, _| ready.binary_search_by(|node| node.id().cmp(id)).is_ok());
        }
        silent
    }

    /// All nodes count as heard of now.
    fn forgive_all(&self) {
        let now = Instant::now();
        self.lock().values_mut().for_each(|last| last.at = now);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, LastHeard>> {
        self.0.lock()
    }
}

/// Runs until `stop` says so. What is due does not wait for what is being found out about nodes, nor the other way round.
pub(super) async fn drive(inner: Arc<Inner>, members: Option<Members>, stop: watch::Receiver<bool>) {
    let period = inner.config.heartbeat_interval / 3;
    let pulse = Pulse::new(period);
    let ticks = propose_ticks(&inner, stop.clone());
    let checks = check_nodes(&inner, members, period, &pulse, stop);
    tokio::select! {
        _ = join(ticks, checks) => {}
        () = pulse.run() => {}
    }
}

async fn propose_ticks(inner: &Inner, mut stop: watch::Receiver<bool>) {
    let mut due = inner.view.due.subscribe();
    loop {
        let next_due = *due.borrow_and_update();
        let wait = next_due.map(|at| at.since(now_of(inner)).max(Duration::from_millis(1)));
        tokio::select! {
            _ = stop.changed() => return,
            _ = due.changed() => {}
            () = sleep_or_never(wait) => tick(inner).await,
        }
    }
}

async fn check_nodes(
    inner: &Inner,
    mut members: Option<Members>,
    period: Duration,
    pulse: &Pulse,
    mut stop: watch::Receiver<bool>,
) {
    let mut checks = tokio::time::interval(period);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.changed() => break,
            _ = checks.tick() => {
                let began = Instant::now();
                let others_known = exchange(inner, members.as_mut()).await;
                // When this process itself was held up (suspended, starved), or does not know what the other members
                // heard, silence says nothing about the nodes.
                if pulse.was_held_up() || !others_known {
                    inner.heard.forgive_all();
                }
                // What the others hear takes as long on its way to the store as back.
                let way = began.elapsed() * 2;
                suspect_silent_nodes(inner, inner.config.node_timeout + way).await;
                sweep(inner).await;
            }
        }
    }
    if let Some(members) = members {
        members.leave(inner).await;
    }
}

/// Tells the other members what was heard here, and the other way round. Says whether that worked.
async fn exchange(inner: &Inner, members: Option<&mut Members>) -> bool {
    let Some(members) = members else { return true };
    match members.exchange(inner).await {
        Ok(()) => true,
        Err(error) => {
            debug!(%error, "what the other members hear is not known");
            false
        }
    }
}

async fn sleep_or_never(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// The cluster's time is that of its proposals, which may be ahead of the system clock.
fn now_of(inner: &Inner) -> Timestamp {
    inner.consensus.now()
}

async fn tick(inner: &Inner) {
    if let Err(error) = inner.decide(Envelope::anonymous(Command::Tick)).await {
        debug!(%error, "a tick was not decided; trying again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn suspect_silent_nodes(inner: &Inner, timeout: Duration) {
    /// Suspicions that are proposed together: so many nodes may be lost at once for the price of one.
    const TOGETHER: usize = 256;
    let nodes = inner.view.shared_nodes();
    let ready: Vec<_> = nodes.iter().filter(|node| node.record.state == NodeState::Ready).collect();
    let heard = inner.heard.silence(&ready);
    let by = inner.consensus.author().to_string();
    let commands: Vec<Command> =
        heard.into_iter().filter_map(|(node, last)| verdict(inner, node, last, timeout, &by)).collect();
    for some in commands.chunks(TOGETHER) {
        let decided = some.iter().map(|command| inner.decide(Envelope::anonymous(command.clone())));
        for result in join_all(decided).await {
            if let Err(error) = result {
                debug!(%error, "a suspicion was not decided; trying again");
            }
        }
    }
}

/// What this member has to say about a node, if that is news.
fn verdict(
    inner: &Inner,
    record: &NodeRecord,
    last: LastHeard,
    timeout: Duration,
    by: &str,
) -> Option<Command> {
    let node = &record.spec.id;
    // Members with logs of their own do not tell each other what they hear. A member that never heard a node knows nothing.
    let capabilities = inner.consensus.capabilities();
    let alone = capabilities.fault_model == FaultModel::None;
    if !alone && !capabilities.shares_store() && last.directly.is_none() {
        return None;
    }
    let silence = last.at.elapsed();
    let suspected = record.suspected_by.contains(by);
    if silence > timeout && !suspected {
        warn!(%node, ?silence, "node is silent");
        Some(Command::SuspectNode { node: node.clone(), session: record.session })
    } else if silence < timeout && suspected {
        Some(Command::TrustNode { node: node.clone() })
    } else {
        None
    }
}

/// Deletes stored observations that are void. What fails is found again at the next start.
async fn sweep(inner: &Inner) {
    let (mut writes, mut tasks) = (Vec::new(), Vec::new());
    for stale in inner.view.take_stale() {
        match stale {
            Stale::Attempt(attempt) => writes.push(Write::delete(observed_key(attempt))),
            Stale::Task(task) => tasks.push(task),
        }
    }
    const MOST: usize = 500;
    for some in tasks.chunks(MOST) {
        if let Err(error) = inner.output.forget(some).await {
            debug!(%error, "some output of forgotten tasks may stay until the next start");
        }
    }
    while !writes.is_empty() {
        let rest = writes.split_off(writes.len().min(MOST));
        if let Err(error) = inner.write_observed(writes).await {
            debug!(%error, "void observations were not deleted");
        }
        writes = rest;
    }
}

impl Inner {
    /// Writes observations. After an error any part may have been written; writing the same again is right.
    pub(super) async fn write_observed(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        for txn in portions(&self.store.capabilities(), writes) {
            match self.store.commit(txn).await {
                Ok(_) => {}
                Err(CommitError::Store(error)) => return Err(error),
                Err(CommitError::Conflict { .. }) => unreachable!("there are no guards"),
            }
        }
        Ok(())
    }
}

/// Where what was seen of an attempt is stored. Each attempt has its own place, so that forgetting an ended one can never
/// take what is known of the one after it.
pub(super) fn observed_key(attempt: AttemptId) -> Key {
    Key::new(format!("observed/attempts/{attempt}")).expect("a valid key")
}

/// Reads what was observed before a restart.
pub(super) async fn restore_observed(store: &dyn StateStore, view: &View) -> Result<(), StoreError> {
    const PREFIX: &str = "observed/attempts/";
    let mut after = None;
    loop {
        let page = store.scan(PREFIX, after.as_ref(), 1024).await?;
        for entry in &page.entries {
            let attempt = entry.key.as_str().strip_prefix(PREFIX).and_then(|id| id.parse().ok());
            if let (Some(attempt), Some(observed)) = (attempt, Observed::from_record(&entry.value)) {
                view.restore_observed(attempt, observed);
            }
        }
        after = page.entries.last().map(|entry| entry.key.clone());
        if !page.more {
            return Ok(());
        }
    }
}
