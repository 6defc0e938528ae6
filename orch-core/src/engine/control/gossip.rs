//! Gossip between members that decide over one store: each tells there which nodes it hears, so that an agent
//! needs the connection to one member only, and its time, so that a member whose clock is ahead of all others
//! does not take the cluster's time with it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::liveness::Liveness;
use crate::{
    consensus::{Author, Consensus},
    model::{NodeId, Timestamp},
    store::{CommitError, Guard, Key, KeyError, Position, StateStore, Txn, Write},
};

const PREFIX: &str = "observed/members/";
/// Records of members that are looked at; what is beyond is passed over.
const MEMBERS_MAX: usize = 256;

/// Key of a member's heartbeat digest. Its name has to be one part of a key.
pub(super) fn key_of(member: &Author) -> Result<Key, KeyError> {
    // A slash parts keys, and an empty part is refused.
    let part = Some(member.to_string()).filter(|name| !name.contains('/')).unwrap_or_default();
    Key::new(format!("{PREFIX}{part}"))
}

/// Heartbeat digest of a member, as it is stored.
#[derive(Serialize, Deserialize)]
struct Digest {
    v: u8,
    /// Nodes that it has heard since its digest before.
    nodes: BTreeSet<NodeId>,
    /// Its time when it wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
}

/// Interval and bound that gossip keeps to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Interval of heartbeats.
    pub(super) heartbeat_interval: Duration,
    /// A digest that did not change for so long is deleted.
    pub(super) node_timeout: Duration,
}

/// One member's end of the gossip.
#[derive(Debug)]
pub(super) struct Gossip {
    own: Key,
    store: Arc<dyn StateStore>,
    consensus: Arc<dyn Consensus>,
    liveness: Arc<parking_lot::Mutex<Liveness>>,
    pace: Pace,
    /// Time of its last digest.
    written_at: Option<Instant>,
    /// Version of each digest when it was last looked at, and since when it has it. Its own is no news.
    known: HashMap<Key, (Position, Instant)>,
    /// Time of each of the others, and when it was read.
    clocks: HashMap<Key, (Timestamp, Instant)>,
}

/// A clock may be ahead of all others by so much. Longer than a digest takes to arrive.
const AHEAD_MAX: Duration = Duration::from_secs(30);

impl Gossip {
    pub(super) fn new(
        own: Key,
        store: Arc<dyn StateStore>,
        consensus: Arc<dyn Consensus>,
        liveness: Arc<parking_lot::Mutex<Liveness>>,
        pace: Pace,
    ) -> Self {
        let (known, clocks) = (HashMap::new(), HashMap::new());
        Self { own, store, consensus, liveness, pace, written_at: None, known, clocks }
    }

    /// Reads the clocks of the others that are there, before this member proposes anything. A member that
    /// says nothing within some heartbeats is not there.
    pub(super) async fn compare_clocks(&mut self) {
        let interval = self.pace.heartbeat_interval;
        let deadline = Instant::now() + interval * 3;
        while Instant::now() < deadline {
            if let Err(error) = self.read_digests().await {
                debug!(%error, "the clocks of the other members are not known");
                return;
            }
            if self.known.keys().all(|key| *key == self.own || self.clocks.contains_key(key)) {
                return;
            }
            tokio::time::sleep(interval / 4).await;
        }
    }

    /// Writes this member's digest and applies those of the others.
    pub(super) async fn exchange(&mut self) -> Result<(), CommitError> {
        self.write_digest().await?;
        self.read_digests().await
    }

    async fn write_digest(&mut self) -> Result<(), CommitError> {
        let now = Instant::now();
        let nodes = self.liveness.lock().digest(self.written_at);
        if nodes.is_empty() {
            return Ok(());
        }
        let digest = serde_json::to_vec(&Digest { v: 1, nodes, at: Some(self.consensus.now()) })
            .expect("plain data has a JSON form");
        let version = self.store.commit(Txn::of(vec![Write::put(self.own.clone(), digest)])).await?;
        self.known.insert(self.own.clone(), (version, now));
        self.written_at = Some(now);
        Ok(())
    }

    async fn read_digests(&mut self) -> Result<(), CommitError> {
        let page = self.store.scan(PREFIX, None, MEMBERS_MAX).await?;
        let (now, before) = (Instant::now(), std::mem::take(&mut self.known));
        for entry in page.entries {
            let known = before.get(&entry.key).filter(|(version, _)| *version == entry.version);
            let since = known.map_or(now, |(_, since)| *since);
            if known.is_none() {
                // One that cannot be read (a newer version wrote it) is passed over: its nodes are silent
                // here.
                match serde_json::from_slice::<Digest>(&entry.value) {
                    Ok(digest) if digest.v == 1 => {
                        self.liveness.lock().apply_digest(&digest.nodes, now);
                        // A digest that is there at the first look may be old.
                        if let Some(at) = digest.at.filter(|_| before.contains_key(&entry.key)) {
                            self.clocks.insert(entry.key.clone(), (at, now));
                        }
                    }
                    _ => debug!(key = %entry.key, "a member's heartbeat digest cannot be read"),
                }
            } else if now.duration_since(since) > self.pace.node_timeout {
                // Its member is gone or hears nothing; should it hear something again, it writes a new one.
                let delete = Txn::of(vec![Write::delete(entry.key.clone())]);
                let unchanged = Guard::Version(entry.key.clone(), entry.version);
                if let Err(error) = self.store.commit(delete.guarded(unchanged)).await {
                    debug!(%error, key = %entry.key, "an old heartbeat digest was not deleted");
                }
            }
            self.known.insert(entry.key, (entry.version, since));
        }
        self.set_clock_back();
        Ok(())
    }

    /// A clock that is ahead of all others is wrong.
    fn set_clock_back(&mut self) {
        let timeout = self.pace.node_timeout;
        self.clocks.retain(|_, (_, read)| read.elapsed() <= timeout);
        let others = self.clocks.values().map(|(at, read)| at.after(read.elapsed()));
        let Some(latest) = others.max() else { return };
        let ahead = self.consensus.now().since(latest);
        if ahead > AHEAD_MAX {
            warn!(
                ?ahead,
                "the clock of this machine is ahead of those of all other members; going on by theirs"
            );
            self.consensus.set_clock_back(latest);
        }
    }

    /// Deletes this member's digest.
    pub(super) async fn leave(self) {
        const DEADLINE: Duration = Duration::from_secs(2);
        let deleted = self.store.commit(Txn::of(vec![Write::delete(self.own)]));
        match tokio::time::timeout(DEADLINE, deleted).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => debug!(%error, "this member's heartbeat digest was not deleted"),
            Err(_) => debug!("this member's heartbeat digest was not deleted in time"),
        }
    }
}
