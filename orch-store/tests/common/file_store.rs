//! Suite of the stores in a file of one process: a killed process, the bound on the log, and the ways that
//! opening fails.

use std::{
    fs,
    num::NonZeroU64,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use async_trait::async_trait;
use futures_util::StreamExt;
use orch_core::{
    store::{Guard, Incarnation, Position, Revision, StateStore, StoreError, WatchBatch, Write},
    testkit::store::{Disturbance, StoreHarness, a_full_store_says_so_and_loses_nothing},
};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{full, key, put};

/// A store in a file, as the suite opens it.
#[async_trait]
pub(crate) trait FileBackend: Send + Sync + 'static {
    /// The store's file in its directory.
    const FILE: &'static str;

    /// Opens the store, with this many revisions in its log if that is not left to the default.
    async fn open(dir: &Path, history: Option<NonZeroU64>) -> Result<Arc<dyn StateStore>, StoreError>;

    /// Damaged contents, each made from that of a good file.
    fn damaged(good: &[u8]) -> Vec<(&'static str, Vec<u8>)>;

    /// Faults that can be made.
    const DISTURBANCES: &'static [Disturbance];

    /// Copies a store that is open to a new directory, as its users would.
    fn back_up(from: &Path, to: &Path);

    /// Begins and ends a fault other than a restored backup.
    fn begin(what: Disturbance, dir: &Path) {
        unreachable!("{what:?} is not declared for {}", dir.display())
    }

    fn end(what: Disturbance, dir: &Path) {
        unreachable!("{what:?} is not declared for {}", dir.display())
    }

    /// Makes a file of format 1: `a` of revision 2 with the value `2`, `b` of 3 with `3`, and a log of the
    /// revisions 2 and 3, of which the latter also deleted `c`.
    fn make_format_1(file: &Path);

    /// Makes a file of format 99, and one of another program.
    fn make_newer(file: &Path);
    fn make_foreign(file: &Path);
}

/// Stores below a directory, for the conformance suite.
pub(crate) struct Below<B>(pub(crate) PathBuf, pub(crate) std::marker::PhantomData<B>);

#[async_trait]
impl<B: FileBackend> StoreHarness for Below<B> {
    async fn open(&self, name: &str) -> Arc<dyn StateStore> {
        B::open(&self.0.join(name), None).await.unwrap()
    }

    fn reopens(&self) -> bool {
        true
    }

    fn disturbances(&self) -> &[Disturbance] {
        B::DISTURBANCES
    }

    async fn begin(&self, what: Disturbance, name: &str) {
        match what {
            Disturbance::ComesBackOlder => B::back_up(&self.0.join(name), &self.backup(name)),
            what => B::begin(what, &self.0.join(name)),
        }
    }

    async fn end(&self, what: Disturbance, name: &str) {
        let dir = self.0.join(name);
        match what {
            Disturbance::ComesBackOlder => {
                fs::remove_dir_all(&dir).unwrap();
                fs::rename(self.backup(name), dir).unwrap();
            }
            what => B::end(what, &dir),
        }
    }
}

impl<B> Below<B> {
    fn backup(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.backup"))
    }
}

/// The tests of the suite, each by its name, for one backend. They stand at the root of their test binary,
/// because one of them runs another in a process of its own.
macro_rules! file_store_suite {
    ($backend:ty) => {
        /// No test by itself: the next test runs it in a process of its own, and kills it.
        #[tokio::test(flavor = "multi_thread")]
        async fn child_that_commits_until_killed() {
            common::file_store::commit_until_killed::<$backend>().await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn everything_acknowledged_survives_kill_9() {
            common::file_store::everything_acknowledged_survives_kill_9::<$backend>().await;
        }

        #[tokio::test]
        async fn a_second_store_in_the_same_directory_waits_for_the_first_to_close() {
            common::file_store::a_second_store_waits_for_the_first_to_close::<$backend>().await;
        }

        #[tokio::test]
        async fn the_log_on_disk_is_bounded_and_answers_compacted() {
            common::file_store::the_log_on_disk_is_bounded::<$backend>().await;
        }

        #[tokio::test]
        async fn a_damaged_file_is_named_and_left_alone() {
            common::file_store::a_damaged_file_is_named_and_left_alone::<$backend>().await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn a_file_of_format_1_is_brought_up_to_date() {
            common::file_store::a_file_of_format_1_is_brought_up_to_date::<$backend>().await;
        }

        #[cfg(target_os = "linux")]
        #[tokio::test(flavor = "multi_thread")]
        async fn a_full_disk_is_told_and_nothing_acknowledged_is_lost() {
            common::file_store::a_full_disk_is_told::<$backend>().await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn a_flipped_bit_is_no_value() {
            common::file_store::a_flipped_bit_is_no_value::<$backend>().await;
        }

        #[tokio::test]
        async fn a_newer_format_and_a_foreign_database_are_refused() {
            common::file_store::a_newer_format_and_a_foreign_database_are_refused::<$backend>().await;
        }

        #[cfg(unix)]
        #[tokio::test]
        async fn nobody_but_the_owner_may_read_the_file() {
            common::file_store::nobody_but_the_owner_may_read_the_file::<$backend>().await;
        }

        #[tokio::test]
        async fn a_directory_that_cannot_be_used_is_named() {
            common::file_store::a_directory_that_cannot_be_used_is_named::<$backend>().await;
        }
    };
}
pub(crate) use file_store_suite;

const CHILD_DIR: &str = "ORCH_STORE_TEST_CHILD_DIR";

async fn open<B: FileBackend>(dir: &Path) -> Arc<dyn StateStore> {
    B::open(dir, None).await.unwrap()
}

async fn opening_fails<B: FileBackend>(dir: &Path) -> StoreError {
    B::open(dir, None).await.expect_err("opening must fail")
}

#[allow(clippy::print_stdout, reason = "the parent process reads it")]
pub(crate) async fn commit_until_killed<B: FileBackend>() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let store = open::<B>(Path::new(&dir)).await;
    let writers = (0..8).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for n in 0u64.. {
                let revision = store.commit(put(&format!("k/{writer}-{n}"), "v")).await.unwrap();
                println!("acknowledged k/{writer}-{n} {revision}");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

pub(crate) async fn everything_acknowledged_survives_kill_9<B: FileBackend>() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_commits_until_killed", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            // The first line follows on what the test harness prints.
            let Some((_, commit)) = line.split_once("acknowledged ") else { continue };
            let (key, revision) = commit.split_once(' ').unwrap();
            acknowledged.push((key.to_owned(), revision.parse().map(Revision).unwrap()));
            if acknowledged.len() == 200 {
                let error = opening_fails::<B>(dir.path()).await;
                assert!(matches!(error, StoreError::Locked(_)), "{error}");
                let text = error.to_string();
                let dir = dir.path().to_str().unwrap();
                assert!(text.contains("another manager") && text.contains(dir), "{text}");
                child.start_kill().unwrap();
            }
        }
        child.wait().await.unwrap();

        let store = open::<B>(dir.path()).await;
        assert!(acknowledged.len() >= 200);
        let last = acknowledged.iter().map(|(_, revision)| *revision).max().unwrap();
        assert!(store.head().await.unwrap().revision >= last);
        for (name, revision) in acknowledged {
            let entry = store.get(&key(&name)).await.unwrap();
            let version = entry.map(|entry| entry.version.revision);
            assert_eq!(version, Some(revision), "round {round}: {name} was acknowledged");
        }
        store.close().await.unwrap();
    }
}

pub(crate) async fn a_second_store_waits_for_the_first_to_close<B: FileBackend>() {
    let dir = tempfile::tempdir().unwrap();
    let first = open::<B>(dir.path()).await;
    assert!(matches!(opening_fails::<B>(dir.path()).await, StoreError::Locked(_)));
    first.commit(put("a", "1")).await.unwrap();
    first.close().await.unwrap();
    let second = open::<B>(dir.path()).await;
    assert!(second.get(&key("a")).await.unwrap().is_some());
}

pub(crate) async fn the_log_on_disk_is_bounded<B: FileBackend>() {
    let dir = tempfile::tempdir().unwrap();
    let history = NonZeroU64::new(40);
    let store = B::open(dir.path(), history).await.unwrap();
    let mut slow = store.watch("", Position::ZERO).await.unwrap();
    for n in 0..100 {
        store.commit(put("k", &n.to_string())).await.unwrap();
    }
    let Some(Err(StoreError::Compacted { oldest })) = slow.next().await else {
        panic!("the watch must fall out")
    };
    assert!((50..=60).contains(&oldest.revision.0), "{oldest}");
    store.close().await.unwrap();
    let store = B::open(dir.path(), history).await.unwrap();
    let watch = store.watch("", oldest).await.unwrap();
    let batches: Vec<_> = watch.take(usize::try_from(100 - oldest.revision.0).unwrap()).collect().await;
    assert_eq!(batches[0].as_ref().unwrap().position.revision, oldest.revision.next());
    assert!(batches.iter().all(Result::is_ok));
}

pub(crate) async fn a_damaged_file_is_named_and_left_alone<B: FileBackend>() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(B::FILE);
    let store = open::<B>(dir.path()).await;
    for n in 0..100 {
        store.commit(put(&format!("k/{n}"), &"v".repeat(100))).await.unwrap();
    }
    store.close().await.unwrap();
    let good = fs::read(&file).unwrap();
    let text = b"dear diary, this is not a database at all".to_vec();
    let empty = ("empty, as a file system leaves it that lost its content", Vec::new());
    for (what, bad) in [("text", text), empty].into_iter().chain(B::damaged(&good)) {
        fs::write(&file, &bad).unwrap();
        let error = opening_fails::<B>(dir.path()).await;
        assert!(matches!(error, StoreError::Corrupt(_)), "{what}: {}", full(&error));
        assert!(error.to_string().contains(file.to_str().unwrap()), "{what}: {error}");
        assert!(error.to_string().contains("backup"), "{what}: {error}");
        assert_eq!(fs::read(&file).unwrap(), bad, "{what}: the file must be left as it is");
    }
    fs::write(&file, good).unwrap();
    let store = open::<B>(dir.path()).await;
    assert_eq!(store.head().await.unwrap().revision, Revision(100));
}

pub(crate) async fn a_file_of_format_1_is_brought_up_to_date<B: FileBackend>() {
    let dir = tempfile::tempdir().unwrap();
    B::make_format_1(&dir.path().join(B::FILE));
    let at = |revision| Position::new(Revision(revision), Incarnation(0));
    let write =
        |name, value: Option<&str>| Write { key: key(name), value: value.map(|v| v.to_owned().into()) };
    let expected = [
        WatchBatch { position: at(2), writes: vec![write("a", Some("2"))] },
        WatchBatch { position: at(3), writes: vec![write("b", Some("3")), write("c", None)] },
    ];
    // The second time it is up to date.
    for round in 0..2 {
        let store = open::<B>(dir.path()).await;
        let a = store.get(&key("a")).await.unwrap().unwrap();
        assert_eq!((&a.value[..], a.version), (&b"2"[..], at(2)), "round {round}");
        assert_eq!(store.head().await.unwrap(), at(3));
        let history: Vec<_> =
            store.watch("", at(1)).await.unwrap().take(2).map(Result::unwrap).collect().await;
        assert_eq!(history, expected);
        let early = store.watch("", Position::ZERO).await.err();
        assert!(matches!(early, Some(StoreError::Compacted { oldest }) if oldest == at(1)), "{early:?}");
        store.close().await.unwrap();
    }
    let store = open::<B>(dir.path()).await;
    let next = put("a", "4").guarded(Guard::Version(key("a"), at(2)));
    let written = store.commit(next).await.unwrap();
    assert!(written.revision == Revision(4) && written.incarnation != Incarnation(0), "{written:?}");
    store.compact(Revision(2)).await.unwrap();
    assert_eq!(store.watch("", at(2)).await.unwrap().take(2).count().await, 2);
}

/// Stores on a disk of their own.
#[cfg(target_os = "linux")]
struct OnSmallDisk<B>(super::small_disk::SmallDisk, std::marker::PhantomData<B>);

#[cfg(target_os = "linux")]
#[async_trait]
impl<B: FileBackend> StoreHarness for OnSmallDisk<B> {
    async fn open(&self, name: &str) -> Arc<dyn StateStore> {
        B::open(&self.0.path().join(name), None).await.unwrap()
    }

    fn reopens(&self) -> bool {
        true
    }

    async fn begin(&self, _: Disturbance, _: &str) {
        self.0.fill();
    }

    async fn end(&self, _: Disturbance, _: &str) {
        self.0.make_room();
    }
}

#[cfg(target_os = "linux")]
pub(crate) async fn a_full_disk_is_told<B: FileBackend>() {
    let disk = super::small_disk::SmallDisk::mount();
    a_full_store_says_so_and_loses_nothing(&OnSmallDisk(disk, std::marker::PhantomData::<B>)).await;
}

pub(crate) async fn a_flipped_bit_is_no_value<B: FileBackend>() {
    const VALUE: &str = "a value that is nowhere else in the file, and long enough to be one piece";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(B::FILE);
    let store = open::<B>(dir.path()).await;
    store.commit(put("good", "1")).await.unwrap();
    store.commit(put("bad", VALUE)).await.unwrap();
    store.close().await.unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let places: Vec<_> =
        (0..bytes.len() - VALUE.len()).filter(|at| bytes[*at..].starts_with(VALUE.as_bytes())).collect();
    assert!(places.len() >= 2, "the record, and the log");
    places.iter().for_each(|at| bytes[at + 7] ^= 1);
    fs::write(&file, bytes).unwrap();
    let store = open::<B>(dir.path()).await;
    assert_eq!(store.get(&key("good")).await.unwrap().unwrap().value, "1");
    let watched: Vec<_> = store.watch("", Position::ZERO).await.unwrap().collect().await;
    let read = store.get(&key("bad")).await.map(drop);
    let scanned = store.scan("", None, 10).await.map(drop);
    for damaged in [read, scanned, watched.into_iter().last().unwrap().map(drop)] {
        let Err(error @ StoreError::Corrupt(_)) = damaged else { panic!("{damaged:?}") };
        let text = error.to_string();
        assert!(text.contains("content that was written") && text.contains("backup"), "{text}");
    }
}

pub(crate) async fn a_newer_format_and_a_foreign_database_are_refused<B: FileBackend>() {
    let makes: [(fn(&Path), _); 2] =
        [(B::make_newer, "newer version (format 99"), (B::make_foreign, "another program's")];
    for (make, says) in makes {
        let dir = tempfile::tempdir().unwrap();
        make(&dir.path().join(B::FILE));
        let error = opening_fails::<B>(dir.path()).await.to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[cfg(unix)]
pub(crate) async fn nobody_but_the_owner_may_read_the_file<B: FileBackend>() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let check = || {
        for file in fs::read_dir(dir.path()).unwrap() {
            let mode = file.as_ref().unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{file:?} has mode {mode:o}");
        }
    };
    let store = open::<B>(dir.path()).await;
    store.commit(put("a", "1")).await.unwrap();
    check();
    store.close().await.unwrap();
    check();
}

pub(crate) async fn a_directory_that_cannot_be_used_is_named<B: FileBackend>() {
    let dir = tempfile::tempdir().unwrap();
    let occupied = dir.path().join("occupied");
    fs::write(&occupied, "a file").unwrap();
    for bad in [occupied.clone(), occupied.join("below")] {
        let text = full(&opening_fails::<B>(&bad).await);
        assert!(text.contains(bad.to_str().unwrap()) && text.contains("check that"), "{text}");
    }
}
