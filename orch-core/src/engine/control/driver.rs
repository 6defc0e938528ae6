//! [`Driver`]: the control side's own loop. It proposes ticks when something is due, suspects nodes that are
//! silent, and deletes observations that are stale.

use std::{sync::Arc, time::Duration};

use futures_util::future::{join, join_all};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tracing::{debug, warn};

use super::{
    gossip::Gossip,
    liveness::{Liveness, Verdict, Watched},
    observations::Observations,
    proposer::Proposer,
    pulse::Pulse,
    view::View,
};
use crate::{
    model::NodeState,
    state::{Command, Envelope},
};

/// Parts that the loop works with.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) proposer: Arc<Proposer>,
    pub(super) view: Arc<View>,
    pub(super) observations: Arc<Observations>,
    pub(super) liveness: Arc<parking_lot::Mutex<Liveness>>,
    /// Name under which this member suspects nodes.
    pub(super) author: String,
    pub(super) heartbeat_interval: Duration,
    pub(super) node_timeout: Duration,
}

impl Driver {
    /// Runs until `stop` says so. What is due does not wait for what is being found out about nodes, nor the
    /// other way round.
    pub(super) async fn run(self, gossip: Option<Gossip>, stop: watch::Receiver<bool>) {
        let period = self.heartbeat_interval / 3;
        let pulse = Pulse::new(period);
        let ticks = self.propose_ticks(stop.clone());
        let checks = self.check_nodes(gossip, period, &pulse, stop);
        tokio::select! {
            _ = join(ticks, checks) => {}
            () = pulse.run() => {}
        }
    }

    async fn propose_ticks(&self, mut stop: watch::Receiver<bool>) {
        let mut due = self.view.due.subscribe();
        loop {
            let next_due = *due.borrow_and_update();
            // The cluster's time is that of its proposals.
            let wait = next_due.map(|at| at.since(self.proposer.now()).max(Duration::from_millis(1)));
            tokio::select! {
                _ = stop.changed() => return,
                _ = due.changed() => {}
                () = sleep_or_never(wait) => self.tick().await,
            }
        }
    }

    async fn check_nodes(
        &self,
        mut gossip: Option<Gossip>,
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
                    let others_known = exchange(gossip.as_mut()).await;
                    // When this process itself was held up (suspended, starved), or does not know what the
                    // other members heard, silence says nothing about the nodes.
                    if pulse.was_held_up() || !others_known {
                        self.liveness.lock().reset(Instant::now());
                    }
                    // A digest of another member takes as long on its way to the store as back.
                    let way = began.elapsed() * 2;
                    self.suspect_silent_nodes(self.node_timeout + way).await;
                    self.observations.sweep().await;
                }
            }
        }
        if let Some(gossip) = gossip {
            gossip.leave().await;
        }
    }

    async fn tick(&self) {
        if let Err(error) = self.proposer.decide(Envelope::anonymous(Command::Tick)).await {
            debug!(%error, "a tick was not decided; trying again");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn suspect_silent_nodes(&self, timeout: Duration) {
        /// Suspicions that are proposed together: so many nodes may be lost at once for the price of one.
        const TOGETHER: usize = 256;
        let nodes = self.view.shared_nodes();
        let ready = nodes.iter().map(|node| &node.record).filter(|record| record.state == NodeState::Ready);
        let watched: Vec<Watched<'_>> = ready
            .map(|record| Watched {
                node: &record.spec.id,
                session: record.session,
                suspected: record.suspected_by.contains(&self.author),
            })
            .collect();
        let verdicts = self.liveness.lock().check(&watched, Instant::now(), timeout);
        for verdict in &verdicts {
            if let Verdict::Suspect { node, silence, .. } = verdict {
                warn!(%node, ?silence, "node is silent");
            }
        }
        let mut commands = verdicts.into_iter().map(Verdict::command).peekable();
        while commands.peek().is_some() {
            let some = commands.by_ref().take(TOGETHER);
            let decided = some.map(|command| self.proposer.decide(Envelope::anonymous(command)));
            for result in join_all(decided).await {
                if let Err(error) = result {
                    debug!(%error, "a suspicion was not decided; trying again");
                }
            }
        }
    }
}

/// Exchanges heartbeat digests with the other members. Says whether that worked.
async fn exchange(gossip: Option<&mut Gossip>) -> bool {
    let Some(gossip) = gossip else { return true };
    match gossip.exchange().await {
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
