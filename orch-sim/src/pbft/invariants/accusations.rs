//! Evidence proves something: no correct replica is ever shown to have signed two statements that exclude
//! each other, and no correct replica finds that its state is not the others'.

use std::time::Duration;

use orch_consensus::pbft::Event;

use super::{Invariant, Observation};
use crate::{NodeId, pbft::group};

#[derive(Debug)]
pub(super) struct NoFalseAccusation {
    byzantine: Vec<NodeId>,
}

impl NoFalseAccusation {
    pub(super) fn new(byzantine: &[NodeId]) -> Self {
        Self { byzantine: byzantine.to_vec() }
    }
}

impl Invariant for NoFalseAccusation {
    fn name(&self) -> &'static str {
        "no false accusation"
    }

    fn observe(&mut self, node: NodeId, _: Duration, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::StatusReport(Event::Evidence(proof))
                if !self.byzantine.contains(&group::node(&proof.first.key)) =>
            {
                Err(format!("node {node} accuses a correct replica: {proof:?}"))
            }
            Observation::StatusReport(Event::Diverged(seq)) => {
                Err(format!("node {node} has another state at {seq} than a quorum"))
            }
            _ => Ok(()),
        }
    }
}
