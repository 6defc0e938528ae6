//! Practical Byzantine Fault Tolerance (Castro and Liskov): agreement among n = 3f + 1 replicas of which f
//! may be Byzantine.
//!
//! [`Replica`] is the protocol without input or output. `docs/protocols/pbft.md` describes it: messages,
//! states, and where and why it deviates from the papers. [`PbftConsensus`] is the protocol at work: a member
//! of a group, with a transport and a log.

mod batch;
mod client;
mod clients;
mod config;
mod fault;
mod history;
mod ids;
mod io;
mod log;
mod membership;
mod message;
mod quorum;
mod record;
mod replica;
mod service;
mod shell;
mod statement;
pub mod wal;
mod wire;

pub use crate::codec::Malformed;
pub use batch::{Batch, Body, Commands, Request};
pub use client::{Client, ClientEffect, ClientInput, ClientSetup};
pub use config::{Config, ConfigError};
#[doc(hidden)]
pub use fault::SeededFault;
pub use ids::{Digest, Epoch, PublicKey, ReplicaId, Seq, Signature, View};
pub use io::{Answer, Effect, Event, Input, Misbehaviour, Moment, Refusal, To};
pub use membership::{Change, Member, Membership, MembershipError, REPLICAS_MAX};
pub use message::{
    Certificate, Checkpoint, CheckpointVote, EpochStep, Fetch, Message, NewView, Reply, SnapshotRef,
    StableProof, Status, Summary, Supply, ViewChange, Vote,
};
pub use quorum::Quorum;
pub use record::{Image, Record};
pub use replica::{RecoverError, Replica, Setup};
pub use shell::{
    Directory, Disk, Ed25519Signer, Equivocation, PbftClient, PbftConfig, PbftConfigError, PbftConsensus,
    Signer, verify, verify_evidence,
};
pub use statement::{Claim, Phase, STATEMENT_BYTES, Statement};
