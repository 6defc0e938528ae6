//! Replicated commands, and the types that openraft is instantiated with.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use openraft::{EntryPayload, StoredMembership};
use orch_core::{model::Timestamp, store::Revision, transport::PeerId};

use super::snapshot_store::Image;
use crate::codec::{Decode, Encode, Input, Malformed, length, put_bytes};

openraft::declare_raft_types!(
    /// The types of this Raft.
    pub(super) Types:
        D = Command,
        R = Applied,
        NodeId = u64,
        Node = NodeInfo,
        Entry = openraft::Entry<Types>,
        SnapshotData = Image,
        AsyncRuntime = openraft::TokioRuntime,
);

pub(super) type Raft = openraft::Raft<Types>;
pub(super) type Entry = openraft::Entry<Types>;
pub(super) type LogId = openraft::LogId<u64>;
pub(super) type Vote = openraft::Vote<u64>;
pub(super) type Members = StoredMembership<u64, NodeInfo>;
pub(super) type StorageError = openraft::StorageError<u64>;

/// The number that openraft knows a peer by.
pub(super) fn node_of(peer: PeerId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(peer.as_bytes()).as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// A member: its name and its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeInfo {
    pub(super) name: String,
    pub(super) peer: [u8; 32],
}

impl NodeInfo {
    pub(super) fn new(name: impl Into<String>, peer: PeerId) -> Self {
        Self { name: name.into(), peer: *peer.as_bytes() }
    }

    pub(super) fn peer(&self) -> PeerId {
        PeerId::from_bytes(self.peer)
    }
}

/// Proposals that one member bundled, as they stand in the log. (origin, session, number) names the bundle
/// for good, so that it is applied once however often it gets into the log.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Command {
    /// The clock of the leader that put it into the log.
    pub(super) at: Timestamp,
    /// The member that bundled it.
    pub(super) origin: u64,
    /// Incarnation of that member; later ones are greater.
    pub(super) session: u64,
    pub(super) number: u64,
    /// Outcomes of every bundle below this number have been received. `floor <= number`.
    pub(super) floor: u64,
    pub(super) commands: Commands,
}

impl Command {
    /// Approximate bytes in a log or message.
    pub(super) fn size(&self) -> usize {
        self.commands.bytes.len() + 72
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, session, number, commands, .. } = self;
        write!(f, "Command({origin:x}/{session}/{number}, {} commands)", commands.count)
    }
}

/// Byte strings one after the other, each after its length. Sound since they were made or read.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Commands {
    count: u32,
    bytes: Bytes,
}

impl Commands {
    pub(super) fn pack<'a>(commands: impl ExactSizeIterator<Item = &'a Bytes> + Clone) -> Self {
        let count = length(commands.len());
        let mut bytes = Vec::with_capacity(commands.clone().map(|command| command.len() + 4).sum());
        commands.for_each(|command| put_bytes(command, &mut bytes));
        Self { count, bytes: bytes.into() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let (long, after) = rest.split_first_chunk::<4>()?;
            let (command, after) = after.split_at_checked(u32::from_le_bytes(*long) as usize)?;
            rest = after;
            Some(command)
        })
    }
}

impl Encode for Commands {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.count.to_le_bytes());
        put_bytes(&self.bytes, out);
    }
}

impl Decode for Commands {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        let (count, bytes) = (input.u32()?, input.bytes()?);
        let mut inside = Input(bytes.clone());
        for _ in 0..count {
            inside.bytes()?;
        }
        inside.end()?;
        Ok(Self { count, bytes })
    }
}

/// Result of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// It held no commands.
    Nothing,
    /// The outcomes, in order of the commands.
    Outcomes(Outcomes),
    /// The bundle was not applied, and will not be under its name.
    Refused(Refusal),
}

/// The outcomes of a bundle, and where they were decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcomes {
    pub(super) revision: Revision,
    pub(super) each: Arc<[Bytes]>,
}

impl Encode for Outcomes {
    fn encode(&self, out: &mut Vec<u8>) {
        self.revision.0.encode(out);
        Commands::pack(self.each.iter()).encode(out);
    }
}

impl Decode for Outcomes {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        let revision = Revision(input.u64()?);
        let outcomes = Commands::decode(input)?;
        Ok(Self {
            revision,
            each: outcomes.iter().map(|outcome| outcomes.bytes.slice_ref(outcome)).collect(),
        })
    }
}

/// Reason for which a bundle was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its outcomes have been received, or a later incarnation of its member was seen.
    Stale { session: u64 },
    /// Its origin is not a member.
    NotMember,
}

/// The commands of an entry, if it holds any.
pub(super) fn command_of(entry: &Entry) -> Option<&Command> {
    match &entry.payload {
        EntryPayload::Normal(command) => Some(command),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    }
}

/// Token that each piece given to openraft holds: when all are dropped, none of its tasks are left.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    _alive: tokio::sync::mpsc::Sender<()>,
}

impl Lease {
    pub(super) fn new() -> (Self, tokio::sync::mpsc::Receiver<()>) {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        (Self { _alive: sender }, receiver)
    }
}
