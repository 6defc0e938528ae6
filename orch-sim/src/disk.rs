use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::random::Random;
use crate::time::nanos;

/// Of a thousand torn tails, this many end with garbage.
const GARBAGE_PER_THOUSAND: u32 = 250;
const GARBAGE_BYTES_MAX: u64 = 16;

/// The disk of one node: named files that are appended to or replaced whole, and lose what was not synced
/// when the node crashes.
///
/// | written and | after a crash |
/// |---|---|
/// | synced | there |
/// | appended, not synced | a prefix of it, torn at any byte, sometimes with bytes of garbage behind it |
/// | replaced, not synced | the old content or the new one, nothing between |
///
/// Files are independent: a later write to one may survive where an earlier one to another does not.
#[derive(Debug)]
pub struct Disk {
    files: Vec<File>,
    full: bool,
    delay: (u64, u64),
    random: Random,
    syncs_begun: u64,
    last_completion: u64,
}

/// Reason why a write did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskError {
    /// There is no space. The file is as it was.
    Full,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the disk is full; nothing was written"),
        }
    }
}

impl std::error::Error for DiskError {}

#[derive(Debug)]
struct File {
    name: &'static str,
    /// Never empty. The first is on the disk as far as it is solid; each further one is a replacement that
    /// may or may not have got there. The last is what the process reads.
    generations: VecDeque<Generation>,
    checkpoints: VecDeque<Checkpoint>,
    dirty: bool,
}

#[derive(Debug, Default)]
struct Generation {
    number: u64,
    bytes: Vec<u8>,
    /// If this generation survives a crash, then at least these first bytes of it do.
    solid: usize,
}

/// Content of a file that a sync makes durable once it is finished.
#[derive(Debug)]
struct Checkpoint {
    sync: u64,
    generation: u64,
    len: usize,
}

impl Disk {
    pub(crate) fn new(delay: &RangeInclusive<Duration>, random: Random) -> Self {
        Self {
            files: Vec::new(),
            full: false,
            delay: (nanos(*delay.start()), nanos(*delay.end())),
            random,
            syncs_begun: 0,
            last_completion: 0,
        }
    }

    /// While it is full, writes fail. Syncs do not.
    pub fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// True while writes fail.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Sets the time of a sync that begins from now on. Syncs of a node finish in the order in which they
    /// began.
    pub fn set_delay(&mut self, min: Duration, max: Duration) {
        self.delay = (nanos(min), nanos(max));
    }

    /// Time of a sync.
    pub fn delay(&self) -> RangeInclusive<Duration> {
        Duration::from_nanos(self.delay.0)..=Duration::from_nanos(self.delay.1)
    }

    /// Content as the process reads it: everything written, synced or not. Empty for a file that was never
    /// written.
    pub fn read(&self, file: &str) -> &[u8] {
        self.file(file).map_or(&[], |file| &file.last().bytes)
    }

    /// Content that a crash at this moment would leave for certain.
    pub fn synced(&self, file: &str) -> &[u8] {
        self.file(file).map_or(&[], |file| &file.generations[0].bytes[..file.generations[0].solid])
    }

    /// The names of the files that were ever written, in the order of their first write.
    pub fn files(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.files.iter().map(|file| file.name)
    }

    pub(crate) fn append(&mut self, file: &'static str, bytes: &[u8]) -> Result<(), DiskError> {
        if self.full {
            return Err(DiskError::Full);
        }
        let file = self.file_mut(file);
        file.dirty = true;
        file.last_mut().bytes.extend_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn replace(&mut self, file: &'static str, bytes: Vec<u8>) -> Result<(), DiskError> {
        if self.full {
            return Err(DiskError::Full);
        }
        let file = self.file_mut(file);
        file.dirty = true;
        let number = file.last().number + 1;
        file.generations.push_back(Generation { number, solid: bytes.len(), bytes });
        Ok(())
    }

    /// Begins a sync of all that is written. Returns its number, and when it finishes.
    pub(crate) fn begin_sync(&mut self, now: u64) -> (u64, u64) {
        self.syncs_begun += 1;
        for file in &mut self.files {
            if std::mem::take(&mut file.dirty) {
                let Generation { number, bytes, .. } = file.last();
                let (generation, len) = (*number, bytes.len());
                file.checkpoints.push_back(Checkpoint { sync: self.syncs_begun, generation, len });
            }
        }
        let completion = now + self.random.nanos(self.delay.0, self.delay.1);
        self.last_completion = completion.max(self.last_completion);
        (self.syncs_begun, self.last_completion)
    }

    pub(crate) fn finish_sync(&mut self, number: u64) {
        for file in &mut self.files {
            while file.checkpoints.front().is_some_and(|next| next.sync <= number) {
                let Some(checkpoint) = file.checkpoints.pop_front() else { break };
                while file.generations[0].number < checkpoint.generation {
                    file.generations.pop_front();
                }
                let generation = &mut file.generations[0];
                generation.solid = generation.solid.max(checkpoint.len);
            }
        }
    }

    /// Decides what was on the disk when the node lost its power.
    pub(crate) fn crash(&mut self, now: u64) {
        for file in &mut self.files {
            let survivor = self.random.index(file.generations.len());
            let Some(mut generation) = file.generations.swap_remove_back(survivor) else { continue };
            let unsynced = generation.bytes.len() - generation.solid;
            if unsynced > 0 {
                // All and nothing are the cases that most often matter, and a uniform choice would hardly
                // meet them.
                let kept = match self.random.below(4) {
                    0 => 0,
                    1 => unsynced,
                    _ => self.random.index(unsynced + 1),
                };
                generation.bytes.truncate(generation.solid + kept);
                if self.random.chance(GARBAGE_PER_THOUSAND) {
                    for _ in 0..self.random.range(1..GARBAGE_BYTES_MAX + 1) {
                        generation.bytes.push(self.random.next().to_le_bytes()[0]);
                    }
                }
            }
            generation.solid = generation.bytes.len();
            file.generations.clear();
            file.generations.push_back(generation);
            file.checkpoints.clear();
            file.dirty = false;
        }
        self.last_completion = now;
    }

    fn file(&self, name: &str) -> Option<&File> {
        self.files.iter().find(|file| file.name == name)
    }

    fn file_mut(&mut self, name: &'static str) -> &mut File {
        let index = self.files.iter().position(|file| file.name == name).unwrap_or_else(|| {
            self.files.push(File {
                name,
                generations: VecDeque::from([Generation::default()]),
                checkpoints: VecDeque::new(),
                dirty: false,
            });
            self.files.len() - 1
        });
        &mut self.files[index]
    }
}

impl File {
    fn last(&self) -> &Generation {
        &self.generations[self.generations.len() - 1]
    }

    fn last_mut(&mut self) -> &mut Generation {
        let last = self.generations.len() - 1;
        &mut self.generations[last]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(seed: u64) -> Disk {
        Disk::new(&(Duration::from_millis(1)..=Duration::from_millis(2)), Random::new(seed))
    }

    /// Content after a crash, for many seeds.
    fn survivors(write: impl Fn(&mut Disk)) -> Vec<Vec<u8>> {
        (0..200)
            .map(|seed| {
                let mut disk = disk(seed);
                write(&mut disk);
                disk.crash(0);
                assert_eq!(disk.read("log"), disk.synced("log"));
                disk.read("log").to_vec()
            })
            .collect()
    }

    #[test]
    fn unsynced_appends_survive_as_a_torn_prefix() {
        let survivors = survivors(|disk| {
            disk.append("log", b"kept").unwrap();
            let (sync, _) = disk.begin_sync(0);
            disk.append("log", b"0123456789").unwrap();
            disk.finish_sync(sync);
            assert_eq!(disk.synced("log"), b"kept");
        });
        assert!(survivors.iter().all(|bytes| bytes.starts_with(b"kept")));
        assert!(survivors.contains(&b"kept".to_vec()) && survivors.contains(&b"kept0123456789".to_vec()));
        let torn = |bytes: &&Vec<u8>| b"kept0123456789".starts_with(bytes) && (5..14).contains(&bytes.len());
        assert!(survivors.iter().filter(torn).count() > 50);
        assert!(survivors.iter().any(|bytes| !b"kept0123456789".starts_with(bytes)), "none has garbage");
    }

    #[test]
    fn a_replaced_file_is_old_or_new_and_surely_new_once_synced() {
        let unsynced = survivors(|disk| {
            disk.replace("log", b"old".to_vec()).unwrap();
            let (sync, _) = disk.begin_sync(0);
            disk.finish_sync(sync);
            disk.replace("log", b"new".to_vec()).unwrap();
            disk.begin_sync(0);
        });
        assert!(unsynced.iter().all(|bytes| bytes == b"old" || bytes == b"new"));
        assert!(unsynced.contains(&b"old".to_vec()) && unsynced.contains(&b"new".to_vec()));

        let synced = survivors(|disk| {
            disk.append("log", b"old").unwrap();
            disk.replace("log", b"new".to_vec()).unwrap();
            disk.append("log", b"er").unwrap();
            let (sync, _) = disk.begin_sync(0);
            disk.finish_sync(sync);
        });
        assert!(synced.iter().all(|bytes| bytes == b"newer"));
    }

    #[test]
    fn a_full_disk_refuses_and_keeps_what_is_there() {
        let mut disk = disk(1);
        disk.append("log", b"a").unwrap();
        disk.set_full(true);
        assert_eq!(disk.append("log", b"b"), Err(DiskError::Full));
        assert_eq!(disk.replace("log", b"c".to_vec()), Err(DiskError::Full));
        assert_eq!(disk.read("log"), b"a");
        disk.set_full(false);
        disk.append("log", b"b").unwrap();
        assert_eq!(disk.read("log"), b"ab");
        assert_eq!(disk.files().collect::<Vec<_>>(), ["log"]);
    }

    #[test]
    fn syncs_finish_in_the_order_of_their_beginning() {
        let mut disk = disk(2);
        let mut last = 0;
        for now in 0..100 {
            let (number, completion) = disk.begin_sync(now);
            assert_eq!(number, now + 1);
            assert!(completion >= last && completion >= now + 1_000_000);
            last = completion;
        }
    }
}
