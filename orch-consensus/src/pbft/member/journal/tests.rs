use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::pbft::{Digest, Epoch, Seq, View};

/// A disk in memory that can be full, and counts.
#[derive(Debug, Default)]
struct Fake {
    bytes: Mutex<Vec<u8>>,
    full: AtomicBool,
    broken: AtomicBool,
    syncs: AtomicUsize,
    /// Held by a test while nothing may be written.
    gate: Mutex<()>,
}

impl Disk for Fake {
    fn read(&self) -> io::Result<Vec<u8>> {
        Ok(self.bytes.lock().clone())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.bytes.lock().truncate(usize::try_from(bytes).unwrap());
        Ok(())
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let _open = self.gate.lock();
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.lock().extend(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        match self.broken.load(Ordering::SeqCst) {
            true => Err(io::Error::other("broken")),
            false => Ok(()),
        }
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let _open = self.gate.lock();
        *self.bytes.lock() = bytes.to_vec();
        Ok(())
    }
}

fn record(number: u64) -> Record {
    Record::Decided(Seq(number), Digest([1; 32]))
}

fn append(journal: &Journal, numbers: std::ops::Range<u64>) {
    journal.submit(&mut numbers.map(|number| Change::Append(record(number))).collect());
}

fn records(disk: &Fake) -> Vec<Record> {
    wal::read(&disk.read().unwrap().into()).unwrap().0.records
}

async fn durable(journal: &Journal, count: u64) {
    journal.progress().wait_for(|progress| progress.durable >= count).await.unwrap();
}

#[tokio::test]
async fn what_waits_is_synced_together() {
    let disk = Arc::new(Fake::default());
    let journal = Journal::start(disk.clone(), Durability::Sync, false).unwrap();
    let gate = disk.gate.lock();
    append(&journal, 0..1);
    append(&journal, 1..100);
    append(&journal, 100..200);
    drop(gate);
    durable(&journal, 200).await;
    assert!(
        disk.syncs.load(Ordering::SeqCst) <= 3,
        "one for what was taken at once, one or two for the rest"
    );
    assert_eq!(records(&disk), (0..200).map(record).collect::<Vec<_>>());
    assert_eq!(journal.waiting_bytes(), 0);
}

#[tokio::test]
async fn a_full_disk_is_reported_and_waited_for() {
    let disk = Arc::new(Fake::default());
    disk.full.store(true, Ordering::SeqCst);
    let journal = Journal::start(disk.clone(), Durability::Sync, false).unwrap();
    append(&journal, 0..3);
    let mut progress = journal.progress();
    let seen = progress.wait_for(|progress| progress.last_error.is_some()).await.unwrap().clone();
    assert!(!seen.failed && seen.durable == 0, "{seen:?}");
    disk.full.store(false, Ordering::SeqCst);
    durable(&journal, 3).await;
    assert_eq!(journal.progress().borrow().last_error, None);
    assert_eq!(records(&disk).len(), 3);
}

#[tokio::test]
async fn a_failed_sync_ends_it() {
    let disk = Arc::new(Fake::default());
    disk.broken.store(true, Ordering::SeqCst);
    for durability in [Durability::Sync, Durability::Group] {
        let journal = Journal::start(disk.clone(), durability, false).unwrap();
        append(&journal, 0..1);
        let mut progress = journal.progress();
        progress.wait_for(|progress| progress.failed).await.unwrap();
        assert_eq!(progress.borrow().durable, u64::from(durability == Durability::Group));
        journal.finish();
    }
}

#[tokio::test]
async fn a_replacement_stands_for_what_came_before_it() {
    let disk = Arc::new(Fake::default());
    let journal = Journal::start(disk.clone(), Durability::Group, false).unwrap();
    append(&journal, 0..10);
    let image = Image { snapshot: None, records: vec![Record::Left(Epoch(0), View(1))] };
    journal.submit(&mut vec![Change::Replace(image)]);
    append(&journal, 10..11);
    durable(&journal, 12).await;
    assert_eq!(records(&disk), [Record::Left(Epoch(0), View(1)), record(10)]);
    journal.finish();
}

#[test]
fn the_end_writes_and_syncs_what_waits() {
    for durability in [Durability::Sync, Durability::Group] {
        let disk = Arc::new(Fake::default());
        let journal = Journal::start(disk.clone(), durability, false).unwrap();
        append(&journal, 0..50);
        journal.finish();
        assert_eq!(records(&disk).len(), 50);
        assert!(disk.syncs.load(Ordering::SeqCst) >= 1);
    }
}
