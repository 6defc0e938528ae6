//! Practical Byzantine Fault Tolerance (Castro and Liskov): agreement among n = 3f + 1 replicas of which f
//! may be Byzantine.
//!
//! [`Replica`] is the protocol without input or output. `docs/protocols/pbft.md` describes it: messages,
//! states, and where and why it deviates from the papers. [`PbftConsensus`] is the protocol at work: a member
//! of a group, with a transport and a log.

mod core;
mod member;

#[doc(hidden)]
pub use self::core::fault::SeededFault;
pub use self::core::{
    batch::{Batch, Body, Commands, Request},
    client::{Client, ClientEffect, ClientInput, ClientSetup},
    config::{Config, ConfigError},
    ids::{Digest, Epoch, PublicKey, ReplicaId, Seq, Signature, View},
    io::{Answer, Effect, Event, Input, Moment, Refusal, To},
    membership::{Change, Member, Membership, MembershipError, REPLICAS_MAX},
    message::{
        Certificate, Checkpoint, CheckpointVote, EpochStep, Fetch, Message, NewView, Reply, SnapshotRef,
        StableProof, Status, Summary, Supply, ViewChange, Vote,
    },
    quorum::Quorum,
    record::{Image, Record},
    replica::{RecoverError, Replica, Setup},
    statement::{Claim, Misbehaviour, Phase, STATEMENT_BYTES, Statement},
    wal,
};
pub use member::{
    Directory, Disk, Ed25519Signer, Equivocation, PbftClient, PbftConfig, PbftConfigError, PbftConsensus,
    Signer, verify, verify_evidence,
};
pub use orch_base::codec::Malformed;
