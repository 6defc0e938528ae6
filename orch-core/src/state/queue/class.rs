//! [`Class`]: waiting shapes that differ in cpu and memory alone, found by what is left of a node.

use super::{Size, Waiting};
use crate::{model::TaskId, state::queue::Rank};

/// Shapes in order of their sizes, in chunks with a summary each. A search passes over the chunks that hold nothing small
/// enough, or nothing that goes first.
#[derive(Debug, Default)]
pub(super) struct Class {
    chunks: Vec<Chunk>,
}

#[derive(Debug)]
struct Chunk {
    /// In order of sizes; never empty.
    shapes: Vec<(Size, Waiting)>,
    least_memory: u64,
    first: (Rank, TaskId),
}

/// A chunk with more shapes is split.
const CHUNK_MAX: usize = 128;

impl Class {
    pub(super) fn insert(&mut self, size: Size, entry: (Rank, TaskId)) {
        if self.chunks.is_empty() {
            self.chunks.push(Chunk::new(vec![(size, Waiting::from([entry]))]));
            return;
        }
        let at = self.chunk_of(size);
        let chunk = &mut self.chunks[at];
        match chunk.find(size) {
            Ok(shape) => drop(chunk.shapes[shape].1.insert(entry)),
            Err(shape) => chunk.shapes.insert(shape, (size, Waiting::from([entry]))),
        }
        chunk.least_memory = chunk.least_memory.min(size.memory_bytes);
        chunk.first = chunk.first.min(entry);
        if chunk.shapes.len() > CHUNK_MAX {
            let rest = chunk.shapes.split_off(CHUNK_MAX / 2);
            chunk.summarise();
            self.chunks.insert(at + 1, Chunk::new(rest));
        }
    }

    pub(super) fn remove(&mut self, size: Size, entry: &(Rank, TaskId)) {
        if self.chunks.is_empty() {
            return;
        }
        let at = self.chunk_of(size);
        let chunk = &mut self.chunks[at];
        let Ok(shape) = chunk.find(size) else { return };
        chunk.shapes[shape].1.remove(entry);
        if chunk.shapes[shape].1.is_empty() {
            chunk.shapes.remove(shape);
        }
        match chunk.shapes.is_empty() {
            true => drop(self.chunks.remove(at)),
            false if chunk.first == *entry || chunk.least_memory == size.memory_bytes => chunk.summarise(),
            false => {}
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub(super) fn get(&self, size: Size) -> Option<&Waiting> {
        let chunk = self.chunks.get(self.chunk_of(size))?;
        chunk.find(size).ok().map(|shape| &chunk.shapes[shape].1)
    }

    /// The first task of all. The class must not be empty.
    pub(super) fn first(&self) -> (Rank, TaskId) {
        self.chunks.iter().map(|chunk| chunk.first).min().expect("a class that waits has tasks")
    }

    /// The first task of a shape that fits into `free` and is not to be skipped, if it goes before `before`.
    pub(super) fn first_fit(
        &self,
        free: Size,
        before: Option<(Rank, TaskId)>,
        skip: impl Fn(Size) -> bool,
    ) -> Option<((Rank, TaskId), Size)> {
        let mut first = None;
        let mut bound = before;
        for chunk in self.chunks.iter().take_while(|chunk| chunk.shapes[0].0.cpu_millis <= free.cpu_millis) {
            let goes_first = |entry: (Rank, TaskId)| bound.is_none_or(|bound| entry < bound);
            if chunk.least_memory > free.memory_bytes || !goes_first(chunk.first) {
                continue;
            }
            for (size, waiting) in &chunk.shapes {
                let Some(entry) = waiting.first().copied() else { continue };
                if size.fits(free) && bound.is_none_or(|bound| entry < bound) && !skip(*size) {
                    first = Some((entry, *size));
                    bound = Some(entry);
                }
            }
        }
        first
    }

    /// The chunk that a size belongs to; 0 when there is none.
    fn chunk_of(&self, size: Size) -> usize {
        self.chunks.partition_point(|chunk| chunk.shapes[0].0 <= size).saturating_sub(1)
    }
}

impl Chunk {
    fn new(shapes: Vec<(Size, Waiting)>) -> Self {
        let first = *shapes[0].1.first().expect("a shape that waits has tasks");
        let mut chunk = Self { shapes, least_memory: 0, first };
        chunk.summarise();
        chunk
    }

    fn find(&self, size: Size) -> Result<usize, usize> {
        self.shapes.binary_search_by_key(&size, |(size, _)| *size)
    }

    fn summarise(&mut self) {
        let memory = self.shapes.iter().map(|(size, _)| size.memory_bytes);
        self.least_memory = memory.min().expect("a chunk has shapes");
        let first = self.shapes.iter().filter_map(|(_, waiting)| waiting.first().copied());
        self.first = first.min().expect("a shape that waits has tasks");
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
