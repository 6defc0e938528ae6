//! A correct replica votes for one batch at a sequence number of a view, also over crashes (TOCS 4.2; that
//! votes survive crashes is 4.6 of the thesis of Castro, 2001).

use std::{collections::BTreeMap, time::Duration};

use orch_consensus::pbft::{Digest, Epoch, Phase, ReplicaId, Seq, View};

use super::{Invariant, Observation};
use crate::NodeId;

#[derive(Debug, Default)]
pub(super) struct SingleVote {
    cast: BTreeMap<(ReplicaId, Epoch, View, Seq, Phase), Digest>,
}

impl Invariant for SingleVote {
    fn name(&self) -> &'static str {
        "single vote"
    }

    fn observe(&mut self, node: NodeId, _: Duration, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Voted { vote, .. } = observation else { return Ok(()) };
        let position = (vote.replica, vote.epoch, vote.view, vote.seq, vote.phase);
        let first = *self.cast.entry(position).or_insert(vote.digest);
        if first == vote.digest {
            Ok(())
        } else {
            Err(format!("node {node} voted for {first:?} and then {vote:?}"))
        }
    }
}
