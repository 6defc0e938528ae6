//! Messages between replicas and clients. `docs/protocols/pbft.md` has the table.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    batch::{Batch, Request},
    ids::{Digest, Epoch, PublicKey, ReplicaId, Seq, Signature, View},
    membership::{Member, Membership},
    statement::{Claim, Phase, Statement},
};

/// Placeholder for a signature until the host has signed.
pub(crate) const UNSIGNED: Signature = Signature([0; 64]);

/// A message between members of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// A client's, to a replica.
    Request(Arc<Request>),
    /// The primary gives a batch its sequence number, together with its own prepare vote.
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
    /// Position of the sender, so that others can send what it lacks.
    Status(Status),
    /// Request for a piece of the state.
    Fetch(Fetch),
    /// Piece of the state.
    Supply(Supply),
    /// Query for the last prepared sequence number. Answered with the same id.
    ReadQuery(u64),
    /// To the query of this id: the last sequence number that the replica prepared or executed, ever.
    ReadAnswer(u64, Seq),
    /// Outcome of a client's request, and the epoch and view of the replica. Sent to the client only.
    Reply(Epoch, View, Arc<Reply>),
}

/// Priority of a message at its receiver. The table of kinds in `wire.rs` gives each message its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageClass {
    /// Agreement or a read waits for it: it goes first.
    Agreement,
    /// Request, piece of the state or reply: it may be large, and is sent again when it is dropped.
    Bulk,
    /// Position, or query for a piece of the state: as [`MessageClass::Bulk`], and a future member may send
    /// it.
    Query,
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
    /// Sequence number.
    pub seq: Seq,
    /// For which batch.
    pub digest: Digest,
    /// Voter.
    pub replica: ReplicaId,
    /// Over all of it.
    pub signature: Signature,
}

/// A replica's word on its state at a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointVote {
    /// Under which membership.
    pub epoch: Epoch,
    /// Sequence number of the checkpoint.
    pub seq: Seq,
    /// The hash of the [`Checkpoint`].
    pub digest: Digest,
    /// Voter.
    pub replica: ReplicaId,
    /// Over all of it.
    pub signature: Signature,
}

/// Content of a checkpoint that replicas agree on: from it, a replica with nothing can verify everything up
/// to this sequence number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// The epoch that ends or goes on here.
    pub epoch: Epoch,
    /// Sequence number of the checkpoint.
    pub seq: Seq,
    /// The hash chain over the digests of all batches so far.
    pub chain: Digest,
    /// The latest snapshot at or before this sequence number.
    pub snapshot: SnapshotRef,
    /// The hash of the membership.
    pub membership: Digest,
    /// The hash of the membership that follows at this very sequence number, if one does.
    pub successor: Option<Digest>,
}

/// Names a snapshot of the whole replicated state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotRef {
    /// Sequence number of the last batch in it. At 0 it is the state that every replica begins with.
    pub seq: Seq,
    /// The hash over its chunks.
    pub root: Digest,
}

/// A quorum of [`CheckpointVote`]s, and what leads to their epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StableProof {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Its voters, in order, and their signatures.
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
    /// Sequence number.
    pub seq: Seq,
    /// For which batch.
    pub digest: Digest,
    /// Its voters, in order, and their signatures.
    pub votes: Vec<(ReplicaId, Signature)>,
}

/// Message of a replica that leaves a view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewChange {
    /// Its claims, signed.
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
    /// Sender.
    pub replica: ReplicaId,
    /// Its last stable checkpoint (the paper's C set).
    pub stable: Seq,
    /// For each sequence number after it, in order, what it prepared in the highest view (the paper's P set).
    pub prepared: Vec<(Seq, View, Digest)>,
    /// Over all of it.
    pub signature: Signature,
}

/// Beginning of a view.
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
    /// Proof of the chosen batch of each sequence number that is not null.
    pub prepared: Vec<Certificate>,
    /// The batch of each sequence number after the checkpoint, which follows from them (the paper's O set).
    /// Every backup works it out for itself.
    pub proposals: Vec<(Seq, Digest)>,
    /// Over all of it.
    pub signature: Signature,
}

/// Position of a replica.
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
    /// The last executed sequence number.
    pub executed: Seq,
}

/// Request for a piece of the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fetch {
    /// The hashes of the chunks of a snapshot.
    Manifest(SnapshotRef),
    /// One chunk of a snapshot.
    Chunk(SnapshotRef, u32),
    /// The digests of the batches after the first sequence number, up to the second.
    Digests(Seq, Seq),
    /// One batch.
    Batch(Seq, Digest),
    /// Steps from one membership to another, from this epoch on. For clients: members learn it with stable
    /// checkpoints.
    Members(Epoch),
}

/// Piece of the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Supply {
    /// The hashes of a snapshot's chunks.
    Manifest(SnapshotRef, Vec<Digest>),
    /// One chunk.
    Chunk(SnapshotRef, u32, Bytes),
    /// Digests of batches, from the sequence number after this one.
    Digests(Seq, Vec<Digest>),
    /// One batch, at the sequence number where it was asked for.
    Batch(Seq, Arc<Batch>),
    /// The next memberships after the one that was named, none when it is the last.
    Members(Vec<EpochStep>),
    /// "I do not have that (any more)."
    Unavailable(Fetch),
}

/// Outcome of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Of the request. A later one, with the number 0, when the request belongs to an earlier incarnation of
    /// the client.
    pub session: u64,
    /// Of the request.
    pub number: u64,
    /// Its sequence number.
    pub seq: Seq,
    /// Outcome of each command.
    pub outcomes: Vec<Bytes>,
}

impl Vote {
    /// Signed statement.
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
    /// Signed statement.
    #[must_use]
    pub fn statement(&self) -> Statement {
        Statement::Checkpoint { epoch: self.epoch, seq: self.seq, digest: self.digest }
    }

    pub(crate) fn claim(&self, key: PublicKey) -> Claim {
        Claim { key, statement: self.statement(), signature: self.signature }
    }
}

impl Certificate {
    /// Statement that each vote signs.
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
    /// The signatures that it rests on, for a verifier that knows `members`: none when it does not lead on
    /// from them.
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

/// Membership after the steps from `members`, and the signatures that it rests on; none when they do not
/// follow from each other.
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
    /// Digest that [`CheckpointVote`]s vote for.
    #[must_use]
    pub fn digest(&self) -> Digest {
        use crate::codec::Encode as _;
        Digest::of("orch pbft checkpoint", &[&self.to_bytes()])
    }

    /// Statement that each vote signs.
    #[must_use]
    pub fn statement(&self) -> Statement {
        Statement::Checkpoint { epoch: self.epoch, seq: self.seq, digest: self.digest() }
    }
}

impl Summary {
    /// Signed statement.
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
    /// Signed statement.
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
    /// Puts in the signature of its author, where the message has a field for one.
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
