use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use orch_consensus::raft::{RaftConfig, RaftConfigError, RaftConsensus, Storage};
use orch_core::{
    consensus::{Consensus as _, ConsensusError},
    transport::{InProcessConfig, InProcessNetwork},
};

use crate::group::{CHANNEL, Group, Member, Recorder, founders, leader, peer, shut_down};

fn command(number: usize) -> Bytes {
    Bytes::from(format!("{number:0100}"))
}

async fn propose(member: &Member, numbers: std::ops::Range<usize>) {
    for number in numbers {
        member.raft.propose(command(number)).await.unwrap();
    }
}

fn expected(count: usize) -> Vec<Bytes> {
    (0..count).map(command).collect()
}

fn files(directory: PathBuf, prefix: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix));
    paths.sort();
    paths
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_off() {
    let group = Group::on_disk(1);
    let mut count = 0;
    for torn in [&b"\x05"[..], &[0xff; 300], &[0; 100]] {
        let member = group.start(1).await;
        member.raft.read_barrier().await.unwrap();
        assert_eq!(member.written(), expected(count));
        propose(&member, count..count + 5).await;
        count += 5;
        shut_down([member]).await;
        let last = files(group.directory(1), "log-").pop().unwrap();
        // A synced file ends with zeros for what comes next. The last frame says what is committed and ends
        // with zeros as well: it is torn.
        let content = fs::read(&last).unwrap();
        let end = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        fs::write(&last, [&content[..end], torn].concat()).unwrap();
    }
    let member = group.start(1).await;
    member.raft.read_barrier().await.unwrap();
    assert_eq!(member.written(), expected(count));
    shut_down([member]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_before_the_end_is_an_error() {
    let group = Group::on_disk(1);
    let small = |config: &mut RaftConfig| config.segment_bytes = 4096;
    let member = group.start_with(1, small).await;
    propose(&member, 0..100).await;
    shut_down([member]).await;
    let first = files(group.directory(1), "log-").remove(0);
    let mut content = fs::read(&first).unwrap();
    content[2000] ^= 1;
    fs::write(&first, content).unwrap();
    let raft = RaftConsensus::new(group.config(1), Arc::new(group.network.join(peer(1)))).unwrap();
    let error = raft.start(Box::new(Recorder::default())).await.unwrap_err();
    assert!(matches!(error, ConsensusError::Store(_)), "{error:?}");
}

/// Returns once a directory has the latest snapshot and no other: a new one is there shortly before the old
/// one is removed.
async fn latest_snapshot_only(directory: PathBuf) {
    let removed = async {
        while files(directory.clone(), "snapshot-").len() != 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), removed).await.expect("earlier snapshots are removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_make_the_log_short_and_bring_followers_up() {
    let group = Group::on_disk(3);
    let small = |config: &mut RaftConfig| {
        config.segment_bytes = 4096;
        config.snapshot_log_bytes_min = 10_000;
        config.snapshot_part_bytes = 1000.try_into().unwrap();
        config.log_keep_entries = 3;
        config.cache_bytes = 2000;
    };
    let (first, second) = (group.start_with(1, small).await, group.start_with(2, small).await);
    propose(&first, 0..1000).await;
    latest_snapshot_only(group.directory(1)).await;
    let bytes: u64 =
        files(group.directory(1), "log-").iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes < 2 << 20, "the log has {bytes} bytes");

    // It was never there, and what it needs is not in the log any more.
    let late = group.start_with(3, small).await;
    late.raft.read_barrier().await.unwrap();
    assert_eq!(late.written(), expected(1000));
    latest_snapshot_only(group.directory(3)).await;

    propose(&late, 1000..1010).await;
    shut_down([first, second, late]).await;
    let members = [
        group.start_with(1, small).await,
        group.start_with(2, small).await,
        group.start_with(3, small).await,
    ];
    for member in &members {
        member.raft.read_barrier().await.unwrap();
        assert_eq!(member.written(), expected(1010));
    }
    propose(&members[0], 1010..1020).await;
    shut_down(members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_is_reported_and_loses_nothing() {
    let group = Group::on_disk(3);
    let small = |config: &mut RaftConfig| config.segment_bytes = 4096;
    let mut members = Vec::new();
    for number in 1..=3 {
        members.push(group.start_with(number, small).await);
    }
    let at = leader(&members.iter().collect::<Vec<_>>()).await;
    let broken = members.remove(at);
    propose(&broken, 0..20).await;
    // The next file of its log cannot be made.
    fs::remove_dir_all(group.directory(u8::try_from(at).unwrap() + 1)).unwrap();
    let mut answered = 20;
    let error = loop {
        match broken.raft.propose(command(answered)).await {
            Ok(_) => answered += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ConsensusError::Store(_)) && !error.is_retryable(), "{error:?}");
    broken.until("in last_error", |status| status.last_error.is_some() && !status.leader).await;
    assert!(broken.raft.propose(Bytes::from_static(b"more")).await.is_err());
    members[0].raft.read_barrier().await.unwrap();
    assert!(members[0].written().starts_with(&expected(answered)), "what was answered is there");
    members[1].raft.propose(Bytes::from_static(b"on")).await.unwrap();
    shut_down([broken]).await;
    shut_down(members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_belongs_to_one_member() {
    let group = Group::on_disk(2);
    let first = group.start(1).await;
    let twice = |number: u8| {
        let mut config = group.config(number);
        config.storage = Storage::Synced { directory: group.directory(1) };
        RaftConsensus::new(config, Arc::new(group.network.join(peer(number)))).unwrap()
    };
    let error = twice(2).start(Box::new(Recorder::default())).await.unwrap_err();
    assert!(std::error::Error::source(&error).is_some(), "it says who holds it: {error:?}");
    shut_down([first]).await;
    let error = twice(2).start(Box::new(Recorder::default())).await.unwrap_err();
    assert!(format!("{error:?}").contains("another member"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn settings_that_do_not_belong_together_are_refused() {
    let network =
        InProcessNetwork::new(InProcessConfig { max_message_bytes: 1 << 20, ..InProcessConfig::default() });
    let refused = |change: fn(&mut RaftConfig)| {
        let mut config = RaftConfig { channel: CHANNEL, ..RaftConfig::new(founders(3)) };
        config.max_command_bytes = 1000;
        config.bundle_bytes_max = 1000.try_into().unwrap();
        config.append_bytes_max = 1000.try_into().unwrap();
        config.snapshot_part_bytes = 1000.try_into().unwrap();
        change(&mut config);
        RaftConsensus::new(config, Arc::new(network.join(peer(1)))).err()
    };
    assert_eq!(refused(|_| ()), None);
    assert_eq!(refused(|config| config.members.clear()), None);
    let cases: [fn(&mut RaftConfig); 9] = [
        |config| config.members.retain(|name, _| name != "m1"),
        |config| config.members.extend([("again".to_owned(), peer(2))]),
        |config| config.members.extend([(String::new(), peer(4))]),
        |config| config.heartbeat = Duration::ZERO,
        |config| config.election_timeout_min = config.heartbeat,
        |config| config.election_timeout_max = config.election_timeout_min,
        |config| config.in_flight_max = 65.try_into().unwrap(),
        |config| config.max_command_bytes = 1 << 20,
        |config| config.segment_bytes = 0,
    ];
    for (at, case) in cases.into_iter().enumerate() {
        let error = refused(case);
        assert!(error.is_some(), "case {at}");
    }
    assert!(matches!(
        refused(|config| config.max_command_bytes = 1 << 20),
        Some(RaftConfigError::LargerThanMessages { what: "max_command_bytes", .. })
    ));
}
