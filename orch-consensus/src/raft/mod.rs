//! Raft (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm"), on
//! [openraft](https://docs.rs/openraft): elections, replication and changes of members are its own. From here
//! are the log, the snapshots, the way over a transport, and what makes a proposal count once.
//!
//! Proposals that wait at a member are bundled; a bundle is one entry of the log. It goes to the leader, from
//! the leader itself too, under a name (member, incarnation of that member, number), and is sent until its
//! outcomes are known. The replicated state remembers the outcomes of open bundles, so that one that gets
//! into the log twice is applied once. If a proposal gives up ([`RaftConfig::proposal_timeout`]) after a
//! leader may have seen it, the error says that its outcome is unknown.
//!
//! ```
//! # use std::sync::Arc;
//! # use orch_consensus::raft::{RaftConfig, RaftConsensus};
//! # use orch_core::{consensus::{Consensus, StateMachine}, transport::{PeerId, Transport}};
//! # async fn member(transport: Arc<dyn Transport>, [a, b, c]: [PeerId; 3], machine: Box<dyn StateMachine>)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! let founders = [("a".to_owned(), a), ("b".to_owned(), b), ("c".to_owned(), c)];
//! let raft = RaftConsensus::new(RaftConfig::new(founders).durable("/var/lib/orch/raft"), transport)?;
//! raft.start(machine).await?;
//! let committed = raft.propose("a command".into()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A member that was removed is done: it has to be started anew before it is added again.

mod codec;
mod config;
mod consensus;
mod log;
mod machine;
mod members;
mod network;
mod node;
mod propose;
mod read;
mod serve;
mod sessions;
mod snapshot;
mod snapshot_receiver;
mod snapshot_store;
mod types;
mod wire;

pub use config::{RaftConfig, RaftConfigError, Storage};
pub use consensus::RaftConsensus;
