//! The segments of a directory and the index of what is in them. Everything here blocks.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::{debug, warn};

use super::{
    FileOutputConfig,
    record::{Header, size_of_record},
    segment::{Found, Location, START, Segment, number_of, read_chunk},
};
use crate::{
    model::{AttemptId, TaskId, Timestamp},
    output::{
        KeptOutput, NewOutput, OutputError, OutputPage, OutputPosition,
        chunks::{PAGE_BYTES, cost},
        index::{Chunk, Fresh, Index},
    },
};

#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    segment_bytes: u64,
    index: Index<Location>,
    /// By number. Records go to the last one, while it is open.
    segments: BTreeMap<u64, Segment>,
    next_segment: u64,
    /// True if the last segment takes more records.
    open: bool,
    /// Bytes that the disk still takes, for tests.
    #[cfg(test)]
    pub(super) capacity: Option<Arc<std::sync::atomic::AtomicU64>>,
}

/// Locations of the chunks of a page. They can be read from there whatever happens to the log meanwhile.
pub(super) struct Lookup {
    chunks: Vec<(OutputPosition, Chunk<Location>, Arc<File>, PathBuf)>,
    more: bool,
}

impl Log {
    /// Finds what is in the directory. What cannot be read is left out with a warning.
    pub(super) fn open(config: &FileOutputConfig) -> Result<Self, OutputError> {
        let dir = &config.dir;
        let mut log = Self {
            dir: dir.clone(),
            segment_bytes: config.segment_bytes(),
            index: Index::new(config.bytes_max),
            segments: BTreeMap::new(),
            next_segment: 0,
            open: false,
            #[cfg(test)]
            capacity: None,
        };
        let mut numbers: Vec<(u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(dir).map_err(OutputError::file("reading", dir))? {
            let path = entry.map_err(OutputError::file("reading", dir))?.path();
            numbers.extend(number_of(&path).map(|number| (number, path)));
        }
        numbers.sort();
        let mut all = Vec::new();
        let newest = numbers.last().map(|(number, _)| *number);
        for (number, path) in numbers {
            log.next_segment = number.saturating_add(1);
            all.extend(log.take_in(number, &path, Some(number) == newest));
        }
        log.restore(all);
        log.tidy();
        Ok(log)
    }

    /// Reads one segment. Those before the newest one were synced when they were full, so their headers are
    /// enough.
    fn take_in(&mut self, number: u64, path: &Path, newest: bool) -> Vec<(Location, Header)> {
        match Segment::open(path, newest) {
            Ok(Found::Segment(mut segment, headers)) => {
                segment.dirty = newest;
                self.open = newest && segment.cut().is_ok() && segment.current;
                self.segments.insert(number, segment);
                headers.into_iter().map(|(at, header)| (Location { segment: number, at }, header)).collect()
            }
            Ok(Found::Empty) => {
                if let Err(error) = fs::remove_file(path) {
                    debug!(path = %path.display(), %error, "an empty file of output stays");
                }
                Vec::new()
            }
            Ok(Found::Foreign) => {
                warn!(path = %path.display(), "this version did not write this file of output; leaving it alone");
                Vec::new()
            }
            Err(error) => {
                warn!(path = %path.display(), %error, "a file of output cannot be read; leaving it out");
                Vec::new()
            }
        }
    }

    /// Builds the index. A record may be there twice, when the copy of a segment was cut short.
    fn restore(&mut self, mut all: Vec<(Location, Header)>) {
        all.sort_by_key(|(_, header)| (header.attempt, header.number));
        all.dedup_by_key(|(_, header)| (header.attempt, header.number));
        let mut dropped = Vec::new();
        for of_one in all.chunk_by(|(_, one), (_, next)| one.attempt == next.attempt) {
            let Some((_, last)) = of_one.last() else { continue };
            for (location, header) in of_one.iter().filter(|(_, header)| header.number >= last.age) {
                self.insert(header, *location);
            }
            self.index.trim(last.attempt, last.limit, &mut dropped);
        }
        // What was forgotten and still takes space is here again. It is freed with the next append, and not
        // before: its owner may forget it again, so that nothing else has to go.
        self.bury(dropped);
    }

    pub(super) fn append(&mut self, chunks: Vec<NewOutput>) -> Result<(), OutputError> {
        let fresh = self.index.fresh(chunks);
        self.index.skip(&fresh);
        let done = self.write(&fresh);
        self.tidy();
        done
    }

    /// Writes as many records at once as go into one segment.
    fn write(&mut self, fresh: &[Fresh]) -> Result<(), OutputError> {
        let (mut rest, mut records) = (fresh, Vec::new());
        while let Some(first) = rest.first() {
            let number = self.segment_for(size_of_record(first.data.len() as u64))?;
            let size = self.segments.get(&number).map_or(START, |segment| segment.size);
            let mut headers: Vec<(u64, Header)> = Vec::new();
            records.clear();
            for Fresh { data, .. } in rest {
                let end = size + records.len() as u64;
                if !headers.is_empty() && end + size_of_record(data.len() as u64) > self.segment_bytes {
                    break;
                }
                let header = Header::of(&rest[headers.len()]);
                header.encode(&mut records);
                records.extend_from_slice(data);
                headers.push((end, header));
            }
            self.add(number, &records)?;
            let mut dropped = Vec::new();
            for (at, header) in &headers {
                self.insert(header, Location { segment: number, at: *at });
                self.index.trim(header.attempt, header.limit, &mut dropped);
            }
            self.index.evict(&mut dropped);
            self.bury(dropped);
            rest = &rest[headers.len()..];
        }
        Ok(())
    }

    /// The segment that the next record of this size goes to.
    fn segment_for(&mut self, size: u64) -> Result<u64, OutputError> {
        if let Some((number, segment)) = self.segments.last_key_value().filter(|_| self.open)
            && (segment.size == START || segment.size + size <= self.segment_bytes)
        {
            return Ok(*number);
        }
        self.seal()?;
        let number = self.next_segment;
        let segment = Segment::create(&self.dir, number)?;
        #[cfg(test)]
        let segment = Segment { capacity: self.capacity.clone(), ..segment };
        self.next_segment += 1;
        self.segments.insert(number, segment);
        self.open = true;
        Ok(number)
    }

    /// Nothing more is written to the last segment; what is in it is on the disk.
    fn seal(&mut self) -> Result<(), OutputError> {
        if let Some(mut last) = self.segments.last_entry() {
            last.get_mut().sync()?;
        }
        self.open = false;
        Ok(())
    }

    /// Adds records to the last segment.
    fn add(&mut self, number: u64, records: &[u8]) -> Result<(), OutputError> {
        let Some(segment) = self.segments.get_mut(&number) else { return Ok(()) };
        let done = segment.append(records);
        if done.is_err() && segment.cut().is_err() {
            self.open = false;
        }
        done
    }

    fn insert(&mut self, header: &Header, location: Location) {
        if let Some(segment) = self.segments.get_mut(&location.segment) {
            segment.live += header.size();
        }
        let Header { attempt, stream, number, age, offset, time, .. } = *header;
        let chunk = Chunk { number, stream, offset, bytes: header.len.into(), time, location };
        self.index.insert(attempt, age, chunk);
    }

    /// Takes chunks that left the index off their segments.
    fn bury(&mut self, dropped: Vec<Chunk<Location>>) {
        for chunk in dropped {
            if let Some(segment) = self.segments.get_mut(&chunk.location.segment) {
                segment.live -= size_of_record(chunk.bytes);
            }
        }
    }

    pub(super) fn forget(&mut self, tasks: &[TaskId]) {
        let mut dropped = Vec::new();
        tasks.iter().for_each(|task| self.index.forget(*task, &mut dropped));
        self.bury(dropped);
        self.tidy();
    }

    /// Deletes segments of which nothing is wanted, and copies what is left of others once too much of the
    /// disk is wasted.
    fn tidy(&mut self) {
        let last = self.segments.last_key_value().map(|(number, _)| *number).filter(|_| self.open);
        let empty: Vec<u64> = self
            .segments
            .iter()
            .filter(|(number, segment)| segment.live == 0 && Some(**number) != last)
            .map(|(number, _)| *number)
            .collect();
        for number in empty {
            self.delete(number);
        }
        while let Some(victim) = self.victim() {
            if let Err(error) = self.empty(victim) {
                debug!(%error, "forgotten output takes space until later");
                return;
            }
        }
    }

    /// The segment that wastes most, when all together waste more than an eighth of what is kept, and a
    /// segment.
    fn victim(&self) -> Option<u64> {
        let (dead, live) = self
            .segments
            .values()
            .fold((0, 0), |(dead, live), segment| (dead + segment.dead(), live + segment.live));
        if dead <= live / 8 + self.segment_bytes {
            return None;
        }
        self.segments.iter().max_by_key(|(_, segment)| segment.dead()).map(|(number, _)| *number)
    }

    /// Copies what is wanted of a segment to the end of the log and deletes it. Numbers stay, so the order
    /// does.
    fn empty(&mut self, victim: u64) -> Result<(), OutputError> {
        if self.segments.last_key_value().is_some_and(|(last, _)| *last == victim) {
            self.seal()?;
        }
        let Some(segment) = self.segments.get(&victim) else { return Ok(()) };
        let (path, failed) = (segment.path.clone(), "copying from");
        let headers = segment.headers(false).map_err(OutputError::file(failed, &path))?;
        for (at, header) in headers {
            let from = Location { segment: victim, at };
            if !self.is_at(header.attempt, header.number, from) {
                continue;
            }
            let Some(segment) = self.segments.get(&victim) else { break };
            let record = segment.raw(at, &header).map_err(OutputError::file(failed, &path))?;
            let number = self.segment_for(header.size())?;
            let to = self.segments.get(&number).map_or(START, |segment| segment.size);
            self.add(number, &record)?;
            self.move_chunk(&header, from, Location { segment: number, at: to });
        }
        // What was copied must be on the disk before it is deleted here.
        self.sync()?;
        self.delete(victim);
        Ok(())
    }

    fn is_at(&mut self, attempt: AttemptId, number: u64, location: Location) -> bool {
        self.index.get_mut(attempt, number).is_some_and(|chunk| chunk.location == location)
    }

    fn move_chunk(&mut self, header: &Header, from: Location, to: Location) {
        if let Some(chunk) = self.index.get_mut(header.attempt, header.number) {
            chunk.location = to;
        }
        if let Some(segment) = self.segments.get_mut(&from.segment) {
            segment.live -= header.size();
        }
        if let Some(segment) = self.segments.get_mut(&to.segment) {
            segment.live += header.size();
        }
    }

    /// Deletes a file whose chunks are not in the index. One that cannot be deleted is found again at the
    /// next start.
    fn delete(&mut self, number: u64) {
        let Some(segment) = self.segments.remove(&number) else { return };
        match fs::remove_file(&segment.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(path = %segment.path.display(), %error, "a file of forgotten output stays");
            }
            _ => {}
        }
    }

    pub(super) fn sync(&mut self) -> Result<(), OutputError> {
        self.segments.values_mut().try_for_each(Segment::sync)
    }

    /// Files that may not be on the disk as a whole. Whoever takes them syncs them.
    pub(super) fn unsynced(&mut self) -> Vec<(Arc<File>, PathBuf)> {
        let dirty = self.segments.values_mut().filter(|segment| segment.dirty);
        let take = |segment: &mut Segment| {
            segment.dirty = false;
            (Arc::clone(&segment.file), segment.path.clone())
        };
        dirty.map(take).collect()
    }

    pub(super) fn look_up(&self, task: TaskId, after: Option<OutputPosition>) -> Lookup {
        let (mut chunks, mut bytes) = (Vec::new(), 0);
        for (position, chunk) in self.index.after(task, after) {
            if bytes >= PAGE_BYTES {
                return Lookup { chunks, more: true };
            }
            bytes += cost(chunk.bytes);
            if let Some(segment) = self.segments.get(&chunk.location.segment) {
                let (file, path) = (Arc::clone(&segment.file), segment.path.clone());
                chunks.push((position, chunk.clone(), file, path));
            }
        }
        Lookup { chunks, more: false }
    }

    pub(super) fn place_of_last(
        &self,
        task: TaskId,
        attempt: Option<NonZeroU32>,
        bytes: u64,
    ) -> Option<OutputPosition> {
        self.index.place_of_last(task, attempt, bytes)
    }

    pub(super) fn place_since(
        &self,
        task: TaskId,
        attempt: Option<NonZeroU32>,
        since: Timestamp,
    ) -> Option<OutputPosition> {
        self.index.place_since(task, attempt, since)
    }

    pub(super) fn tasks(&self) -> Vec<TaskId> {
        self.index.tasks()
    }
}

impl Lookup {
    /// Reads the chunks. One that is damaged is left out; the offsets of the others show the gap.
    pub(super) fn read(self) -> Result<OutputPage, OutputError> {
        let last = self.chunks.last().map(|(position, ..)| *position);
        let mut page = OutputPage { chunks: Vec::new(), more: last.filter(|_| self.more) };
        for (position, chunk, file, path) in self.chunks {
            match read_chunk(&file, chunk.location.at, chunk.bytes) {
                Ok(Some(data)) => {
                    let Chunk { stream, offset, time, .. } = chunk;
                    page.chunks.push(KeptOutput { position, stream, offset, time, data: data.into() });
                }
                Ok(None) => {
                    warn!(path = %path.display(), at = chunk.location.at, "a chunk of output is damaged");
                }
                Err(error) => return Err(OutputError::file("reading", path)(error)),
            }
        }
        Ok(page)
    }
}
