//! A view begins with what follows from what a quorum distorted when it left the views before (TOCS 4.4):
//! with the batch that was prepared last at each sequence number after the highest stable checkpoint, and
//! with the null batch where there is none.

use std::time::Duration;

use orch_consensus::pbft::{Batch, Digest, Message, NewView, Seq};

use super::{Invariant, Observation};
use crate::NodeId;

#[derive(Debug)]
pub(super) struct NewViewsFollow;

impl Invariant for NewViewsFollow {
    fn name(&self) -> &'static str {
        "new views follow"
    }

    fn observe(&mut self, node: NodeId, _: Duration, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Sent { message: Message::NewView(new), .. } if new.proposals != follows(new) => {
                Err(format!("node {node} believes {new:?}"))
            }
            _ => Ok(()),
        }
    }
}

/// The definition, one sequence number after the other.
fn follows(new: &NewView) -> Vec<(Seq, Digest)> {
    let base = new.summaries.iter().map(|summary| summary.stable.0).max().unwrap_or(0);
    let claims = || new.summaries.iter().flat_map(|summary| &summary.prepared);
    let last = claims().map(|(seq, ..)| seq.0).max().unwrap_or(0);
    let choice = |position: u64| {
        let here = claims().filter(|(seq, ..)| seq.0 == position);
        here.max_by_key(|(_, view, _)| *view).map_or(Batch::null().digest(), |(_, _, digest)| *digest)
    };
    (base + 1..=last).map(|position| (Seq(position), choice(position))).collect()
}
