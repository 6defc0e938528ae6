//! Positions of the newest transactions, by which outcomes are found.

use std::collections::VecDeque;

use crate::store::{Incarnation, Position, Revision};

/// Transactions whose outcome can be asked for, the newest.
const KEEP: usize = 4096;

/// The positions after `start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecentCommits {
    start: Position,
    incarnations: VecDeque<Incarnation>,
}

impl RecentCommits {
    /// Nothing is known of what was before `start`.
    pub(super) fn after(start: Position) -> Self {
        Self { start, incarnations: VecDeque::new() }
    }

    pub(super) fn start(&self) -> Position {
        self.start
    }

    /// The newest position.
    pub(super) fn head(&self) -> Position {
        self.iter().next_back().unwrap_or(self.start)
    }

    pub(super) fn push(&mut self, incarnation: Incarnation) -> Position {
        self.incarnations.push_back(incarnation);
        self.head()
    }

    /// Takes the newest back.
    pub(super) fn pop(&mut self) {
        self.incarnations.pop_back();
    }

    /// Forgets the oldest.
    pub(super) fn trim(&mut self) {
        while self.incarnations.len() > KEEP {
            let next = self.iter().next().unwrap_or(self.start);
            self.incarnations.pop_front();
            self.start = next;
        }
    }

    /// Positions from the oldest to the newest.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = Position> {
        let first = self.start.revision.0 + 1;
        let at = move |(index, known): (usize, &Incarnation)| {
            Position::new(Revision(first + index as u64), *known)
        };
        self.incarnations.iter().enumerate().map(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_and_the_newest_can_be_taken_back() {
        let mut recent = RecentCommits::after(Position::ZERO);
        for n in 1..=4098 {
            assert_eq!(recent.push(Incarnation(n)), Position::new(Revision(n), Incarnation(n)));
        }
        recent.pop();
        recent.trim();
        assert_eq!(recent.start(), Position::new(Revision(1), Incarnation(1)));
        assert_eq!(recent.head(), Position::new(Revision(4097), Incarnation(4097)));
        assert_eq!(recent.iter().count(), KEEP);
    }
}
