//! Groups of three processes on one disk that answer when a write is durable: Raft of orch, and etcd.

mod etcd;
mod member;
mod orch;
mod processes;
mod table;

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;

use crate::{Failure, Load, Summary, Until};

pub use member::run as member;

use self::{etcd::EtcdGroup, orch::OrchGroup};

/// Members of a group.
const MEMBERS: usize = 3;
/// The bytes of a value.
const VALUE_BYTES: usize = 64;
/// Keys that are written to, one after the other.
const KEYS: u64 = 10_000;
/// Time that a group may take until one of it leads.
const PATIENCE: Duration = Duration::from_secs(20);

/// Place of the clients of orch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the process of the member that leads.
    Leader,
    /// In the process of another member, which hands their commands on.
    Follower,
    /// In a process of their own, as etcd's are.
    Apart,
}

/// Subject of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// `orch_consensus::raft` over `orch_net::p2p`.
    Orch(Place),
    /// etcd, as it is installed.
    Etcd,
}

impl Durable {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::Etcd, Self::Orch(Place::Apart), Self::Orch(Place::Leader), Self::Orch(Place::Follower)];

    /// Starts a group, lets clients write for `warm` and then for `time`, and ends the group. Says too what
    /// processor time all its processes and the clients took meanwhile.
    ///
    /// # Errors
    /// The group does not start, or a write failed.
    pub async fn measure(
        self,
        clients: usize,
        warm: Duration,
        time: Duration,
    ) -> Result<(Summary, Duration), Failure> {
        let load = |time| Load { clients, payload: VALUE_BYTES, until: Until::Over(time) };
        match self {
            Self::Orch(place) => {
                let mut group = OrchGroup::start().await?;
                group.run(place, &load(warm)).await?;
                let before = group.cpu()?;
                let summary = group.run(place, &load(time)).await?;
                let cpu = group.cpu()?.saturating_sub(before);
                group.stop().await?;
                Ok((summary, cpu))
            }
            Self::Etcd => {
                let group = EtcdGroup::start(clients).await?;
                group.run(&load(warm)).await?;
                let before = group.cpu()?;
                let summary = group.run(&load(time)).await?;
                let cpu = group.cpu()?.saturating_sub(before);
                group.stop().await?;
                Ok((summary, cpu))
            }
        }
    }
}

impl fmt::Display for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Orch(Place::Leader) => "orch-raft, clients in the leader",
            Self::Orch(Place::Follower) => "orch-raft, clients in a follower",
            Self::Orch(Place::Apart) => "orch-raft, clients apart",
            Self::Etcd => "etcd, clients apart",
        })
    }
}

/// The keys of one process's clients.
#[derive(Debug, Default)]
struct Keys(AtomicU64);

impl Keys {
    /// The next key, of eight bytes, and how many there were before.
    fn next(&self) -> (Bytes, u64) {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        (Bytes::copy_from_slice(&(number % KEYS).to_be_bytes()), number)
    }
}
