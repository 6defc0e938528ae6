//! Index of the log in memory: all positions, and as many of the latest entries as the cache holds.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::frame::{self, Record};
use crate::codec::Decode as _;
use crate::raft::types::{Command, Entry, LogId, Vote, command_of};

/// Location of an entry in the files.
#[derive(Clone, Debug)]
pub(super) struct Location {
    pub(super) file: Arc<Mutex<File>>,
    pub(super) offset: u64,
    pub(super) length: usize,
}

impl Location {
    fn read(&self) -> io::Result<Entry> {
        let mut bytes = vec![0; self.length];
        {
            let mut file = self.file.lock();
            file.seek(SeekFrom::Start(self.offset))?;
            file.read_exact(&mut bytes)?;
        }
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "an entry of the log is damaged");
        let content = frame::next(&Bytes::from(bytes)).ok_or_else(damaged)?;
        match Record::from_bytes(content).map_err(io::Error::other)? {
            Record::Entry(entry) => Ok(entry),
            _ => Err(damaged()),
        }
    }
}

/// An entry as it is found.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Here(Entry),
    Stored(Location),
}

impl Found {
    pub(super) fn read(self) -> io::Result<Entry> {
        match self {
            Self::Here(entry) => Ok(entry),
            Self::Stored(location) => location.read(),
        }
    }
}

#[derive(Debug)]
struct Slot {
    log_id: LogId,
    size: usize,
    entry: Option<Entry>,
    location: Option<Location>,
}

/// Slots are consecutive and begin after `purged`. Those from `cached_from` on hold their entries.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) purged: Option<LogId>,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    slots: VecDeque<Slot>,
    cached_from: usize,
    cached_bytes: usize,
    cache_bytes_max: usize,
    /// While the files are read, what was purged may only be found out at their end.
    loading: bool,
}

/// An entry that does not follow the one before.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gap;

impl Index {
    pub(super) fn new(cache_bytes_max: usize) -> Self {
        Self {
            purged: None,
            vote: None,
            committed: None,
            slots: VecDeque::new(),
            cached_from: 0,
            cached_bytes: 0,
            cache_bytes_max,
            loading: true,
        }
    }

    /// All files have been read: from now on nothing may be missing.
    pub(super) fn loaded(&mut self) -> Result<(), Gap> {
        self.loading = false;
        // Without the entries it is of no use, and it only saves time.
        self.committed = self.committed.filter(|committed| Some(*committed) <= self.last());
        let first = self.purged.map_or(0, |log_id| log_id.index + 1);
        if self.slots.is_empty() || self.first_index() == first { Ok(()) } else { Err(Gap) }
    }

    pub(super) fn last(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.log_id).or(self.purged)
    }

    fn first_index(&self) -> u64 {
        let purged = || self.purged.map_or(0, |log_id| log_id.index + 1);
        self.slots.front().map_or_else(purged, |slot| slot.log_id.index)
    }

    /// Adds an entry; without a location it stays in memory.
    pub(super) fn push(&mut self, entry: Entry, location: Option<Location>) -> Result<(), Gap> {
        let follows = entry.log_id.index == self.first_index() + self.slots.len() as u64;
        let begins = self.loading && self.slots.is_empty();
        if !(follows || begins) {
            return Err(Gap);
        }
        let size = command_of(&entry).map_or(256, Command::size);
        self.cached_bytes += size;
        self.slots.push_back(Slot { log_id: entry.log_id, size, entry: Some(entry), location });
        while self.cached_bytes > self.cache_bytes_max
            && let Some(slot) = self.slots.get_mut(self.cached_from)
            && slot.location.is_some()
        {
            slot.entry = None;
            self.cached_bytes -= slot.size;
            self.cached_from += 1;
        }
        Ok(())
    }

    /// Voids the entries from `index` on.
    pub(super) fn truncate(&mut self, index: u64) {
        let stay = usize::try_from(index.saturating_sub(self.first_index())).unwrap_or(usize::MAX);
        while self.slots.len() > stay {
            if let Some(slot) = self.slots.pop_back()
                && slot.entry.is_some()
            {
                self.cached_bytes -= slot.size;
            }
        }
        self.cached_from = self.cached_from.min(self.slots.len());
    }

    /// Forgets the entries up to `upto`, which may be beyond the last.
    pub(super) fn purge(&mut self, upto: LogId) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        while self.slots.front().is_some_and(|slot| slot.log_id.index <= upto.index) {
            if let Some(slot) = self.slots.pop_front()
                && slot.entry.is_some()
            {
                self.cached_bytes -= slot.size;
            }
            self.cached_from = self.cached_from.saturating_sub(1);
        }
        self.purged = Some(upto);
    }

    /// The entries from `start` to before `end` that are there: those of about `bytes`, and at least one.
    pub(super) fn find(&self, start: u64, end: u64, bytes: usize) -> Vec<Found> {
        let first = self.first_index();
        let at = |index: u64| {
            usize::try_from(index.saturating_sub(first)).unwrap_or(usize::MAX).min(self.slots.len())
        };
        let (from, to) = (at(start), at(end));
        let mut sum = 0;
        let fits = |slot: &&Slot| {
            sum += slot.size;
            sum <= bytes || sum == slot.size
        };
        let found = |slot: &Slot| match (&slot.entry, &slot.location) {
            (Some(entry), _) => Some(Found::Here(entry.clone())),
            (None, Some(location)) => Some(Found::Stored(location.clone())),
            (None, None) => None,
        };
        if from >= to {
            return Vec::new();
        }
        self.slots.range(from..to).take_while(fits).filter_map(found).collect()
    }
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, EntryPayload};

    use super::*;

    fn id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(1, 1), index)
    }

    fn filled(count: u64) -> Index {
        let mut index = Index::new(1 << 20);
        for at in 0..count {
            let entry = Entry { log_id: id(at), payload: EntryPayload::Blank };
            index.push(entry, None).expect("it follows");
        }
        index.loaded().expect("it begins at the beginning");
        index
    }

    fn indices(found: Vec<Found>) -> Vec<u64> {
        found.into_iter().map(|found| found.read().expect("it is in memory").log_id.index).collect()
    }

    #[test]
    fn it_finds_what_is_left() {
        let mut index = filled(10);
        index.truncate(8);
        index.purge(id(2));
        assert_eq!(indices(index.find(0, 100, usize::MAX)), [3, 4, 5, 6, 7]);
        assert_eq!(indices(index.find(4, 6, usize::MAX)), [4, 5]);
        assert_eq!(indices(index.find(4, 100, 1)), [4], "at least one");
        assert_eq!(index.last(), Some(id(7)));
    }

    #[test]
    fn purging_beyond_the_end_empties_it() {
        let mut index = filled(3);
        index.purge(id(9));
        assert_eq!(index.last(), Some(id(9)));
        let entry = Entry { log_id: id(12), payload: EntryPayload::Blank };
        assert_eq!(index.push(entry, None), Err(Gap));
        let entry = Entry { log_id: id(10), payload: EntryPayload::Blank };
        assert_eq!(index.push(entry, None), Ok(()));
        assert_eq!(index.cached_bytes, 256);
    }
}
