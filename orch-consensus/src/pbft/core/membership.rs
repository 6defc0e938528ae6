//! Members of a group: the replicas with a vote.

use super::{
    ids::{Digest, Epoch, PublicKey, ReplicaId, View},
    quorum::Quorum,
};
use crate::codec::{Decode, Encode, Input, Malformed, put_bytes, put_list};

/// The most replicas that one group may have.
pub const REPLICAS_MAX: usize = 64;

/// A replica of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number, never given to another.
    pub id: ReplicaId,
    /// Key that its signatures are checked with.
    pub key: PublicKey,
    /// Name for people.
    pub name: String,
}

/// The replicas of a group in one epoch, in order of their numbers. At least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    epoch: Epoch,
    members: Vec<Member>,
    next_id: u32,
}

/// A change of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new replica with this key and name.
    Add {
        /// Its public key.
        key: PublicKey,
        /// Its name.
        name: String,
    },
    /// This replica leaves.
    Remove {
        /// Its number.
        id: ReplicaId,
    },
}

/// Reasons why a membership is impossible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// No member would be left.
    #[error("a group needs at least one member")]
    Empty,
    /// Too many members.
    #[error("a group has at most {REPLICAS_MAX} members")]
    TooMany,
    /// A key or name is used twice.
    #[error("{0} is a member already")]
    Twice(String),
    /// No member has this number or name.
    #[error("{0} is no member")]
    Unknown(String),
}

impl Membership {
    /// The first membership of a group: replicas get their numbers in the order of their keys, so that all
    /// who starts from the same set of members starts from the same membership.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub fn genesis(members: impl IntoIterator<Item = (String, PublicKey)>) -> Result<Self, MembershipError> {
        let mut sorted: Vec<_> = members.into_iter().collect();
        sorted.sort_by_key(|(_, key)| *key);
        let mut membership = Self { epoch: Epoch(0), members: Vec::new(), next_id: 0 };
        for (name, key) in sorted {
            membership.add(key, name)?;
        }
        if membership.members.is_empty() { Err(MembershipError::Empty) } else { Ok(membership) }
    }

    /// Counts memberships from 0.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The replicas in order of their numbers.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Quorum sizes of these members.
    #[must_use]
    pub fn quorum(&self) -> Quorum {
        Quorum::of(self.members.len())
    }

    /// The member with this number.
    #[must_use]
    pub fn member(&self, id: ReplicaId) -> Option<&Member> {
        self.index(id).map(|index| &self.members[index])
    }

    /// The member with this key.
    #[must_use]
    pub fn by_key(&self, key: &PublicKey) -> Option<&Member> {
        self.members.iter().find(|member| member.key == *key)
    }

    /// Primary of `view`. Epochs begin with different members, so that a member that holds up one is not met
    /// first again.
    #[must_use]
    pub fn primary(&self, view: View) -> &Member {
        let count = self.members.len() as u64;
        let index = (self.epoch.0 % count + view.0 % count) % count;
        &self.members[usize::try_from(index).unwrap_or(0)]
    }

    /// A hash of all of it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of("orch pbft membership", &[&self.to_bytes()])
    }

    /// The membership after `change`.
    ///
    /// # Errors
    /// [`MembershipError`] when there is none.
    pub fn after(&self, change: &Change) -> Result<Self, MembershipError> {
        let mut next = Self { epoch: Epoch(self.epoch.0 + 1), ..self.clone() };
        match change {
            Change::Add { key, name } => next.add(*key, name.clone())?,
            Change::Remove { id } => {
                let index = next.index(*id).ok_or_else(|| MembershipError::Unknown(id.to_string()))?;
                next.members.remove(index);
            }
        }
        if next.members.is_empty() { Err(MembershipError::Empty) } else { Ok(next) }
    }

    pub(crate) fn index(&self, id: ReplicaId) -> Option<usize> {
        self.members.binary_search_by_key(&id, |member| member.id).ok()
    }

    fn add(&mut self, key: PublicKey, name: String) -> Result<(), MembershipError> {
        if self.members.len() >= REPLICAS_MAX {
            return Err(MembershipError::TooMany);
        }
        if let Some(same) = self.members.iter().find(|member| member.key == key || member.name == name) {
            return Err(MembershipError::Twice(same.name.clone()));
        }
        self.members.push(Member { id: ReplicaId(self.next_id), key, name });
        self.next_id += 1;
        Ok(())
    }
}

impl Encode for Membership {
    fn encode(&self, out: &mut Vec<u8>) {
        self.epoch.encode(out);
        out.extend(self.next_id.to_le_bytes());
        put_list(&self.members, out, |member, out| {
            member.id.encode(out);
            member.key.encode(out);
            put_bytes(member.name.as_bytes(), out);
        });
    }
}

impl Decode for Membership {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        let (epoch, next_id) = (Epoch::decode(input)?, input.u32()?);
        let members = input.list(40, usize::MAX, |input| {
            Ok(Member { id: ReplicaId::decode(input)?, key: PublicKey::decode(input)?, name: input.text()? })
        })?;
        let ascending = members.windows(2).all(|pair| pair[0].id < pair[1].id);
        if members.is_empty() || members.len() > REPLICAS_MAX || !ascending {
            return Err(Malformed("a membership is not in order"));
        }
        Ok(Self { epoch, members, next_id })
    }
}

impl Encode for Change {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Add { key, name } => {
                out.push(0);
                key.encode(out);
                put_bytes(name.as_bytes(), out);
            }
            Self::Remove { id } => {
                out.push(1);
                id.encode(out);
            }
        }
    }
}

impl Decode for Change {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        match input.u8()? {
            0 => {
                let (key, name) = (PublicKey::decode(input)?, input.text()?);
                if name.len() > 255 {
                    Err(Malformed("a name is too long"))
                } else {
                    Ok(Self::Add { key, name })
                }
            }
            1 => Ok(Self::Remove { id: ReplicaId::decode(input)? }),
            _ => Err(Malformed("an unknown change of members")),
        }
    }
}
