//! Changes of a revision, and the segment from which they can be read again.

use orch_base::codec::{Input, Malformed, put_list};
use orch_core::store::{Revision, Write};

use super::segment::SegmentKey;

/// Changes of a revision in the view, in byte order of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its number, local to this replica.
    pub revision: Revision,
    /// Writes that readers observe.
    pub writes: Vec<Write>,
    /// Segment that holds them, so that a history need not store them once more.
    pub(super) kept: Option<Kept>,
}

/// The writes of a revision, as entries of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// The segment.
    pub(super) at: SegmentKey,
    /// Entries of that segment.
    pub(super) leaves: Leaves,
    /// Those that it does not have, because a later transaction has overwritten them in the same segment.
    pub(super) rest: Vec<Write>,
}

/// Places among the leaves of a segment's tree, in ascending order: runs with their first and their last one.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Leaves(Vec<(u16, u16)>);

impl Applied {
    /// Nothing yet.
    pub(super) fn new(revision: Revision, at: Option<SegmentKey>) -> Self {
        let kept = at.map(|at| Kept { at, leaves: Leaves::default(), rest: Vec::new() });
        Self { revision, writes: Vec::new(), kept }
    }
}

impl Leaves {
    /// Adds a leaf after those that are there. A segment has at most 65,536.
    pub(super) fn push(&mut self, leaf: usize) {
        let leaf = u16::try_from(leaf).expect("the entries of a segment are bounded");
        match self.0.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(leaf) => *last = leaf,
            _ => self.0.push((leaf, leaf)),
        }
    }

    /// Takes those away that come before this leaf, and says whether it is among the others. To be asked in
    /// ascending order.
    pub(super) fn take(&mut self, leaf: usize) -> bool {
        let passed = self.0.iter().take_while(|(_, last)| usize::from(*last) < leaf).count();
        self.0.drain(..passed);
        self.0.first().is_some_and(|(first, _)| usize::from(*first) <= leaf)
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_list(&self.0, out, |(first, last), out| {
            out.extend(first.to_le_bytes());
            out.extend(last.to_le_bytes());
        });
    }

    pub(super) fn read(input: &mut Input) -> Result<Self, Malformed> {
        input.list(4, usize::from(u16::MAX) + 1, |input| Ok((input.u16()?, input.u16()?))).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_are_found_again() {
        let chosen: Vec<usize> = vec![0, 1, 2, 7, 9, 10, 65_534, 65_535];
        let mut leaves = Leaves::default();
        chosen.iter().for_each(|leaf| leaves.push(*leaf));
        let mut bytes = Vec::new();
        leaves.put(&mut bytes);
        assert_eq!(bytes.len(), 4 + 4 * 4, "neighbours share a run");
        let mut read = Leaves::read(&mut Input(bytes.into())).unwrap();
        assert_eq!(read, leaves);
        let found: Vec<_> = (0..65_536).filter(|leaf| read.take(*leaf)).collect();
        assert_eq!(found, chosen);
    }
}
