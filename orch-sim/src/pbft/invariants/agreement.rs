//! Correct replicas execute the same batches in the same order (TOCS 2.2, safety).

use std::{collections::BTreeMap, time::Duration};

use orch_consensus::pbft::{Digest, Seq};

use super::{Invariant, Observation};
use crate::NodeId;

#[derive(Debug, Default)]
pub(super) struct Agreement {
    batches: BTreeMap<Seq, (NodeId, Digest)>,
    chains: BTreeMap<Seq, (NodeId, Digest)>,
}

impl Invariant for Agreement {
    fn name(&self) -> &'static str {
        "agreement"
    }

    fn observe(&mut self, node: NodeId, _: Duration, observation: &Observation<'_>) -> Result<(), String> {
        let (known, seq, digest) = match observation {
            Observation::Executed { seq, batch } => (&mut self.batches, *seq, batch.digest()),
            Observation::Reached { seq, chain } => (&mut self.chains, *seq, *chain),
            _ => return Ok(()),
        };
        let (other, first) = *known.entry(seq).or_insert((node, digest));
        if first == digest {
            Ok(())
        } else {
            Err(format!("at {seq} node {other} has {first:?} and node {node} has {digest:?}"))
        }
    }
}
