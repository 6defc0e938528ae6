//! Histories of operations, and checkers of their linearizability.
//!
//! A [`History`] records when clients asked and what they were returned. [`wing_gong_lowe`] and
//! [`just_in_time`] say whether it is linearizable (Herlihy and Wing, 1990): whether each operation can be
//! given one moment between its call and its return such that a [`Model`], applied in that order, answers the
//! same. The two share only the sorting of the history and the comparison of one answer with the model's, so
//! that each can be tested against the other.
//!
//! Both take the data apart by [`Model::partition`] first, since a history is linearizable when its
//! restriction to each independent object is (Herlihy and Wing, 1990; "P-compositionality" in Horn and
//! Kroening, "Faster linearizability checking via P-compositionality", 2015).

mod just_in_time;
mod key_value;
mod violation;
mod wing_gong_lowe;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

pub use just_in_time::just_in_time;
pub use key_value::{KeyValue, KeyValueInput, KeyValueOutput};
pub use violation::Violation;
pub use wing_gong_lowe::wing_gong_lowe;

/// The data as if there were one copy of it, and one operation at a time.
pub trait Model {
    /// State of one partition of the data.
    type State: Clone + Eq + Hash + Debug;
    /// Input of an operation.
    type Input: Debug;
    /// Output of an operation.
    type Output: Eq + Debug;

    /// The state of each partition before any operation.
    fn initial(&self) -> Self::State;

    /// State and output after an operation. MUST depend on nothing else.
    fn apply(&self, state: &Self::State, input: &Self::Input) -> (Self::State, Self::Output);

    /// Partition of the data that an operation reads and writes, for instance its key. Operations of
    /// different partitions MUST NOT see each other. A model that cannot be taken apart returns the same
    /// number for all.
    fn partition(&self, input: &Self::Input) -> u64;
}

/// An operation of one [`History`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(usize);

/// The operations of all clients: what they asked, what they were returned, and when.
///
/// An operation that was never completed may have happened at any time after its call, or not at all. What
/// has the same time is ordered as it was recorded.
#[derive(Clone, Debug)]
pub struct History<In, Out> {
    operations: Vec<Operation<In, Out>>,
    /// Counts calls and returns, to order those of the same time.
    recorded: u64,
}

#[derive(Clone, Debug)]
struct Operation<In, Out> {
    client: u64,
    called: (Duration, u64),
    input: In,
    returned: Option<Returned<Out>>,
}

#[derive(Clone, Debug)]
struct Returned<Out> {
    at: (Duration, u64),
    output: Out,
}

/// The operations of one partition, and their calls and returns in the order of time.
struct Part<'h, In, Out> {
    key: u64,
    operations: Vec<(OpId, &'h Operation<In, Out>)>,
    events: Vec<Event>,
}

/// The number is an index into the operations of the partition.
#[derive(Clone, Copy, Debug)]
enum Event {
    Call(usize),
    Return(usize),
}

impl<In, Out> Default for History<In, Out> {
    fn default() -> Self {
        Self { operations: Vec::new(), recorded: 0 }
    }
}

impl<In, Out> History<In, Out> {
    /// Without operations.
    pub fn new() -> Self {
        Self::default()
    }

    /// A client asks. The client's number is only for people who read a [`Violation`].
    pub fn invoke(&mut self, client: u64, time: Duration, input: In) -> OpId {
        self.recorded += 1;
        self.operations.push(Operation { client, called: (time, self.recorded), input, returned: None });
        OpId(self.operations.len() - 1)
    }

    /// The client is returned.
    ///
    /// # Panics
    /// If the operation is not of this history, was completed before, or ends before it began.
    pub fn complete(&mut self, operation: OpId, time: Duration, output: Out) {
        self.recorded += 1;
        let at = (time, self.recorded);
        let operation = &mut self.operations[operation.0];
        assert!(operation.returned.is_none(), "an operation is completed once");
        assert!(operation.called < at, "an operation ends after it began");
        operation.returned = Some(Returned { at, output });
    }

    /// The number of operations, completed or not.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// True without any operation.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The number of operations that were completed.
    pub fn completed(&self) -> usize {
        self.operations.iter().filter(|operation| operation.returned.is_some()).count()
    }

    fn parts(&self, partition: impl Fn(&In) -> u64) -> impl Iterator<Item = Part<'_, In, Out>> {
        let mut parts: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        for (index, operation) in self.operations.iter().enumerate() {
            parts.entry(partition(&operation.input)).or_default().push((OpId(index), operation));
        }
        parts.into_iter().map(|(key, operations)| {
            let mut events: Vec<_> = Vec::with_capacity(2 * operations.len());
            for (index, (_, operation)) in operations.iter().enumerate() {
                events.push((operation.called, Event::Call(index)));
                if let Some(returned) = &operation.returned {
                    events.push((returned.at, Event::Return(index)));
                }
            }
            events.sort_unstable_by_key(|(at, _)| *at);
            Part { key, operations, events: events.into_iter().map(|(_, event)| event).collect() }
        })
    }
}

/// State after an operation, or `None` if that cannot be: its output was another. An operation that never
/// returned and changes nothing is left out, since nothing shows whether it happened.
fn apply<M: Model>(
    model: &M,
    state: &M::State,
    operation: &Operation<M::Input, M::Output>,
) -> Option<M::State> {
    let (next, output) = model.apply(state, &operation.input);
    match &operation.returned {
        Some(returned) => returned.output == output,
        None => next != *state,
    }
    .then_some(next)
}
