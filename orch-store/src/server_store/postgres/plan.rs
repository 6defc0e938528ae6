//! Plan of a commit group: transactions that one statement can decide together.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
};

use bytes::{Bytes, BytesMut};
use orch_core::store::{CommitError, CommitId, Guard, Key, Position, Txn, WatchBatch, Write};
use tokio_postgres::types::{IsNull, ToSql, Type, accepts, to_sql_checked};

/// Steps of one group. Transactions on one key that follow each other take one each.
const STEPS_MAX: usize = 16;

/// A group of transactions, cut into steps that follow each other. A transaction is in a later step than
/// those before it whose writes it looks at or writes over, so that all of a step are decided on the same
/// state.
#[derive(Default)]
pub(super) struct Plan {
    steps: Vec<Step>,
    /// The step after the last one that writes a key.
    free: HashMap<Key, usize>,
    count: usize,
    /// Only the database knows whether there is something to delete.
    deletes: bool,
    /// Some transaction may change nothing.
    quiet: bool,
}

/// Input of one call: lists of transactions, guards and writes, as the function `apply_step` takes
/// them.
#[derive(Default)]
pub(super) struct Step {
    /// Indices of its transactions in the group.
    indices: Vec<usize>,
    /// Their ids.
    commits: Vec<i64>,
    guards: Lists<Option<i64>>,
    guard_commits: Vec<Option<i64>>,
    writes: Lists<Option<Value>>,
}

/// Columns.
struct Lists<T, K = Text> {
    txns: Vec<i32>,
    keys: Vec<K>,
    values: Vec<T>,
}

/// Input of several steps, as the function `apply_steps` takes it.
#[derive(Default)]
pub(super) struct Steps<'a> {
    counts: Vec<i32>,
    guard_counts: Vec<i32>,
    write_counts: Vec<i32>,
    commits: Vec<i64>,
    guard_commits: Vec<Option<i64>>,
    guards: Lists<&'a Option<i64>, &'a Text>,
    writes: Lists<&'a Option<Value>, &'a Text>,
}

/// A key as PostgreSQL takes it.
#[derive(Debug)]
struct Text(Key);

/// A value as PostgreSQL takes it.
#[derive(Debug)]
struct Value(Bytes);

impl Plan {
    /// Adds a transaction unless it would take one step too many, which it says.
    /// Otherwise its writes are moved out of it.
    pub(super) fn add(&mut self, txn: &mut Txn) -> bool {
        let keys = || txn.guards.iter().map(Guard::key).chain(txn.writes.iter().map(|write| &write.key));
        let at = keys().filter_map(|key| self.free.get(key)).max().copied().unwrap_or(0);
        if at >= STEPS_MAX {
            return false;
        }
        if at == self.steps.len() {
            self.steps.push(Step::default());
        }
        self.quiet |= txn.writes.iter().all(|write| write.value.is_none());
        for write in &txn.writes {
            self.deletes |= write.value.is_none();
            self.free.insert(write.key.clone(), at + 1);
        }
        self.steps[at].add(self.count, std::mem::take(txn));
        self.count += 1;
        true
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Some transaction may change nothing: the database looks for that.
    pub(super) fn quiet(&self) -> &(dyn ToSql + Sync) {
        // A deletion in a transaction that writes something as well is looked for, too.
        if self.quiet || self.deletes { &true } else { &false }
    }

    /// Changes of the applied transactions, in the order of revisions; `None` when they are not known
    /// here.
    pub(super) fn into_batches(self, outcomes: &[Result<Position, CommitError>]) -> Option<Vec<WatchBatch>> {
        if self.deletes {
            return None;
        }
        let mut batches = BTreeMap::new();
        for step in self.steps {
            for at in step.indices.iter().filter_map(|index| outcomes[*index].as_ref().ok()) {
                batches.insert(at.revision, WatchBatch { position: *at, writes: Vec::new() });
            }
            let Lists { txns, keys, values } = step.writes;
            for ((txn, Text(key)), value) in txns.into_iter().zip(keys).zip(values) {
                let index = step.indices[usize::try_from(txn).unwrap_or(usize::MAX)];
                let at = outcomes[index].as_ref().ok();
                if let Some(batch) = at.and_then(|at| batches.get_mut(&at.revision)) {
                    batch.writes.push(Write { key, value: value.map(|Value(value)| value) });
                }
            }
        }
        Some(batches.into_values().collect())
    }

    /// Transactions.
    pub(super) fn len(&self) -> usize {
        self.count
    }
}

impl Step {
    /// The values of `$1` to `$8`.
    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 8] {
        let (guards, writes) = (&self.guards, &self.writes);
        [
            &self.commits,
            &guards.txns,
            &guards.keys,
            &guards.values,
            &self.guard_commits,
            &writes.txns,
            &writes.keys,
            &writes.values,
        ]
    }

    /// Id of the transaction with this number.
    pub(super) fn id_of(&self, txn: usize) -> CommitId {
        CommitId(self.commits[txn].cast_unsigned())
    }

    /// Index in the group of the transaction with this number.
    pub(super) fn index_of(&self, txn: usize) -> usize {
        self.indices[txn]
    }

    /// The key of a guard, counted from one.
    pub(super) fn guard(&self, number: i64) -> &Key {
        &self.guards.keys[usize::try_from(number - 1).unwrap_or(0)].0
    }

    fn add(&mut self, index: usize, txn: Txn) {
        let number = length(&self.commits);
        self.commits.push(txn.id.unwrap_or_else(CommitId::random).0.cast_signed());
        for guard in &txn.guards {
            let (version, commit) = match guard {
                Guard::Absent(_) => (None, None),
                // One that nothing has: no record was written by a revision below zero.
                Guard::Version(_, Position { revision, incarnation }) => {
                    (Some(i64::try_from(revision.0).unwrap_or(-1)), Some(incarnation.0.cast_signed()))
                }
            };
            self.guards.push(number, guard.key().clone(), version);
            self.guard_commits.push(commit);
        }
        for (key, value) in txn.into_net_writes() {
            self.writes.push(number, key, value.map(Value));
        }
        self.indices.push(index);
    }
}

impl<'a> Steps<'a> {
    /// The lists of these steps, one after the other.
    pub(super) fn of(steps: &'a [Step]) -> Self {
        let mut all = Self::default();
        for step in steps {
            all.counts.push(length(&step.commits));
            all.guard_counts.push(length(&step.guards.txns));
            all.write_counts.push(length(&step.writes.txns));
            all.commits.extend(&step.commits);
            all.guard_commits.extend(&step.guard_commits);
            all.guards.extend(&step.guards);
            all.writes.extend(&step.writes);
        }
        all
    }

    /// The values of `$1` to `$11`.
    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 11] {
        let (guards, writes) = (&self.guards, &self.writes);
        [
            &self.counts,
            &self.guard_counts,
            &self.write_counts,
            &self.commits,
            &guards.txns,
            &guards.keys,
            &guards.values,
            &self.guard_commits,
            &writes.txns,
            &writes.keys,
            &writes.values,
        ]
    }
}

fn length<T>(list: &[T]) -> i32 {
    i32::try_from(list.len()).unwrap_or(i32::MAX)
}

impl<T, K> Default for Lists<T, K> {
    fn default() -> Self {
        Self { txns: Vec::new(), keys: Vec::new(), values: Vec::new() }
    }
}

impl<'a, T> Lists<&'a T, &'a Text> {
    fn extend(&mut self, other: &'a Lists<T>) {
        self.txns.extend(&other.txns);
        self.keys.extend(&other.keys);
        self.values.extend(&other.values);
    }
}

impl<T> Lists<T> {
    fn push(&mut self, txn: i32, key: Key, value: T) {
        self.txns.push(txn);
        self.keys.push(Text(key));
        self.values.push(value);
    }
}

impl ToSql for Text {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.0.as_str().to_sql(ty, out)
    }

    accepts!(TEXT);
    to_sql_checked!();
}

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        (&*self.0).to_sql(ty, out)
    }

    accepts!(BYTEA);
    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn steps(txns: &[(&[&str], &[&str])]) -> (Vec<Vec<usize>>, usize) {
        let mut plan = Plan::default();
        let added = txns.iter().take_while(|(guards, writes)| {
            let writes = writes.iter().map(|name| Write::put(key(name), "")).collect();
            let guards = guards.iter().map(|name| Guard::Absent(key(name))).collect();
            plan.add(&mut Txn { guards, ..Txn::of(writes) })
        });
        let added = added.count();
        (plan.steps().iter().map(|step| step.indices.clone()).collect(), added)
    }

    #[test]
    fn transactions_that_do_not_touch_share_a_step() {
        let (steps, _) = steps(&[(&[], &["a"]), (&["b"], &["b"]), (&["c"], &[]), (&["c"], &["d"])]);
        assert_eq!(steps, [[0, 1, 2, 3]]);
    }

    #[test]
    fn who_looks_at_or_overwrites_an_earlier_write_comes_later() {
        let txns: [(&[&str], &[&str]); 6] = [
            (&["a"], &["a"]),
            (&["a"], &["a"]),
            (&["x"], &["b"]),
            (&["b"], &["a"]),
            (&["z"], &["x"]),
            (&[], &["a"]),
        ];
        // The third looks at x before the fifth writes it: both on the same state.
        assert_eq!(steps(&txns).0, [vec![0, 2, 4], vec![1], vec![3], vec![5]]);
    }

    #[test]
    fn a_group_ends_where_it_would_take_too_many_steps() {
        let same: (&[&str], &[&str]) = (&["a"], &["a"]);
        let (steps, added) = steps(&[same; 20]);
        assert_eq!((steps.len(), added), (STEPS_MAX, STEPS_MAX));
    }
}
