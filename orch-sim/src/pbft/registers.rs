use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use orch_consensus::pbft::Digest;
use orch_core::{
    consensus::{Context, Decision, MachineError, StateMachine},
    model::Timestamp,
    store::Revision,
};
use parking_lot::{Mutex, MutexGuard};

use crate::history::{KeyValue, KeyValueInput, KeyValueOutput, Model as _};

/// The machine that simulated replicas run: registers that clients read, write and compare.
#[derive(Clone, Debug, Default)]
pub(super) struct Registers(Arc<Mutex<State>>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    values: BTreeMap<u64, u64>,
    /// Executed commands, by the numbers that clients gave them.
    seen: BTreeSet<u64>,
    repeated: Option<u64>,
    time: u64,
}

/// A command of a client, with a number that no other has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    pub(super) id: u64,
    pub(super) input: KeyValueInput,
}

impl Command {
    pub(super) fn to_bytes(self) -> Bytes {
        let (kind, key, expected, value) = match self.input {
            KeyValueInput::Get { key } => (0, key, None, 0),
            KeyValueInput::Put { key, value } => (1, key, None, value),
            KeyValueInput::Cas { key, expected, new } => (2, key, expected, new),
        };
        let words = [kind, self.id, key, expected.map_or(0, |expected| expected + 1), value];
        words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect::<Vec<_>>().into()
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let words: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
            .collect();
        let &[kind, id, key, expected, value] = words.as_slice() else { return None };
        let input = match kind {
            0 => KeyValueInput::Get { key },
            1 => KeyValueInput::Put { key, value },
            _ => KeyValueInput::Cas { key, expected: expected.checked_sub(1), new: value },
        };
        Some(Self { id, input })
    }
}

/// Output of the machine.
pub(super) fn read_outcome(bytes: &[u8]) -> Option<KeyValueOutput> {
    match bytes {
        [0] => Some(KeyValueOutput::Value(None)),
        [1, value @ ..] => Some(KeyValueOutput::Value(Some(u64::from_le_bytes(value.try_into().ok()?)))),
        [2] => Some(KeyValueOutput::Written),
        [3, swapped] => Some(KeyValueOutput::Swapped(*swapped == 1)),
        _ => None,
    }
}

/// Another outcome that the machine might have given to the same command, where there is one.
pub(super) fn other_outcome(bytes: &[u8]) -> Bytes {
    let other = match read_outcome(bytes) {
        Some(KeyValueOutput::Value(None)) => KeyValueOutput::Value(Some(1)),
        Some(KeyValueOutput::Value(Some(value))) => KeyValueOutput::Value(Some(value + 1)),
        Some(KeyValueOutput::Swapped(swapped)) => KeyValueOutput::Swapped(!swapped),
        Some(KeyValueOutput::Written) | None => return Bytes::copy_from_slice(bytes),
    };
    outcome(&other)
}

fn outcome(output: &KeyValueOutput) -> Bytes {
    match output {
        KeyValueOutput::Value(None) => vec![0],
        KeyValueOutput::Value(Some(value)) => [&[1][..], &value.to_le_bytes()].concat(),
        KeyValueOutput::Written => vec![2],
        KeyValueOutput::Swapped(swapped) => vec![3, u8::from(*swapped)],
    }
    .into()
}

impl Registers {
    pub(super) fn value(&self, key: u64) -> Option<u64> {
        self.lock().values.get(&key).copied()
    }

    /// A command that was carried out twice.
    pub(super) fn repeated(&self) -> Option<u64> {
        self.lock().repeated
    }

    /// A hash of everything.
    pub(super) fn hash(&self) -> Digest {
        Digest::of("registers", &[&self.snapshot()])
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl StateMachine for Registers {
    fn decide(&mut self, context: &Context<'_>, command: &[u8]) -> Decision {
        let at = context.time;
        let Some(Command { id, input }) = Command::read(command) else {
            return Decision { outcome: Bytes::new(), changes: Vec::new().into() };
        };
        let mut state = self.lock();
        state.time = state.time.max(at.as_millis());
        if !state.seen.insert(id) {
            state.repeated = Some(id);
        }
        let key = input.key();
        let (value, output) = KeyValue.apply(&state.values.get(&key).copied(), &input);
        if let Some(value) = value {
            state.values.insert(key, value);
        }
        Decision { outcome: outcome(&output), changes: Vec::new().into() }
    }

    fn commit(&mut self, _: Revision) {}

    fn rollback(&mut self) {}

    fn time(&self) -> Timestamp {
        Timestamp::from_millis(self.lock().time)
    }

    fn snapshot(&self) -> Vec<u8> {
        let state = self.lock();
        let mut words = vec![state.time, state.repeated.map_or(0, |id| id + 1), state.values.len() as u64];
        words.extend(state.values.iter().flat_map(|(key, value)| [*key, *value]));
        words.extend(&state.seen);
        words.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), MachineError> {
        let bad = || MachineError::malformed("snapshot", "it ends too early");
        let mut words =
            snapshot.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
        let mut next = || words.next().ok_or_else(bad);
        let mut state = State { time: next()?, repeated: next()?.checked_sub(1), ..State::default() };
        for _ in 0..next()? {
            state.values.insert(next()?, next()?);
        }
        state.seen = words.collect();
        *self.lock() = state;
        Ok(())
    }

    fn digest(&self) -> [u8; 32] {
        self.hash().0
    }
}
