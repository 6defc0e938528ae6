//! Files that are cut, damaged, full, bounded and read again.

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroU32,
    sync::{Arc, atomic::AtomicU64},
};

use proptest::{collection::vec, prelude::*};

use super::{log::Log, *};
use crate::{
    model::{AttemptId, TaskId, Timestamp},
    output::KeptOutput,
    runtime::OutputStream::{self, Stderr, Stdout},
};

fn config(dir: &Path, bytes_max: u64) -> FileOutputConfig {
    FileOutputConfig { dir: dir.into(), bytes_max }
}

fn open(dir: &Path, bytes_max: u64) -> Log {
    Log::open(&config(dir, bytes_max)).unwrap()
}

fn attempt() -> AttemptId {
    AttemptId { task: TaskId::generate(), attempt: NonZeroU32::MIN }
}

fn byte(offset: u64) -> u8 {
    u8::try_from(offset % 251).unwrap()
}

fn chunk(attempt: AttemptId, stream: OutputStream, offset: u64, len: u64) -> NewOutput {
    let data: Vec<u8> = (offset..offset + len).map(byte).collect();
    NewOutput { attempt, limit: 1 << 20, stream, offset, time: None, data: data.into() }
}

fn all(log: &Log, task: TaskId) -> Vec<KeptOutput> {
    let (mut after, mut chunks) = (None, Vec::new());
    loop {
        let page = log.look_up(task, after).read().unwrap();
        chunks.extend(page.chunks);
        after = page.more;
        if after.is_none() {
            break;
        }
    }
    for KeptOutput { offset, data, .. } in &chunks {
        assert!(data.iter().copied().eq((*offset..offset + data.len() as u64).map(byte)), "other bytes");
    }
    chunks
}

fn offsets(log: &Log, task: TaskId) -> Vec<(u64, usize)> {
    all(log, task).iter().map(|chunk| (chunk.offset, chunk.data.len())).collect()
}

fn kept(log: &Log) -> u64 {
    let tasks = log.tasks().into_iter();
    tasks.flat_map(|task| all(log, task)).map(|chunk| chunk.data.len() as u64).sum()
}

fn disk(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// A segment with chunks of one task, and where each of its records ends.
fn written() -> (Vec<u8>, TaskId, Vec<(usize, u64)>) {
    let (dir, one) = (tempfile::tempdir().unwrap(), attempt());
    let (mut log, mut ends, mut end) = (open(dir.path(), 1 << 20), Vec::new(), 8);
    for (at, len) in [3_u64, 1, 40, 7].into_iter().enumerate() {
        let offset = at as u64 * 100;
        log.append(vec![chunk(one, Stdout, offset, len)]).unwrap();
        end += record::HEADER + usize::try_from(len).unwrap();
        ends.push((end, offset));
    }
    let file = fs::read(segment::path_of(dir.path(), 0)).unwrap();
    assert_eq!(file.len(), end);
    (file, one.task, ends)
}

#[test]
fn a_file_that_was_cut_anywhere_shows_what_is_whole_and_goes_on() {
    let (file, task, ends) = written();
    for cut in 0..=file.len() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(segment::path_of(dir.path(), 0), &file[..cut]).unwrap();
        let mut log = open(dir.path(), 1 << 20);
        let whole = || ends.iter().filter(|(end, _)| *end <= cut).map(|(_, offset)| *offset);
        assert!(offsets(&log, task).iter().map(|(offset, _)| *offset).eq(whole()), "cut at {cut}");
        let one = AttemptId { task, attempt: NonZeroU32::MIN };
        log.append(vec![chunk(one, Stdout, 400, 9), chunk(one, Stderr, 0, 2)]).unwrap();
        drop(log);
        let shown = offsets(&open(dir.path(), 1 << 20), task);
        assert!(shown.iter().map(|(offset, _)| *offset).eq(whole().chain([400, 0])), "cut at {cut}");
    }
}

#[test]
fn a_byte_that_was_damaged_costs_what_follows_and_nothing_wrong_is_shown() {
    let (file, task, ends) = written();
    for at in 0..file.len() {
        let (dir, mut file) = (tempfile::tempdir().unwrap(), file.clone());
        file[at] ^= 0x55;
        fs::write(segment::path_of(dir.path(), 0), &file).unwrap();
        let whole = ends.iter().filter(|(end, _)| *end <= at && at >= 8).map(|(_, offset)| *offset);
        let shown = offsets(&open(dir.path(), 1 << 20), task);
        assert!(shown.iter().map(|(offset, _)| *offset).eq(whole), "byte {at}: {shown:?}");
    }
}

/// The chunks of a file that is not the newest one are not looked at before they are read.
#[test]
fn a_piece_that_was_damaged_is_left_out_of_what_is_read() {
    let (dir, one) = (tempfile::tempdir().unwrap(), attempt());
    let mut log = open(dir.path(), 64 << 20);
    log.append((0..3).map(|at| chunk(one, Stdout, at * 100, 50)).collect()).unwrap();
    let path = segment::path_of(dir.path(), 0);
    let mut file = fs::read(&path).unwrap();
    file[8 + record::HEADER + 50 + record::HEADER + 3] ^= 1;
    fs::write(&path, file).unwrap();
    assert_eq!(offsets(&log, one.task), [(0, 50), (200, 50)]);
}

#[test]
fn files_of_others_stay_and_are_not_touched() {
    let (dir, one) = (tempfile::tempdir().unwrap(), attempt());
    let newer = segment::path_of(dir.path(), 7);
    for (path, content) in [(&newer, "orchout\u{3}and more"), (&dir.path().join("notes.out"), "mine")] {
        fs::write(path, content).unwrap();
    }
    let mut log = open(dir.path(), 1 << 20);
    log.append(vec![chunk(one, Stdout, 0, 10)]).unwrap();
    drop(log);
    assert_eq!(fs::read_to_string(&newer).unwrap(), "orchout\u{3}and more");
    assert_eq!(fs::read_to_string(dir.path().join("notes.out")).unwrap(), "mine");
    assert_eq!(offsets(&open(dir.path(), 1 << 20), one.task), [(0, 10)]);
}

/// Two records as the version without times wrote them, after the line that its files begin with.
const TIMELESS: &[u8] = &[
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 127, 137,
    84, 8, 47, 125, 111, 68, 0, 1, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1, 0, 0, 0, 2,
    0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 16, 0, 0, 0, 0, 0, 105, 34, 222, 54, 20, 115, 183, 29, 0, 1,
];

#[test]
fn files_of_the_version_without_times_are_read_and_end_where_it_left_them() {
    let (dir, old) = (tempfile::tempdir().unwrap(), [b"orchout\x01", TIMELESS].concat());
    let path = segment::path_of(dir.path(), 0);
    fs::write(&path, [&old[..], b"torn"].concat()).unwrap();
    let task = TaskId::from_bytes(std::array::from_fn(|at| u8::try_from(at + 1).unwrap()));
    let one = AttemptId { task, attempt: NonZeroU32::MIN };
    let time = Some(Timestamp::from_millis(1_700_000_000_123));
    let expected = [(Stdout, 0, 3, None), (Stderr, 0, 2, None), (Stdout, 3, 7, time)];
    let shown = |log: &Log| -> Vec<_> {
        all(log, task)
            .iter()
            .map(|chunk| (chunk.stream, chunk.offset, chunk.data.len(), chunk.time))
            .collect()
    };
    let mut log = open(dir.path(), 1 << 20);
    assert_eq!(shown(&log), expected[..2]);
    log.append(vec![NewOutput { time, ..chunk(one, Stdout, 0, 10) }]).unwrap();
    assert_eq!(shown(&log), expected);
    drop(log);
    assert_eq!(fs::read(&path).unwrap(), old, "what it cannot read is in a file of its own");
    assert_eq!(shown(&open(dir.path(), 1 << 20)), expected);
}

/// The rest of an old file is copied once most of it is forgotten.
#[test]
fn records_without_times_are_copied_among_those_with_times() {
    let dir = tempfile::tempdir().unwrap();
    let path = segment::path_of(dir.path(), 0);
    let (stays, gone) = (attempt(), attempt());
    let mut log = open(dir.path(), 1 << 20);
    log.append(vec![chunk(stays, Stdout, 0, 100)]).unwrap();
    log.append((0..6).map(|at| chunk(gone, Stdout, at * 50_000, 40_000)).collect()).unwrap();
    drop(log);
    let mut old = fs::read(&path).unwrap();
    old[7] = 1;
    fs::write(&path, old).unwrap();
    let time = Some(Timestamp::from_millis(1_700_000_000_123));
    let mut log = open(dir.path(), 1 << 20);
    log.append(vec![NewOutput { time, ..chunk(stays, Stdout, 100, 100) }]).unwrap();
    log.append((0..2).map(|at| chunk(gone, Stderr, at * 50_000, 40_000)).collect()).unwrap();
    log.forget(&[gone.task]);
    assert!(!path.exists(), "the old file is gone");
    let times = |log: &Log| all(log, stays.task).iter().map(|chunk| chunk.time).collect::<Vec<_>>();
    assert_eq!(times(&log), [None, time]);
    drop(log);
    assert_eq!(times(&open(dir.path(), 1 << 20)), [None, time]);
}

/// Whatever part of an append reached the disk before it was full: nothing that was answered is lost, nothing
/// that was refused is shown, and once there is capacity it goes on.
#[test]
fn a_full_disk_refuses_more_and_loses_nothing() {
    for capacity in 0..400 {
        let (dir, one, two) = (tempfile::tempdir().unwrap(), attempt(), attempt());
        let mut log = open(dir.path(), 1 << 20);
        let left = Arc::new(AtomicU64::new(u64::MAX));
        log.capacity = Some(left.clone());
        log.append(vec![chunk(one, Stdout, 0, 50)]).unwrap();
        left.store(capacity, Ordering::SeqCst);
        let more = vec![chunk(one, Stdout, 50, 100), chunk(two, Stdout, 0, 100), chunk(one, Stderr, 0, 10)];
        let error = log.append(more.clone());
        let size = 3 * record::HEADER as u64 + 210;
        assert_eq!(error.is_err(), capacity < size, "capacity for {capacity}");
        if let Err(error) = error {
            assert!(matches!(error, OutputError::File { doing: "writing to", .. }), "{error:?}");
            assert_eq!(offsets(&log, one.task), [(0, 50)]);
            assert_eq!(offsets(&log, two.task), []);
        }
        left.store(u64::MAX, Ordering::SeqCst);
        log.append(more).unwrap();
        let shown = |log: &Log| (offsets(log, one.task), offsets(log, two.task));
        let expected = (vec![(0, 50), (50, 100), (0, 10)], vec![(0, 100)]);
        assert_eq!(shown(&log), expected);
        drop(log);
        assert_eq!(shown(&open(dir.path(), 1 << 20)), expected);
    }
}

#[test]
fn the_disk_holds_little_more_than_what_is_kept() {
    const MAX: u64 = 16 << 20;
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), MAX);
    let mut running: Vec<(AttemptId, u64)> = Vec::new();
    // Attempts of all lengths, interleaved, three times what is kept; every fifth is forgotten when it is
    // over.
    for step in 0..1600_u64 {
        if step % 4 == 0 {
            running.push((attempt(), 0));
        }
        let at = usize::try_from(step * 7).unwrap() % running.len();
        let (one, offset) = &mut running[at];
        log.append(vec![chunk(*one, Stdout, *offset, 32_000)]).unwrap();
        *offset += 32_000;
        if running.len() > 40 {
            let (ended, _) = running.remove(at);
            if step % 5 == 0 {
                log.forget(&[ended.task]);
            }
        }
    }
    let (kept, disk) = (kept(&log), disk(dir.path()));
    assert!(kept > MAX * 3 / 4 && kept <= MAX, "{kept} of {MAX} are kept");
    let segment = config(dir.path(), MAX).segment_bytes();
    assert!(disk <= kept + kept / 5 + 2 * segment, "{disk} bytes for {kept}");
    drop(log);
    let mut again = open(dir.path(), MAX);
    let kept_again = self::kept(&again);
    assert!(kept_again >= kept && kept_again <= disk, "{kept_again} after {kept}");
    again.append(vec![chunk(attempt(), Stdout, 0, 1)]).unwrap();
    assert!(self::kept(&again) <= MAX, "{} of {MAX}", self::kept(&again));
}

#[test]
fn forgotten_tasks_free_their_space() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), 64 << 20);
    let attempts: Vec<_> = (0..40).map(|_| attempt()).collect();
    for one in &attempts {
        log.append(vec![chunk(*one, Stdout, 0, 500_000)]).unwrap();
    }
    assert!(disk(dir.path()) > 20_000_000);
    // All but every fourth one: no segment is wholly unwanted.
    let gone: Vec<_> =
        attempts.iter().enumerate().filter(|(at, _)| at % 4 != 0).map(|(_, one)| one.task).collect();
    log.forget(&gone);
    assert!(disk(dir.path()) < 5_000_000 + 625_000 + 2 * (1 << 20), "{} are left", disk(dir.path()));
    for one in attempts.iter().step_by(4) {
        let shown = offsets(&log, one.task);
        assert_eq!(shown.iter().map(|(_, len)| len).sum::<usize>(), 500_000);
        assert!(shown.is_sorted());
    }
    log.forget(&attempts.iter().map(|one| one.task).collect::<Vec<_>>());
    assert!(disk(dir.path()) <= 2 << 20, "{} are left", disk(dir.path()));
}

/// A copy of a segment that was cut short leaves records twice.
#[test]
fn records_that_are_there_twice_are_shown_once() {
    let (file, task, _) = written();
    let dir = tempfile::tempdir().unwrap();
    for number in [0, 3] {
        fs::write(segment::path_of(dir.path(), number), &file).unwrap();
    }
    let log = open(dir.path(), 1 << 20);
    assert_eq!(offsets(&log, task), [(0, 3), (100, 1), (200, 40), (300, 7)]);
}

#[tokio::test]
async fn a_directory_is_for_one_at_a_time_and_free_when_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/when/missing");
    let output = FileOutput::open(FileOutputConfig::new(&path)).await.unwrap();
    let refused = FileOutput::open(FileOutputConfig::new(&path)).await.unwrap_err();
    assert!(matches!(&refused, OutputError::Locked(at) if *at == path), "{refused}");
    output.append(vec![chunk(attempt(), Stdout, 0, 10)]).await.unwrap();
    drop(output);
    FileOutput::open(FileOutputConfig::new(&path)).await.unwrap();
}

/// Operation on a log.
#[derive(Clone, Debug)]
enum Step {
    Append(Vec<(usize, bool, u64)>),
    Forget(usize),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => vec((0..4_usize, any::<bool>(), 1..20_000_u64), 1..12).prop_map(Step::Append),
        1 => (0..4_usize).prop_map(Step::Forget),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A restart shows at least what was shown before it, and always the newest of each stream.
    #[test]
    fn a_restart_shows_what_was_kept(steps in vec(step(), 1..40)) {
        const MAX: u64 = 800_000;
        let dir = tempfile::tempdir().unwrap();
        let attempts: Vec<_> = std::iter::repeat_with(attempt).take(4).collect();
        let mut ends: BTreeMap<(usize, bool), u64> = BTreeMap::new();
        let mut log = open(dir.path(), MAX);
        for step in steps {
            match step {
                Step::Append(chunks) => {
                    let new = chunks.iter().map(|(at, first, len)| {
                        let end = ends.entry((*at, *first)).or_default();
                        let stream = if *first { Stdout } else { Stderr };
                        let chunk = NewOutput { limit: 200_000, ..chunk(attempts[*at], stream, *end, *len) };
                        *end += len;
                        chunk
                    });
                    log.append(new.collect()).unwrap();
                    let (at, first, _) = chunks[chunks.len() - 1];
                    let newest = all(&log, attempts[at].task).last().map(|chunk| {
                        chunk.offset + chunk.data.len() as u64
                    });
                    prop_assert_eq!(newest, ends.get(&(at, first)).copied());
                }
                Step::Forget(at) => {
                    log.forget(&[attempts[at].task]);
                    prop_assert_eq!(all(&log, attempts[at].task), []);
                }
                Step::Reopen => {
                    let before: Vec<_> = attempts.iter().map(|one| all(&log, one.task)).collect();
                    drop(log);
                    log = open(dir.path(), MAX);
                    for (one, before) in attempts.iter().zip(before) {
                        let after = all(&log, one.task);
                        prop_assert!(after.ends_with(&before), "less than before");
                    }
                }
            }
            let kept = kept(&log);
            prop_assert!(kept <= MAX * 6 / 5 + (512 << 10));
            prop_assert!(disk(dir.path()) <= kept * 6 / 5 + (600 << 10));
        }
    }
}
