//! Checkpoints and the watermarks that follow them (TOCS 4.3).

use std::{collections::BTreeMap, sync::Arc};

use super::{Replica, jobs::Job};
use crate::pbft::core::{
    history::{GENESIS, Snapshot},
    ids::{Epoch, PublicKey, ReplicaId, Seq, View},
    io::{Effect, Event, Moment},
    log::Log,
    message::{Checkpoint, CheckpointVote, EpochStep, Message, StableProof, UNSIGNED},
    record::{Image, Record},
};

/// Votes of other replicas on checkpoints that are not stable here, and what this replica itself holds to be
/// right.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    ours: BTreeMap<Seq, Checkpoint>,
    votes: BTreeMap<Seq, BTreeMap<ReplicaId, Ballot>>,
}

#[derive(Clone, Copy, Debug)]
struct Ballot {
    vote: CheckpointVote,
    checked: bool,
}

impl Checkpoints {
    fn truncate(&mut self, stable: Seq) {
        self.ours = self.ours.split_off(&stable.next());
        self.votes = self.votes.split_off(&stable.next());
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Replica {
    /// The state after the last executed batch is a checkpoint: says so.
    pub(super) fn make_checkpoint(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let checkpoint = self.service.checkpoint(self.history.snapshot());
        self.checkpoints.ours.insert(checkpoint.seq, checkpoint);
        self.vote_checkpoint(&checkpoint, out);
        self.try_stable(now, checkpoint.seq, out);
    }

    fn vote_checkpoint(&self, checkpoint: &Checkpoint, out: &mut Vec<Effect>) {
        let Some(replica) = self.me else { return };
        let vote = CheckpointVote {
            epoch: checkpoint.epoch,
            seq: checkpoint.seq,
            digest: checkpoint.digest(),
            replica,
            signature: UNSIGNED,
        };
        self.publish(Message::Checkpoint(vote), out);
    }

    /// Votes again for what is not stable yet: the votes may have been lost.
    pub(super) fn resend_checkpoints(&self, out: &mut Vec<Effect>) {
        for checkpoint in self.checkpoints.ours.values() {
            self.vote_checkpoint(checkpoint, out);
        }
    }

    pub(super) fn on_checkpoint(
        &mut self,
        now: Moment,
        from: ReplicaId,
        vote: CheckpointVote,
        good: bool,
        out: &mut Vec<Effect>,
    ) {
        if vote.replica != from || vote.epoch != self.epoch() || !self.is_checkpoint(vote.seq) {
            return;
        }
        let votes = self.checkpoints.votes.entry(vote.seq).or_default();
        match votes.get(&from).copied() {
            Some(known) if known.vote.digest != vote.digest => {
                if let Some(key) = self.key_of(from) {
                    self.suspect(now, from, known.vote.claim(key), vote.claim(key), out);
                }
                return;
            }
            Some(known) if known.checked || !good => return,
            _ => votes.insert(from, Ballot { vote, checked: good }),
        };
        self.try_stable(now, vote.seq, out);
    }

    /// TOCS 4.3: n is divisible by K, after the stable checkpoint, and not further ahead than others can be.
    fn is_checkpoint(&self, seq: Seq) -> bool {
        let ahead_max = self.log.low().plus(2 * self.config.window);
        let boundary = seq.0.is_multiple_of(self.config.checkpoint_interval);
        boundary && seq > self.log.low() && seq <= ahead_max
    }

    /// Our own checkpoints that are not stable.
    #[cfg(feature = "simulation")]
    pub(super) fn own_checkpoints(&self) -> impl Iterator<Item = Seq> {
        self.checkpoints.ours.keys().copied()
    }

    /// Has the votes checked when there may be a quorum that agrees with us.
    fn try_stable(&mut self, now: Moment, seq: Seq, out: &mut Vec<Effect>) {
        let quorum = self.quorum();
        let Some(votes) = self.checkpoints.votes.get(&seq) else { return };
        let Some(ours) = self.checkpoints.ours.get(&seq).copied() else { return };
        let digest = ours.digest();
        let matching = || votes.values().filter(|ballot| ballot.vote.digest == digest);
        if matching().count() < quorum {
            let others = || votes.values().filter(|ballot| ballot.vote.digest != digest);
            let unchecked: Vec<_> =
                others().filter(|ballot| !ballot.checked).map(|ballot| ballot.vote).collect();
            if others().count() < self.membership().quorum().weak() || unchecked.is_empty() {
                self.notice_divergence(seq, out);
            } else {
                self.check_checkpoints(now, unchecked, out);
            }
            return;
        }
        if matching().filter(|ballot| ballot.checked).count() >= quorum {
            let signatures = matching().filter(|ballot| ballot.checked);
            let votes = signatures.map(|ballot| (ballot.vote.replica, ballot.vote.signature)).collect();
            let proof = StableProof { checkpoint: ours, votes, steps: Vec::new() };
            self.make_stable(now, &Arc::new(proof), out);
            return;
        }
        let unchecked: Vec<_> =
            matching().filter(|ballot| !ballot.checked).map(|ballot| ballot.vote).collect();
        self.check_checkpoints(now, unchecked, out);
    }

    fn check_checkpoints(&mut self, now: Moment, votes: Vec<CheckpointVote>, out: &mut Vec<Effect>) {
        let claims = votes.iter().filter_map(|vote| Some(vote.claim(self.key_of(vote.replica)?))).collect();
        self.verify(Job::Checkpoints(votes), claims, None, now, out);
    }

    pub(super) fn checkpoints_checked(
        &mut self,
        now: Moment,
        votes: &[CheckpointVote],
        bad: &[usize],
        out: &mut Vec<Effect>,
    ) {
        for (position, vote) in votes.iter().enumerate() {
            let Some(known) = self.checkpoints.votes.get_mut(&vote.seq) else { continue };
            if bad.contains(&position) {
                known.remove(&vote.replica);
                Self::event(out, Event::BadSignature(vote.replica));
            } else if let Some(ballot) = known.get_mut(&vote.replica) {
                ballot.checked |= ballot.vote == *vote;
            }
        }
        if let Some(vote) = votes.first() {
            self.try_stable(now, vote.seq, out);
        }
    }

    /// f + 1 replicas, of which one is correct, agree on something else than our state: the machine is not
    /// deterministic, or memory is damaged.
    fn notice_divergence(&self, seq: Seq, out: &mut Vec<Effect>) {
        let (Some(votes), Some(ours)) = (self.checkpoints.votes.get(&seq), self.checkpoints.ours.get(&seq))
        else {
            return;
        };
        let mut others = BTreeMap::new();
        for ballot in votes.values().filter(|ballot| ballot.checked && ballot.vote.digest != ours.digest()) {
            *others.entry(ballot.vote.digest).or_insert(0) += 1;
        }
        if others.values().any(|count| *count >= self.membership().quorum().weak()) {
            Self::event(out, Event::Diverged(seq));
        }
    }

    /// A checkpoint is stable and we have its state: nothing before it is needed for agreement any more.
    pub(super) fn make_stable(&mut self, now: Moment, proof: &Arc<StableProof>, out: &mut Vec<Effect>) {
        let checkpoint = proof.checkpoint;
        if checkpoint.seq <= self.log.low() || checkpoint.seq > self.executed() {
            return;
        }
        let high = self.log.high();
        self.log.truncate(checkpoint.seq, self.window());
        self.checkpoints.truncate(checkpoint.seq);
        self.history.prune(checkpoint.snapshot);
        let proof = &Arc::new(StableProof { steps: Vec::new(), ..(**proof).clone() });
        let old = self.stable.replace(proof.clone()).map(|old| old.checkpoint.snapshot);
        let ended =
            self.service.successor().filter(|(end, _)| *end == checkpoint.seq).map(|(_, next)| next.clone());
        let step = ended.map(|membership| EpochStep { checkpoint, votes: proof.votes.clone(), membership });
        if let Some(step) = &step {
            // Before the checkpoint: a log that ends here must not know the one without the other.
            self.append(Record::Epoch(Arc::new(step.clone())), out);
        }
        self.append(Record::Stable(proof.clone()), out);
        Self::event(out, Event::Stable(checkpoint.seq));
        match step {
            Some(step) => {
                // The members change here; nothing beyond was agreed on by the old ones.
                self.steps.push(step);
                self.service.succeed();
                self.enter_epoch(now, out);
            }
            None => self.adopt_rest(now, high, out),
        }
        let changed = old.unwrap_or(GENESIS) != checkpoint.snapshot;
        if let Some(snapshot) = self.history.find(checkpoint.snapshot).filter(|_| changed).cloned() {
            self.rewrite_log(&snapshot, None, out);
        }
    }

    /// Drops everything that belonged to the old membership.
    pub(super) fn enter_epoch(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let key = self.key;
        self.me = self.membership().by_key(&key).map(|member| member.id);
        let replicas = self.membership().members().len();
        self.log = Log::new(self.log.low().max(self.epoch_start()), self.window(), replicas);
        self.checkpoints.clear();
        self.view = View::default();
        self.changing = None;
        self.failures = 0;
        self.new_view = None;
        self.view_changes.clear();
        self.early.clear();
        self.helped.clear();
        self.restart_reads();
        self.proposed = self.log.low();
        if self.me.is_none() {
            self.give_up_local(out);
        }
        let (members, clients) = (self.membership().clone(), self.config.clients.clone());
        self.pool.forget(|request| {
            members.by_key(&request.client).is_none() && !clients.contains(&request.client)
        });
        self.pool.begin_view(now.elapsed);
        Self::event(out, Event::Epoch(self.epoch()));
        self.resubmit(out);
    }

    /// A new log that begins with this snapshot.
    pub(super) fn rewrite_log(
        &mut self,
        snapshot: &Snapshot,
        stable: Option<&Arc<StableProof>>,
        out: &mut Vec<Effect>,
    ) {
        let mut records = Vec::new();
        for (seq, batch) in self.history.since(snapshot.name.seq) {
            records.push(Record::Body(seq, batch.clone()));
            records.push(Record::Decided(seq, batch.digest()));
        }
        records.extend(self.steps.iter().cloned().map(|step| Record::Epoch(Arc::new(step))));
        records.extend(self.stable.iter().chain(stable).cloned().map(Record::Stable));
        records.extend(self.exposed.all().into_iter().map(Record::Evidence));
        if self.changing.is_some() {
            records.push(Record::Left(self.epoch(), self.view));
        }
        records.extend(self.new_view.clone().map(Record::NewView));
        for (seq, slot) in self.log.iter() {
            let bodies = slot.bodies().filter(|batch| !batch.is_null()).cloned();
            records.extend(bodies.map(|batch| Record::Body(seq, batch)));
            records.extend(slot.prepared.clone().map(Record::Prepared));
            let entered = self.changing.is_none();
            if let Some(proposal) = slot.proposal.filter(|proposal| proposal.accepted && entered) {
                records.push(Record::Accepted(self.epoch(), self.view, seq, proposal.digest));
            }
            records.extend(slot.proof.clone().map(Record::Committed));
        }
        self.appended += 1;
        out.push(Effect::Replace(Image { snapshot: Some(snapshot.bytes.clone()), records }));
    }

    /// Our own checkpoint at a sequence number.
    pub(super) fn ours_at(&self, seq: Seq) -> Option<Checkpoint> {
        self.checkpoints.ours.get(&seq).copied()
    }

    /// A proof that a checkpoint is stable, perhaps of an epoch that we do not know yet.
    pub(super) fn on_stable_proof(
        &mut self,
        now: Moment,
        from: PublicKey,
        proof: Arc<StableProof>,
        out: &mut Vec<Effect>,
    ) {
        if proof.checkpoint.seq <= self.log.low() && proof.checkpoint.epoch <= self.epoch() {
            return;
        }
        if let Some(claims) = proof.claims(self.membership()) {
            self.verify(Job::Stable(proof), claims, Some(from), now, out);
        }
    }

    /// A proven checkpoint: ours too when we have executed that far, otherwise something to catch up with.
    pub(super) fn take_stable_proof(&mut self, now: Moment, proof: &Arc<StableProof>, out: &mut Vec<Effect>) {
        let checkpoint = proof.checkpoint;
        if checkpoint.seq <= self.log.low() && checkpoint.epoch <= self.epoch() {
            return;
        }
        match self.checkpoints.ours.get(&checkpoint.seq) {
            Some(ours) if *ours == checkpoint => self.make_stable(now, proof, out),
            Some(_) => Self::event(out, Event::Diverged(checkpoint.seq)),
            None => self.catch_up(now, proof, out),
        }
    }

    /// The last stable proof for a receiver that knows the memberships up to `epoch`.
    pub(super) fn proof_from(&self, epoch: Epoch) -> Option<StableProof> {
        let proof = self.stable.as_ref()?;
        let missing = |step: &&EpochStep| {
            step.membership.epoch() > epoch && step.membership.epoch() <= proof.checkpoint.epoch
        };
        let steps = self.steps.iter().filter(missing).cloned().collect();
        Some(StableProof { steps, ..(**proof).clone() })
    }

    /// Number of sequence numbers beyond the last stable checkpoint.
    pub(super) fn window(&self) -> u64 {
        self.config.window
    }
}
