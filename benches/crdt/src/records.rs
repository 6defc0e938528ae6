use std::{
    fs,
    io::{self, Write as _},
    ops::Range,
    path::{Path, PathBuf},
};

use crate::Pair;

/// The size of a value.
pub const RECORD_BYTES: usize = 100;
/// Records of one transaction.
const TRANSACTION: usize = 1000;

/// A key as the engine makes them.
#[must_use]
pub fn key(author: usize, number: u64) -> String {
    format!("observed/members/{author}/{number:08}")
}

/// A value that cannot be made shorter, another one in each round.
fn value(number: u64, round: u64) -> Vec<u8> {
    let mut state =
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..RECORD_BYTES).map(|_| next()).collect()
}

/// Keys and values that are put together.
pub type Transaction = Vec<(String, Vec<u8>)>;

/// The records of a range of numbers as one of the two writes them, 1,000 in a transaction.
#[must_use]
pub fn transactions(at: usize, numbers: Range<u64>, round: u64) -> Vec<Transaction> {
    let starts = (numbers.start..numbers.end).step_by(TRANSACTION);
    let transaction = |from: u64| {
        let to = (from + TRANSACTION as u64).min(numbers.end);
        (from..to).map(|number| (key(at, number), value(number, round))).collect()
    };
    starts.map(transaction).collect()
}

/// Makes them and puts them into it.
pub fn put_all<P: Pair>(pair: &mut P, at: usize, numbers: Range<u64>, round: u64) {
    pair.put(at, transactions(at, numbers, round));
}

/// Size of all files of a directory, in bytes.
#[must_use]
pub fn file_bytes(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// A log of updates.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: fs::File,
}

impl Log {
    pub(crate) fn open(directory: &Path) -> Self {
        let path = directory.join("log");
        let file = fs::File::options().create(true).append(true).open(&path).expect("a file");
        Self { path, file }
    }

    pub(crate) fn append(&mut self, update: &[u8]) {
        let length = u64::try_from(update.len()).unwrap_or(u64::MAX).to_le_bytes();
        let write = || -> io::Result<()> {
            (&self.file).write_all(&length)?;
            (&self.file).write_all(update)
        };
        write().expect("a disk that works");
    }

    pub(crate) fn sync(&mut self) {
        self.file.sync_data().expect("a disk that works");
    }

    pub(crate) fn replace(&mut self, with: &[u8]) {
        fs::write(&self.path, []).expect("a disk that works");
        self.append(with);
        self.sync();
    }
}
