//! Members that decide over one store tell each other through it which nodes they hear. So an agent has to be in the hearing
//! of one member only. They also tell each other what time it is, so that a member whose machine's clock is ahead of all others
//! does not take the cluster's time with it.
//!
//! A member tells what it hears itself, never what it was told: otherwise two members would keep a dead node alive between
//! them.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::orchestrator::Inner;
use crate::{
    consensus::Author,
    model::{NodeId, Timestamp},
    store::{CommitError, Guard, Key, KeyError, Revision, Txn, Write},
};

const PREFIX: &str = "observed/members/";
/// Records of members that are looked at; what is beyond is passed over.
const MEMBERS_MAX: usize = 256;

/// Where a member tells which nodes it hears. Its name has to be one part of a key.
pub(super) fn key_of(member: &Author) -> Result<Key, KeyError> {
    // A slash parts keys, and an empty part is refused.
    let part = Some(member.to_string()).filter(|name| !name.contains('/')).unwrap_or_default();
    Key::new(format!("{PREFIX}{part}"))
}

/// What a member tells.
#[derive(Serialize, Deserialize)]
struct Told {
    v: u8,
    /// Nodes that it has heard since it told the last time.
    nodes: BTreeSet<NodeId>,
    /// Its time when it told this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
}

/// One member's part in telling and listening.
#[derive(Debug)]
pub(super) struct Members {
    own: Key,
    told_at: Option<Instant>,
    /// Each record as it was when last looked at, and since when. What this member wrote itself is no news.
    known: HashMap<Key, (Revision, Instant)>,
    /// Time of each of the others when it was last heard.
    clocks: HashMap<Key, (Timestamp, Instant)>,
}

/// By so much a clock may be ahead of all others. More than what is told takes to arrive.
const AHEAD_MAX: Duration = Duration::from_secs(30);

impl Members {
    pub(super) fn new(own: Key) -> Self {
        Self { own, told_at: None, known: HashMap::new(), clocks: HashMap::new() }
    }

    /// Finds out what time it is for the others that are there, before this member proposes anything. Who was not heard after
    /// some heartbeats is not there.
    pub(super) async fn compare_clocks(&mut self, inner: &Inner) {
        let interval = inner.config.heartbeat_interval;
        let patience = Instant::now() + interval * 3;
        while Instant::now() < patience {
            if let Err(error) = self.listen(inner).await {
                debug!(%error, "the clocks of the other members are not known");
                return;
            }
            if self.known.keys().all(|key| *key == self.own || self.clocks.contains_key(key)) {
                return;
            }
            tokio::time::sleep(interval / 4).await;
        }
    }

    /// Tells the others which nodes were heard here, and notes what they told.
    pub(super) async fn exchange(&mut self, inner: &Inner) -> Result<(), CommitError> {
        self.tell(inner).await?;
        self.listen(inner).await
    }

    async fn tell(&mut self, inner: &Inner) -> Result<(), CommitError> {
        let now = Instant::now();
        let nodes = inner.heard.directly_since(self.told_at);
        if nodes.is_empty() {
            return Ok(());
        }
        let told = serde_json::to_vec(&Told { v: 1, nodes, at: Some(inner.consensus.now()) })
            .expect("plain data has a JSON form");
        let version = inner.store.commit(Txn::of(vec![Write::put(self.own.clone(), told)])).await?;
        self.known.insert(self.own.clone(), (version, now));
        self.told_at = Some(now);
        Ok(())
    }

    async fn listen(&mut self, inner: &Inner) -> Result<(), CommitError> {
        let page = inner.store.scan(PREFIX, None, MEMBERS_MAX).await?;
        let (now, before) = (Instant::now(), std::mem::take(&mut self.known));
        for entry in page.entries {
            let known = before.get(&entry.key).filter(|(version, _)| *version == entry.version);
            let since = known.map_or(now, |(_, since)| *since);
            if known.is_none() {
                // What cannot be read (a newer version wrote it) is passed over: its nodes are silent here.
                match serde_json::from_slice::<Told>(&entry.value) {
                    Ok(told) if told.v == 1 => {
                        inner.heard.note_told(&told.nodes);
                        // What is there at the first look may be old.
                        if let Some(at) = told.at.filter(|_| before.contains_key(&entry.key)) {
                            self.clocks.insert(entry.key.clone(), (at, now));
                        }
                    }
                    _ => debug!(key = %entry.key, "what a member told cannot be read"),
                }
            } else if now.duration_since(since) > inner.config.node_timeout {
                // Its member is gone or hears nothing; should it hear something again, it writes a new one.
                let delete = Txn::of(vec![Write::delete(entry.key.clone())]);
                let unchanged = Guard::Version(entry.key.clone(), entry.version);
                if let Err(error) = inner.store.commit(delete.guarded(unchanged)).await {
                    debug!(%error, key = %entry.key, "what a member told long ago was not deleted");
                }
            }
            self.known.insert(entry.key, (entry.version, since));
        }
        self.set_clock_back(inner);
        Ok(())
    }

    /// A clock that is ahead of all others is wrong.
    fn set_clock_back(&mut self, inner: &Inner) {
        let timeout = inner.config.node_timeout;
        self.clocks.retain(|_, (_, heard)| heard.elapsed() <= timeout);
        let others = self.clocks.values().map(|(at, heard)| at.after(heard.elapsed()));
        let Some(latest) = others.max() else { return };
        let ahead = inner.consensus.now().since(latest);
        if ahead > AHEAD_MAX {
            warn!(
                ?ahead,
                "the clock of this machine is ahead of those of all other members; going on by theirs"
            );
            inner.consensus.set_clock_back(latest);
        }
    }

    /// Takes back what this member told.
    pub(super) async fn leave(self, inner: &Inner) {
        const PATIENCE: Duration = Duration::from_secs(2);
        let deleted = inner.store.commit(Txn::of(vec![Write::delete(self.own)]));
        match tokio::time::timeout(PATIENCE, deleted).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => debug!(%error, "what this member told was not deleted"),
            Err(_) => debug!("what this member told was not deleted in time"),
        }
    }
}
