use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use orch_core::{
    consensus::Consensus as _,
    transport::{Channel, Transport as _},
};

use crate::{
    failover::{Acknowledged, check, propose},
    group::{CHANNEL, Group, Member, leader, peer, shut_down},
};

/// SplitMix64, so that everything follows from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

async fn disturb(group: &Group, random: &mut Random) {
    for _ in 0..20 {
        let alone = u8::try_from(1 + random.below(3)).unwrap();
        let rest: Vec<_> = (1..=3).filter(|number| *number != alone).map(peer).collect();
        match random.below(4) {
            0 => group.network.partition(&[&[peer(alone)], &rest]),
            1 => rest.iter().for_each(|other| group.network.block(peer(alone), *other)),
            2 => rest.iter().for_each(|other| group.network.block(*other, peer(alone))),
            _ => {}
        }
        let loss = u8::try_from(random.below(15)).unwrap();
        group.faults(loss, Duration::from_millis(random.below(60)));
        tokio::time::sleep(Duration::from_millis(200 + random.below(2500))).await;
        group.network.heal();
        tokio::time::sleep(Duration::from_millis(random.below(800))).await;
    }
}

/// A client: its later proposals have later positions, and a read shows whatever was acknowledged before.
async fn work(raft: Arc<orch_consensus::raft::RaftConsensus>, book: crate::group::Book, plan: Plan) {
    let Plan { client, acknowledged, highest, mut random } = plan;
    let mut last = None;
    for number in 0..60 {
        let position = propose(&raft, format!("{client}/{number}"), &acknowledged).await;
        if let Some(position) = position {
            assert!(Some(position) > last, "client {client}: {position} after {last:?}");
            last = Some(position);
            highest.fetch_max(position, Ordering::SeqCst);
        }
        let before = highest.load(Ordering::SeqCst);
        if raft.read_barrier().await.is_ok() {
            let length = book.lock().unwrap().len() as u64;
            assert!(
                length > before || before == 0,
                "a read shows {length}, but {before} was answered before"
            );
        }
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
    }
}

struct Plan {
    client: u64,
    acknowledged: Arc<Mutex<Acknowledged>>,
    highest: Arc<AtomicU64>,
    random: Random,
}

async fn survive(seed: u64) {
    let group = Group::in_memory(3, seed);
    let mut members = Vec::new();
    for number in 1..=3 {
        let impatient = |config: &mut orch_consensus::raft::RaftConfig| {
            // So that some outcomes are not known, and late bundles meet received numbers.
            config.proposal_timeout = Duration::from_secs(3);
            config.attempt_timeout = Duration::from_millis(300);
            config.snapshot_log_bytes_min = 2000;
            config.log_keep_entries = 5;
            config.snapshot_part_bytes = 700.try_into().unwrap();
            config.snapshot_part_timeout = Duration::from_millis(300);
        };
        members.push(group.start_with(number, impatient).await);
    }
    let (acknowledged, highest) =
        (Arc::new(Mutex::new(Acknowledged::default())), Arc::new(AtomicU64::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..6u64 {
        let member = &members[usize::try_from(client).unwrap() % 3];
        let random = Random(seed.wrapping_mul(31) + client);
        let plan = Plan { client, acknowledged: acknowledged.clone(), highest: highest.clone(), random };
        clients.spawn(work(member.raft.clone(), member.book.clone(), plan));
    }
    disturb(&group, &mut Random(seed)).await;
    clients.join_all().await;
    let all: Vec<&Member> = members.iter().collect();
    leader(&all).await;
    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    assert!(
        acknowledged.answered.len() > 100,
        "seed {seed}: only {} were answered",
        acknowledged.answered.len()
    );
    check(&all, &acknowledged).await;
    shut_down(members).await;
}

#[tokio::test(start_paused = true)]
async fn groups_survive_bad_networks() {
    for seed in 1..=20 {
        println!("seed {seed}");
        Box::pin(survive(seed)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_is_refused() {
    let group = Group::in_memory(1, 1);
    let member = group.start(1).await;
    member.raft.propose(Bytes::from_static(b"first")).await.unwrap();
    let outside_peer = group.network.join(peer(9));
    let mut random = Random(7);
    for length in 0..400 {
        let mut message: Vec<u8> = (0..length).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
        if length > 2 {
            // The right version, and each kind of request.
            (message[0], message[1]) = (1, u8::try_from(random.below(8)).unwrap());
        }
        let timeout = Duration::from_millis(10);
        let _ = outside_peer.request(peer(1), CHANNEL, message.into(), timeout).await;
    }
    // A length that promises more than there is, for a list of entries.
    let mut huge = vec![1, 0];
    huge.extend([0; 17 + 1 + 1]);
    huge.extend(u32::MAX.to_le_bytes());
    let answer = outside_peer.request(peer(1), CHANNEL, huge.into(), Duration::from_millis(10)).await;
    assert!(answer.is_err());
    let elsewhere = outside_peer.request(peer(1), Channel(99), Bytes::new(), Duration::from_millis(10)).await;
    assert!(elsewhere.is_err());
    member.raft.propose(Bytes::from_static(b"second")).await.unwrap();
    assert_eq!(member.written(), ["first", "second"]);
    shut_down([member]).await;
}
