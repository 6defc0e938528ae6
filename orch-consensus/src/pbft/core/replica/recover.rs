//! Going on after a restart, from what the log holds.

use std::{collections::BTreeMap, sync::Arc};

use orch_core::consensus::MachineError;

use super::{Replica, view_change::Changing};
use crate::pbft::core::{
    batch::Batch,
    history::Snapshot,
    ids::{Digest, Epoch, Seq, View},
    io::{Effect, Moment},
    log::Proposal,
    message::{Certificate, EpochStep, Message, NewView, StableProof, UNSIGNED, Vote},
    record::{Image, Record},
    statement::{Misbehaviour, Phase},
};

/// Reason why a log cannot be recovered from.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the snapshot in the log of this replica cannot be used")]
pub struct RecoverError(#[from] MachineError);

/// Records of a log, sorted.
#[derive(Default)]
struct Found {
    bodies: BTreeMap<Seq, Vec<Arc<Batch>>>,
    decided: BTreeMap<Seq, Digest>,
    proofs: BTreeMap<Seq, Certificate>,
    prepared: BTreeMap<Seq, Certificate>,
    accepted: BTreeMap<(Epoch, View, Seq), Digest>,
    stable: Vec<Arc<StableProof>>,
    steps: BTreeMap<Epoch, EpochStep>,
    left_for: Option<(Epoch, View)>,
    began: Option<Arc<NewView>>,
    evidence: Vec<Arc<Misbehaviour>>,
}

impl Found {
    fn read(records: Vec<Record>) -> Self {
        let mut found = Self::default();
        for record in records {
            match record {
                Record::Body(seq, batch) => found.bodies.entry(seq).or_default().push(batch),
                Record::Decided(seq, digest) => drop(found.decided.insert(seq, digest)),
                Record::Committed(certificate) => {
                    found.decided.insert(certificate.seq, certificate.digest);
                    found.proofs.insert(certificate.seq, certificate);
                }
                Record::Accepted(epoch, view, seq, digest) => {
                    found.accepted.insert((epoch, view, seq), digest);
                }
                Record::Prepared(certificate) => {
                    let known = found.prepared.get(&certificate.seq);
                    let rank = |known: &Certificate| (known.epoch, known.view);
                    if known.is_none_or(|known| rank(known) <= rank(&certificate)) {
                        found.prepared.insert(certificate.seq, certificate);
                    }
                }
                Record::Left(epoch, view) => found.left_for = Some((epoch, view)),
                Record::NewView(new) => found.began = Some(new),
                Record::Evidence(misbehaviour) => found.evidence.push(misbehaviour),
                Record::Epoch(step) => {
                    // The end of an epoch is a stable checkpoint too.
                    let (checkpoint, votes) = (step.checkpoint, step.votes.clone());
                    found.stable.push(Arc::new(StableProof { checkpoint, votes, steps: Vec::new() }));
                    found.steps.insert(step.membership.epoch(), (*step).clone());
                }
                Record::Stable(proof) => {
                    for step in &proof.steps {
                        found.steps.insert(step.membership.epoch(), step.clone());
                    }
                    found.stable.push(proof);
                }
            }
        }
        found
    }
}

impl Found {
    fn body(&self, seq: Seq, digest: Digest) -> Option<Arc<Batch>> {
        if digest == Batch::null().digest() {
            return Some(Arc::new(Batch::null()));
        }
        self.bodies.get(&seq)?.iter().find(|batch| batch.digest() == digest).cloned()
    }

    /// The last checkpoint that is known to be stable, among those for which `here` holds.
    fn last_stable(&self, here: impl Fn(Seq) -> bool) -> Option<&Arc<StableProof>> {
        let known = self.stable.iter().filter(|proof| here(proof.checkpoint.seq));
        known.max_by_key(|proof| proof.checkpoint.seq)
    }
}

impl Replica {
    /// Replays the log of an earlier incarnation, before the first step. The effects include its votes once
    /// more.
    ///
    /// # Errors
    /// [`RecoverError`] when the log does not belong to this group or to this version of the machine.
    pub fn recover(&mut self, now: Moment, image: Image, out: &mut Vec<Effect>) -> Result<(), RecoverError> {
        #[cfg(feature = "simulation")]
        if let Some(fault) = self.config.seeded_fault {
            let (from_snapshot, mut effects) = (image.snapshot.is_some(), Vec::new());
            self.read_log(now, image, &mut effects)?;
            self.recover_wrongly(fault, from_snapshot, effects, out);
            return Ok(());
        }
        self.read_log(now, image, out)
    }

    fn read_log(&mut self, now: Moment, image: Image, out: &mut Vec<Effect>) -> Result<(), RecoverError> {
        if let Some(bytes) = image.snapshot {
            self.service.restore(bytes.clone())?;
            self.history.restart(Snapshot::new(self.service.executed(), bytes));
        }
        let mut found = Found::read(image.records);
        self.steps = found.steps.values().cloned().collect();
        let mut past = Vec::new();
        self.enter_epoch(now, &mut past);
        self.replay(now, &found, &mut past);
        self.regain_log(now, &found, &mut past);
        self.regain_view(now, &found, &mut past);
        // All of it is in the log already, and what was sent is sent again below, where it still matters.
        drop(past);
        self.appended = 0;
        self.vote_again(out);
        self.regain_evidence(std::mem::take(&mut found.evidence), out);
        let executed = self.executed();
        if let Some(proof) = found.last_stable(|seq| seq > executed).cloned() {
            self.catch_up(now, &proof, out);
        }
        Ok(())
    }

    fn replay(&mut self, now: Moment, found: &Found, past: &mut Vec<Effect>) {
        loop {
            let (executed, next) = (self.executed(), self.executed().next());
            if self.service.successor().is_some_and(|(end, _)| *end == executed) {
                if !found.steps.values().any(|step| step.checkpoint.seq == executed) {
                    return;
                }
                self.service.succeed();
                self.enter_epoch(now, past);
            }
            let decided = found.decided.get(&next);
            let Some(batch) = decided.and_then(|digest| found.body(next, *digest)) else { return };
            self.execute(now, next, &batch, past);
        }
    }

    fn regain_log(&mut self, now: Moment, found: &Found, past: &mut Vec<Effect>) {
        let executed = self.executed();
        // What a snapshot holds was prepared by a quorum, even where no batch after it was replayed.
        self.prepared_max = self.prepared_max.max(executed);
        if let Some(proof) = found.last_stable(|seq| seq <= executed) {
            self.make_stable(now, proof, past);
            // The sequence number where the epoch began is the low watermark already; others may need the
            // proof all the same.
            if self.stable.as_ref().is_none_or(|known| known.checkpoint.seq < proof.checkpoint.seq) {
                self.stable = Some(proof.clone());
            }
        }
        let epoch = self.epoch();
        let executed = self.executed();
        for (seq, slot) in self.log.iter_mut() {
            slot.decided = found.decided.get(&seq).copied();
            slot.proof = found.proofs.get(&seq).filter(|known| known.epoch == epoch).cloned();
            slot.prepared = found.prepared.get(&seq).filter(|known| known.epoch == epoch).cloned();
            for batch in found.bodies.get(&seq).into_iter().flatten() {
                slot.keep_body(batch.clone());
            }
            let null = Arc::new(Batch::null());
            if slot.decided == Some(null.digest()) {
                slot.keep_body(null);
            }
            if slot.prepared.is_some() || slot.decided.is_some() {
                self.prepared_max = self.prepared_max.max(seq);
            }
            let missing = slot.decided.is_some_and(|digest| slot.body(&digest).is_none());
            if missing && seq > executed {
                slot.fetch_at = Some(now.elapsed);
            }
        }
    }

    fn regain_view(&mut self, now: Moment, found: &Found, past: &mut Vec<Effect>) {
        let epoch = self.epoch();
        let began = found.began.as_ref().filter(|new| new.epoch == epoch);
        let left = found.left_for.filter(|(of, _)| *of == epoch).map(|(_, view)| view);
        self.view = began.map(|new| new.view).max(left).unwrap_or_default();
        if left.is_some_and(|view| began.is_none_or(|new| new.view < view)) {
            self.changing = Some(Changing::default());
            return;
        }
        if let Some(new) = began {
            self.begin_view(now, new, past);
        }
        let view = self.view;
        self.proposed = self.proposed.max(self.executed());
        for ((_, _, seq), digest) in
            found.accepted.range((epoch, view, Seq(0))..=(epoch, view, Seq(u64::MAX)))
        {
            self.proposed = self.proposed.max(*seq);
            if let Some(slot) = self.log.get_mut(*seq) {
                if *digest == Batch::null().digest() {
                    slot.keep_body(Arc::new(Batch::null()));
                }
                slot.proposal = Some(Proposal { digest: *digest, since: now.elapsed, accepted: true });
            }
        }
    }

    /// Votes of the earlier incarnation may not have gone out. They are the same, so they may go out twice.
    fn vote_again(&mut self, out: &mut Vec<Effect>) {
        if let Some(new) = self.new_view.clone().filter(|new| new.signature == UNSIGNED) {
            self.publish(Message::NewView(new), out);
        }
        if self.changing.is_some() {
            self.send_view_change(out);
            return;
        }
        let (view, epoch, me) = (self.view, self.epoch(), self.me);
        let primary = self.is_primary();
        let mut votes = Vec::new();
        for (seq, slot) in self.log.iter() {
            let Some(proposal) = slot.proposal.filter(|proposal| proposal.accepted) else { continue };
            votes.push((Phase::Prepare, seq, proposal.digest, slot.body(&proposal.digest).cloned()));
            if slot.prepared.as_ref().is_some_and(|known| known.view == view && known.epoch == epoch) {
                votes.push((Phase::Commit, seq, proposal.digest, None));
            }
        }
        for (phase, seq, digest, body) in votes {
            match (body, me) {
                (Some(batch), Some(replica)) if primary => {
                    let vote = Vote { phase, epoch, view, seq, digest, replica, signature: UNSIGNED };
                    self.publish(Message::PrePrepare(batch, vote), out);
                }
                _ => self.vote(phase, view, seq, digest, out),
            }
        }
    }
}
