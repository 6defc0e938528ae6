//! Codec for the types of openraft: votes, log ids, members, entries.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{CommittedLeaderId, EntryPayload, LogId, Membership, StoredMembership, Vote};
use orch_core::model::Timestamp;

use super::types::{Command, Commands, Entry, NodeInfo};
use crate::codec::{Decode, Encode, Input, Malformed, put_bytes, put_list};

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

impl Encode for Membership<u64, NodeInfo> {
    fn encode(&self, out: &mut Vec<u8>) {
        put_list(self.get_joint_config().iter(), out, |voters, out| {
            put_list(voters.iter(), out, Encode::encode);
        });
        let nodes: Vec<_> = self.nodes().collect();
        put_list(nodes, out, |(id, info), out| {
            id.encode(out);
            out.extend(info.peer);
            put_bytes(info.name.as_bytes(), out);
        });
    }
}

impl Decode for Membership<u64, NodeInfo> {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        let voters: Vec<BTreeSet<u64>> = input
            .list(4, usize::MAX, |input| Ok(input.list(8, usize::MAX, Input::u64)?.into_iter().collect()))?;
        let nodes: BTreeMap<u64, NodeInfo> = input
            .list(44, usize::MAX, |input| {
                Ok((input.u64()?, NodeInfo { peer: input.array()?, name: input.text()? }))
            })?
            .into_iter()
            .collect();
        if !voters.iter().flatten().all(|id| nodes.contains_key(id)) {
            return Err(Malformed("a voter is not a member"));
        }
        Ok(Self::new(voters, nodes))
    }
}

impl Encode for StoredMembership<u64, NodeInfo> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.log_id().encode(out);
        self.membership().encode(out);
    }
}

impl Decode for StoredMembership<u64, NodeInfo> {
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
