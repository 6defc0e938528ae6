//! Effects of a command: put or delete of one record, and the format in which it is stored.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{AttemptRecord, CommandRecord, Stop, TaskRecord, TaskState};
use crate::{
    consensus::MachineError,
    model::{NodeId, NodeRecord, SharedSpec, SpecId, TaskId, TaskSpec, Timestamp},
    store::{Key, Write},
};

/// Put or delete of one record. Absorbing it twice is the same as once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A spec that tasks have, or will have.
    PutSpec(SharedSpec),
    /// A spec that no task has any more.
    DeleteSpec(SharedSpec),
    /// New version of a task's record.
    PutTask(Arc<TaskRecord>),
    /// A task that is forgotten.
    DeleteTask(TaskId),
    /// New version of a node's record.
    PutNode(Arc<NodeRecord>),
    /// A node that is forgotten.
    DeleteNode(NodeId),
    /// Record in a slot of the ring of commands.
    PutCommand(u32, Arc<CommandRecord>),
    /// Slot of the ring of commands that becomes empty.
    DeleteCommand(u32),
    /// Counters of the state.
    PutClock(Clock),
}

/// Counters of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Clock {
    /// Latest time of any command. Never goes back.
    pub time: Timestamp,
    /// Sequence number of the next submitted task.
    pub next_seq: u64,
    /// Number of clients' commands that were recorded so far.
    pub commands: u64,
    /// Number of registrations of nodes so far.
    #[serde(default)]
    pub sessions: u64,
}

/// Stored record with the version of its format.
#[derive(Serialize, Deserialize)]
struct Stored<T> {
    v: u8,
    record: T,
}

const VERSION: u8 = 1;

/// Format of a task's record: in format 1 it holds its spec, in format 2 the id of a spec record. Large specs
/// are written in format 2.
const TASK_VERSION: u8 = 2;

/// [`TaskRecord`] in format 2.
#[derive(Serialize, Deserialize)]
struct StoredTask<'a> {
    id: TaskId,
    spec: SpecId,
    seq: u64,
    submitted_at: Timestamp,
    state: Cow<'a, TaskState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stop: Option<Cow<'a, Stop>>,
    attempts_made: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    failures: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    node_losses: u32,
    #[serde(default, skip_serializing_if = "<[AttemptRecord]>::is_empty")]
    attempts: Cow<'a, [AttemptRecord]>,
}

impl<'a> StoredTask<'a> {
    fn of(task: &'a TaskRecord) -> Self {
        Self {
            id: task.id,
            spec: task.spec.id(),
            seq: task.seq,
            submitted_at: task.submitted_at,
            state: Cow::Borrowed(&task.state),
            stop: task.stop.as_ref().map(Cow::Borrowed),
            attempts_made: task.attempts_made,
            failures: task.failures,
            node_losses: task.node_losses,
            attempts: Cow::Borrowed(&task.attempts),
        }
    }

    fn with(self, spec: SharedSpec) -> TaskRecord {
        TaskRecord {
            id: self.id,
            spec,
            seq: self.seq,
            submitted_at: self.submitted_at,
            state: self.state.into_owned(),
            stop: self.stop.map(Cow::into_owned),
            attempts_made: self.attempts_made,
            failures: self.failures,
            node_losses: self.node_losses,
            attempts: self.attempts.into_owned(),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Change {
    /// Prefixes of all keys that changes are written under.
    pub const PREFIXES: [&'static str; 5] = ["specs/", "tasks/", "nodes/", "commands/", "meta/"];

    /// The change as a write of a readable record.
    #[must_use]
    pub fn to_write(&self) -> Write {
        match self {
            Self::PutSpec(spec) => Write::put(key(format!("specs/{}", spec.id())), encode(VERSION, spec)),
            Self::DeleteSpec(spec) => Write::delete(key(format!("specs/{}", spec.id()))),
            Self::PutTask(record) => {
                let value = match record.spec.is_large() {
                    true => encode(TASK_VERSION, &StoredTask::of(record)),
                    false => encode(VERSION, record),
                };
                Write::put(key(format!("tasks/{}", record.id)), value)
            }
            Self::DeleteTask(task) => Write::delete(key(format!("tasks/{task}"))),
            Self::PutNode(record) => {
                Write::put(key(format!("nodes/{}", record.spec.id)), encode(VERSION, record))
            }
            Self::DeleteNode(node) => Write::delete(key(format!("nodes/{node}"))),
            Self::PutCommand(slot, record) => {
                Write::put(key(format!("commands/{slot:08}")), encode(VERSION, record))
            }
            Self::DeleteCommand(slot) => Write::delete(key(format!("commands/{slot:08}"))),
            Self::PutClock(clock) => Write::put(key("meta/clock".into()), encode(VERSION, clock)),
        }
    }

    /// Parses writes of [`Change::to_write`] and sorts them into the order in which it can be absorbed: nodes
    /// and specs are put before the tasks that need them, and deleted after them. Other writes are ignored.
    /// `known` looks up the specs that exist already.
    ///
    /// # Errors
    /// A record with one of our keys that cannot be parsed, that a newer version wrote, or that refers to a
    /// missing spec.
    pub fn from_writes(
        writes: &[Write],
        known: impl Fn(SpecId) -> Option<SharedSpec>,
    ) -> Result<Vec<Self>, MachineError> {
        let (mut first, mut middle, mut last) = (Vec::new(), Vec::new(), Vec::new());
        let mut specs = HashMap::new();
        for write in writes {
            let Some((id, spec)) = spec_of(write, &known)? else { continue };
            match write.value {
                Some(_) => first.push(Self::PutSpec(spec.clone())),
                None => last.push(Self::DeleteSpec(spec.clone())),
            }
            specs.insert(id, spec);
        }
        for write in writes {
            let Some(change) = Unresolved::of(write)? else { continue };
            match change {
                Unresolved::Inline(mut task) => {
                    if task.spec.is_large() {
                        let id = task.spec.id();
                        let shared = specs.entry(id).or_insert_with(|| known(id).unwrap_or(task.spec));
                        task.spec = shared.clone();
                    }
                    middle.push(Self::PutTask(Arc::new(task)));
                }
                Unresolved::ById(task) => {
                    let spec = specs.get(&task.spec).cloned().or_else(|| known(task.spec));
                    let spec = spec.ok_or_else(|| {
                        MachineError::inconsistent(
                            format!("record tasks/{}", task.id),
                            format!("its spec, record specs/{}, is missing", task.spec),
                        )
                    })?;
                    middle.push(Self::PutTask(Arc::new(task.with(spec))));
                }
                Unresolved::Other(change) => match change {
                    Self::PutNode(_) => first.push(change),
                    Self::DeleteNode(_) => last.push(change),
                    change => middle.push(change),
                },
            }
        }
        first.append(&mut middle);
        first.append(&mut last);
        Ok(first)
    }
}

/// Spec that a write puts or deletes. `None` when the write is about something else, or deletes a spec that
/// does not exist.
fn spec_of(
    write: &Write,
    known: impl Fn(SpecId) -> Option<SharedSpec>,
) -> Result<Option<(SpecId, SharedSpec)>, MachineError> {
    let Some(name) = write.key.as_str().strip_prefix("specs/") else { return Ok(None) };
    let id: SpecId = name.parse().map_err(|_| bad(&write.key, "its key is no spec id"))?;
    let spec = match &write.value {
        Some(value) => {
            let spec: TaskSpec = decode(&write.key, value, VERSION)?;
            Some(known(id).unwrap_or_else(|| SharedSpec::stored(id, spec)))
        }
        None => known(id),
    };
    Ok(spec.map(|spec| (id, spec)))
}

/// A change of anything but a spec, parsed from its bytes alone.
enum Unresolved<'a> {
    Other(Change),
    Inline(TaskRecord),
    ById(StoredTask<'a>),
}

impl Unresolved<'_> {
    fn of(write: &Write) -> Result<Option<Self>, MachineError> {
        let Some((space, name)) = write.key.as_str().split_once('/') else { return Ok(None) };
        let key = &write.key;
        let change = match (space, &write.value) {
            ("tasks", Some(value)) => {
                return match version_of(key, value)? {
                    1 => decode(key, value, 1).map(Self::Inline),
                    _ => decode(key, value, TASK_VERSION).map(Self::ById),
                }
                .map(Some);
            }
            ("tasks", None) => {
                Change::DeleteTask(name.parse().map_err(|_| bad(key, "its key is no task id"))?)
            }
            ("nodes", Some(value)) => Change::PutNode(decode(key, value, VERSION)?),
            ("nodes", None) => {
                Change::DeleteNode(name.parse().map_err(|_| bad(key, "its key is no node id"))?)
            }
            ("commands", value) => {
                let slot = name.parse().map_err(|_| bad(key, "its key is no number"))?;
                match value {
                    Some(value) => Change::PutCommand(slot, decode(key, value, VERSION)?),
                    None => Change::DeleteCommand(slot),
                }
            }
            ("meta", Some(value)) if name == "clock" => Change::PutClock(decode(key, value, VERSION)?),
            _ => return Ok(None),
        };
        Ok(Some(Self::Other(change)))
    }
}

fn bad(key: &Key, problem: &str) -> MachineError {
    MachineError::malformed(format!("record {key}"), problem)
}

fn unparsable(key: &Key, error: serde_json::Error) -> MachineError {
    MachineError::unparsable(format!("record {key}"), error)
}

fn key(text: String) -> Key {
    Key::new(text).expect("ids have no characters that keys refuse")
}

fn encode(v: u8, record: &impl Serialize) -> Bytes {
    // Most records fit: growing from nothing would copy each of them twice.
    let mut encoded = Vec::with_capacity(512);
    serde_json::to_writer(&mut encoded, &Stored { v, record }).expect("plain data has a JSON form");
    encoded.into()
}

/// Reads the version from the beginning of a record, as we write it, without parsing the whole record.
fn version_of(key: &Key, value: &[u8]) -> Result<u8, MachineError> {
    if let Some([digit @ b'0'..=b'9', b',', ..]) = value.strip_prefix(br#"{"v":"#) {
        return Ok(digit - b'0');
    }
    #[derive(Deserialize)]
    struct Version {
        v: u8,
    }
    let Version { v } = serde_json::from_slice(value).map_err(|error| unparsable(key, error))?;
    Ok(v)
}

fn decode<T: DeserializeOwned>(key: &Key, value: &[u8], version: u8) -> Result<T, MachineError> {
    let found = version_of(key, value)?;
    if found != version {
        return Err(MachineError::Format { what: format!("record {key}"), found, known: version });
    }
    let stored: Stored<T> = serde_json::from_slice(value).map_err(|error| unparsable(key, error))?;
    Ok(stored.record)
}
