//! State machine of the members of orch: values by key.

use std::collections::BTreeMap;

use bytes::Bytes;
use orch_core::{
    consensus::{Context, Decision, MachineError, StateMachine},
    model::Timestamp,
    store::Revision,
};

/// The bytes of a key.
const KEY_BYTES: usize = 8;

/// The last value of each key. A command is a key and a value.
#[derive(Debug, Default)]
pub(super) struct Table {
    values: BTreeMap<[u8; KEY_BYTES], Bytes>,
    time: Timestamp,
}

/// The command that puts a value.
pub(super) fn put(key: &Bytes, value: &Bytes) -> Bytes {
    [&key[..], &value[..]].concat().into()
}

impl StateMachine for Table {
    fn decide(&mut self, context: &Context<'_>, command: &[u8]) -> Decision {
        self.time = self.time.max(context.time);
        if let Some((key, value)) = command.split_first_chunk() {
            self.values.insert(*key, Bytes::copy_from_slice(value));
        }
        Decision { outcome: Bytes::new(), changes: Vec::new().into() }
    }

    fn commit(&mut self, _: Revision) {}

    fn rollback(&mut self) {}

    fn time(&self) -> Timestamp {
        self.time
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = self.time.as_millis().to_be_bytes().to_vec();
        for (key, value) in &self.values {
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(&(value.len() as u64).to_be_bytes());
            bytes.extend_from_slice(value);
        }
        bytes
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), MachineError> {
        *self = read(snapshot).ok_or_else(|| bad("a snapshot"))?;
        Ok(())
    }

    fn digest(&self) -> [u8; 32] {
        // Nothing here compares members.
        [0; 32]
    }
}

fn read(snapshot: &[u8]) -> Option<Table> {
    let (time, mut rest) = snapshot.split_first_chunk()?;
    let mut table = Table { time: Timestamp::from_millis(u64::from_be_bytes(*time)), ..Table::default() };
    while !rest.is_empty() {
        let (key, after) = rest.split_first_chunk()?;
        let (length, after) = after.split_first_chunk()?;
        let (value, after) = after.split_at_checked(usize::try_from(u64::from_be_bytes(*length)).ok()?)?;
        table.values.insert(*key, Bytes::copy_from_slice(value));
        rest = after;
    }
    Some(table)
}

fn bad(what: &str) -> MachineError {
    MachineError::malformed(what, "it is not ours")
}
