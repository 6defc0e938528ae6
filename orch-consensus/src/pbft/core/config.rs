//! Parameters of the protocol.

use std::{collections::BTreeSet, time::Duration};

#[cfg(feature = "simulation")]
use super::fault::SeededFault;
use super::{guard::Guard, ids::PublicKey};

/// Parameters of a replica. All replicas of a group need the same `checkpoint_interval`, `window` and
/// `snapshot_bytes_min`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Batches from one checkpoint to the next (the paper's K). Smaller: less to repeat after a view change,
    /// more signatures.
    pub checkpoint_interval: u64,
    /// Batches that may be agreed on beyond the last stable checkpoint (the paper's L). Twice the interval,
    /// so that agreement goes on while a checkpoint becomes stable.
    pub window: u64,
    /// Batches in flight at which the primary waits and fills the next one instead.
    pub pipeline: u64,
    /// The most commands in a batch.
    pub batch_commands_max: usize,
    /// The most bytes in a batch, and in one request.
    pub batch_bytes_max: usize,
    /// Time that the primary lets a batch fill while others are in flight.
    pub batch_delay: Duration,
    /// Time of a request before the primary is suspected. Several times a round trip with its disk writes.
    pub request_timeout: Duration,
    /// Limit of the doubling of the timeout.
    pub request_timeout_max: Duration,
    /// Interval of STATUS messages, which make up for lost messages.
    pub status_interval: Duration,
    /// Maximum by which the primary's clock may be ahead of ours.
    pub clock_ahead_max: Duration,
    /// Maximum age of a proposal by our clock, so that the primary cannot hold back time.
    pub clock_behind_max: Duration,
    /// A snapshot is taken when at least so many bytes were decided since the last one, and as many as it was
    /// large.
    pub snapshot_bytes_min: usize,
    /// Clients besides the members, by their keys.
    pub clients: BTreeSet<PublicKey>,
    /// Seeded fault of this replica, for tests of the tests.
    #[cfg(feature = "simulation")]
    pub seeded_fault: Option<SeededFault>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            checkpoint_interval: 128,
            window: 256,
            pipeline: 4,
            batch_commands_max: 1024,
            batch_bytes_max: 2 << 20,
            batch_delay: Duration::from_millis(1),
            request_timeout: Duration::from_secs(1),
            request_timeout_max: Duration::from_secs(4),
            status_interval: Duration::from_millis(250),
            clock_ahead_max: Duration::from_secs(5),
            clock_behind_max: Duration::from_secs(15),
            snapshot_bytes_min: 4 << 20,
            clients: BTreeSet::new(),
            #[cfg(feature = "simulation")]
            seeded_fault: None,
        }
    }
}

/// Invalid values of a [`Config`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(&'static str);

impl Config {
    /// Checks how the values fit together.
    ///
    /// # Errors
    /// [`ConfigError`] says what to change.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let rules = [
            (self.checkpoint_interval > 0, "checkpoint_interval must not be 0"),
            (
                self.window >= self.checkpoint_interval
                    && self.window.is_multiple_of(self.checkpoint_interval.max(1)),
                "window must be a multiple of checkpoint_interval",
            ),
            (self.pipeline > 0, "pipeline must not be 0"),
            (self.batch_commands_max > 0, "batch_commands_max must not be 0"),
            (self.batch_bytes_max >= 1024, "batch_bytes_max must be 1024 at least"),
            (!self.request_timeout.is_zero(), "request_timeout must not be 0"),
            (
                self.request_timeout_max >= self.request_timeout,
                "request_timeout_max must not be below request_timeout",
            ),
            (!self.status_interval.is_zero(), "status_interval must not be 0"),
        ];
        rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, problem)| Err(ConfigError(problem)))
    }

    /// Verdict of a check. True whatever was found where the seeded fault of this replica leaves the check
    /// out.
    #[cfg_attr(
        not(feature = "simulation"),
        expect(clippy::unused_self, reason = "only faults are configured")
    )]
    pub(super) fn holds(&self, guard: Guard, found: bool) -> bool {
        #[cfg(feature = "simulation")]
        if self.seeded_fault.is_some_and(|fault| fault.ignores() == Some(guard)) {
            return true;
        }
        let _ = guard;
        found
    }

    /// Votes that are enough where `quorum` are needed: as many, unless the seeded fault is to count one too
    /// few.
    #[cfg_attr(
        not(feature = "simulation"),
        expect(clippy::unused_self, reason = "only faults are configured")
    )]
    pub(super) fn enough(&self, quorum: usize) -> usize {
        #[cfg(feature = "simulation")]
        if self.seeded_fault == Some(SeededFault::QuorumOffByOne) {
            return quorum - 1;
        }
        quorum
    }
}
