//! The cluster's time is never far ahead of true time, whatever a primary says (time enters as data, and
//! proposals whose time is out of bounds are refused).

use std::time::Duration;

use orch_core::model::Timestamp;

use super::{Invariant, Observation};
use crate::{NodeId, pbft::group::EPOCH_MILLIS};

/// Bounds that replicas accept, and the error of correct clocks.
const AHEAD_MAX: Duration = Duration::from_secs(7);

#[derive(Debug)]
pub(super) struct BoundedClock;

impl Invariant for BoundedClock {
    fn name(&self) -> &'static str {
        "bounded clock"
    }

    fn observe(&mut self, node: NodeId, now: Duration, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Executed { seq, batch } = observation else { return Ok(()) };
        let latest = Timestamp::from_millis(EPOCH_MILLIS).after(now + AHEAD_MAX);
        if batch.time <= latest {
            Ok(())
        } else {
            Err(format!("node {node} executed {seq} with a time {:?} ahead", batch.time.since(latest)))
        }
    }
}
