//! Signed statements. Everything that can become evidence is one of these, under the name of the group, so
//! that no signature means anything elsewhere.

use super::ids::{Digest, Epoch, PublicKey, ReplicaId, Seq, Signature, View};

/// One of the two votes on a batch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// "This batch, and no other, has this sequence number in this view." The primary's comes with its
    /// PRE-PREPARE.
    Prepare,
    /// "I saw a quorum prepare it."
    Commit,
}

/// A statement that a replica or client signs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Statement {
    /// A vote for a batch at a sequence number in a view.
    Vote {
        /// PREPARE or COMMIT.
        phase: Phase,
        /// Under which membership.
        epoch: Epoch,
        /// In which view.
        view: View,
        /// The sequence number.
        seq: Seq,
        /// The batch.
        digest: Digest,
    },
    /// "After this sequence number my state has this hash."
    Checkpoint {
        /// Under which membership.
        epoch: Epoch,
        /// The sequence number.
        seq: Seq,
        /// The hash of the checkpoint.
        digest: Digest,
    },
    /// "I left the views before this one; this is what I know."
    ViewChange {
        /// Under which membership.
        epoch: Epoch,
        /// The view to go to.
        view: View,
        /// The hash of what it claims.
        digest: Digest,
    },
    /// "This is how the view begins."
    NewView {
        /// Under which membership.
        epoch: Epoch,
        /// The view.
        view: View,
        /// The hash of the rest.
        digest: Digest,
    },
    /// "I ask for this."
    Request {
        /// The hash of the request.
        digest: Digest,
    },
}

/// The length of a signed statement in bytes.
pub const STATEMENT_BYTES: usize = 100;

impl Statement {
    /// The bytes that are signed in `group`.
    #[must_use]
    pub fn bytes(&self, group: &Digest) -> [u8; STATEMENT_BYTES] {
        let (tag, epoch, view, seq, digest) = match *self {
            Self::Vote { phase: Phase::Prepare, epoch, view, seq, digest } => (1, epoch, view, seq, digest),
            Self::Vote { phase: Phase::Commit, epoch, view, seq, digest } => (2, epoch, view, seq, digest),
            Self::Checkpoint { epoch, seq, digest } => (3, epoch, View(0), seq, digest),
            Self::ViewChange { epoch, view, digest } => (4, epoch, view, Seq::ZERO, digest),
            Self::NewView { epoch, view, digest } => (5, epoch, view, Seq::ZERO, digest),
            Self::Request { digest } => (6, Epoch(0), View(0), Seq::ZERO, digest),
        };
        let mut bytes = [0; STATEMENT_BYTES];
        let parts: [&[u8]; 7] = [
            b"orch-pbft-1",
            &[tag],
            &group.0,
            &epoch.0.to_le_bytes(),
            &view.0.to_le_bytes(),
            &seq.0.to_le_bytes(),
            &digest.0,
        ];
        let mut at = 0;
        for part in parts {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        bytes
    }
}

/// A signature to be checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Key of the alleged signer.
    pub key: PublicKey,
    /// The statement.
    pub statement: Statement,
    /// The signature.
    pub signature: Signature,
}

/// Two statements of one member that no correct replica signs both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misbehaviour {
    /// Signer of both.
    pub replica: ReplicaId,
    /// One statement.
    pub first: Claim,
    /// The other.
    pub second: Claim,
}
