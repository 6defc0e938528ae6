//! [`Author`]: who proposed a command, and the [`Context`] in which a machine decides it.

use std::{fmt, sync::Arc};

use crate::model::Timestamp;

/// Proposer of a command, as the consensus authenticated it. Never taken from the command itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Author {
    /// Member of a group whose members may crash but are not Byzantine. It speaks for the clients and agents
    /// that it authenticated itself.
    Member(Arc<str>),
    /// Holder of an Ed25519 key, in a group with Byzantine members.
    Key {
        /// The public key.
        key: [u8; 32],
        /// The key was a member's when the command was ordered.
        member: bool,
    },
}

impl Author {
    /// Member that is alone.
    #[must_use]
    pub fn local() -> Self {
        Self::member("local")
    }

    /// Member with this name.
    #[must_use]
    pub fn member(name: impl Into<Arc<str>>) -> Self {
        Self::Member(name.into())
    }
}

/// The member's name, or the key in hexadecimal digits.
impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(name) => f.pad(name),
            Self::Key { key, .. } => key.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// Time and author of a command, the same on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Context<'a> {
    /// The proposer's clock. It may jump; the machine keeps its own time monotonic.
    pub time: Timestamp,
    /// The proposer.
    pub author: &'a Author,
}

impl<'a> Context<'a> {
    /// Context of a command that `author` proposed at `time`.
    #[must_use]
    pub const fn new(time: Timestamp, author: &'a Author) -> Self {
        Self { time, author }
    }
}
