//! Invariants that hold at all times. Each has a file of its own, which says where it comes from.

mod accusations;
mod agreement;
mod certificates;
mod clock;
mod new_views;
mod once;
mod single_vote;
mod watermarks;

use std::{fmt::Debug, time::Duration};

use orch_consensus::pbft::{Batch, Digest, Event, Membership, Message, Seq, Vote};

use crate::NodeId;

/// Something that a correct replica did.
#[derive(Debug)]
pub(super) enum Observation<'a> {
    /// It signed and sent a vote, when its last stable checkpoint was `stable`.
    Voted { vote: &'a Vote, stable: Seq, window: u64 },
    /// It executed a batch.
    Executed { seq: Seq, batch: &'a Batch },
    /// After a sequence number, the hash over everything executed was this.
    Reached { seq: Seq, chain: Digest },
    /// It sent a message, when its members were these.
    Sent { message: &'a Message, members: &'a Membership },
    /// It distorted this.
    StatusReport(&'a Event),
    /// A command was carried out twice by its machine.
    Repeated(u64),
}

/// Watches all correct replicas.
pub(super) trait Invariant: Debug {
    /// Name in reports.
    fn name(&self) -> &'static str;

    /// Checks an observation of a node at a time.
    ///
    /// # Errors
    /// Description of the violation.
    fn observe(&mut self, node: NodeId, now: Duration, observation: &Observation<'_>) -> Result<(), String>;
}

/// All of them, for a run in which `byzantine` are not correct.
pub(super) fn all(byzantine: &[NodeId]) -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(agreement::Agreement::default()),
        Box::new(single_vote::SingleVote::default()),
        Box::new(certificates::SoundCertificates),
        Box::new(new_views::NewViewsFollow),
        Box::new(watermarks::Watermarks),
        Box::new(once::Once),
        Box::new(clock::BoundedClock),
        Box::new(accusations::NoFalseAccusation::new(byzantine)),
    ]
}
