//! Records as a replicated state machine.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};

use super::command::{Outcome, decode, encode_outcome};
use crate::{
    consensus::{Context, Decision, MachineError, StateMachine},
    model::Timestamp,
    store::{Key, MemoryStore, Revision, Write},
};
use parking_lot::RwLock;

/// Key of the latest transaction's number when the consensus keeps records.
const HEAD: &str = "replicated-store/head";

/// Keys that are not the users': our own, and those of a consensus that keeps records in a store.
pub(super) fn is_reserved(key: &Key) -> bool {
    key.as_str().starts_with("replicated-store/") || key.as_str().starts_with("consensus/")
}

type Records = BTreeMap<Key, (Revision, Bytes)>;

/// Decides on `records`; what is final is put into `view`, where readers and watches see it.
#[derive(Debug)]
pub(super) struct KvMachine {
    records: Records,
    head: Revision,
    time: Timestamp,
    view: Arc<RwLock<Arc<MemoryStore>>>,
    /// Transactions since the last commit, and what takes them back.
    tentative: Vec<Vec<Write>>,
    undo: Vec<(Key, Option<(Revision, Bytes)>)>,
}

impl KvMachine {
    pub(super) fn new(view: Arc<RwLock<Arc<MemoryStore>>>) -> Self {
        Self {
            records: Records::new(),
            head: Revision::ZERO,
            time: Timestamp::ZERO,
            view,
            tentative: Vec::new(),
            undo: Vec::new(),
        }
    }

    fn put(&mut self, version: Revision, key: Key, value: Option<Bytes>) {
        let before = match value {
            Some(value) => self.records.insert(key.clone(), (version, value)),
            None => self.records.remove(&key),
        };
        self.undo.push((key, before));
    }

    fn show(&self) {
        let view = MemoryStore::restored(self.records.clone(), self.head);
        let before = std::mem::replace(&mut *self.view.write(), Arc::new(view));
        before.supersede();
    }
}

impl StateMachine for KvMachine {
    fn decide(&mut self, context: &Context<'_>, command: &[u8]) -> Decision {
        self.time = self.time.max(context.time);
        let Some(txn) = decode(command) else {
            return Decision { outcome: Bytes::new(), changes: Vec::new().into() };
        };
        let stored = |key: &Key| self.records.get(key).map(|(version, _)| *version);
        if let Some(guard) = txn.guards.iter().find(|guard| !guard.holds(stored(guard.key()))) {
            let outcome = encode_outcome(&Outcome::Conflict(guard.key().clone()));
            return Decision { outcome, changes: Vec::new().into() };
        }
        self.head = self.head.next();
        let (version, writes) = (self.head, txn.into_net_writes());
        let mut changes =
            vec![Write::put(Key::new(HEAD).expect("a valid key"), version.0.to_be_bytes().to_vec())];
        let mut done = Vec::with_capacity(writes.len());
        for (key, value) in writes {
            changes
                .push(Write { key: key.clone(), value: value.as_ref().map(|value| stamp(version, value)) });
            done.push(Write { key: key.clone(), value: value.clone() });
            self.put(version, key, value);
        }
        self.tentative.push(done);
        Decision { outcome: encode_outcome(&Outcome::Committed(version)), changes: changes.into() }
    }

    fn commit(&mut self, _: Revision) {
        self.undo.clear();
        let view = self.view.read().clone();
        for writes in self.tentative.drain(..) {
            view.apply(writes);
        }
    }

    fn rollback(&mut self) {
        self.head = Revision(self.head.0 - self.tentative.len() as u64);
        self.tentative.clear();
        for (key, before) in self.undo.drain(..).rev() {
            match before {
                Some(before) => self.records.insert(key, before),
                None => self.records.remove(&key),
            };
        }
    }

    fn absorb(&mut self, _: Revision, writes: &[Write]) -> Result<(), MachineError> {
        for write in writes {
            if write.key.as_str() == HEAD {
                self.head = read_head(write)?;
            } else if !is_reserved(&write.key) {
                let record = write.value.as_ref().map(|value| unstamp(&write.key, value)).transpose()?;
                match record {
                    Some(record) => self.records.insert(write.key.clone(), record),
                    None => self.records.remove(&write.key),
                };
            }
        }
        // A batch of another member may hold several transactions; watches here start anew after it.
        self.show();
        Ok(())
    }

    fn time(&self) -> Timestamp {
        self.time
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &[""]
    }

    fn load(&mut self, _: Revision, records: &[Write]) -> Result<(), MachineError> {
        let (mut loaded, mut head) = (Records::new(), Revision::ZERO);
        for write in records {
            match &write.value {
                Some(_) if write.key.as_str() == HEAD => head = read_head(write)?,
                Some(_) if is_reserved(&write.key) => {}
                Some(value) => drop(loaded.insert(write.key.clone(), unstamp(&write.key, value)?)),
                None => {}
            }
        }
        (self.records, self.head) = (loaded, head);
        (self.tentative, self.undo) = (Vec::new(), Vec::new());
        self.show();
        Ok(())
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = self.head.0.to_be_bytes().to_vec();
        bytes.extend(self.time.as_millis().to_be_bytes());
        for (key, (version, value)) in &self.records {
            for part in [key.as_str().as_bytes(), &stamp(*version, value)] {
                bytes.extend((part.len() as u64).to_be_bytes());
                bytes.extend(part);
            }
        }
        bytes
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), MachineError> {
        let cut = || MachineError::malformed("snapshot", "it is cut off or damaged");
        let mut rest = snapshot;
        let head = Revision(take_number(&mut rest).ok_or_else(cut)?);
        let time = Timestamp::from_millis(take_number(&mut rest).ok_or_else(cut)?);
        let mut records = Records::new();
        while !rest.is_empty() {
            let key = take_part(&mut rest).and_then(|text| Key::new(std::str::from_utf8(text).ok()?).ok());
            let key = key.ok_or_else(cut)?;
            let value = Bytes::copy_from_slice(take_part(&mut rest).ok_or_else(cut)?);
            let record = unstamp(&key, &value)?;
            records.insert(key, record);
        }
        (self.records, self.head, self.time) = (records, head, time);
        (self.tentative, self.undo) = (Vec::new(), Vec::new());
        self.show();
        Ok(())
    }

    fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.snapshot()).into()
    }
}

/// A record where a consensus keeps records: its version, then its value.
fn stamp(version: Revision, value: &[u8]) -> Bytes {
    let mut stamped = BytesMut::with_capacity(8 + value.len());
    stamped.extend_from_slice(&version.0.to_be_bytes());
    stamped.extend_from_slice(value);
    stamped.freeze()
}

fn unstamp(key: &Key, stamped: &Bytes) -> Result<(Revision, Bytes), MachineError> {
    let (version, _) = stamped
        .split_first_chunk::<8>()
        .ok_or_else(|| MachineError::malformed(format!("record {key}"), "it has no version in front"))?;
    Ok((Revision(u64::from_be_bytes(*version)), stamped.slice(8..)))
}

fn read_head(write: &Write) -> Result<Revision, MachineError> {
    let value = write.value.as_deref().and_then(|value| <[u8; 8]>::try_from(value).ok());
    let problem = || MachineError::malformed(format!("record {HEAD}"), "it is no number");
    value.map(|bytes| Revision(u64::from_be_bytes(bytes))).ok_or_else(problem)
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let (number, tail) = rest.split_first_chunk::<8>()?;
    *rest = tail;
    Some(u64::from_be_bytes(*number))
}

fn take_part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_number(rest)?).ok()?;
    let (part, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(part)
}
