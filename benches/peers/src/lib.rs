//! Consensus of orch beside that of other libraries, under one load. What is compared, and what is not, is in
//! README.md.

mod durable;
mod load;
mod omnipaxos_group;
mod openraft_group;
mod orch;
mod tikv;

use std::{error::Error, fmt};

pub use durable::{Durable, Place, member};
pub use load::{Figures, Load, Meter, Summary, Until};
pub use orch::OrchGroup;

/// Failure of a measurement.
pub type Failure = Box<dyn Error + Send + Sync>;

/// A group of members that is up and has a leader.
pub trait Group {
    /// Runs clients that each wait for an outcome before they ask for the next one.
    ///
    /// # Errors
    /// What a member answered.
    fn run(&mut self, load: &Load) -> Result<Figures, Failure>;

    /// Ends the members.
    fn stop(self: Box<Self>);
}

/// Subject of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// `orch_consensus::pbft`.
    OrchPbft {
        /// Number of members.
        members: u8,
    },
    /// `orch_consensus::raft`, three members.
    OrchRaft,
    /// openraft with nothing around it, three nodes.
    Openraft,
    /// omnipaxos, three nodes.
    Omnipaxos,
    /// raft-rs of TiKV, three nodes.
    TikvRaft,
}

impl System {
    /// All of them, in their usual sizes.
    pub const ALL: [Self; 5] =
        [Self::OrchRaft, Self::Openraft, Self::Omnipaxos, Self::TikvRaft, Self::OrchPbft { members: 4 }];

    /// Starts a group in this process.
    ///
    /// # Errors
    /// It did not start, or found no leader.
    pub fn start(self) -> Result<Box<dyn Group>, Failure> {
        Ok(match self {
            Self::OrchPbft { members } => Box::new(orch::OrchGroup::pbft(members)?),
            Self::OrchRaft => Box::new(orch::OrchGroup::raft()?),
            Self::Openraft => Box::new(openraft_group::OpenraftGroup::start()?),
            Self::Omnipaxos => Box::new(omnipaxos_group::OmnipaxosGroup::start()?),
            Self::TikvRaft => Box::new(tikv::TikvGroup::start()?),
        })
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OrchPbft { members } => write!(f, "orch-pbft-{members}"),
            Self::OrchRaft => f.write_str("orch-raft-3"),
            Self::Openraft => f.write_str("openraft-3"),
            Self::Omnipaxos => f.write_str("omnipaxos-3"),
            Self::TikvRaft => f.write_str("tikv-raft-3"),
        }
    }
}
