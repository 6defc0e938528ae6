use std::{collections::VecDeque, sync::Arc, time::Duration};

use orch_consensus::pbft::{
    Batch, Certificate, Digest, Epoch, Message, Phase, Replica, Seq, Signature, Supply, View, Vote,
};

use super::{
    group::{self, Packet},
    registers::other_outcome,
};
use crate::{Context, NodeId, Random};

/// Attacks of a Byzantine replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// It says nothing at all.
    Mute,
    /// It says nothing to some.
    Selective,
    /// As the primary it proposes different batches to different replicas; otherwise it votes for different
    /// ones.
    Equivocate,
    /// It repeats what it and others distorted long ago.
    Replay,
    /// It begins views with other batches than those that follow, and hides what it prepared when it leaves
    /// one.
    BadNewView,
    /// Those who are behind get a wrong state from it.
    LyingSupply,
    /// It says that its state is another one.
    FalseCheckpoints,
    /// It proposes times that are far off.
    FalseTime,
    /// It claims to have prepared what was never proposed, so that readers wait for it.
    FalseReads,
    /// It uses up sequence numbers.
    FarAhead,
    /// It sends signatures that are none.
    BadSignatures,
    /// It shows proofs of what never happened, with signatures of others that it made up.
    Forge,
    /// It prepares what is proposed and commits nothing.
    NeverCommit,
    /// It votes as if the members had not changed.
    StaleEpoch,
    /// It sends clients false outcomes.
    FalseReplies,
}

impl Attack {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Mute,
        Self::Selective,
        Self::Equivocate,
        Self::Replay,
        Self::BadNewView,
        Self::LyingSupply,
        Self::FalseCheckpoints,
        Self::FalseTime,
        Self::FalseReads,
        Self::FarAhead,
        Self::BadSignatures,
        Self::Forge,
        Self::NeverCommit,
        Self::StaleEpoch,
        Self::FalseReplies,
    ];
}

/// A replica that forger: a correct one whose messages are changed on their way out, and signed again with
/// its own key.
#[derive(Clone, Debug)]
pub(super) struct ByzantineReplica {
    node: NodeId,
    attack: Attack,
    random: Random,
    seen: VecDeque<Packet>,
}

const SEEN_MAX: usize = 200;

impl ByzantineReplica {
    pub(super) fn new(node: NodeId, attack: Attack, random: Random) -> Self {
        Self { node, attack, random, seen: VecDeque::new() }
    }

    /// Remembers what can be repeated later.
    pub(super) fn observe(&mut self, message: &Packet) {
        if self.attack == Attack::Replay {
            if self.seen.len() >= SEEN_MAX {
                let at = usize::try_from(self.random.below(SEEN_MAX as u64)).unwrap_or(0);
                self.seen.remove(at);
            }
            self.seen.push_back(message.clone());
        }
    }

    /// Sends something like `message`.
    pub(super) fn send(
        &mut self,
        replica: &Replica,
        targets: Vec<NodeId>,
        message: &Message,
        ctx: &mut Context<'_, Packet>,
    ) {
        for target in targets {
            if let Some(distorted) = self.distort(replica, target, message) {
                ctx.send(target, Arc::new(distorted));
            }
        }
        if self.attack == Attack::Replay && self.random.chance(100) {
            let at = usize::try_from(self.random.below(SEEN_MAX as u64)).unwrap_or(0);
            if let Some(old) = self.seen.get(at).cloned() {
                let target = usize::try_from(self.random.below(ctx.nodes() as u64)).unwrap_or(0);
                if target != self.node {
                    ctx.send(target, old);
                }
            }
        }
    }

    fn distort(&mut self, replica: &Replica, target: NodeId, message: &Message) -> Option<Message> {
        let second = target % 2 == 1;
        let distorted = match (self.attack, message) {
            (Attack::Mute, _) => return None,
            (Attack::NeverCommit, Message::Vote(vote)) if vote.phase == Phase::Commit => return None,
            (Attack::Selective, _) if target % 3 == self.node % 3 => return None,
            (Attack::Equivocate, Message::PrePrepare(batch, vote)) if second => {
                self.other_batch(batch, vote, 1)
            }
            (Attack::Equivocate, Message::Vote(vote)) if second => {
                let digest = if self.random.chance(500) { Digest([9; 32]) } else { Batch::null().digest() };
                Message::Vote(Vote { digest, ..*vote })
            }
            (Attack::BadNewView, Message::NewView(new)) => {
                let mut new = (**new).clone();
                match self.random.below(3) {
                    0 => new.proposals.iter_mut().for_each(|(_, digest)| *digest = Batch::null().digest()),
                    1 => drop(new.proposals.pop()),
                    _ => {
                        let next = new.proposals.last().map_or(replica.stable(), |(seq, _)| *seq).next();
                        new.proposals.push((next, Digest([5; 32])));
                    }
                }
                Message::NewView(Arc::new(new))
            }
            (Attack::BadNewView, Message::ViewChange(change)) => {
                let mut change = (**change).clone();
                change.summary.prepared.clear();
                change.prepared.clear();
                Message::ViewChange(Arc::new(change))
            }
            (Attack::LyingSupply, Message::Supply(supply)) if self.random.chance(600) => {
                Message::Supply(wrong(supply))
            }
            (Attack::FalseCheckpoints, Message::Checkpoint(vote)) => {
                let mut vote = *vote;
                vote.digest = Digest([3; 32]);
                Message::Checkpoint(vote)
            }
            (Attack::FalseTime, Message::PrePrepare(batch, vote)) if !batch.is_null() => {
                let hour = Duration::from_secs(3600);
                let time = if self.random.chance(500) {
                    batch.time.after(hour)
                } else {
                    orch_core::model::Timestamp::from_millis(batch.time.as_millis().saturating_sub(3_600_000))
                };
                let batch = Arc::new(Batch::new(time, batch.requests.clone()));
                Message::PrePrepare(batch.clone(), Vote { digest: batch.digest(), ..*vote })
            }
            (Attack::FalseReads, Message::ReadAnswer(id, prepared)) => {
                Message::ReadAnswer(*id, prepared.plus(if second { 5 } else { 1_000_000 }))
            }
            (Attack::Forge, Message::Status(_)) => forged(replica),
            (Attack::StaleEpoch, Message::Vote(vote)) => {
                Message::Vote(Vote { epoch: Epoch(vote.epoch.0.saturating_sub(1)), ..*vote })
            }
            (Attack::FalseReplies, Message::Reply(epoch, view, reply)) => {
                let mut reply = (**reply).clone();
                match self.random.below(4) {
                    0 => (reply.session, reply.number) = (u64::MAX, 0),
                    _ => reply.outcomes.iter_mut().for_each(|outcome| *outcome = other_outcome(outcome)),
                }
                let view = if second { View(u64::MAX) } else { *view };
                Message::Reply(*epoch, view, Arc::new(reply))
            }
            (Attack::FarAhead, Message::PrePrepare(batch, vote)) => {
                Message::PrePrepare(batch.clone(), Vote { seq: vote.seq.plus(40), ..*vote })
            }
            _ => message.clone(),
        };
        Some(self.signed(distorted, message))
    }

    fn other_batch(&mut self, batch: &Batch, vote: &Vote, by: u64) -> Message {
        let time = orch_core::model::Timestamp::from_millis(batch.time.as_millis() + by);
        let batch = Arc::new(Batch::new(time, batch.requests.clone()));
        Message::PrePrepare(batch.clone(), Vote { digest: batch.digest(), ..*vote })
    }

    /// Signs what was changed, where the signature is ours to give.
    fn signed(&mut self, mut distorted: Message, original: &Message) -> Message {
        let key = group::key(self.node);
        if self.attack == Attack::BadSignatures && self.random.chance(500) {
            distorted.sign(|_| Signature([1; 64]));
        } else if distorted != *original {
            distorted.sign(|statement| group::sign(&key, statement));
        }
        distorted
    }
}

/// A forged proof of all members that the next sequence number is decided.
fn forged(replica: &Replica) -> Message {
    let votes = replica.membership().members().iter().map(|member| (member.id, Signature([1; 64]))).collect();
    let (view, _) = replica.view();
    Message::Committed(Certificate {
        phase: Phase::Commit,
        epoch: replica.membership().epoch(),
        view,
        seq: replica.executed().next(),
        digest: Batch::null().digest(),
        votes,
    })
}

fn wrong(supply: &Supply) -> Supply {
    match supply.clone() {
        Supply::Manifest(name, mut hashes) => {
            hashes.reverse();
            hashes.push(Digest([1; 32]));
            Supply::Manifest(name, hashes)
        }
        Supply::Chunk(name, index, bytes) => {
            let mut bytes = bytes.to_vec();
            if let Some(byte) = bytes.last_mut() {
                *byte ^= 1;
            }
            Supply::Chunk(name, index, bytes.into())
        }
        Supply::Digests(after, mut digests) => {
            if let Some(digest) = digests.first_mut() {
                *digest = Digest([2; 32]);
            }
            Supply::Digests(after, digests)
        }
        Supply::Batch(seq, _) => Supply::Batch(Seq(seq.0), Arc::new(Batch::null())),
        Supply::Members(mut steps) => {
            steps.reverse();
            Supply::Members(steps)
        }
        Supply::Unavailable(fetch) => Supply::Unavailable(fetch),
    }
}
