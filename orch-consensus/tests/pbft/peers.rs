//! Messages of other peers.

use std::sync::Arc;

use bytes::Bytes;
use orch_consensus::pbft::{
    Batch, Body, Commands, Digest, Epoch, Fetch, Message, Phase, ReplicaId, Request, Seq, Signer, Statement,
    View, Vote, verify_evidence,
};
use orch_core::{
    consensus::Consensus,
    model::Timestamp,
    transport::{Channel, InProcessTransport, Transport, TransportError},
};

use crate::group::{Group, peer, shut_down, signer};

/// Sends, and waits where the receiver is slower.
async fn send(transport: &InProcessTransport, to: usize, channel: u8, message: impl Into<Bytes>) {
    let message = message.into();
    while let Err(TransportError::Busy(_)) = transport.send(peer(to), Channel(channel), message.clone()).await
    {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_of_a_member_does_no_harm() {
    let group = Group::new(4, None);
    let members = group.start_all(3).await;
    let byzantine = group.join(3);
    members[0].propose("first").await;
    for round in 0..200_u8 {
        for to in 0..3 {
            send(&byzantine, to, round % 4, vec![round; usize::from(round)]).await;
            let mut kinds = vec![1, round % 16];
            kinds.extend([round; 64]);
            send(&byzantine, to, 0, kinds).await;
        }
    }
    for to in 0..3 {
        send(&byzantine, to, 0, vec![1; group.config.core.batch_bytes_max * 2 + (5 << 20)]).await;
    }
    members[1].propose("second").await;
    members[2].sees("both", |lines| *lines == ["first", "second"]).await;
    shut_down(members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_forged_requests_does_not_stop_the_others() {
    let group = Group::new(4, None);
    let members = group.start_all(3).await;
    let byzantine = Arc::new(group.join(3));
    let flood = tokio::spawn({
        let byzantine = byzantine.clone();
        async move {
            for number in 1.. {
                let body = Body::Commands(Commands::pack([b"forged"]));
                let mut request = Request::new(signer(0).public_key(), u64::MAX, number, 0, body);
                request.signature = Some(signer(3).sign(&[0]));
                for to in 0..3 {
                    send(&byzantine, to, 1, Message::Request(Arc::new(request.clone())).to_wire()).await;
                }
                tokio::task::yield_now().await;
            }
        }
    });
    for number in 0..50 {
        members[number % 3].propose(&number.to_string()).await;
    }
    flood.abort();
    members[0].sees("all of ours", |lines| lines.len() == 50).await;
    shut_down(members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn non_members_learn_where_the_group_is_and_nothing_else() {
    let group = Group::new(4, None);
    let members = group.start_all(4).await;
    let newcomer = group.join(9);
    send(&newcomer, 0, 0, Message::ReadQuery(1).to_wire()).await;
    let fetch = Message::Fetch(Fetch::Digests(Seq(0), Seq(9)));
    send(&newcomer, 0, 1, fetch.to_wire()).await;
    let answer = newcomer.incoming().await.unwrap();
    assert!(matches!(Message::from_wire(answer.message).unwrap(), Message::Supply(_)));
    members[0].propose("still here").await;
    shut_down(members).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_votes_twice_is_exposed_with_a_proof() {
    let group = Group::new(4, None);
    let id = group.config.group().unwrap();
    let genesis = group.config.genesis().unwrap();
    let primary = genesis.primary(View(0)).clone();
    let byzantine = (0..4).find(|number| signer(*number).public_key() == primary.key).unwrap();
    let mut members = Vec::new();
    for number in (0..4).filter(|number| *number != byzantine) {
        members.push((number, group.start(number).await));
    }
    let transport = group.join(byzantine);
    let proposal = |text: &str| {
        let body = Body::Commands(Commands::pack([text]));
        let request = Request::new(primary.key, 1, 1, 0, body);
        let batch = Arc::new(Batch::new(Timestamp::now(), vec![Arc::new(request)]));
        let digest: Digest = batch.digest();
        let statement =
            Statement::Vote { phase: Phase::Prepare, epoch: Epoch(0), view: View(0), seq: Seq(1), digest };
        let vote = Vote {
            phase: Phase::Prepare,
            epoch: Epoch(0),
            view: View(0),
            seq: Seq(1),
            digest,
            replica: ReplicaId(primary.id.0),
            signature: signer(byzantine).sign(&statement.bytes(&id)),
        };
        Message::PrePrepare(batch, vote).to_wire()
    };
    let (victim, member) = &members[0];
    send(&transport, *victim, 0, proposal("one")).await;
    // It is served again once it is answered.
    loop {
        let received = transport.incoming().await.unwrap();
        if received.from == peer(*victim)
            && matches!(Message::from_wire(received.message), Ok(Message::Vote(_)))
        {
            break;
        }
    }
    send(&transport, *victim, 0, proposal("two")).await;
    let shown = async {
        loop {
            if let Some(evidence) = member.consensus.evidence().pop() {
                return evidence;
            }
            tokio::task::yield_now().await;
        }
    };
    let evidence = tokio::time::timeout(crate::group::DEADLINE, shown).await.unwrap();
    assert_eq!(evidence.member, *primary.name);
    let proven = verify_evidence(&member.consensus.group(), &evidence.proof).unwrap();
    assert_eq!(proven.key, primary.key);
    assert!(verify_evidence(&Digest::default(), &evidence.proof).is_err());
    // The others go on without it.
    members[1].1.propose("after").await;
    for (_, member) in members {
        member.consensus.shutdown().await;
    }
}
