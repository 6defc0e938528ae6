use std::collections::BTreeSet;
use std::fmt::{self, Debug};

use super::{Event, OpId, Operation, Part};

/// Of the operations before the one that fits nowhere, this many are shown.
const SHOWN_OPERATIONS: usize = 20;
const SHOWN_STATES: usize = 8;

/// Proof that a history is not linearizable: the first return that no order of the operations explains, given
/// also what the operations that overlap it returned later. Operations that were called after it do not
/// matter.
#[derive(Clone, Debug)]
pub struct Violation {
    partition: u64,
    operation: OpId,
    stuck: String,
    prefix: Vec<String>,
    states: Vec<String>,
}

impl Violation {
    /// The partition to which the operations belong.
    pub fn partition(&self) -> u64 {
        self.partition
    }

    /// The operation whose return fits nowhere.
    pub fn operation(&self) -> OpId {
        self.operation
    }

    /// The operations of the partition that were called before that return, in the order of their calls and
    /// without the operation itself, in words.
    pub fn prefix(&self) -> &[String] {
        &self.prefix
    }

    /// Some of the states that the partition could be in before that return, in words.
    pub fn states(&self) -> &[String] {
        &self.states
    }

    /// `stuck` is the index of the return in the events of the partition.
    pub(super) fn new<In: Debug, Out: Debug, State: Debug>(
        part: &Part<'_, In, Out>,
        stuck: usize,
        states: impl IntoIterator<Item = State>,
    ) -> Self {
        let (Event::Return(last) | Event::Call(last)) = part.events[stuck];
        let (operation, last) = part.operations[last];
        let prefix = part.events[..stuck]
            .iter()
            .filter_map(|event| match event {
                Event::Call(index) => Some(part.operations[*index]),
                Event::Return(_) => None,
            })
            .filter(|(id, _)| *id != operation)
            .map(|(id, earlier)| describe(id, earlier))
            .collect();
        let states: BTreeSet<String> = states.into_iter().map(|state| format!("{state:?}")).collect();
        Self {
            partition: part.key,
            operation,
            stuck: describe(operation, last),
            prefix,
            states: states.into_iter().take(SHOWN_STATES).collect(),
        }
    }
}

fn describe<In: Debug, Out: Debug>(id: OpId, operation: &Operation<In, Out>) -> String {
    let Operation { client, called: (called, _), input, returned } = operation;
    let OpId(id) = id;
    match returned {
        Some(returned) => {
            let (at, output) = (returned.at.0, &returned.output);
            format!("#{id} client {client} [{called:?} .. {at:?}] {input:?} -> {output:?}")
        }
        None => format!("#{id} client {client} [{called:?} .. ] {input:?} -> never returned"),
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "partition {} is not linearizable; no order explains", self.partition)?;
        writeln!(f, "  {}", self.stuck)?;
        writeln!(f, "where the state could have been {}, after", self.states.join(" or "))?;
        let hidden = self.prefix.len().saturating_sub(SHOWN_OPERATIONS);
        if hidden > 0 {
            writeln!(f, "  ({hidden} earlier operations)")?;
        }
        for line in &self.prefix[hidden..] {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}
