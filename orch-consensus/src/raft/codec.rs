//! Bytes on the wire and on disk: little-endian numbers, lengths before contents. Nothing is allocated on the word of a
//! length that was not checked against the bytes that are there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::{CommittedLeaderId, EntryPayload, LogId, Membership, StoredMembership, Vote};
use orch_core::model::Timestamp;

use super::types::{Command, Commands, Entry, Seat};

/// What cannot be read, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// Something that has a form in bytes.
pub(super) trait Encode {
    fn encode(&self, out: &mut Vec<u8>);

    #[cfg(test)]
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

/// Something that can be read from bytes.
pub(super) trait Decode: Sized {
    fn decode(input: &mut Input) -> Result<Self, Malformed>;

    /// Reads one of these and nothing after it.
    fn from_bytes(bytes: Bytes) -> Result<Self, Malformed> {
        let mut input = Input(bytes);
        let value = Self::decode(&mut input)?;
        input.end()?;
        Ok(value)
    }
}

/// Bytes that are being read.
pub(super) struct Input(pub(super) Bytes);

impl Input {
    pub(super) fn take(&mut self, length: usize) -> Result<Bytes, Malformed> {
        if length > self.0.len() {
            return Err(Malformed("it ends too early"));
        }
        Ok(self.0.split_to(length))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?[..].try_into().map_err(|_| Malformed("it ends too early"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("neither yes nor no")),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Malformed("a text is not UTF-8"))
    }

    /// A sequence whose items take at least `least` bytes each.
    pub(super) fn list<T>(
        &mut self,
        least: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.u32()? as usize;
        if count.saturating_mul(least.max(1)) > self.0.len() {
            return Err(Malformed("a list is longer than what holds it"));
        }
        (0..count).map(|_| item(self)).collect()
    }

    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("something follows its end")) }
    }
}

/// The length of a part. Callers bound what they encode far below what a length can say.
pub(super) fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

pub(super) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(length(bytes.len()).to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(super) fn put_list<T>(
    items: impl ExactSizeIterator<Item = T>,
    out: &mut Vec<u8>,
    mut item: impl FnMut(T, &mut Vec<u8>),
) {
    out.extend(length(items.len()).to_le_bytes());
    items.for_each(|each| item(each, out));
}

impl Encode for u64 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.to_le_bytes());
    }
}

impl Decode for u64 {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        input.u64()
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.is_some()));
        if let Some(value) = self {
            value.encode(out);
        }
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        if input.flag()? { T::decode(input).map(Some) } else { Ok(None) }
    }
}

impl Encode for Vote<u64> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.leader_id.term.encode(out);
        self.leader_id.node_id.encode(out);
        out.push(u8::from(self.committed));
    }
}

impl Decode for Vote<u64> {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        let (term, node, committed) = (input.u64()?, input.u64()?, input.flag()?);
        Ok(if committed { Self::new_committed(term, node) } else { Self::new(term, node) })
    }
}

impl Encode for LogId<u64> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.leader_id.term.encode(out);
        self.leader_id.node_id.encode(out);
        self.index.encode(out);
    }
}

impl Decode for LogId<u64> {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        let leader = CommittedLeaderId::new(input.u64()?, input.u64()?);
        Ok(Self::new(leader, input.u64()?))
    }
}

impl Encode for Membership<u64, Seat> {
    fn encode(&self, out: &mut Vec<u8>) {
        put_list(self.get_joint_config().iter(), out, |voters, out| {
            put_list(voters.iter(), out, Encode::encode);
        });
        let nodes: Vec<_> = self.nodes().collect();
        put_list(nodes.into_iter(), out, |(id, seat), out| {
            id.encode(out);
            out.extend(seat.peer);
            put_bytes(seat.name.as_bytes(), out);
        });
    }
}

impl Decode for Membership<u64, Seat> {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        let voters: Vec<BTreeSet<u64>> =
            input.list(4, |input| Ok(input.list(8, Input::u64)?.into_iter().collect()))?;
        let nodes: BTreeMap<u64, Seat> = input
            .list(44, |input| Ok((input.u64()?, Seat { peer: input.array()?, name: input.text()? })))?
            .into_iter()
            .collect();
        if !voters.iter().flatten().all(|id| nodes.contains_key(id)) {
            return Err(Malformed("a voter is not a member"));
        }
        Ok(Self::new(voters, nodes))
    }
}

impl Encode for StoredMembership<u64, Seat> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.log_id().encode(out);
        self.membership().encode(out);
    }
}

impl Decode for StoredMembership<u64, Seat> {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        Ok(Self::new(Option::decode(input)?, Membership::decode(input)?))
    }
}

impl Encode for Command {
    fn encode(&self, out: &mut Vec<u8>) {
        for number in [self.at.as_millis(), self.origin, self.session, self.number, self.floor] {
            number.encode(out);
        }
        self.commands.encode(out);
    }
}

impl Decode for Command {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        Ok(Self {
            at: Timestamp::from_millis(input.u64()?),
            origin: input.u64()?,
            session: input.u64()?,
            number: input.u64()?,
            floor: input.u64()?,
            commands: Commands::decode(input)?,
        })
    }
}

impl Encode for Entry {
    fn encode(&self, out: &mut Vec<u8>) {
        self.log_id.encode(out);
        match &self.payload {
            EntryPayload::Blank => out.push(0),
            EntryPayload::Normal(command) => {
                out.push(1);
                command.encode(out);
            }
            EntryPayload::Membership(membership) => {
                out.push(2);
                membership.encode(out);
            }
        }
    }
}

impl Decode for Entry {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        let log_id = LogId::decode(input)?;
        let payload = match input.u8()? {
            0 => EntryPayload::Blank,
            1 => EntryPayload::Normal(Command::decode(input)?),
            2 => EntryPayload::Membership(Membership::decode(input)?),
            _ => return Err(Malformed("an entry of an unknown kind")),
        };
        Ok(Self { log_id, payload })
    }
}
