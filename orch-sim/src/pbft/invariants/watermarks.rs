//! A correct replica votes within its window only (TOCS 4.2 and 4.3), so that a primary cannot use up
//! sequence numbers or memory.

use std::time::Duration;

use super::{Invariant, Observation};
use crate::NodeId;

#[derive(Debug)]
pub(super) struct Watermarks;

impl Invariant for Watermarks {
    fn name(&self) -> &'static str {
        "watermarks"
    }

    fn observe(&mut self, node: NodeId, _: Duration, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Voted { vote, stable, window } if vote.seq > stable.plus(*window) => {
                Err(format!("node {node} is stable at {stable} and voted {vote:?}"))
            }
            _ => Ok(()),
        }
    }
}
