use std::time::Duration;

use orch_consensus::pbft::{Event, View};

use super::invariants::{Invariant, Observation};
use crate::{
    NodeId,
    history::{History, KeyValueInput, KeyValueOutput, OpId},
};

/// Oracle: checks everything that correct replicas do and that clients are answered.
#[derive(Debug)]
pub(super) struct Oracle {
    invariants: Vec<Box<dyn Invariant>>,
    pub(super) history: History<KeyValueInput, KeyValueOutput>,
    pub(super) completed: Vec<(Duration, OpId)>,
    /// The first thing that was wrong.
    pub(super) broken: Option<String>,
    pub(super) accused: Vec<NodeId>,
    pub(super) view_max: View,
    pub(super) fetches: u64,
    pub(super) epochs: u64,
}

impl Oracle {
    pub(super) fn new(invariants: Vec<Box<dyn Invariant>>) -> Self {
        Self {
            invariants,
            history: History::new(),
            completed: Vec::new(),
            broken: None,
            accused: Vec::new(),
            view_max: View::default(),
            fetches: 0,
            epochs: 0,
        }
    }

    pub(super) fn observe(&mut self, node: NodeId, now: Duration, observation: &Observation<'_>) {
        for invariant in &mut self.invariants {
            if let Err(problem) = invariant.observe(node, now, observation) {
                self.broken.get_or_insert(format!("{}: {problem}", invariant.name()));
            }
        }
    }

    /// Something was wrong.
    pub(super) fn break_with(&mut self, problem: String) {
        self.broken.get_or_insert(problem);
    }

    pub(super) fn on_event(&mut self, node: NodeId, event: &Event, byzantine: bool, now: Duration) {
        if byzantine {
            return;
        }
        match event {
            Event::Entered(view, _) => self.view_max = self.view_max.max(*view),
            Event::Fetching(_) => self.fetches += 1,
            Event::Epoch(_) => self.epochs += 1,
            Event::Evidence(proof) => self.accused.push(super::group::node(&proof.first.key)),
            _ => {}
        }
        self.observe(node, now, &Observation::StatusReport(event));
    }
}
