//! What a command did: put or delete of one record, and how that is written down.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{CommandRecord, TaskRecord};
use crate::{
    consensus::MachineError,
    model::{NodeId, NodeRecord, TaskId, Timestamp},
    store::{Key, Write},
};

/// Put or delete of one record. Absorbing it twice is the same as once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The task is like this now.
    PutTask(Arc<TaskRecord>),
    /// The task is forgotten.
    DeleteTask(TaskId),
    /// The node is like this now.
    PutNode(Arc<NodeRecord>),
    /// The node is forgotten.
    DeleteNode(NodeId),
    /// The memory of commands holds this at this place.
    PutCommand(u32, Arc<CommandRecord>),
    /// The memory of commands holds nothing at this place.
    DeleteCommand(u32),
    /// The counters of the state.
    PutClock(Clock),
}

/// The counters of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Clock {
    /// The latest time that any command brought. Never goes back.
    pub time: Timestamp,
    /// The place that the next submitted task gets.
    pub next_seq: u64,
    /// How many commands of clients were remembered so far.
    pub commands: u64,
    /// How many registrations of nodes there were so far.
    #[serde(default)]
    pub sessions: u64,
}

/// Every record is stored with the version of its format.
#[derive(Serialize, Deserialize)]
struct Stored<T> {
    v: u8,
    record: T,
}

const VERSION: u8 = 1;

impl Change {
    /// Prefixes of all keys that changes write to.
    pub const PREFIXES: [&'static str; 4] = ["tasks/", "nodes/", "commands/", "meta/"];

    /// The change as a write of a readable record.
    #[must_use]
    pub fn to_write(&self) -> Write {
        match self {
            Self::PutTask(record) => Write::put(key(format!("tasks/{}", record.id)), encode(record)),
            Self::DeleteTask(task) => Write::delete(key(format!("tasks/{task}"))),
            Self::PutNode(record) => Write::put(key(format!("nodes/{}", record.spec.id)), encode(record)),
            Self::DeleteNode(node) => Write::delete(key(format!("nodes/{node}"))),
            Self::PutCommand(slot, record) => Write::put(key(format!("commands/{slot:08}")), encode(record)),
            Self::DeleteCommand(slot) => Write::delete(key(format!("commands/{slot:08}"))),
            Self::PutClock(clock) => Write::put(key("meta/clock".into()), encode(clock)),
        }
    }

    /// Reads a write that [`Change::to_write`] made. `None` when the key is of something else.
    ///
    /// # Errors
    /// A record of ours that cannot be read, or that a newer version wrote.
    pub fn from_write(write: &Write) -> Result<Option<Self>, MachineError> {
        let key = write.key.as_str();
        let Some((space, name)) = key.split_once('/') else { return Ok(None) };
        let bad = |problem: String| MachineError { what: format!("record {key}"), problem };
        let change = match (space, &write.value) {
            ("tasks", Some(value)) => Self::PutTask(decode(value).map_err(bad)?),
            ("tasks", None) => {
                Self::DeleteTask(name.parse().map_err(|_| bad("its key is no task id".into()))?)
            }
            ("nodes", Some(value)) => Self::PutNode(decode(value).map_err(bad)?),
            ("nodes", None) => {
                Self::DeleteNode(name.parse().map_err(|_| bad("its key is no node id".into()))?)
            }
            ("commands", value) => {
                let slot = name.parse().map_err(|_| bad("its key is no number".into()))?;
                match value {
                    Some(value) => Self::PutCommand(slot, decode(value).map_err(bad)?),
                    None => Self::DeleteCommand(slot),
                }
            }
            ("meta", Some(value)) if name == "clock" => Self::PutClock(decode(value).map_err(bad)?),
            _ => return Ok(None),
        };
        Ok(Some(change))
    }
}

fn key(text: String) -> Key {
    Key::new(text).expect("ids have no characters that keys refuse")
}

fn encode(record: &impl Serialize) -> Bytes {
    serde_json::to_vec(&Stored { v: VERSION, record }).expect("plain data has a JSON form").into()
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Version {
        v: u8,
    }
    let Version { v } = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    if v != VERSION {
        return Err(format!("it has format {v}; this version reads format {VERSION}"));
    }
    let stored: Stored<T> = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    Ok(stored.record)
}
