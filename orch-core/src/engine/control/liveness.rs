//! [`Liveness`]: heartbeats of nodes, heard by this member or named in the digests of others. It reads no
//! clock and proposes nothing: its callers bring the time and propose the [`Verdict`]s.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use crate::{model::NodeId, state::Command};

/// Last heartbeat of each node.
#[derive(Debug)]
pub(super) struct Liveness {
    nodes: HashMap<NodeId, LastHeartbeat>,
    hearsay: Hearsay,
}

/// Whether a member that never heard a node may suspect it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hearsay {
    /// It may: it is the only member, or the members tell each other which nodes they hear.
    Counts,
    /// It may not: members with logs of their own do not tell each other.
    SaysNothing,
}

#[derive(Clone, Copy, Debug)]
struct LastHeartbeat {
    at: Instant,
    /// Last heartbeat that this member heard itself.
    direct: Option<Instant>,
    /// Registration that it was about. A new one counts as a heartbeat, whichever member heard it.
    session: Option<u64>,
}

impl LastHeartbeat {
    fn first(now: Instant) -> Self {
        Self { at: now, direct: None, session: None }
    }
}

/// A node that should send heartbeats, as the cluster's state has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched<'a> {
    pub(super) node: &'a NodeId,
    /// Number of its current registration.
    pub(super) session: u64,
    /// This member has said that it is silent.
    pub(super) suspected: bool,
}

/// News about a node, to be proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is silent for so long.
    Suspect { node: NodeId, session: u64, silence: Duration },
    /// It is heard again.
    Trust { node: NodeId },
}

impl Verdict {
    pub(super) fn command(self) -> Command {
        match self {
            Self::Suspect { node, session, .. } => Command::SuspectNode { node, session },
            Self::Trust { node } => Command::TrustNode { node },
        }
    }
}

impl Liveness {
    pub(super) fn new(hearsay: Hearsay) -> Self {
        Self { nodes: HashMap::new(), hearsay }
    }

    /// This member heard the node.
    pub(super) fn heard(&mut self, node: &NodeId, now: Instant) {
        let last = match self.nodes.get_mut(node) {
            Some(last) => last,
            None => self.nodes.entry(node.clone()).or_insert_with(|| LastHeartbeat::first(now)),
        };
        (last.at, last.direct) = (now, Some(now));
    }

    /// Another member told that it hears these nodes.
    pub(super) fn apply_digest(&mut self, nodes: &BTreeSet<NodeId>, now: Instant) {
        for node in nodes {
            // A node that is not known here yet counts from the first check on anyway.
            if let Some(last) = self.nodes.get_mut(node) {
                last.at = now;
            }
        }
    }

    /// Nodes that this member heard itself at or after `since`, or ever. What others told is left out: two
    /// members would otherwise keep a dead node alive between them.
    pub(super) fn digest(&self, since: Option<Instant>) -> BTreeSet<NodeId> {
        let direct = self.nodes.iter().filter(|(_, last)| last.direct.is_some() && last.direct >= since);
        direct.map(|(node, _)| node.clone()).collect()
    }

    /// Starts all silences again, when this process was held up or did not hear the other members: silence
    /// says nothing about the nodes then.
    pub(super) fn reset(&mut self, now: Instant) {
        self.nodes.values_mut().for_each(|last| last.at = now);
    }

    /// News about these nodes, in order of their ids, which have to be in order. A node that was never heard
    /// counts from its first check on. All others are forgotten: the silence of a lost one counts from its
    /// return on.
    pub(super) fn check(&mut self, watched: &[Watched<'_>], now: Instant, timeout: Duration) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for Watched { node, session, suspected } in watched {
            let last = match self.nodes.get_mut(*node) {
                Some(last) => last,
                None => self.nodes.entry((*node).clone()).or_insert_with(|| LastHeartbeat::first(now)),
            };
            if last.session.replace(*session) != Some(*session) {
                last.at = now;
            }
            if last.direct.is_none() && self.hearsay == Hearsay::SaysNothing {
                continue;
            }
            let silence = now.duration_since(last.at);
            if silence > timeout && !suspected {
                verdicts.push(Verdict::Suspect { node: (*node).clone(), session: *session, silence });
            } else if silence < timeout && *suspected {
                verdicts.push(Verdict::Trust { node: (*node).clone() });
            }
        }
        if self.nodes.len() > watched.len() {
            self.nodes.retain(|id, _| watched.binary_search_by(|watched| watched.node.cmp(id)).is_ok());
        }
        verdicts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(6);

    fn node(id: &str) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn watched(node: &NodeId) -> Watched<'_> {
        Watched { node, session: 1, suspected: false }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn suspected(verdicts: Vec<Verdict>) -> Vec<String> {
        let node = |verdict| match verdict {
            Verdict::Suspect { node, .. } => node.to_string(),
            Verdict::Trust { node } => panic!("{node} is trusted"),
        };
        verdicts.into_iter().map(node).collect()
    }

    #[test]
    fn a_silent_node_is_suspected_and_trusted_again_once_it_is_heard() {
        let (a, b, start) = (node("a"), node("b"), Instant::now());
        let mut liveness = Liveness::new(Hearsay::Counts);
        assert_eq!(liveness.check(&[watched(&a), watched(&b)], start, TIMEOUT), []);
        liveness.heard(&a, start + secs(5));
        let verdicts = liveness.check(&[watched(&a), watched(&b)], start + secs(7), TIMEOUT);
        assert_eq!(suspected(verdicts), ["b"]);
        let known = Watched { suspected: true, ..watched(&b) };
        assert_eq!(liveness.check(&[watched(&a), known], start + secs(8), TIMEOUT), [], "it is no news");
        liveness.heard(&b, start + secs(9));
        let verdicts = liveness.check(&[watched(&a), known], start + secs(9), TIMEOUT);
        assert_eq!(verdicts, [Verdict::Trust { node: b.clone() }]);
    }

    #[test]
    fn a_registration_is_a_sign_of_life_whichever_member_heard_it() {
        let (a, start) = (node("a"), Instant::now());
        let mut liveness = Liveness::new(Hearsay::Counts);
        liveness.check(&[watched(&a)], start, TIMEOUT);
        let registered = Watched { session: 2, ..watched(&a) };
        assert_eq!(liveness.check(&[registered], start + secs(60), TIMEOUT), []);
        assert_eq!(liveness.check(&[registered], start + secs(67), TIMEOUT).len(), 1);
    }

    #[test]
    fn a_digest_keeps_nodes_alive_and_is_not_told_on() {
        let (a, b, start) = (node("a"), node("b"), Instant::now());
        let mut liveness = Liveness::new(Hearsay::Counts);
        liveness.check(&[watched(&a), watched(&b)], start, TIMEOUT);
        liveness.heard(&a, start + secs(1));
        liveness.apply_digest(&BTreeSet::from([b.clone()]), start + secs(5));
        assert_eq!(liveness.check(&[watched(&a), watched(&b)], start + secs(6), TIMEOUT), []);
        assert_eq!(liveness.digest(None), BTreeSet::from([a.clone()]));
        assert_eq!(liveness.digest(Some(start + secs(2))), BTreeSet::new());
        let verdicts = liveness.check(&[watched(&a), watched(&b)], start + secs(12), TIMEOUT);
        assert_eq!(suspected(verdicts), ["a", "b"]);
    }

    #[test]
    fn where_members_do_not_tell_each_other_a_node_that_was_never_heard_is_not_suspected() {
        let (a, start) = (node("a"), Instant::now());
        let mut liveness = Liveness::new(Hearsay::SaysNothing);
        liveness.check(&[watched(&a)], start, TIMEOUT);
        assert_eq!(liveness.check(&[watched(&a)], start + secs(60), TIMEOUT), []);
        liveness.heard(&a, start + secs(60));
        assert_eq!(liveness.check(&[watched(&a)], start + secs(67), TIMEOUT).len(), 1);
    }

    #[test]
    fn the_silence_of_a_lost_node_counts_from_its_return_on() {
        let (a, start) = (node("a"), Instant::now());
        let mut liveness = Liveness::new(Hearsay::Counts);
        liveness.heard(&a, start);
        assert_eq!(liveness.check(&[], start + secs(3), TIMEOUT), []);
        assert_eq!(liveness.check(&[watched(&a)], start + secs(60), TIMEOUT), []);
    }

    #[test]
    fn after_a_hold_up_every_silence_starts_again() {
        let (a, start) = (node("a"), Instant::now());
        let mut liveness = Liveness::new(Hearsay::Counts);
        liveness.check(&[watched(&a)], start, TIMEOUT);
        liveness.reset(start + secs(60));
        assert_eq!(liveness.check(&[watched(&a)], start + secs(61), TIMEOUT), []);
    }
}
