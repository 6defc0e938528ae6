//! Practical Byzantine Fault Tolerance (Castro and Liskov): agreement among n = 3f + 1 replicas of which f
//! may be Byzantine. [`PbftConsensus`] is a member of a group, with a transport and a log; [`PbftClient`] is
//! a client of one.
//!
//! `docs/protocols/pbft.md` describes the protocol: messages, states, and where and why it deviates from the
//! papers. Its replicas and clients without input or output, its messages and its log are public with the
//! feature `simulation`, for simulators and fuzzers. They change with every version.

// Without the simulation only member/ uses the protocol, and not all of it.
#[cfg_attr(
    not(feature = "simulation"),
    allow(dead_code, unreachable_pub, unused_imports, reason = "the simulation uses all of it from outside")
)]
mod core;
mod member;

#[cfg(feature = "simulation")]
pub use self::core::fault::SeededFault;
pub use self::core::{
    ballot::VoteRefusal,
    config::{Config, ConfigError},
    ids::{Digest, Epoch, PublicKey, ReplicaId, Seq, Signature, View},
    io::Refusal,
    membership::{Change, Member, Membership, MembershipError},
    quorum::Quorum,
    statement::{Phase, Statement},
};
#[cfg(any(test, feature = "simulation"))]
pub use self::core::{
    batch::{Batch, Body, Commands, Request},
    client::{Client, ClientEffect, ClientInput, ClientSetup},
    io::{Answer, Effect, Event, Input, Moment, To},
    membership::REPLICAS_MAX,
    message::{
        Certificate, Checkpoint, CheckpointVote, EpochStep, Fetch, Message, MessageClass, NewView, Reply,
        SnapshotRef, StableProof, Status, Summary, Supply, ViewChange, Vote,
    },
    record::{Image, Record},
    replica::{RecoverError, Replica, Setup},
    statement::{Claim, Misbehaviour, STATEMENT_BYTES},
    wal,
};
pub use member::{
    Directory, Disk, Ed25519Signer, Equivocation, PbftClient, PbftConfig, PbftConfigError, PbftConsensus,
    Signer, verify, verify_evidence,
};
pub use orch_base::codec::Malformed;
