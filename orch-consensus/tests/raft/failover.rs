use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use orch_consensus::raft::RaftConsensus;
use orch_core::consensus::{Consensus as _, ConsensusError};

use crate::group::{Group, Member, leader, peer, shut_down};

/// Acknowledged commands of clients.
#[derive(Default)]
pub(crate) struct Acknowledged {
    /// Commands with the position that their outcome named.
    pub(crate) answered: Vec<(Bytes, u64)>,
    /// Commands whose outcome is not known.
    pub(crate) unknown: BTreeSet<Bytes>,
    /// Commands that were refused: they never happened.
    pub(crate) refused: BTreeSet<Bytes>,
}

/// Proposes one command and writes down what came of it.
pub(crate) async fn propose(
    raft: &RaftConsensus,
    command: String,
    acknowledged: &Mutex<Acknowledged>,
) -> Option<u64> {
    let command = Bytes::from(command);
    let result = raft.propose(command.clone()).await;
    let mut acknowledged = acknowledged.lock().unwrap();
    match result {
        Ok(committed) => {
            let position = u64::from_be_bytes(committed.outcome[..].try_into().unwrap());
            acknowledged.answered.push((command, position));
            Some(position)
        }
        Err(error) => {
            let all =
                if error.outcome_unknown() { &mut acknowledged.unknown } else { &mut acknowledged.refused };
            all.insert(command);
            None
        }
    }
}

/// Every member has the same list, and it agrees with the clients' outcomes.
pub(crate) async fn check(members: &[&Member], acknowledged: &Acknowledged) {
    for member in members {
        member.raft.read_barrier().await.unwrap();
    }
    let written = members[0].written();
    for member in members {
        assert_eq!(member.written(), written, "the members differ");
    }
    let once: BTreeSet<&Bytes> = written.iter().collect();
    assert_eq!(once.len(), written.len(), "something was applied twice");
    for (command, position) in &acknowledged.answered {
        let at = usize::try_from(*position).unwrap();
        assert_eq!(written.get(at), Some(command), "{command:?} is not where its outcome says");
    }
    assert!(
        acknowledged.refused.iter().all(|command| !once.contains(command)),
        "something refused was applied"
    );
    for member in members {
        let times: Vec<_> =
            member.book.lock().unwrap().iter().map(|(_, at, revision)| (*revision, *at)).collect();
        assert!(times.is_sorted_by_key(|(revision, _)| *revision));
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_has_what_was_answered_and_nothing_twice() {
    let group = Group::in_memory(3, 1);
    let mut members = group.start_all().await;
    let first = leader(&members.iter().collect::<Vec<_>>()).await;
    let acknowledged = Arc::new(Mutex::new(Acknowledged::default()));
    let crashed = members.remove(first);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..8 {
        let (raft, acknowledged) = (members[client % 2].raft.clone(), acknowledged.clone());
        clients.spawn(async move {
            for number in 0..100 {
                propose(&raft, format!("{client}/{number}"), &acknowledged).await;
                tokio::time::sleep(Duration::from_millis(7)).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Its responses are lost first: what it committed then is asked for again.
    group.network.block(peer(u8::try_from(first).unwrap() + 1), peer(members_left(first)[0]));
    group.network.block(peer(u8::try_from(first).unwrap() + 1), peer(members_left(first)[1]));
    tokio::time::sleep(Duration::from_millis(30)).await;
    drop(crashed);
    clients.join_all().await;
    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    assert_eq!(acknowledged.answered.len(), 800, "a new leader is found before proposals give up");
    check(&members.iter().collect::<Vec<_>>(), &acknowledged).await;
    shut_down(members).await;
}

fn members_left(first: usize) -> [u8; 2] {
    match first {
        0 => [2, 3],
        1 => [1, 3],
        _ => [1, 2],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_crashes_comes_back_with_what_it_answered() {
    let group = Group::on_disk(3);
    let mut members = group.start_all().await;
    let acknowledged = Mutex::new(Acknowledged::default());
    for round in 0..3 {
        let at = leader(&members.iter().collect::<Vec<_>>()).await;
        for number in 0..20 {
            propose(&members[number % 3].raft, format!("{round}/{number}"), &acknowledged).await;
        }
        let number = u8::try_from(at).unwrap() + 1;
        drop(members.remove(at));
        // Its tasks end a moment later, and with them the lock on the directory.
        let again = loop {
            let config = group.config(number);
            let transport = Arc::new(group.network.join(peer(number)));
            let raft = Arc::new(RaftConsensus::new(config, transport).unwrap());
            let machine = crate::group::Recorder::default();
            let book = machine.book.clone();
            match raft.start(Box::new(machine)).await {
                Ok(()) => break Member { raft, book },
                Err(error) => {
                    assert!(matches!(error, ConsensusError::Store(_)), "{error}");
                    tokio::task::yield_now().await;
                }
            }
        };
        members.insert(at, again);
    }
    let acknowledged = acknowledged.into_inner().unwrap();
    assert_eq!(acknowledged.answered.len(), 60);
    check(&members.iter().collect::<Vec<_>>(), &acknowledged).await;
    shut_down(members).await;
}

#[tokio::test(start_paused = true)]
async fn a_minority_says_that_nobody_leads() {
    let group = Group::in_memory(3, 2);
    let alone = group.start(1).await;
    let error = alone.raft.propose(Bytes::from_static(b"x")).await.unwrap_err();
    assert!(matches!(error, ConsensusError::NoLeader(_)) && !error.outcome_unknown(), "{error}");
    assert!(alone.raft.read_barrier().await.is_err());
    assert_eq!(alone.status().last_error.as_deref(), Some("no leader is known"));
    shut_down([alone]).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_neither_reads_nor_forgets() {
    let group = Group::in_memory(3, 3);
    let members = group.start_all().await;
    let all: Vec<&Member> = members.iter().collect();
    let old = leader(&all).await;
    let rest = members_left(old);
    members[old].raft.propose(Bytes::from_static(b"before")).await.unwrap();
    group.network.partition(&[&[peer(u8::try_from(old).unwrap() + 1)], &[peer(rest[0]), peer(rest[1])]]);
    let lost = tokio::spawn({
        let raft = members[old].raft.clone();
        async move { raft.propose(Bytes::from_static(b"cut off")).await }
    });
    let others: Vec<&Member> = rest.iter().map(|number| &members[usize::from(*number) - 1]).collect();
    let stale = members[old].raft.read_barrier();
    let fresh = async {
        let new = leader(&others).await;
        others[new].raft.propose(Bytes::from_static(b"after")).await.unwrap();
    };
    let (stale, ()) = tokio::join!(stale, fresh);
    assert!(stale.is_err(), "a deposed leader answered a read: {stale:?}");
    let lost = lost.await.unwrap().unwrap_err();
    assert!(lost.outcome_unknown(), "a leader had it: {lost}");
    group.network.heal();
    members[old].raft.read_barrier().await.unwrap();
    assert!(members[old].written().contains(&Bytes::from_static(b"after")));
    check(&all, &Acknowledged::default()).await;
    shut_down(members).await;
}

#[tokio::test(start_paused = true)]
async fn proposals_at_a_follower_reach_the_leader() {
    let group = Group::in_memory(3, 4);
    let members = group.start_all().await;
    let all: Vec<&Member> = members.iter().collect();
    let follower = &members[(leader(&all).await + 1) % 3];
    let proposals = (0..5000u32).map(|number| follower.raft.propose(Bytes::from(number.to_string())));
    let responses = futures_util::future::join_all(proposals).await;
    let revisions: BTreeSet<_> = responses.into_iter().map(|answer| answer.unwrap().revision).collect();
    assert!(revisions.len() < 100, "they share entries, but there are {}", revisions.len());
    let times: Vec<_> = follower.book.lock().unwrap().iter().map(|(_, at, _)| *at).collect();
    assert!(times.is_sorted() && times.last() <= Some(&follower.raft.now()), "the time of a leader goes on");
    check(&all, &Acknowledged::default()).await;
    shut_down(members).await;
}

/// Tasks on this runtime besides the test itself.
async fn until_no_task_is_left() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let ending = async {
        while metrics.num_alive_tasks() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(10), ending).await;
    assert!(ended.is_ok(), "{} tasks live on", metrics.num_alive_tasks());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_leaves_no_task_behind() {
    let group = Group::in_memory(3, 6);
    let members = group.start_all().await;
    members[0].raft.propose(Bytes::from_static(b"x")).await.unwrap();
    shut_down(members).await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_members_ends_their_tasks() {
    let group = Group::in_memory(3, 7);
    let members = group.start_all().await;
    members[0].raft.propose(Bytes::from_static(b"x")).await.unwrap();
    drop(members);
    until_no_task_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn too_many_proposals_are_refused() {
    let group = Group::in_memory(3, 5);
    let alone = group.start_with(1, |config| config.queue_max = 10.try_into().unwrap()).await;
    let proposals = (0..1000u32).map(|number| alone.raft.propose(Bytes::from(number.to_string())));
    let responses = futures_util::future::join_all(proposals).await;
    let busy = responses.iter().filter(|answer| matches!(answer, Err(ConsensusError::Busy))).count();
    assert!(busy > 900, "{busy}");
    shut_down([alone]).await;
}
