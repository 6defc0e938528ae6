//! A disk that fails and crashes on purpose.

use std::{
    io,
    sync::{Arc, Mutex},
};

use orch_core::store::Revision;

/// Writes that reach the disk, in order, with the acknowledgements in between.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Write { at: usize, data: Vec<u8> },
    Resize(usize),
    Sync,
    Acknowledged(Revision),
}

/// A disk in memory that remembers every step. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) bytes: Vec<u8>,
    pub(crate) steps: Vec<Step>,
    /// Syncs fail from now on.
    pub(crate) broken_sync: bool,
    /// Growing beyond this fails.
    pub(crate) capacity: Option<usize>,
}

impl SimDisk {
    pub(crate) fn with(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State { bytes, ..State::default() })))
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }
}

fn apply(bytes: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write { at, data } => bytes[*at..at + data.len()].copy_from_slice(data),
        Step::Resize(size) => bytes.resize(*size, 0),
        Step::Sync | Step::Acknowledged(_) => {}
    }
}

impl State {
    fn take(&mut self, step: Step) {
        apply(&mut self.bytes, &step);
        self.steps.push(step);
    }

    /// Bytes that a crash after `cut` steps leaves: all that was synced, and of the later writes an arbitrary
    /// part, some of them torn at a sector.
    pub(crate) fn after_crash(&self, cut: usize, seed: u64) -> Vec<u8> {
        let synced =
            self.steps[..cut].iter().rposition(|step| matches!(step, Step::Sync)).map_or(0, |at| at + 1);
        let mut bytes = Vec::new();
        self.steps[..synced].iter().for_each(|step| apply(&mut bytes, step));
        let mut random = seed ^ (cut as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for step in &self.steps[synced..cut] {
            random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed ^= mixed >> 31;
            match (step, mixed % 3) {
                (Step::Write { .. } | Step::Resize(_), 0) => apply(&mut bytes, step),
                (Step::Write { at, data }, 1) => {
                    let torn = (usize::try_from(mixed >> 32).unwrap() % (data.len() + 1)) & !511;
                    let end = at + torn;
                    if end <= bytes.len() {
                        bytes[*at..end].copy_from_slice(&data[..torn]);
                    }
                }
                // A write beyond an end that was never made larger is lost with it.
                _ => {}
            }
            if let Step::Resize(size) = step {
                // The size of a file is metadata of its own: keep it, so that later writes fit.
                bytes.resize((*size).max(bytes.len()), 0);
            }
        }
        bytes
    }
}

impl redb::StorageBackend for SimDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.change(|state| state.bytes.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        self.change(|state| {
            let found = state.bytes.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(found);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let size = usize::try_from(len).unwrap();
        self.change(|state| match state.capacity {
            Some(capacity) if size > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => {
                state.take(Step::Resize(size));
                Ok(())
            }
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|state| match state.broken_sync {
            true => Err(io::Error::other("the disk is on fire")),
            false => {
                state.take(Step::Sync);
                Ok(())
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        self.change(|state| state.take(Step::Write { at, data: data.to_vec() }));
        Ok(())
    }
}
