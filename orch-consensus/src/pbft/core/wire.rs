//! Codec of [`Message`]s.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    batch::put_outcomes,
    ids::{Digest, ReplicaId, Seq, Signature, View},
    kinds::kinds,
    membership::Membership,
    message::{
        Certificate, Checkpoint, CheckpointVote, EpochStep, Fetch, Message, MessageClass, NewView, Reply,
        SnapshotRef, StableProof, Status, Summary, Supply, ViewChange, Vote,
    },
    statement::{Claim, Misbehaviour, Phase, Statement},
};
use crate::codec::{Decode, Encode, Input, Malformed, put_bytes, put_list};

/// The format of messages and of the log. Others are refused.
const VERSION: u8 = 1;

impl Message {
    /// Its bytes.
    #[must_use]
    pub fn to_wire(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        self.encode(&mut out);
        out
    }

    /// Reads what [`Message::to_wire`] wrote.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong with the bytes.
    pub fn from_wire(mut bytes: Bytes) -> Result<Self, Malformed> {
        if bytes.first() != Some(&VERSION) {
            return Err(Malformed("it has another version"));
        }
        Self::from_bytes(bytes.split_off(1))
    }
}

impl MessageClass {
    /// Class of the message that these bytes begin, without reading the rest. None of other versions and of
    /// unknown kinds: [`Message::from_wire`] refuses those.
    #[must_use]
    pub fn of_wire(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [VERSION, kind, ..] => Self::of_kind(*kind),
            _ => None,
        }
    }
}

macro_rules! fields {
    ($($name:ident { $($field:ident),* })*) => {$(
        impl Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                $(self.$field.encode(out);)*
            }
        }

        impl Decode for $name {
            fn decode(input: &mut Input) -> Result<Self, Malformed> {
                $(let $field = Decode::decode(input)?;)*
                Ok(Self { $($field),* })
            }
        }
    )*};
}

fields! {
    Vote { phase, epoch, view, seq, digest, replica, signature }
    CheckpointVote { epoch, seq, digest, replica, signature }
    SnapshotRef { seq, root }
    Checkpoint { epoch, seq, chain, snapshot, membership, successor }
    StableProof { checkpoint, votes, steps }
    EpochStep { checkpoint, votes, membership }
    Certificate { phase, epoch, view, seq, digest, votes }
    ViewChange { summary, stable, prepared }
    Summary { epoch, view, replica, stable, prepared, signature }
    NewView { epoch, view, replica, summaries, stable, prepared, proposals, signature }
    Status { epoch, view, changing, stable, executed }
    Claim { key, statement, signature }
    Misbehaviour { replica, first, second }
}

macro_rules! lists {
    ($($item:ty, $least:literal;)*) => {$(
        impl Encode for Vec<$item> {
            fn encode(&self, out: &mut Vec<u8>) {
                put_list(self, out, |item, out| item.encode(out));
            }
        }

        impl Decode for Vec<$item> {
            fn decode(input: &mut Input) -> Result<Self, Malformed> {
                input.list($least, usize::MAX, Decode::decode)
            }
        }
    )*};
}

lists! {
    (ReplicaId, Signature), 68;
    (Seq, View, Digest), 48;
    (Seq, Digest), 40;
    Certificate, 60;
    Summary, 100;
    EpochStep, 100;
    Digest, 32;
}

impl<A: Encode, B: Encode> Encode for (A, B) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
    }
}

impl<A: Decode, B: Decode> Decode for (A, B) {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        Ok((A::decode(input)?, B::decode(input)?))
    }
}

impl<A: Encode, B: Encode, C: Encode> Encode for (A, B, C) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
        self.2.encode(out);
    }
}

impl<A: Decode, B: Decode, C: Decode> Decode for (A, B, C) {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        Ok((A::decode(input)?, B::decode(input)?, C::decode(input)?))
    }
}

impl<T: Encode> Encode for Arc<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        T::encode(self, out);
    }
}

impl<T: Decode> Decode for Arc<T> {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        T::decode(input).map(Self::new)
    }
}

impl Encode for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Decode for bool {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        match input.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("neither true nor false")),
        }
    }
}

impl Encode for u32 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.to_le_bytes());
    }
}

impl Decode for u32 {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        input.u32()
    }
}

impl Encode for Bytes {
    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(self, out);
    }
}

impl Decode for Bytes {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        input.bytes()
    }
}

impl Encode for Phase {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Prepare => 0,
            Self::Commit => 1,
        });
    }
}

impl Decode for Phase {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        match input.u8()? {
            0 => Ok(Self::Prepare),
            1 => Ok(Self::Commit),
            _ => Err(Malformed("an unknown phase")),
        }
    }
}

kinds!(Message in MessageClass {
    0 => Request(request): Bulk,
    1 => PrePrepare(batch, vote): Agreement,
    2 => Vote(vote): Agreement,
    3 => Checkpoint(vote): Agreement,
    4 => ViewChange(change): Agreement,
    5 => NewView(new): Agreement,
    6 => Stable(proof): Bulk,
    7 => Committed(certificate): Agreement,
    8 => Status(status): Query,
    9 => Fetch(fetch): Query,
    10 => Supply(supply): Bulk,
    11 => ReadQuery(id): Agreement,
    12 => ReadAnswer(id, prepared): Agreement,
    13 => Reply(epoch, view, reply): Bulk,
});

kinds!(Fetch {
    0 => Manifest(snapshot),
    1 => Chunk(snapshot, index),
    2 => Digests(after, to),
    3 => Batch(seq, digest),
    4 => Members(epoch),
});

kinds!(Supply {
    0 => Manifest(snapshot, chunks),
    1 => Chunk(snapshot, index, bytes),
    2 => Digests(after, digests),
    3 => Batch(seq, batch),
    4 => Unavailable(fetch),
    5 => Members(steps),
});

impl Encode for Reply {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.session, (self.number, self.seq)).encode(out);
        put_outcomes(&self.outcomes, out);
    }
}

impl Decode for Reply {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        let (session, (number, seq)) = Decode::decode(input)?;
        Ok(Self { session, number, seq, outcomes: input.list(4, usize::MAX, Input::bytes)? })
    }
}

impl Encode for Statement {
    fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Vote { phase, epoch, view, seq, digest } => {
                out.push(0);
                (phase, (epoch, view, seq)).encode(out);
                digest.encode(out);
            }
            Self::Checkpoint { epoch, seq, digest } => {
                out.push(1);
                (epoch, seq, digest).encode(out);
            }
            Self::ViewChange { epoch, view, digest } => {
                out.push(2);
                (epoch, view, digest).encode(out);
            }
            Self::NewView { epoch, view, digest } => {
                out.push(3);
                (epoch, view, digest).encode(out);
            }
            Self::Request { digest } => {
                out.push(4);
                digest.encode(out);
            }
        }
    }
}

impl Decode for Statement {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        match input.u8()? {
            0 => {
                let (phase, (epoch, view, seq)) = Decode::decode(input)?;
                Ok(Self::Vote { phase, epoch, view, seq, digest: Decode::decode(input)? })
            }
            1 => {
                let (epoch, seq, digest) = Decode::decode(input)?;
                Ok(Self::Checkpoint { epoch, seq, digest })
            }
            2 => {
                let (epoch, view, digest) = Decode::decode(input)?;
                Ok(Self::ViewChange { epoch, view, digest })
            }
            3 => {
                let (epoch, view, digest) = Decode::decode(input)?;
                Ok(Self::NewView { epoch, view, digest })
            }
            4 => Ok(Self::Request { digest: Decode::decode(input)? }),
            _ => Err(Malformed("an unknown kind of statement")),
        }
    }
}

impl Membership {
    /// Its bytes, for a client that keeps it as the anchor of trust.
    #[must_use]
    pub fn to_wire(&self) -> Vec<u8> {
        self.to_bytes()
    }

    /// Reads what [`Membership::to_wire`] wrote.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong with the bytes.
    pub fn from_wire(bytes: Bytes) -> Result<Self, Malformed> {
        Self::from_bytes(bytes)
    }
}
