//! The control side's own loop: it proposes ticks when something is due, suspects nodes that are silent, and deletes
//! observations that are void.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tracing::{debug, warn};

use super::{
    orchestrator::Inner,
    tasks::Observed,
    view::{Stale, View},
};
use crate::{
    model::{AttemptId, NodeId, NodeState, Timestamp},
    state::{Command, Envelope},
    store::{Key, StateStore, StoreError, Write},
};

/// When each node was heard of last.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<HashMap<NodeId, Instant>>);

impl Heard {
    pub(super) fn note(&self, node: &NodeId) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match heard.get_mut(node) {
            Some(at) => *at = Instant::now(),
            None => drop(heard.insert(node.clone(), Instant::now())),
        }
    }

    /// How long the node has been silent. One that was never heard of counts from the first question on.
    fn silence(&self, node: &NodeId) -> Duration {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.entry(node.clone()).or_insert_with(Instant::now).elapsed()
    }

    fn forgive_all(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Runs until `stop` says so.
pub(super) async fn drive(inner: Arc<Inner>, mut stop: watch::Receiver<bool>) {
    let mut due = inner.view.due.subscribe();
    let period = inner.config.heartbeat_interval / 2;
    let mut checks = tokio::time::interval(period);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_check = Instant::now();
    loop {
        let next_due = *due.borrow_and_update();
        let wait = next_due.map(|at| at.since(now_of(&inner)).max(Duration::from_millis(1)));
        tokio::select! {
            _ = stop.changed() => return,
            _ = due.changed() => {}
            () = sleep_or_never(wait) => tick(&inner).await,
            _ = checks.tick() => {
                // When this process itself was held up (suspended, starved), silence says nothing about the nodes.
                if last_check.elapsed() > period * 2 {
                    inner.heard.forgive_all();
                }
                last_check = Instant::now();
                suspect_silent_nodes(&inner).await;
                sweep(&inner).await;
            }
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

async fn suspect_silent_nodes(inner: &Inner) {
    for node in inner.view.nodes() {
        let record = &node.record;
        let silence = inner.heard.silence(node.id());
        let by = inner.config.member.clone();
        let suspected = record.suspected_by.contains(&by);
        let command = if silence > inner.config.node_timeout && !suspected && record.state == NodeState::Ready
        {
            warn!(node = %node.id(), ?silence, "node is silent");
            Command::SuspectNode { node: node.id().clone(), registered_at: record.registered_at, by }
        } else if silence < inner.config.node_timeout && suspected {
            Command::TrustNode { node: node.id().clone(), by }
        } else {
            continue;
        };
        if let Err(error) = inner.decide(Envelope::anonymous(command)).await {
            debug!(%error, node = %node.id(), "a suspicion was not decided; trying again");
        }
    }
}

/// Deletes stored observations that are void. What fails is found again at the next start.
async fn sweep(inner: &Inner) {
    let mut writes = Vec::new();
    for stale in inner.view.take_stale() {
        match stale {
            Stale::Attempt(attempt) => writes.push(Write::delete(observed_key(attempt))),
            Stale::Task(task) => writes.extend(inner.output.forget(task).await),
        }
    }
    const MOST: usize = 500;
    while !writes.is_empty() {
        let rest = writes.split_off(writes.len().min(MOST));
        if let Err(error) = inner.output.write(Vec::new(), writes).await {
            debug!(%error, "void observations were not deleted");
        }
        writes = rest;
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
