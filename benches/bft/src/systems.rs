//! Throughput of Byzantine groups of four, in instances of consensus: whatever is decided at once counts as
//! one.

use std::{fmt, time::Duration};

use orch_peer_benches::{Failure, Group as _, Load, OrchGroup, Until};

use crate::{instances::Instances, simplex};

/// Measured systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bft {
    /// `orch_consensus::pbft`. An instance is a batch of commands.
    OrchPbft {
        /// Clients that each wait for an outcome before the next request. One makes batches of one command.
        clients: usize,
    },
    /// `commonware_consensus::simplex`. An instance is a view with a digest.
    Simplex {
        /// Views that the leader, who stays, may be ahead of what is certified. None: each view has another
        /// leader, who waits for the one before.
        ahead: Option<u64>,
    },
}

impl Bft {
    /// Rows of the table: one instance after the other, and several under way.
    pub(crate) const ALL: [Self; 6] = [
        Self::OrchPbft { clients: 1 },
        Self::Simplex { ahead: None },
        Self::OrchPbft { clients: 8 },
        Self::Simplex { ahead: Some(8) },
        Self::OrchPbft { clients: 64 },
        Self::Simplex { ahead: Some(64) },
    ];

    /// Runs a group in this process, first for a while that does not count.
    ///
    /// # Errors
    /// It did not start, or stopped deciding.
    pub(crate) fn measure(self, warm: Duration, time: Duration) -> Result<Instances, Failure> {
        match self {
            Self::OrchPbft { clients } => {
                let mut group = OrchGroup::pbft(4)?;
                let load = |time| Load { clients, payload: 64, until: Until::Over(time) };
                group.run(&load(warm))?;
                let before = group.applied();
                let figures = group.run(&load(time))?;
                let count = group.applied() - before;
                Box::new(group).stop();
                Ok(Instances { count, wall: figures.wall, cpu: figures.cpu })
            }
            Self::Simplex { ahead } => simplex::run(ahead, warm, time),
        }
    }
}

impl fmt::Display for Bft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OrchPbft { clients: 1 } => f.write_str("orch-pbft-4, 1 client"),
            Self::OrchPbft { clients } => write!(f, "orch-pbft-4, {clients} clients"),
            Self::Simplex { ahead: None } => f.write_str("commonware-simplex-4, another leader each view"),
            Self::Simplex { ahead: Some(views) } => write!(f, "commonware-simplex-4, {views} views ahead"),
        }
    }
}
