//! Members of a group, and changes of them.

use std::{fmt, str::FromStr, sync::Arc};

use crate::transport::PeerId;

/// Name of a member, unique in its group: 1 to 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(Arc<str>);

/// A text that is no [`MemberId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name of a member must have 1 to {max} bytes, not {size}", max = MemberId::BYTES_MAX)]
pub struct MemberIdError {
    /// Its length in bytes.
    pub size: usize,
}

impl MemberId {
    /// The longest name in bytes.
    pub const BYTES_MAX: usize = 255;

    /// The member with this name.
    ///
    /// # Errors
    /// [`MemberIdError`] for an empty or too long name.
    pub fn new(name: impl Into<Arc<str>>) -> Result<Self, MemberIdError> {
        let name = name.into();
        match name.len() {
            1..=Self::BYTES_MAX => Ok(Self(name)),
            size => Err(MemberIdError { size }),
        }
    }

    /// The only member of a group of one.
    #[must_use]
    pub fn local() -> Self {
        Self("local".into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for MemberId {
    type Err = MemberIdError;

    fn from_str(name: &str) -> Result<Self, MemberIdError> {
        Self::new(name)
    }
}

impl PartialEq<str> for MemberId {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other
    }
}

impl PartialEq<&str> for MemberId {
    fn eq(&self, other: &&str) -> bool {
        *self.0 == **other
    }
}

/// Role of a member in its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MemberRole {
    /// It votes: the group stands still when too many voters are away.
    #[default]
    Voter,
    /// It follows the log and answers reads, and does not count. Not every backend has them.
    Learner,
}

/// Change of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MembershipChange {
    /// Adds a member, or gives it another role.
    #[non_exhaustive]
    Add {
        /// Its name.
        member: MemberId,
        /// Its key, by which the transport reaches it.
        peer: PeerId,
        /// Its role.
        role: MemberRole,
    },
    /// Removes a member.
    #[non_exhaustive]
    Remove {
        /// Its name.
        member: MemberId,
    },
}

impl MembershipChange {
    /// Adds `member` in this role.
    ///
    /// ```
    /// use orch_core::{
    ///     consensus::{MemberId, MemberRole, MembershipChange},
    ///     transport::PeerId,
    /// };
    ///
    /// let peer = PeerId::from_bytes([7; 32]);
    /// let change = MembershipChange::add("fourth".parse()?, peer, MemberRole::Voter);
    /// assert_eq!(*change.member(), "fourth");
    /// # Ok::<_, orch_core::consensus::MemberIdError>(())
    /// ```
    #[must_use]
    pub const fn add(member: MemberId, peer: PeerId, role: MemberRole) -> Self {
        Self::Add { member, peer, role }
    }

    /// Removes `member`.
    #[must_use]
    pub const fn remove(member: MemberId) -> Self {
        Self::Remove { member }
    }

    /// The member that it is about.
    #[must_use]
    pub const fn member(&self) -> &MemberId {
        match self {
            Self::Add { member, .. } | Self::Remove { member } => member,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_neither_empty_nor_long() {
        assert_eq!(MemberId::new(""), Err(MemberIdError { size: 0 }));
        assert!(MemberId::new("m".repeat(255)).is_ok());
        let long = MemberId::new("m".repeat(256)).unwrap_err();
        assert_eq!(long.to_string(), "the name of a member must have 1 to 255 bytes, not 256");
    }
}
