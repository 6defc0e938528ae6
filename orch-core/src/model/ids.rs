//! Ids, with one type per kind, so that a task can never be passed for a command.

use std::{
    fmt,
    num::NonZeroU32,
    str::FromStr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use uuid::Uuid;

/// Error: a text is not a valid id. The message names the text and the broken rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct IdError {
    pub(super) what: &'static str,
    pub(super) text: String,
    pub(super) rule: &'static str,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// The id with exactly these bytes, for callers that derive ids from something else.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes of the id.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Uuid::try_parse(text).map(Self).map_err(|_| IdError {
                    what: $what,
                    text: clip(text),
                    rule: "it must be a UUID such as 1b4e28ba-2fa1-41d2-883f-0016d3cca427",
                })
            }
        }
    };
}

uuid_id! {
    /// Id of one task, never reused. Chosen by the submitter, which makes a repeated submission harmless.
    TaskId, "task id"
}

uuid_id! {
    /// Id of one command of a client, so that a command retried after a lost response is applied at most
    /// once.
    CommandId, "command id"
}

uuid_id! {
    /// Id of an agent's data directory: it survives restarts of the agent and differs between two agents that
    /// were given the same [`NodeId`] by mistake.
    InstanceId, "instance id"
}

uuid_id! {
    /// Id of one process of an agent. Drawn anew at each start, so that of two processes with copies of one
    /// [`InstanceId`] the cluster accepts the newer one and fences the older.
    IncarnationId, "incarnation id"
}

impl TaskId {
    /// Generates a new id. Ids of one process are consecutive in their first four bytes and random in the
    /// others: what is submitted together is stored together, which ordered stores write much faster, and the
    /// short forms of neighbours differ. (A UUID of version 8: RFC 9562, section 5.8.)
    #[must_use]
    pub fn generate() -> Self {
        static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(Uuid::new_v4().as_fields().0));
        Self::following(NEXT.fetch_add(1, Ordering::Relaxed), Uuid::new_v4().as_u128())
    }

    /// Id with this number in its first bytes and random bits in the rest.
    pub(crate) fn following(number: u32, random: u128) -> Self {
        let mut bytes = random.to_be_bytes();
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }

    /// First eight characters, as shown in tables.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(8);
        text
    }
}

macro_rules! random_id {
    ($name:ident) => {
        impl $name {
            /// Generates a random id.
            #[must_use]
            pub fn generate() -> Self {
                Self::of_random(Uuid::new_v4().as_u128())
            }

            pub(crate) fn of_random(random: u128) -> Self {
                Self(uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid())
            }
        }
    };
}

random_id!(CommandId);
random_id!(InstanceId);
random_id!(IncarnationId);

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Maximum length of an id, in bytes.
            pub const MAX_LEN: usize = $max;

            /// Parses `text`: letters, digits, `.`, `_` and `-`, starting with a letter or a digit.
            ///
            /// # Errors
            /// The rule that the text breaks.
            pub fn new(text: impl AsRef<str>) -> Result<Self, IdError> {
                let text = text.as_ref();
                check_name(text, Self::MAX_LEN)
                    .map_err(|rule| IdError { what: $what, text: clip(text), rule })?;
                Ok(Self(text.into()))
            }

            /// Id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(text).map_err(D::Error::custom)
            }
        }
    };
}

name_id! {
    /// Id of a node of the cluster, chosen by the operator (`worker-1`).
    NodeId, "node id", 64
}

name_id! {
    /// Namespace that separates the tasks of different users of one cluster.
    Namespace, "namespace", 64
}

impl Default for Namespace {
    fn default() -> Self {
        static DEFAULT: LazyLock<Namespace> = LazyLock::new(|| Namespace("default".into()));
        DEFAULT.clone()
    }
}

impl Namespace {
    /// Whether this is the default namespace.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.as_str() == "default"
    }
}

/// Id of one attempt at a task: the fencing token of all reports of agents about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct AttemptId {
    /// Id of the task.
    pub task: TaskId,
    /// Number of the attempt, from 1.
    pub attempt: NonZeroU32,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.task, self.attempt)
    }
}

impl FromStr for AttemptId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError {
            what: "attempt id",
            text: clip(text),
            rule: "it must be a task id, a dot and a number from 1, such as 1b4e28ba-2fa1-41d2-883f-0016d3cca427.1",
        };
        let (task, attempt) = text.split_once('.').ok_or_else(error)?;
        Ok(Self { task: task.parse()?, attempt: attempt.parse().map_err(|_| error())? })
    }
}

fn check_name(text: &str, max: usize) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it must not be empty");
    }
    if text.len() > max {
        return Err("it is too long");
    }
    if !text.as_bytes()[0].is_ascii_alphanumeric() {
        return Err("it must start with a letter or a digit");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err("only letters, digits, '.', '_' and '-' are allowed");
    }
    Ok(())
}

/// Bounds the text that errors quote.
pub(super) fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_would_break_paths_and_tables() {
        for bad in ["", "-x", "a/b", "a b", "a\n", "ä", &"x".repeat(65), "../up"] {
            let error = NodeId::new(bad).unwrap_err().to_string();
            assert!(error.contains("node id"), "{error}");
        }
        assert_eq!(NodeId::new("worker-1").unwrap().to_string(), "worker-1");
    }

    #[test]
    fn task_ids_made_here_follow_each_other_and_never_repeat() {
        // Other tests of the process may take ids in between.
        let ids: Vec<TaskId> = (0..1000).map(|_| TaskId::generate()).collect();
        let first = |id: &TaskId| u32::from_be_bytes(id.as_bytes()[..4].try_into().unwrap());
        assert!(ids.windows(2).all(|two| first(&two[1]).wrapping_sub(first(&two[0])) < 10_000));
        let shorts: std::collections::BTreeSet<String> = ids.iter().map(TaskId::short).collect();
        assert_eq!(shorts.len(), ids.len());
        let rests: std::collections::BTreeSet<&[u8]> = ids.iter().map(|id| &id.as_bytes()[4..]).collect();
        assert_eq!(rests.len(), ids.len());
    }

    #[test]
    fn ids_round_trip_through_text_and_json() {
        let task = TaskId::generate();
        assert_eq!(task.to_string().parse::<TaskId>().unwrap(), task);
        let attempt = AttemptId { task, attempt: NonZeroU32::new(3).unwrap() };
        assert_eq!(attempt.to_string().parse::<AttemptId>().unwrap(), attempt);
        let json = serde_json::to_string(&attempt).unwrap();
        assert_eq!(serde_json::from_str::<AttemptId>(&json).unwrap(), attempt);
        assert!(serde_json::from_str::<NodeId>("\"a b\"").is_err());
        assert!("x.1".parse::<AttemptId>().is_err());
        assert!(format!("{task}.0").parse::<AttemptId>().is_err());
    }

    #[test]
    fn errors_never_quote_at_length() {
        let error = "z".repeat(100_000).parse::<TaskId>().unwrap_err().to_string();
        assert!(error.len() < 300);
    }
}
