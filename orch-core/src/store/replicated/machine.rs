//! Records as a replicated state machine.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    command::{Command, Outcome, decode, encode_outcome},
    recent::RecentCommits,
    stamp::{stamp, stamp_alone, take_number, take_position, unstamp, unstamp_alone},
};
use crate::{
    consensus::{Context, Decision, MachineError, StateMachine},
    model::Timestamp,
    store::{CommitId, Incarnation, Key, MemoryStore, Position, Revision, SettledIds, Txn, Write},
};
use parking_lot::RwLock;

/// Key of the latest transaction's position when the consensus keeps records.
const HEAD: &str = "replicated-store/head";
/// Key of the ids of transactions that were settled as not applied.
const SETTLED: &str = "replicated-store/settled";

/// Keys that are not the users': our own, and those of a consensus that keeps records in a store.
pub(super) fn is_reserved(key: &Key) -> bool {
    key.as_str().starts_with("replicated-store/") || key.as_str().starts_with("consensus/")
}

type Records = BTreeMap<Key, (Position, Bytes)>;

/// Decides on `records`; what is final is put into `view`, where readers and watches see it.
#[derive(Debug)]
pub(super) struct KvMachine {
    records: Records,
    recent: RecentCommits,
    settled: SettledIds,
    time: Timestamp,
    view: Arc<RwLock<Arc<MemoryStore>>>,
    /// Transactions since the last commit, and what takes them back.
    tentative: Vec<(Incarnation, Vec<Write>)>,
    undo: Vec<Undo>,
}

#[derive(Debug)]
enum Undo {
    Record(Key, Option<(Position, Bytes)>),
    Settled(SettledIds),
}

impl KvMachine {
    pub(super) fn new(view: Arc<RwLock<Arc<MemoryStore>>>) -> Self {
        Self {
            records: Records::new(),
            recent: RecentCommits::after(Position::ZERO),
            settled: SettledIds::default(),
            time: Timestamp::ZERO,
            view,
            tentative: Vec::new(),
            undo: Vec::new(),
        }
    }

    /// Decides a transaction.
    fn commit_txn(&mut self, txn: Txn) -> Decision {
        if self.settled.check(txn.id).is_err() {
            return without_changes(&Outcome::Refused(txn.id.unwrap_or(CommitId(0))));
        }
        let stored = |key: &Key| self.records.get(key).map(|(version, _)| *version);
        if let Some(guard) = txn.guards.iter().find(|guard| !guard.holds(stored(guard.key()))) {
            return without_changes(&Outcome::Conflict(guard.key().to_string()));
        }
        let incarnation = Incarnation(txn.id.map_or(0, |id| id.0));
        let (version, writes) = (self.recent.push(incarnation), txn.into_net_writes());
        let mut changes = vec![Write::put(own_key(HEAD), stamp_alone(version))];
        let mut done = Vec::with_capacity(writes.len());
        for (key, value) in writes {
            changes
                .push(Write { key: key.clone(), value: value.as_ref().map(|value| stamp(version, value)) });
            done.push(Write { key: key.clone(), value: value.clone() });
            let before = match value {
                Some(value) => self.records.insert(key.clone(), (version, value)),
                None => self.records.remove(&key),
            };
            self.undo.push(Undo::Record(key, before));
        }
        self.tentative.push((incarnation, done));
        Decision { outcome: encode_outcome(&Outcome::Committed(version)), changes: changes.into() }
    }

    /// Decides what became of the transaction `id`, which was made after `since`.
    fn settle(&mut self, id: CommitId, since: Revision) -> Decision {
        if let Some(found) = self.recent.iter().find(|position| position.incarnation == Incarnation(id.0)) {
            return without_changes(&Outcome::Found(found));
        }
        if since < self.recent.start().revision {
            return without_changes(&Outcome::Compacted(self.recent.start()));
        }
        self.undo.push(Undo::Settled(self.settled.clone()));
        self.settled.insert(id);
        let ids: Vec<u8> = self.settled.iter().flat_map(|id| id.0.to_be_bytes()).collect();
        let changes = vec![Write::put(own_key(SETTLED), ids)];
        Decision { outcome: encode_outcome(&Outcome::NotFound), changes: changes.into() }
    }

    /// Takes in one record of our own, or of a user.
    fn take(&mut self, write: &Write) -> Result<(), MachineError> {
        let Write { key, value } = write;
        match (key.as_str(), value) {
            (HEAD, Some(value)) => self.recent = RecentCommits::after(unstamp_alone(HEAD, value)?),
            (SETTLED, Some(value)) => self.settled = read_settled(value)?,
            _ if is_reserved(key) => {}
            (_, Some(value)) => {
                let record = unstamp(key.as_str(), value)?;
                self.records.insert(key.clone(), record);
            }
            (_, None) => drop(self.records.remove(key)),
        }
        Ok(())
    }

    /// Empty, with the view of this one.
    fn blank(&self) -> Self {
        Self { time: self.time, ..Self::new(self.view.clone()) }
    }

    fn show(&self) {
        let view = MemoryStore::restored(self.records.clone(), self.recent.head());
        let before = std::mem::replace(&mut *self.view.write(), Arc::new(view));
        before.supersede();
    }
}

impl StateMachine for KvMachine {
    fn decide(&mut self, context: &Context<'_>, command: &[u8]) -> Decision {
        self.time = self.time.max(context.time);
        match decode(command) {
            Some(Command::Commit(txn)) => self.commit_txn(txn),
            Some(Command::Settle { id, since }) => self.settle(id, since),
            None => Decision { outcome: Bytes::new(), changes: Vec::new().into() },
        }
    }

    fn commit(&mut self, _: Revision) {
        self.undo.clear();
        self.recent.trim();
        let view = self.view.read().clone();
        for (incarnation, writes) in self.tentative.drain(..) {
            view.apply(incarnation, writes);
        }
    }

    fn rollback(&mut self) {
        for _ in self.tentative.drain(..) {
            self.recent.pop();
        }
        for undo in self.undo.drain(..).rev() {
            match undo {
                Undo::Record(key, Some(before)) => drop(self.records.insert(key, before)),
                Undo::Record(key, None) => drop(self.records.remove(&key)),
                Undo::Settled(before) => self.settled = before,
            }
        }
    }

    fn absorb(&mut self, _: Revision, writes: &[Write]) -> Result<(), MachineError> {
        writes.iter().try_for_each(|write| self.take(write))?;
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
        let mut loaded = self.blank();
        records.iter().try_for_each(|write| loaded.take(write))?;
        *self = loaded;
        self.show();
        Ok(())
    }

    /// The start of the recent transactions and their incarnations, the time, the settled ids, and the
    /// records. Format 1, which is read too, has the newest revision, the time and the records.
    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = stamp_alone(self.recent.start()).to_vec();
        bytes.extend(self.time.as_millis().to_be_bytes());
        let mut list = |numbers: Vec<u64>| {
            bytes.extend((numbers.len() as u64).to_be_bytes());
            bytes.extend(numbers.into_iter().flat_map(u64::to_be_bytes));
        };
        list(self.recent.iter().map(|position| position.incarnation.0).collect());
        list(self.settled.iter().map(|id| id.0).collect());
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
        let mut restored = self.blank();
        let mut rest = snapshot;
        let of_format_1 = snapshot.first().is_some_and(|byte| byte & 0x80 == 0);
        restored.recent = RecentCommits::after(take_position(&mut rest).ok_or_else(cut)?);
        restored.time = Timestamp::from_millis(take_number(&mut rest).ok_or_else(cut)?);
        if !of_format_1 {
            for incarnation in take_list(&mut rest).ok_or_else(cut)? {
                restored.recent.push(Incarnation(incarnation));
            }
            restored.settled = take_list(&mut rest).ok_or_else(cut)?.into_iter().map(CommitId).collect();
        }
        while !rest.is_empty() {
            let key = take_part(&mut rest).and_then(|text| Key::new(std::str::from_utf8(text).ok()?).ok());
            let key = key.ok_or_else(cut)?;
            let value = Bytes::copy_from_slice(take_part(&mut rest).ok_or_else(cut)?);
            let record = unstamp(key.as_str(), &value)?;
            restored.records.insert(key, record);
        }
        *self = restored;
        self.show();
        Ok(())
    }

    fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.snapshot()).into()
    }
}

fn own_key(text: &str) -> Key {
    Key::new(text).expect("a valid key")
}

fn without_changes(outcome: &Outcome) -> Decision {
    Decision { outcome: encode_outcome(outcome), changes: Vec::new().into() }
}

fn read_settled(value: &[u8]) -> Result<SettledIds, MachineError> {
    let (ids, rest) = value.as_chunks::<8>();
    match rest.is_empty() {
        true => Ok(ids.iter().map(|id| CommitId(u64::from_be_bytes(*id))).collect()),
        false => Err(MachineError::malformed(format!("record {SETTLED}"), "it is no list of numbers")),
    }
}

fn take_list(rest: &mut &[u8]) -> Option<Vec<u64>> {
    let length = take_number(rest)?;
    // Nothing is reserved on the word of a length.
    (0..length).map(|_| take_number(rest)).collect()
}

fn take_part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_number(rest)?).ok()?;
    let (part, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StateStore as _;

    fn part(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u64).to_be_bytes()[..], bytes].concat()
    }

    #[tokio::test]
    async fn a_snapshot_of_format_1_is_restored_and_made_anew_in_format_2() {
        let stamped = [&7u64.to_be_bytes()[..], b"value"].concat();
        let numbers = [9u64, 5_000].map(u64::to_be_bytes).concat();
        let old = [numbers, part(b"k"), part(&stamped)].concat();
        let view: Arc<RwLock<Arc<MemoryStore>>> = Arc::default();
        let mut machine = KvMachine::new(view.clone());
        machine.restore(&old).unwrap();
        let at = |revision| Position::new(Revision(revision), Incarnation(0));
        assert_eq!((machine.recent.head(), machine.time), (at(9), Timestamp::from_millis(5_000)));
        let store = view.read().clone();
        let entry = store.get(&Key::new("k").unwrap()).await.unwrap().unwrap();
        assert_eq!((&entry.value[..], entry.version), (&b"value"[..], at(7)));

        machine.settled.insert(CommitId(3));
        machine.recent.push(Incarnation(4));
        let snapshot = machine.snapshot();
        let mut again = KvMachine::new(Arc::default());
        again.restore(&snapshot).unwrap();
        assert_eq!(again.digest(), machine.digest());
        assert!(again.settled.check(Some(CommitId(3))).is_err());
        assert_eq!(again.recent, machine.recent);
        for cut in [3, 12, 40, snapshot.len() - 1] {
            assert!(again.restore(&snapshot[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(again.digest(), machine.digest(), "what cannot be read changes nothing");
    }
}
