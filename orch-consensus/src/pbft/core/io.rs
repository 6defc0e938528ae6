//! Inputs and effects of a replica.

use std::sync::Arc;

use bytes::Bytes;
pub use orch_core::model::Moment;

use super::{
    ballot::VoteRefusal,
    ids::{Epoch, PublicKey, ReplicaId, Seq, View},
    membership::Change,
    message::Message,
    record::{Image, Record},
    statement::{Claim, Misbehaviour},
};

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A message whose sender the transport has authenticated.
    Message(PublicKey, Message),
    /// A message of our own that [`Effect::Publish`] asked for, signed, after the log holds what it depends
    /// on.
    Own(Message),
    /// The signatures of an [`Effect::Verify`] were checked: the indices of those that are bad.
    Verified(u64, Vec<usize>),
    /// Command of a local caller. [`Effect::Answer`] with the same token has its outcome.
    Propose(u64, Bytes),
    /// Read of a local caller. [`Effect::ReadReady`] with the same token says from where on the machine is
    /// recent enough.
    Barrier(u64),
    /// Vote of the local operator for a change of members. [`Effect::Answer`] says whether it was recorded.
    ChangeMembers(u64, Change),
    /// The time that [`Replica::deadline`](super::replica::Replica::deadline) named has come.
    Tick,
}

/// Something to do, in this order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Add to the log. Appends and replacements are counted from 1; `after` refers to that count.
    Append(Record),
    /// Replace the whole log by this, atomically. Counts like an append.
    Replace(Image),
    /// Send as it is, when it is convenient.
    Send(To, Message),
    /// Sign the request and send it.
    Submit(To, Message),
    /// As soon as the first `after` changes of the log are as durable as chosen: sign, send to all other
    /// members, and give it back as [`Input::Own`].
    Publish {
        /// Unsigned message.
        message: Message,
        /// Number of changes of the log that it depends on.
        after: u64,
    },
    /// Check signatures and come back with [`Input::Verified`]. Jobs may be checked together and in any
    /// order.
    Verify(u64, Vec<Claim>),
    /// Outcome of a proposal.
    Answer(u64, Result<Answer, Refusal>),
    /// A read may begin.
    ReadReady(u64, Seq),
    /// Something that operators want to know.
    Event(Event),
}

/// Recipients of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// One member or client.
    One(PublicKey),
    /// All other members.
    Others,
}

/// Outcome of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its sequence number.
    pub seq: Seq,
    /// Outcome that the machine decided.
    pub outcome: Bytes,
}

/// Reasons why a command has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// This replica is no member (any more).
    #[error("this replica is no member of the group")]
    NotAMember,
    /// Larger than a batch.
    #[error("a command of {0} bytes does not fit into a batch")]
    TooLarge(usize),
    /// A change of members that cannot be.
    #[error(transparent)]
    Membership(VoteRefusal),
    /// This replica left the group, or a later incarnation of it is known, while the command was on its way.
    /// It may have been executed.
    #[error("whether the command was executed is not known")]
    Unknown,
}

/// Something that operators want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The primary is suspected, or others suspect it.
    Leaving(View),
    /// A view has begun here.
    Entered(View, ReplicaId),
    /// A checkpoint is stable here.
    Stable(Seq),
    /// A new membership is in force.
    Epoch(Epoch),
    /// This replica was too far behind and gets the state from others.
    Fetching(Seq),
    /// And has it now.
    Caught(Seq),
    /// Proof of two signed statements that exclude each other.
    Evidence(Arc<Misbehaviour>),
    /// A signature under this member's message is wrong, although the message came from it.
    BadSignature(ReplicaId),
    /// The state here is not what a quorum agrees on: the machine is not deterministic or memory is damaged.
    Diverged(Seq),
}
