//! The log of a member on its disk.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use orch_consensus::pbft::{Digest, Directory, Disk, PbftConsensus, Signer, wal};
use orch_core::{
    consensus::{Consensus, ConsensusError},
    store::{Durability, StoreError},
};

use crate::{
    group::{Group, Member, shut_down, signer},
    machine::Journal,
};

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_comes_back_catches_up() {
    let directory = tempfile::tempdir().unwrap();
    let group = Group::new(4, Some(directory.path()));
    let mut members = group.start_all(4).await;
    for line in numbers(0..20) {
        members[0].propose(&line).await;
    }
    members[3].consensus.shutdown().await;
    members.truncate(3);
    for line in numbers(20..40) {
        members[1].propose(&line).await;
    }
    let again = group.start(3).await;
    again.sees("all commands", |lines| *lines == numbers(0..40)).await;
    again.propose("40").await;
    assert_eq!(again.machine.now(), numbers(0..41));
    members.push(again);
    shut_down(members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_ends_in_the_middle_is_cut() {
    let directory = tempfile::tempdir().unwrap();
    let group = Group::new(1, Some(directory.path()));
    let member = group.start(0).await;
    for line in numbers(0..5) {
        member.propose(&line).await;
    }
    shut_down(vec![member]).await;
    let path = group.directory(0).join("log");
    let whole = std::fs::read(&path).unwrap();
    let mut torn = whole.clone();
    torn.extend_from_slice(&whole[8..60]);
    torn.extend_from_slice(&[7; 3]);
    std::fs::write(&path, &torn).unwrap();
    let (_, sound) = wal::read(&torn.clone().into()).unwrap();
    assert!(sound < torn.len());

    let member = group.start(0).await;
    assert_eq!(member.machine.now(), numbers(0..5));
    member.propose("5").await;
    shut_down(vec![member]).await;
    let member = group.start(0).await;
    assert_eq!(member.machine.now(), numbers(0..6));
    shut_down(vec![member]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_has_one_member_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let group = Group::new(1, Some(directory.path()));
    let member = group.start(0).await;
    let refused = group.member(0).start(Box::new(Journal::default())).await.unwrap_err();
    assert!(matches!(&refused, ConsensusError::Store(StoreError::Locked(_))), "{refused:?}");
    // The transport of the refused one replaced the first one's.
    shut_down(vec![member]).await;
    shut_down(vec![group.start(0).await]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_another_group_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut group = Group::new(1, Some(directory.path()));
    shut_down(vec![group.start(0).await]).await;
    group.config.group_name = "another".into();
    let refused = group.member(0).start(Box::new(Journal::default())).await.unwrap_err();
    assert!(matches!(&refused, ConsensusError::Store(StoreError::Corrupt(_))), "{refused:?}");
}

/// A directory whose disk can be full.
#[derive(Debug)]
struct Full {
    directory: Directory,
    full: AtomicBool,
}

impl Full {
    fn check(&self) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Disk for Full {
    fn read(&self) -> io::Result<Vec<u8>> {
        self.directory.read()
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.directory.truncate(bytes)
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.check()?;
        self.directory.append(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.directory.sync()
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        self.check()?;
        self.directory.replace(bytes)
    }
}

fn full_disk(directory: &std::path::Path, group: &Digest) -> Arc<Full> {
    let directory = Directory::open(directory, group, &signer(3).public_key()).unwrap();
    Arc::new(Full { directory, full: AtomicBool::new(false) })
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_votes_wait_and_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let group = Group::new(4, None);
    let mut members = group.start_all(2).await;
    let disk = full_disk(directory.path(), &group.config.group().unwrap());
    let mut config = group.config.clone();
    config.durability = Durability::Sync;
    let consensus =
        PbftConsensus::on_disk(config.clone(), Arc::new(signer(3)), group.join(3), disk.clone()).unwrap();
    let member = Member { consensus: Arc::new(consensus), machine: Journal::default() };
    member.consensus.start(Box::new(member.machine.clone())).await.unwrap();
    members.push(member);
    // With three of four there is a quorum only as long as each of them votes.
    members[0].propose("before").await;
    disk.full.store(true, Ordering::SeqCst);
    let waiting = tokio::spawn({
        let consensus = members[0].consensus.clone();
        async move { consensus.propose("meanwhile".into()).await }
    });
    let about_disk = |last_error: &Option<String>| {
        last_error.as_ref().is_some_and(|last_error| last_error.contains("cannot be written"))
    };
    members[2].reports("what is wrong", |status| about_disk(&status.last_error)).await;
    assert!(!waiting.is_finished(), "nothing is answered without a quorum");
    assert_eq!(members[0].machine.now(), ["before"]);

    disk.full.store(false, Ordering::SeqCst);
    waiting.await.unwrap().unwrap();
    members[2].reports("that it is over", |status| !about_disk(&status.last_error)).await;
    members[2].propose("after").await;
    assert_eq!(members[2].machine.now(), ["before", "meanwhile", "after"]);
    shut_down(members).await;
    drop(disk);
    let kept = std::fs::read(directory.path().join("log")).unwrap();
    assert!(!wal::read(&kept.into()).unwrap().0.records.is_empty());
}
