//! What replicas and clients say to each other. `docs/protocols/pbft.md` has the table.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    batch::{Batch, Request},
    ids::{Digest, Epoch, PublicKey, ReplicaId, Seq, Signature, View},
    membership::{Member, Membership},
    statement::{Claim, Phase, Statement},
};

/// What stands for a signature until the host has signed.
pub(crate) const UNSIGNED: Signature = Signature([0; 64]);

/// A message between members of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// A client's, to a replica.
    Request(Arc<Request>),
    /// The primary gives a batch its place, together with its own prepare vote.
    PrePrepare(Arc<Batch>, Vote),
    /// PREPARE and COMMIT.
    Vote(Vote),
    /// CHECKPOINT.
    Checkpoint(CheckpointVote),
    /// VIEW-CHANGE.
    ViewChange(Arc<ViewChange>),
    /// NEW-VIEW.
    NewView(Arc<NewView>),
    /// Proof that a checkpoint is stable, and of the memberships that the receiver does not know yet.
    Stable(Arc<StableProof>),
    /// Proof that a batch is committed.
    Committed(Certificate),
    /// Where the sender is, so that others can send what it lacks.
    Status(Status),
    /// Asks for a part of the state.
    Fetch(Fetch),
    /// A part of the state.
    Supply(Supply),
    /// "What is the last place that you prepared?" Answered with the same number.
    ReadQuery(u64),
    /// To the query of this number: the last place that the replica prepared or executed, ever.
    ReadAnswer(u64, Seq),
    /// A replica tells a client what came of its request, and under which membership and in which view it is itself. Sent to
    /// the client only.
    Reply(Epoch, View, Arc<Reply>),
}

/// A signed vote of a replica for a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vote {
    /// PREPARE or COMMIT.
    pub phase: Phase,
    /// Under which membership.
    pub epoch: Epoch,
    /// In which view.
    pub view: View,
    /// For which place.
    pub seq: Seq,
    /// For which batch.
    pub digest: Digest,
    /// Whose it is.
    pub replica: ReplicaId,
    /// Over all of it.
    pub signature: Signature,
}

/// A replica's word on its state at a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointVote {
    /// Under which membership.
    pub epoch: Epoch,
    /// After which place.
    pub seq: Seq,
    /// The hash of the [`Checkpoint`].
    pub digest: Digest,
    /// Whose it is.
    pub replica: ReplicaId,
    /// Over all of it.
    pub signature: Signature,
}

/// What replicas agree on at a checkpoint: from it, whoever has nothing can verify everything up to this place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// The epoch that ends or goes on here.
    pub epoch: Epoch,
    /// After which place.
    pub seq: Seq,
    /// The hash chain over the digests of all batches so far.
    pub chain: Digest,
    /// The latest snapshot at or before this place.
    pub snapshot: SnapshotRef,
    /// The hash of the membership.
    pub membership: Digest,
    /// The hash of the membership that follows at this very place, if one does.
    pub successor: Option<Digest>,
}

/// Names a snapshot of the whole replicated state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotRef {
    /// After which place it was taken. At 0 it is the state that every replica begins with.
    pub seq: Seq,
    /// The hash over its chunks.
    pub root: Digest,
}

/// A quorum of [`CheckpointVote`]s, and what leads to their epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StableProof {
    /// What they agree on.
    pub checkpoint: Checkpoint,
    /// Who does.
    pub votes: Vec<(ReplicaId, Signature)>,
    /// From an epoch that the receiver knows, one step for each change of members up to the checkpoint's.
    pub steps: Vec<EpochStep>,
}

/// Proof that one membership followed another: the old members' stable checkpoint at the end of their epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EpochStep {
    /// The last checkpoint of the old epoch.
    pub checkpoint: Checkpoint,
    /// The old members' votes for it.
    pub votes: Vec<(ReplicaId, Signature)>,
    /// The new membership.
    pub membership: Membership,
}

/// A quorum of votes for one batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// Of PREPAREs or of COMMITs.
    pub phase: Phase,
    /// Under which membership.
    pub epoch: Epoch,
    /// In which view.
    pub view: View,
    /// For which place.
    pub seq: Seq,
    /// For which batch.
    pub digest: Digest,
    /// Who voted.
    pub votes: Vec<(ReplicaId, Signature)>,
}

/// What a replica says when it leaves a view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewChange {
    /// What it claims, signed.
    pub summary: Summary,
    /// The proof of its stable checkpoint; none at the beginning of the group.
    pub stable: Option<StableProof>,
    /// The proof of each claim, in the same order.
    pub prepared: Vec<Certificate>,
}

/// The signed part of a [`ViewChange`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Under which membership.
    pub epoch: Epoch,
    /// The view to go to.
    pub view: View,
    /// Whose it is.
    pub replica: ReplicaId,
    /// Its last stable checkpoint (the paper's C set).
    pub stable: Seq,
    /// For each place after it, in order, what it prepared in the highest view (the paper's P set).
    pub prepared: Vec<(Seq, View, Digest)>,
    /// Over all of it.
    pub signature: Signature,
}

/// How a view begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewView {
    /// Under which membership.
    pub epoch: Epoch,
    /// The view.
    pub view: View,
    /// Its primary.
    pub replica: ReplicaId,
    /// A quorum of view changes (the paper's V set).
    pub summaries: Vec<Summary>,
    /// Proof of the highest stable checkpoint among them.
    pub stable: Option<StableProof>,
    /// Proof of what was chosen for each place that is not null.
    pub prepared: Vec<Certificate>,
    /// What follows from them: the batch of each place after the checkpoint (the paper's O set). Every backup works it out
    /// for itself.
    pub proposals: Vec<(Seq, Digest)>,
    /// Over all of it.
    pub signature: Signature,
}

/// Where a replica is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// Under which membership.
    pub epoch: Epoch,
    /// In which view, or on the way to which.
    pub view: View,
    /// On the way.
    pub changing: bool,
    /// The last stable checkpoint that it has the state of.
    pub stable: Seq,
    /// The last place that it executed.
    pub executed: Seq,
}

/// Asks for a part of the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fetch {
    /// The hashes of the chunks of a snapshot.
    Manifest(SnapshotRef),
    /// One chunk of a snapshot.
    Chunk(SnapshotRef, u32),
    /// The digests of the batches after the first place, up to the second.
    Digests(Seq, Seq),
    /// One batch.
    Batch(Seq, Digest),
    /// How one membership followed another, from this epoch on. For clients: members learn it with stable checkpoints.
    Members(Epoch),
}

/// A part of the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Supply {
    /// The hashes of a snapshot's chunks.
    Manifest(SnapshotRef, Vec<Digest>),
    /// One chunk.
    Chunk(SnapshotRef, u32, Bytes),
    /// Digests of batches, from the place after this one.
    Digests(Seq, Vec<Digest>),
    /// One batch, at the place where it was asked for.
    Batch(Seq, Arc<Batch>),
    /// The next memberships after the one that was named, none when it is the last.
    Members(Vec<EpochStep>),
    /// "I do not have that (any more)."
    Unavailable(Fetch),
}

/// What came of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Of the request. A later one, with the number 0, when the request belongs to a life of the client that is over.
    pub session: u64,
    /// Of the request.
    pub number: u64,
    /// Its place in the order.
    pub seq: Seq,
    /// What came of each command.
    pub outcomes: Vec<Bytes>,
}

impl Vote {
    /// What is signed.
    #[must_use]
    pub fn statement(&self) -> Statement {
        let Self { phase, epoch, view, seq, digest, .. } = *self;
        Statement::Vote { phase, epoch, view, seq, digest }
    }

    pub(crate) fn claim(&self, key: PublicKey) -> Claim {
        Claim { key, statement: self.statement(), signature: self.signature }
    }
}

impl CheckpointVote {
    /// What is signed.
    #[must_use]
    pub fn statement(&self) -> Statement {
        Statement::Checkpoint { epoch: self.epoch, seq: self.seq, digest: self.digest }
    }

    pub(crate) fn claim(&self, key: PublicKey) -> Claim {
        Claim { key, statement: self.statement(), signature: self.signature }
    }
}

impl Certificate {
    /// What each vote signs.
    #[must_use]
    pub fn statement(&self) -> Statement {
        let Self { phase, epoch, view, seq, digest, .. } = *self;
        Statement::Vote { phase, epoch, view, seq, digest }
    }

    /// The signatures to check, if these are votes of a quorum of `members`.
    pub(crate) fn claims(&self, members: &Membership) -> Option<Vec<Claim>> {
        if self.epoch != members.epoch() {
            return None;
        }
        quorum_claims(&self.votes, self.statement(), members)
    }
}

/// The claims of distinct members, if they are a quorum.
pub(crate) fn quorum_claims(
    votes: &[(ReplicaId, Signature)],
    statement: Statement,
    members: &Membership,
) -> Option<Vec<Claim>> {
    if votes.len() < members.quorum().quorum() || !votes.windows(2).all(|pair| pair[0].0 < pair[1].0) {
        return None;
    }
    let claim = |(replica, signature): &(ReplicaId, Signature)| {
        let Member { key, .. } = members.member(*replica)?;
        Some(Claim { key: *key, statement, signature: *signature })
    };
    votes.iter().map(claim).collect()
}

impl StableProof {
    /// The signatures that it rests on, for somebody who knows `members`: none when it does not lead on from them.
    pub(crate) fn claims(&self, members: &Membership) -> Option<Vec<Claim>> {
        // What the checkpoint does not need must not be there.
        if self.steps.last().is_some_and(|step| step.membership.epoch() > self.checkpoint.epoch) {
            return None;
        }
        let (members, mut claims) = follow(&self.steps, members)?;
        if self.checkpoint.epoch != members.epoch() {
            return None;
        }
        claims.extend(quorum_claims(&self.votes, self.checkpoint.statement(), &members)?);
        Some(claims)
    }
}

/// Where the steps after `members` lead, and the signatures that this rests on; none when they do not follow from each other.
pub(crate) fn follow(steps: &[EpochStep], members: &Membership) -> Option<(Membership, Vec<Claim>)> {
    let (known, mut members, mut claims) = (members.epoch(), members.clone(), Vec::new());
    for step in steps.iter().skip_while(|step| step.membership.epoch() <= known) {
        let follows = step.checkpoint.epoch == members.epoch()
            && step.membership.epoch() == Epoch(members.epoch().0 + 1)
            && step.checkpoint.successor == Some(step.membership.digest());
        if !follows {
            return None;
        }
        claims.extend(quorum_claims(&step.votes, step.checkpoint.statement(), &members)?);
        members = step.membership.clone();
    }
    Some((members, claims))
}

impl Checkpoint {
    /// What [`CheckpointVote`]s vote for.
    #[must_use]
    pub fn digest(&self) -> Digest {
        use crate::codec::Encode as _;
        Digest::of("orch pbft checkpoint", &[&self.to_bytes()])
    }

    /// What each vote signs.
    #[must_use]
    pub fn statement(&self) -> Statement {
        Statement::Checkpoint { epoch: self.epoch, seq: self.seq, digest: self.digest() }
    }
}

impl Summary {
    /// What is signed.
    #[must_use]
    pub fn statement(&self) -> Statement {
        Statement::ViewChange { epoch: self.epoch, view: self.view, digest: self.digest() }
    }

    fn digest(&self) -> Digest {
        use crate::codec::Encode as _;
        let unsigned = Self { signature: UNSIGNED, ..self.clone() };
        Digest::of("orch pbft view change", &[&unsigned.to_bytes()])
    }
}

impl NewView {
    /// What is signed.
    #[must_use]
    pub fn statement(&self) -> Statement {
        Statement::NewView { epoch: self.epoch, view: self.view, digest: self.digest() }
    }

    fn digest(&self) -> Digest {
        use crate::codec::{Encode, put_list};
        let mut bytes = Vec::new();
        put_list(&self.summaries, &mut bytes, Encode::encode);
        put_list(&self.proposals, &mut bytes, |(seq, digest), out| {
            seq.encode(out);
            digest.encode(out);
        });
        Digest::of("orch pbft new view", &[&bytes])
    }
}

impl Message {
    /// Puts the signature of its author in. Only what is signed has a place for one.
    pub fn sign(&mut self, sign: impl FnOnce(&Statement) -> Signature) {
        match self {
            Self::Request(request) => {
                let signature = sign(&Statement::Request { digest: request.digest() });
                Arc::make_mut(request).signature = Some(signature);
            }
            Self::PrePrepare(_, vote) | Self::Vote(vote) => vote.signature = sign(&vote.statement()),
            Self::Checkpoint(vote) => vote.signature = sign(&vote.statement()),
            Self::ViewChange(change) => {
                let signature = sign(&change.summary.statement());
                Arc::make_mut(change).summary.signature = signature;
            }
            Self::NewView(new) => {
                let signature = sign(&new.statement());
                Arc::make_mut(new).signature = signature;
            }
            Self::Stable(_)
            | Self::Committed(_)
            | Self::Status(_)
            | Self::Fetch(_)
            | Self::Supply(_)
            | Self::ReadQuery(_)
            | Self::ReadAnswer(..)
            | Self::Reply(..) => {}
        }
    }
}
