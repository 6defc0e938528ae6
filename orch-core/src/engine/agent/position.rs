//! [`Position`]: an agent's position in the assignments of its node.

use crate::{
    engine::link::{Assignments, AssignmentsQuery, Cursor},
    model::AttemptId,
    store::Revision,
};

/// Position of the next query. A complete answer may come in parts, each computed from a state of its own;
/// changes since the first part are asked for once all are there.
#[derive(Debug, Default)]
pub(super) struct Position {
    after: Option<Cursor>,
    /// While parts are missing.
    part: Option<Part>,
}

#[derive(Debug)]
struct Part {
    first: Cursor,
    specs_after: AttemptId,
}

impl Position {
    pub(super) fn query(&self, at_least: Revision) -> AssignmentsQuery {
        let specs_after = self.part.as_ref().map(|part| part.specs_after);
        AssignmentsQuery { after: self.after, specs_after, at_least }
    }

    /// Moves behind an answer.
    pub(super) fn advance(&mut self, answer: &Assignments) {
        let first = self.part.take().map_or(answer.cursor, |part| part.first);
        let last = answer.run.last().filter(|_| answer.complete && answer.more);
        match last.map(|last| last.attempt) {
            Some(specs_after) => (self.after, self.part) = (None, Some(Part { first, specs_after })),
            None if answer.complete => self.after = Some(first),
            None => self.after = Some(answer.cursor),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::{
        engine::link::Assignment,
        model::{SharedSpec, TaskId, TaskSpec},
    };

    fn attempt(number: u8) -> AttemptId {
        AttemptId { task: TaskId::from_bytes([number; 16]), attempt: NonZeroU32::MIN }
    }

    fn answer(position: u64, complete: bool, run: &[u8], more: bool) -> Assignments {
        let spec = SharedSpec::from(TaskSpec::program("t", "true"));
        let run = run.iter().map(|number| Assignment {
            attempt: attempt(*number),
            spec: spec.clone(),
            started: false,
        });
        let cursor = Cursor { epoch: 1, position };
        Assignments { run: run.collect(), more, ..Assignments::new(cursor, Revision(position), complete) }
    }

    #[test]
    fn changes_are_asked_for_since_the_first_part_of_a_complete_answer() {
        let mut position = Position::default();
        position.advance(&answer(5, true, &[1, 2], true));
        let query = position.query(Revision(5));
        assert_eq!((query.after, query.specs_after), (None, Some(attempt(2))));
        position.advance(&answer(7, true, &[3], true));
        assert_eq!(position.query(Revision(7)).specs_after, Some(attempt(3)));
        position.advance(&answer(9, true, &[4], false));
        let query = position.query(Revision(9));
        assert_eq!((query.after, query.specs_after), (Some(Cursor { epoch: 1, position: 5 }), None));
        position.advance(&answer(11, false, &[5], false));
        assert_eq!(position.query(Revision(11)).after.unwrap().position, 11);
    }

    #[test]
    fn a_part_without_specs_is_the_last_one() {
        let mut position = Position::default();
        position.advance(&answer(5, true, &[], true));
        assert_eq!(position.query(Revision(5)).after.unwrap().position, 5, "it would be asked for for ever");
    }
}
