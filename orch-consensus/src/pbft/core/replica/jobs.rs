//! Signatures that are being checked, and what goes on when they are. Checking is the host's work: it may be
//! done for many jobs at once and on another thread.

use std::{collections::BTreeMap, sync::Arc};

use super::Replica;
use crate::pbft::core::{
    batch::{Batch, Request},
    ids::{Digest, PublicKey, ReplicaId, Seq, View},
    io::{Effect, Moment},
    message::{Certificate, CheckpointVote, NewView, StableProof, ViewChange, Vote},
    statement::{Claim, Misbehaviour, Phase},
};

/// Signatures that one sender can have us check at a time, and one job beyond. What it sends then is dropped;
/// it will be sent again.
const CLAIMS_OF_SENDER_MAX: usize = 1024;

/// Subject of a check.
#[derive(Debug)]
pub(super) enum Job {
    Request(Arc<Request>),
    Proposal(Arc<Batch>, Vote),
    /// Votes that came from those who cast them, with the voters' indices.
    Votes {
        phase: Phase,
        view: View,
        seq: Seq,
        digest: Digest,
        votes: Vec<(usize, Vote)>,
    },
    /// A vote relayed by another replica.
    Relayed(Vote),
    Certificate(Certificate),
    Checkpoints(Vec<CheckpointVote>),
    Stable(Arc<StableProof>),
    ViewChange(Arc<ViewChange>),
    NewView(Arc<NewView>),
    Evidence(Misbehaviour),
}

/// Jobs that are not finished.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    last: u64,
    running: BTreeMap<u64, (Job, Option<(PublicKey, usize)>)>,
    of_sender: BTreeMap<PublicKey, usize>,
}

impl Jobs {
    fn finish(&mut self, id: u64) -> Option<Job> {
        let (job, sender) = self.running.remove(&id)?;
        if let Some((sender, claims)) = sender
            && let Some(count) = self.of_sender.get_mut(&sender)
        {
            *count = count.saturating_sub(claims);
            if *count == 0 {
                self.of_sender.remove(&sender);
            }
        }
        Some(job)
    }

    /// True when this sender may have no more checked for now.
    pub(super) fn is_full(&self, sender: &PublicKey) -> bool {
        self.of_sender.get(sender).is_some_and(|count| *count >= CLAIMS_OF_SENDER_MAX)
    }
}

impl Replica {
    /// Has claims checked. On behalf of `sender`, where a peer caused the check.
    pub(super) fn verify(
        &mut self,
        job: Job,
        claims: Vec<Claim>,
        sender: Option<PublicKey>,
        now: Moment,
        out: &mut Vec<Effect>,
    ) -> bool {
        if sender.is_some_and(|sender| self.jobs.is_full(&sender)) {
            return false;
        }
        self.jobs.last += 1;
        let id = self.jobs.last;
        if let Some(sender) = sender {
            *self.jobs.of_sender.entry(sender).or_default() += claims.len();
        }
        self.jobs.running.insert(id, (job, sender.map(|sender| (sender, claims.len()))));
        if claims.is_empty() {
            self.verified(now, id, &[], out);
        } else {
            out.push(Effect::Verify(id, claims));
        }
        true
    }

    pub(super) fn verified(&mut self, now: Moment, id: u64, bad: &[usize], out: &mut Vec<Effect>) {
        let Some(job) = self.jobs.finish(id) else { return };
        let good = bad.is_empty();
        match job {
            Job::Request(request) if good => self.take_request(now, request),
            Job::Proposal(batch, vote) => self.proposal_checked(now, &batch, vote, good, out),
            Job::Votes { phase, view, seq, digest, votes } => {
                self.votes_checked(now, (phase, view, seq, digest), &votes, bad, out);
            }
            Job::Relayed(vote) if good => {
                self.count_vote(now, vote.replica, vote, true, out);
            }
            Job::Certificate(certificate) if good => self.take_committed(now, certificate, out),
            Job::Checkpoints(votes) => self.checkpoints_checked(now, &votes, bad, out),
            Job::Stable(proof) if good => self.take_stable_proof(now, &proof, out),
            Job::ViewChange(change) if good => self.collect_view_change(now, change, out),
            Job::NewView(new) if good => self.enter_view(now, &new, out),
            Job::Evidence(misbehaviour) if good => self.keep_evidence(misbehaviour, out),
            _ => {}
        }
    }

    /// The public key of a member.
    pub(super) fn key_of(&self, replica: ReplicaId) -> Option<PublicKey> {
        self.membership().member(replica).map(|member| member.key)
    }
}
