//! [`Class`]: waiting shapes that differ in cpu and memory alone, searched by the free resources of a node.

use super::{Size, Waiting};
use crate::{model::TaskId, state::queue::Rank};

/// Shapes in order of their sizes, in chunks with a summary each, and a tree over the summaries. A search
/// skips subtrees without a shape that is small enough or goes first.
#[derive(Debug, Default)]
pub(super) struct Class {
    chunks: Vec<Chunk>,
    tree: Tree,
}

#[derive(Debug)]
struct Chunk {
    /// Lines in order of sizes; never empty.
    lines: Vec<Line>,
    summary: Summary,
}

/// The tasks of one size.
#[derive(Debug)]
struct Line {
    size: Size,
    /// First of those that wait; kept here, so that a scan of many lines stays in one region of memory.
    first: (Rank, TaskId),
    waiting: Waiting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Summary {
    least_memory: u64,
    first: (Rank, TaskId),
}

/// Number of shapes above which a chunk is split.
const CHUNK_MAX: usize = 128;

impl Class {
    pub(super) fn insert(&mut self, size: Size, entry: (Rank, TaskId)) {
        if self.chunks.is_empty() {
            self.chunks.push(Chunk::new(vec![Line::new(size, entry)]));
            return self.tree.build(&self.chunks);
        }
        let at = self.chunk_of(size);
        let chunk = &mut self.chunks[at];
        match chunk.find(size) {
            Ok(at) => chunk.lines[at].insert(entry),
            Err(at) => chunk.lines.insert(at, Line::new(size, entry)),
        }
        chunk.summary = chunk.summary.with(Summary { least_memory: size.memory_bytes, first: entry });
        if chunk.lines.len() > CHUNK_MAX {
            let rest = chunk.lines.split_off(CHUNK_MAX / 2);
            chunk.summarise();
            self.chunks.insert(at + 1, Chunk::new(rest));
            self.tree.build(&self.chunks);
        } else {
            self.tree.set(at, chunk.summary);
        }
    }

    pub(super) fn remove(&mut self, size: Size, entry: &(Rank, TaskId)) {
        if self.chunks.is_empty() {
            return;
        }
        let at = self.chunk_of(size);
        let chunk = &mut self.chunks[at];
        let Ok(line) = chunk.find(size) else { return };
        if !chunk.lines[line].remove(entry) {
            chunk.lines.remove(line);
        }
        if chunk.lines.is_empty() {
            self.chunks.remove(at);
            self.tree.build(&self.chunks);
        } else if chunk.summary.first == *entry || chunk.summary.least_memory == size.memory_bytes {
            chunk.summarise();
            self.tree.set(at, chunk.summary);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub(super) fn get(&self, size: Size) -> Option<&Waiting> {
        let chunk = self.chunks.get(self.chunk_of(size))?;
        chunk.find(size).ok().map(|line| &chunk.lines[line].waiting)
    }

    /// First task of the whole class, which must not be empty.
    pub(super) fn first(&self) -> (Rank, TaskId) {
        self.tree.whole().expect("a class that waits has tasks").first
    }

    /// First task of a shape that fits into `free` and is not to be skipped, if it goes before `before`.
    pub(super) fn first_fit(
        &self,
        free: Size,
        before: Option<(Rank, TaskId)>,
        skip: impl Fn(Size) -> bool,
    ) -> Option<((Rank, TaskId), Size)> {
        let small_enough =
            self.chunks.partition_point(|chunk| chunk.lines[0].size.cpu_millis <= free.cpu_millis);
        let (mut first, mut bound) = (None, before);
        self.tree.visit(small_enough, |summary, chunk| {
            if summary.least_memory > free.memory_bytes || bound.is_some_and(|bound| summary.first >= bound) {
                return false;
            }
            for line in chunk.map_or(&[][..], |at| &self.chunks[at].lines) {
                let goes_first = bound.is_none_or(|bound| line.first < bound);
                if goes_first && line.size.fits(free) && !skip(line.size) {
                    (first, bound) = (Some((line.first, line.size)), Some(line.first));
                }
            }
            true
        });
        first
    }

    /// Index of the chunk that a size belongs to; 0 when there is none.
    fn chunk_of(&self, size: Size) -> usize {
        self.chunks.partition_point(|chunk| chunk.lines[0].size <= size).saturating_sub(1)
    }
}

impl Chunk {
    fn new(lines: Vec<Line>) -> Self {
        let summary = Summary::of(&lines);
        Self { lines, summary }
    }

    fn find(&self, size: Size) -> Result<usize, usize> {
        self.lines.binary_search_by_key(&size, |line| line.size)
    }

    fn summarise(&mut self) {
        self.summary = Summary::of(&self.lines);
    }
}

impl Line {
    fn new(size: Size, entry: (Rank, TaskId)) -> Self {
        Self { size, first: entry, waiting: Waiting::from([entry]) }
    }

    fn insert(&mut self, entry: (Rank, TaskId)) {
        self.waiting.insert(entry);
        self.first = self.first.min(entry);
    }

    /// Returns whether any are left.
    fn remove(&mut self, entry: &(Rank, TaskId)) -> bool {
        self.waiting.remove(entry);
        self.first = self.waiting.first().copied().unwrap_or(self.first);
        !self.waiting.is_empty()
    }
}

impl Summary {
    fn of(lines: &[Line]) -> Self {
        let each = lines.iter().map(|line| Self { least_memory: line.size.memory_bytes, first: line.first });
        each.reduce(Self::with).expect("a chunk has lines")
    }

    fn with(self, other: Self) -> Self {
        Self { least_memory: self.least_memory.min(other.least_memory), first: self.first.min(other.first) }
    }
}

/// Summaries of the chunks and of runs of them: a binary tree in an array. The root is 1, and the children of
/// `n` are `2n` and `2n + 1`; the chunks are the last level.
#[derive(Debug, Default)]
struct Tree {
    nodes: Vec<Option<Summary>>,
}

impl Tree {
    fn build(&mut self, chunks: &[Chunk]) {
        let leaves = chunks.len().next_power_of_two();
        self.nodes.clear();
        self.nodes.resize(2 * leaves, None);
        for (node, chunk) in self.nodes[leaves..].iter_mut().zip(chunks) {
            *node = Some(chunk.summary);
        }
        (1..leaves).rev().for_each(|node| self.nodes[node] = self.below(node));
    }

    fn set(&mut self, chunk: usize, summary: Summary) {
        let mut node = self.leaves() + chunk;
        self.nodes[node] = Some(summary);
        while node > 1 {
            node /= 2;
            self.nodes[node] = self.below(node);
        }
    }

    fn whole(&self) -> Option<Summary> {
        *self.nodes.get(1)?
    }

    /// Visits runs of the chunks before `end`, and descends into those for which `look` returns true, first
    /// where a task goes first. A run of one chunk is passed with its number.
    fn visit(&self, end: usize, mut look: impl FnMut(Summary, Option<usize>) -> bool) {
        let leaves = self.leaves();
        // A node with the number of its first chunk and the count of its leaves.
        let mut next = vec![(1, 0, leaves)];
        while let Some((node, start, width)) = next.pop() {
            let Some(summary) = self.nodes.get(node).copied().flatten().filter(|_| start < end) else {
                continue;
            };
            if !look(summary, (width == 1).then_some(start)) || width == 1 {
                continue;
            }
            let half = width / 2;
            let (left, right) = ((2 * node, start, half), (2 * node + 1, start + half, half));
            let first = |node: usize| self.nodes[node].map(|summary| summary.first);
            let right_first =
                first(right.0).is_some_and(|right| first(left.0).is_none_or(|left| right < left));
            next.extend(if right_first { [left, right] } else { [right, left] });
        }
    }

    fn below(&self, node: usize) -> Option<Summary> {
        match (self.nodes[2 * node], self.nodes[2 * node + 1]) {
            (Some(left), Some(right)) => Some(left.with(right)),
            (left, right) => left.or(right),
        }
    }

    fn leaves(&self) -> usize {
        self.nodes.len() / 2
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use proptest::prelude::*;

    use super::*;

    fn entry(number: u64) -> (Rank, TaskId) {
        (
            (Reverse(i32::try_from(number % 3).unwrap()), number),
            TaskId::from_bytes(u128::from(number).to_be_bytes()),
        )
    }

    proptest! {
        /// The same as a look at every shape.
        #[test]
        fn a_search_finds_what_a_scan_finds(
            sizes in prop::collection::vec((0..40u64, 0..40u64), 1..600),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..300),
            free in (0..45u64, 0..45u64),
            skipped in 0..5u64,
        ) {
            let size = |(cpu_millis, memory_bytes)| Size { cpu_millis, memory_bytes };
            let mut class = Class::default();
            let mut all: Vec<_> = (0..).zip(&sizes).map(|(number, at)| (entry(number), size(*at))).collect();
            all.iter().for_each(|(entry, size)| class.insert(*size, *entry));
            for index in removed {
                if all.len() > 1 {
                    let (entry, size) = all.swap_remove(index.index(all.len()));
                    class.remove(size, &entry);
                }
            }
            let skip = |size: Size| size.cpu_millis % 7 == skipped;
            let heads = |of: Size| all.iter().filter(|(_, size)| *size == of).map(|(entry, _)| *entry).min();
            let fits = all.iter().filter(|(_, size)| size.fits(self::size(free)) && !skip(*size));
            let expected = fits.min().map(|(entry, size)| (*entry, *size));
            prop_assert_eq!(class.first_fit(self::size(free), None, skip), expected);
            for (_, size) in &all {
                prop_assert_eq!(class.get(*size).and_then(|waiting| waiting.first().copied()), heads(*size));
            }
            let (first, _) = all.iter().min().unwrap();
            prop_assert_eq!(class.first(), *first);
        }
    }

    fn size((cpu_millis, memory_bytes): (u64, u64)) -> Size {
        Size { cpu_millis, memory_bytes }
    }
}
