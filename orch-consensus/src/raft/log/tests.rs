use std::fs::File;

use openraft::{CommittedLeaderId, EntryPayload};

use super::{writer::Disk, *};

/// A disk with so many bytes left, and one whose syncs fail when there are none.
#[derive(Debug)]
struct Small {
    left: usize,
}

impl Disk for Small {
    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        use std::io::Write as _;
        let fits = bytes.len().min(self.left);
        file.write_all(&bytes[..fits])?;
        self.left -= fits;
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        if self.left == 0 { Err(io::Error::other("no sync")) } else { file.sync_data() }
    }
}

const MANNER: Manner = Manner { owner: 1, sync: false, segment_bytes: 4096 };

fn id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, 1), index)
}

fn entry(index: u64) -> Entry {
    Entry { log_id: id(index), payload: EntryPayload::Blank }
}

fn open(directory: &std::path::Path, manner: Manner) -> io::Result<(Writer, Index)> {
    let mut index = Index::new(1 << 20);
    let writer = Writer::open(directory, manner, Box::new(RealDisk), &mut index)?;
    Ok((writer, index))
}

fn indices(index: &Index) -> Vec<u64> {
    let found = index.find(0, u64::MAX, usize::MAX);
    found.into_iter().map(|found| found.read().expect("it is read").log_id.index).collect()
}

#[test]
fn a_log_reads_as_it_was_written() {
    let directory = tempfile::tempdir().expect("a directory");
    for sync in [false, true] {
        let directory = directory.path().join(sync.to_string());
        let manner = Manner { sync, ..MANNER };
        let (mut writer, _) = open(&directory, manner).expect("it is made");
        let entries: Vec<Entry> = (0..300).map(entry).collect();
        for some in entries.chunks(7) {
            writer.append(some).expect("it is written");
        }
        writer.vote(Vote::new(3, 4)).expect("it is written");
        writer.truncate(200).expect("it is written");
        writer.append(&[entry(200)]).expect("it is written");
        writer.purge(id(150)).expect("it is written");
        writer.committed(Some(id(180)));
        writer.sync().expect("it is written");
        drop(writer);
        // Opening it twice is the same as opening it once.
        for _ in 0..2 {
            let (_, index) = open(&directory, manner).expect("it is read");
            assert_eq!(indices(&index), (151..=200).collect::<Vec<u64>>());
            assert_eq!(
                (index.vote, index.committed, index.purged),
                (Some(Vote::new(3, 4)), Some(id(180)), Some(id(150)))
            );
        }
    }
}

#[test]
fn cut_anywhere_it_holds_what_was_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut writer, _) = open(directory.path(), MANNER).expect("it is made");
    let mut ends = Vec::new();
    for at in 0..5 {
        let location = writer.append(&[entry(at)]).expect("it is written").remove(0);
        ends.push(location.offset + location.length as u64);
    }
    drop(writer);
    let file = std::fs::read_dir(directory.path())
        .expect("the directory is read")
        .filter_map(Result::ok)
        .find(|entry| entry.file_name() != "lock")
        .expect("there is a log");
    let content = std::fs::read(file.path()).expect("it is read");
    for cut in 0..content.len() {
        let other = tempfile::tempdir().expect("a directory");
        std::fs::write(other.path().join(file.file_name()), &content[..cut]).expect("it is written");
        let (_, index) = open(other.path(), MANNER).expect("a beginning of a log is a log");
        let whole = ends.iter().filter(|end| **end <= cut as u64).count() as u64;
        assert_eq!(indices(&index), (0..whole).collect::<Vec<u64>>(), "cut at {cut}");
    }
}

#[test]
fn after_a_failure_nothing_is_written() {
    for sync in [false, true] {
        let directory = tempfile::tempdir().expect("a directory");
        let manner = Manner { sync, ..MANNER };
        let mut index = Index::new(1 << 20);
        let disk = Box::new(Small { left: if sync { 1_300_000 } else { 1000 } });
        let mut writer = Writer::open(directory.path(), manner, disk, &mut index).expect("it is made");
        let mut written = 0;
        while writer.append(&[entry(written)]).is_ok() {
            written += 1;
        }
        assert!(written > 1);
        assert!(writer.append(&[entry(written)]).is_err());
        assert!(writer.vote(Vote::new(1, 1)).is_err());
        assert!(writer.sync().is_err());
        drop(writer);
        let (_, index) = open(directory.path(), manner).expect("what was written is sound");
        assert_eq!(indices(&index), (0..written).collect::<Vec<u64>>());
    }
}

#[test]
fn files_that_are_purged_are_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut writer, _) = open(directory.path(), MANNER).expect("it is made");
    let files = || std::fs::read_dir(directory.path()).expect("the directory is read").count();
    for at in 0..1000 {
        writer.append(&[entry(at)]).expect("it is written");
    }
    let before = files();
    assert!(before > 5);
    writer.purge(id(990)).expect("it is written");
    assert!(files() < 5, "{} files of {before} are left", files());
    drop(writer);
    let (_, index) = open(directory.path(), MANNER).expect("it is read");
    assert_eq!(indices(&index), (991..1000).collect::<Vec<u64>>());
}

#[test]
fn evicted_entries_are_read_from_the_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut writer, _) = open(directory.path(), MANNER).expect("it is made");
    let mut index = Index::new(1000);
    index.loaded().expect("it is empty");
    for at in 0..100 {
        let location = writer.append(&[entry(at)]).expect("it is written").pop();
        index.push(entry(at), location).expect("it follows");
    }
    let there = |index: &Index| {
        let found = index.find(0, 100, usize::MAX);
        found.iter().filter(|found| matches!(found, Found::Stored(_))).count()
    };
    assert!(there(&index) > 90);
    assert_eq!(indices(&index), (0..100).collect::<Vec<u64>>());
    index.truncate(50);
    index.push(entry(50), None).expect("it follows");
    assert_eq!(indices(&index), (0..=50).collect::<Vec<u64>>());
}
