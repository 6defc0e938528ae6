//! The protocol core against nonsense: bytes that are no messages, and messages that make no sense.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use orch_consensus::pbft::{
    Batch, Body, Certificate, Change, Checkpoint, CheckpointVote, Commands, Config, Digest, Effect, Epoch,
    EpochStep, Fetch, Input, Membership, Message, MessageClass, Moment, NewView, Phase, PublicKey, Replica,
    ReplicaId, Reply, Request, Seq, Setup, Signature, SnapshotRef, StableProof, Status, Summary, Supply,
    View, ViewChange, Vote,
};
use orch_core::{model::Timestamp, testkit::Counter};
use proptest::{collection::vec, option, prelude::*, strategy::ValueTree as _, test_runner::TestRunner};

fn seq() -> impl Strategy<Value = Seq> {
    prop_oneof![4 => (0..20u64).prop_map(Seq), 1 => any::<u64>().prop_map(Seq)]
}

fn view() -> impl Strategy<Value = View> {
    prop_oneof![4 => (0..4u64).prop_map(View), 1 => any::<u64>().prop_map(View)]
}

fn epoch() -> impl Strategy<Value = Epoch> {
    prop_oneof![8 => Just(Epoch(0)), 1 => (0..3u64).prop_map(Epoch), 1 => any::<u64>().prop_map(Epoch)]
}

fn replica() -> impl Strategy<Value = ReplicaId> {
    prop_oneof![8 => (0..4u32).prop_map(ReplicaId), 1 => any::<u32>().prop_map(ReplicaId)]
}

fn digest() -> impl Strategy<Value = Digest> {
    prop_oneof![2 => Just(Batch::null().digest()), 2 => (0..3u8).prop_map(|byte| Digest([byte; 32]))]
}

fn key() -> impl Strategy<Value = PublicKey> {
    (0..6u8).prop_map(|byte| PublicKey([byte; 32]))
}

fn signature() -> impl Strategy<Value = Signature> {
    any::<u8>().prop_map(|byte| Signature([byte; 64]))
}

fn signatures() -> impl Strategy<Value = Vec<(ReplicaId, Signature)>> {
    vec((replica(), signature()), 0..5)
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (key(), "[a-z]{0,9}").prop_map(|(key, name)| Change::Add { key, name }),
        replica().prop_map(|id| Change::Remove { id })
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let body = prop_oneof![
        vec(vec(any::<u8>(), 0..9), 0..4).prop_map(|commands| Body::Commands(Commands::pack(commands))),
        Just(Body::Barrier),
        change().prop_map(Body::Membership)
    ];
    let numbers = (0..4u64, prop_oneof![0..9u64, any::<u64>()], prop_oneof![0..9u64, any::<u64>()]);
    (key(), numbers, body, option::of(signature())).prop_map(
        |(client, (session, number, answered), body, signature)| {
            let mut request = Request::new(client, session, number, answered, body);
            request.signature = signature;
            request
        },
    )
}

fn batch() -> impl Strategy<Value = Arc<Batch>> {
    let time = prop_oneof![4 => 0..2000u64, 1 => any::<u64>()];
    (time, vec(request().prop_map(Arc::new), 0..4))
        .prop_map(|(time, requests)| Arc::new(Batch::new(Timestamp::from_millis(time), requests)))
}

fn vote() -> impl Strategy<Value = Vote> {
    let phase = prop_oneof![Just(Phase::Prepare), Just(Phase::Commit)];
    (phase, epoch(), view(), seq(), digest(), replica(), signature()).prop_map(
        |(phase, epoch, view, seq, digest, replica, signature)| Vote {
            phase,
            epoch,
            view,
            seq,
            digest,
            replica,
            signature,
        },
    )
}

fn certificate() -> impl Strategy<Value = Certificate> {
    (vote(), signatures()).prop_map(|(vote, votes)| {
        let Vote { phase, epoch, view, seq, digest, .. } = vote;
        Certificate { phase, epoch, view, seq, digest, votes }
    })
}

fn snapshot() -> impl Strategy<Value = SnapshotRef> {
    (seq(), digest()).prop_map(|(seq, root)| SnapshotRef { seq, root })
}

fn checkpoint() -> impl Strategy<Value = Checkpoint> {
    (epoch(), seq(), digest(), snapshot(), digest(), option::of(digest())).prop_map(
        |(epoch, seq, chain, snapshot, membership, successor)| Checkpoint {
            epoch,
            seq,
            chain,
            snapshot,
            membership,
            successor,
        },
    )
}

fn members() -> Membership {
    let members = (0..4u8).map(|byte| (format!("m{byte}"), PublicKey([byte; 32])));
    Membership::genesis(members).expect("four members")
}

fn step() -> impl Strategy<Value = EpochStep> {
    (checkpoint(), signatures()).prop_map(|(checkpoint, votes)| EpochStep {
        checkpoint,
        votes,
        membership: members(),
    })
}

fn stable() -> impl Strategy<Value = StableProof> {
    (checkpoint(), signatures(), vec(step(), 0..2)).prop_map(|(checkpoint, votes, steps)| StableProof {
        checkpoint,
        votes,
        steps,
    })
}

fn summary() -> impl Strategy<Value = Summary> {
    (epoch(), view(), replica(), seq(), vec((seq(), view(), digest()), 0..4), signature()).prop_map(
        |(epoch, view, replica, stable, prepared, signature)| Summary {
            epoch,
            view,
            replica,
            stable,
            prepared,
            signature,
        },
    )
}

fn new_view() -> impl Strategy<Value = NewView> {
    let proofs = (option::of(stable()), vec(certificate(), 0..3));
    (summary(), vec(summary(), 0..5), proofs, vec((seq(), digest()), 0..4)).prop_map(
        |(like, summaries, (stable, prepared), proposals)| NewView {
            epoch: like.epoch,
            view: like.view,
            replica: like.replica,
            summaries,
            stable,
            prepared,
            proposals,
            signature: like.signature,
        },
    )
}

fn fetch() -> impl Strategy<Value = Fetch> {
    prop_oneof![
        snapshot().prop_map(Fetch::Manifest),
        (snapshot(), any::<u32>()).prop_map(|(name, index)| Fetch::Chunk(name, index)),
        (seq(), seq()).prop_map(|(after, to)| Fetch::Digests(after, to)),
        (seq(), digest()).prop_map(|(seq, digest)| Fetch::Batch(seq, digest)),
        epoch().prop_map(Fetch::Members),
    ]
}

fn supply() -> impl Strategy<Value = Supply> {
    prop_oneof![
        (snapshot(), vec(digest(), 0..4)).prop_map(|(name, chunks)| Supply::Manifest(name, chunks)),
        (snapshot(), 0..4u32, vec(any::<u8>(), 0..9)).prop_map(|(name, at, bytes)| Supply::Chunk(
            name,
            at,
            bytes.into()
        )),
        (seq(), vec(digest(), 0..9)).prop_map(|(after, digests)| Supply::Digests(after, digests)),
        (seq(), batch()).prop_map(|(seq, batch)| Supply::Batch(seq, batch)),
        vec(step(), 0..3).prop_map(Supply::Members),
        fetch().prop_map(Supply::Unavailable),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    let outcomes = vec(vec(any::<u8>(), 0..4).prop_map(Bytes::from), 0..3);
    (any::<u64>(), any::<u64>(), seq(), outcomes).prop_map(|(session, number, seq, outcomes)| Reply {
        session,
        number,
        seq,
        outcomes,
    })
}

fn message() -> impl Strategy<Value = Message> {
    let status = (epoch(), view(), any::<bool>(), seq(), seq()).prop_map(
        |(epoch, view, changing, stable, executed)| Status { epoch, view, changing, stable, executed },
    );
    let checkpoint_vote = vote().prop_map(|vote| CheckpointVote {
        epoch: vote.epoch,
        seq: vote.seq,
        digest: vote.digest,
        replica: vote.replica,
        signature: vote.signature,
    });
    let view_change = (summary(), option::of(stable()), vec(certificate(), 0..4))
        .prop_map(|(summary, stable, prepared)| Arc::new(ViewChange { summary, stable, prepared }));
    prop_oneof![
        request().prop_map(|request| Message::Request(Arc::new(request))),
        (batch(), vote(), any::<bool>()).prop_map(|(batch, vote, right)| {
            let digest = if right { batch.digest() } else { vote.digest };
            Message::PrePrepare(batch, Vote { digest, ..vote })
        }),
        vote().prop_map(Message::Vote),
        checkpoint_vote.prop_map(Message::Checkpoint),
        view_change.prop_map(Message::ViewChange),
        new_view().prop_map(|new| Message::NewView(Arc::new(new))),
        stable().prop_map(|proof| Message::Stable(Arc::new(proof))),
        certificate().prop_map(Message::Committed),
        status.prop_map(Message::Status),
        fetch().prop_map(Message::Fetch),
        supply().prop_map(Message::Supply),
        any::<u64>().prop_map(Message::ReadQuery),
        (0..3u64, seq()).prop_map(|(id, seq)| Message::ReadAnswer(id, seq)),
        (epoch(), view(), reply()).prop_map(|(epoch, view, reply)| Message::Reply(
            epoch,
            view,
            Arc::new(reply)
        )),
    ]
}

fn new_replica(byte: u8) -> Replica {
    let config = Config { checkpoint_interval: 4, window: 8, snapshot_bytes_min: 100, ..Config::default() };
    let machine = Box::new(Counter::default());
    Replica::new(Setup { config, genesis: members(), key: PublicKey([byte; 32]), session: 1, machine })
        .expect("the configuration is valid")
}

/// Kinds that can be read are exactly those with a class, and the strategy above makes each of them.
#[test]
fn every_kind_has_a_class() {
    let mut runner = TestRunner::deterministic();
    let message = message();
    let made: BTreeSet<u8> =
        (0..2000).map(|_| message.new_tree(&mut runner).unwrap().current().to_wire()[1]).collect();
    let classed = (0..=u8::MAX).filter(|kind| MessageClass::of_wire(&[1, *kind]).is_some());
    assert_eq!(made, classed.collect());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn bytes_that_are_no_message_are_refused(bytes in vec(any::<u8>(), 0..400)) {
        let _ = Message::from_wire(bytes.into());
    }

    #[test]
    fn a_message_is_read_as_it_was_written(message in message()) {
        let bytes = Bytes::from(message.to_wire());
        prop_assert_eq!(Message::from_wire(bytes.clone()), Ok(message));
        // A beginning of a message is none.
        prop_assert!(Message::from_wire(bytes.slice(..bytes.len() - 1)).is_err());
    }

    #[test]
    fn the_class_of_a_message_is_told_by_its_first_bytes(message in message()) {
        let bytes = message.to_wire();
        prop_assert_eq!(MessageClass::of_wire(&bytes), Some(message.class()));
        prop_assert_eq!(MessageClass::of_wire(&bytes[..2]), Some(message.class()));
        prop_assert_eq!(MessageClass::of_wire(&bytes[..1]), None);
    }

    #[test]
    fn damaged_messages_do_no_harm(message in message(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = message.to_wire();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(read) = Message::from_wire(bytes.clone().into()) {
            prop_assert_eq!(read.to_wire(), bytes, "each message has one encoding");
        }
    }

    /// Whatever arrives, a replica that checks signatures executes nothing that a quorum did not sign, asks
    /// for no more than it can hold, and says when it wants to be woken.
    #[test]
    fn messages_that_make_no_sense_do_no_harm(
        me in 0..4u8,
        messages in vec((0..6u8, message(), any::<u16>()), 1..60),
    ) {
        let mut replica = new_replica(me);
        let mut elapsed = Duration::ZERO;
        for (from, message, wait) in messages {
            let mut out = Vec::new();
            elapsed += Duration::from_millis(u64::from(wait % 64));
            let now = Moment { elapsed, wall: Timestamp::from_millis(1000) };
            replica.step(now, Input::Message(PublicKey([from; 32]), message), &mut out);
            // All of these signatures are bad.
            let jobs: Vec<_> = out
                .iter()
                .filter_map(|effect| match effect {
                    Effect::Verify(job, claims) => Some((*job, (0..claims.len()).collect())),
                    _ => None,
                })
                .collect();
            for (job, bad) in jobs {
                replica.step(now, Input::Verified(job, bad), &mut out);
            }
            prop_assert!(out.len() < 1000, "one message has {} consequences", out.len());
            prop_assert_eq!(replica.executed(), Seq::ZERO);
            prop_assert!(replica.deadline() > Duration::ZERO);
        }
    }
}

fn unsigned_summary(replica: u32, stable: Seq, prepared: Vec<(Seq, View, Digest)>) -> Summary {
    let signature = Signature([0; 64]);
    Summary { epoch: Epoch(0), view: View(1), replica: ReplicaId(replica), stable, prepared, signature }
}

/// An unsigned claim must not make a replica count to the end of all numbers.
#[test]
fn claims_without_end_are_refused_before_they_are_counted() {
    let far = (Seq(u64::MAX), View(0), Digest([1; 32]));
    for (stable, prepared) in
        [(Seq(0), vec![far]), (Seq(u64::MAX), Vec::new()), (Seq(u64::MAX - 1), vec![far])]
    {
        let summaries = (0..3).map(|replica| unsigned_summary(replica, stable, prepared.clone())).collect();
        let new = NewView {
            epoch: Epoch(0),
            view: View(1),
            replica: ReplicaId(1),
            summaries,
            stable: None,
            prepared: Vec::new(),
            proposals: Vec::new(),
            signature: Signature([0; 64]),
        };
        let (mut replica, mut out) = (new_replica(0), Vec::new());
        let now = Moment { elapsed: Duration::ZERO, wall: Timestamp::from_millis(1000) };
        let message = Message::NewView(Arc::new(new));
        replica.step(now, Input::Message(PublicKey([2; 32]), message), &mut out);
        assert!(
            !out.iter().any(|effect| matches!(effect, Effect::Verify(..))),
            "it is not worth a signature"
        );
    }
}
