//! The three phases (TOCS 4.2): PRE-PREPARE and PREPARE fix a batch at its sequence number within a view,
//! COMMIT across views.

use std::sync::Arc;

use super::{Replica, jobs::Job};
use crate::pbft::core::{
    batch::Batch,
    guard::Guard,
    ids::{Digest, ReplicaId, Seq, View},
    io::{Effect, Event, Moment, To},
    log::Counted,
    message::{Certificate, Fetch, Message, UNSIGNED, Vote},
    record::Record,
    statement::{Claim, Phase, Statement},
};

impl Replica {
    pub(super) fn on_pre_prepare(
        &mut self,
        now: Moment,
        from: ReplicaId,
        batch: Arc<Batch>,
        vote: Vote,
        out: &mut Vec<Effect>,
    ) {
        if !self.is_proposal(from, &batch, &vote) || self.me == Some(from) || !self.within(vote.seq) {
            return;
        }
        let Some(slot) = self.log.get_mut(vote.seq) else { return };
        let known = slot.proposal.is_some_and(|proposal| proposal.accepted || proposal.digest != vote.digest);
        if known || slot.checking {
            // The batch is known, or the sequence number is taken. The vote counts, or proves that the
            // primary equivocates.
            self.on_vote(now, from, vote, out);
            return;
        }
        // A batch that the view began with was justified by its certificate.
        let expected = slot.proposal.is_some();
        if !expected && !self.acceptable(now, &batch) {
            return;
        }
        let Some(primary) = self.key_of(from) else { return };
        let mut claims = vec![vote.claim(primary)];
        if !expected {
            for request in &batch.requests {
                let statement = Statement::Request { digest: request.digest() };
                match request.signature {
                    Some(signature) => claims.push(Claim { key: request.client, statement, signature }),
                    None if request.client == primary => {}
                    None => return,
                }
            }
        }
        if let Some(slot) = self.log.get_mut(vote.seq) {
            slot.checking = true;
        }
        if !self.verify(Job::Proposal(batch, vote), claims, None, now, out)
            && let Some(slot) = self.log.get_mut(vote.seq)
        {
            slot.checking = false;
        }
    }

    /// TOCS 4.2: the PRE-PREPARE is of the current view and from its primary, and d is the digest of m.
    fn is_proposal(&self, from: ReplicaId, batch: &Batch, vote: &Vote) -> bool {
        let primary = self.membership().primary(self.view).id;
        vote.phase == Phase::Prepare
            && from == primary
            && vote.replica == primary
            && vote.view == self.view
            && self.changing.is_none()
            && vote.digest == batch.digest()
            && self.counts(vote.epoch)
    }

    /// TOCS 4.1 and 5.4: requests of known clients, and a time near our own clock.
    fn acceptable(&self, now: Moment, batch: &Batch) -> bool {
        if batch.is_null() {
            return *batch == Batch::null();
        }
        let bounded = batch.time <= now.wall.after(self.config.clock_ahead_max)
            && batch.time.after(self.config.clock_behind_max) >= now.wall;
        bounded
            && batch.size() <= 2 * self.config.batch_bytes_max + 4096
            && batch.requests.iter().all(|request| self.admits(&request.client))
    }

    pub(super) fn proposal_checked(
        &mut self,
        now: Moment,
        batch: &Arc<Batch>,
        vote: Vote,
        good: bool,
        out: &mut Vec<Effect>,
    ) {
        let here = vote.view == self.view && vote.epoch == self.epoch() && self.changing.is_none();
        let Some(slot) = self.log.get_mut(vote.seq) else { return };
        slot.checking = false;
        if !good {
            Self::event(out, Event::BadSignature(vote.replica));
            return;
        }
        let taken = slot.proposal.is_some_and(|proposal| proposal.accepted || proposal.digest != vote.digest);
        if !here || taken {
            return;
        }
        self.accept(now, batch, vote.seq, out);
        self.vote(Phase::Prepare, self.view, vote.seq, vote.digest, out);
        self.count_vote(now, vote.replica, vote, true, out);
    }

    /// Casts our vote.
    pub(super) fn vote(&mut self, phase: Phase, view: View, seq: Seq, digest: Digest, out: &mut Vec<Effect>) {
        let Some(replica) = self.me else { return };
        let signature = UNSIGNED;
        let vote = Vote { phase, epoch: self.epoch(), view, seq, digest, replica, signature };
        self.publish(Message::Vote(vote), out);
    }

    pub(super) fn on_vote(&mut self, now: Moment, from: ReplicaId, vote: Vote, out: &mut Vec<Effect>) {
        if !self.counts(vote.epoch) || self.me == Some(vote.replica) || !self.within(vote.seq) {
            return;
        }
        if vote.replica == from {
            self.count_vote(now, from, vote, false, out);
        } else if let (Some(key), Some(sender)) = (self.key_of(vote.replica), self.key_of(from)) {
            self.verify(Job::Relayed(vote), vec![vote.claim(key)], Some(sender), now, out);
        }
    }

    /// Counts a vote whose author is known for certain, by the channel or by its signature (`good`).
    pub(super) fn count_vote(
        &mut self,
        now: Moment,
        replica: ReplicaId,
        vote: Vote,
        good: bool,
        out: &mut Vec<Effect>,
    ) {
        if vote.replica != replica || !self.counts(vote.epoch) {
            return;
        }
        // TOCS 4.2: PREPAREs count in their view. COMMITs count in every view, as committed-local does not
        // depend on it.
        let current = vote.view == self.view && self.changing.is_none();
        if vote.phase == Phase::Prepare && !current {
            return;
        }
        let Some(index) = self.membership().index(replica) else { return };
        let Some(slot) = self.log.get_mut(vote.seq) else { return };
        let ballot = match vote.phase {
            Phase::Prepare => &mut slot.prepares,
            Phase::Commit => &mut slot.commits,
        };
        match ballot.count(index, vote, good) {
            Counted::Yes => {
                self.expose_conflict(vote, out);
                self.check_votes(now, vote.phase, vote.view, vote.seq, vote.digest, out);
            }
            Counted::Conflict(first) => self.on_conflict(now, first, vote, out),
            Counted::No => {}
        }
    }

    /// If there may be a quorum, has the signatures checked that are still missing for one, all at once; when
    /// there is one, goes on.
    fn check_votes(
        &mut self,
        now: Moment,
        phase: Phase,
        view: View,
        seq: Seq,
        digest: Digest,
        out: &mut Vec<Effect>,
    ) {
        let quorum = self.quorum();
        let Some(slot) = self.log.get_mut(seq) else { return };
        let done = match phase {
            Phase::Prepare => {
                slot.prepared.as_ref().is_some_and(|known| known.view == view && known.digest == digest)
            }
            Phase::Commit => slot.decided.is_some(),
        };
        let ballot = match phase {
            Phase::Prepare => &mut slot.prepares,
            Phase::Commit => &mut slot.commits,
        };
        if done || ballot.count_all(view, digest) < quorum {
            return;
        }
        if ballot.count_good(view, digest) >= quorum {
            match phase {
                Phase::Prepare => self.try_prepared(now, seq, out),
                Phase::Commit => {
                    let votes = ballot.good(view, digest);
                    let epoch = self.epoch();
                    self.decide(now, Certificate { phase, epoch, view, seq, digest, votes }, out);
                }
            }
            return;
        }
        let votes = ballot.begin_check(view, digest);
        if votes.is_empty() {
            return;
        }
        let claims =
            votes.iter().filter_map(|(_, vote)| Some(vote.claim(self.key_of(vote.replica)?))).collect();
        self.verify(Job::Votes { phase, view, seq, digest, votes }, claims, None, now, out);
    }

    pub(super) fn votes_checked(
        &mut self,
        now: Moment,
        (phase, view, seq, digest): (Phase, View, Seq, Digest),
        votes: &[(usize, Vote)],
        bad: &[usize],
        out: &mut Vec<Effect>,
    ) {
        let Some(slot) = self.log.get_mut(seq) else { return };
        let ballot = match phase {
            Phase::Prepare => &mut slot.prepares,
            Phase::Commit => &mut slot.commits,
        };
        for (position, (index, vote)) in votes.iter().enumerate() {
            let good = !bad.contains(&position);
            ballot.end_check(*index, vote, good);
            if !good {
                Self::event(out, Event::BadSignature(vote.replica));
            }
        }
        self.check_votes(now, phase, view, seq, digest, out);
    }

    /// prepared(m, v, n, i): the proposal is in the log and a quorum voted for it in this view (TOCS 4.2).
    pub(super) fn try_prepared(&mut self, now: Moment, seq: Seq, out: &mut Vec<Effect>) {
        let (view, quorum, epoch) = (self.view, self.quorum(), self.epoch());
        let Some(slot) = self.log.get_mut(seq) else { return };
        let Some(proposal) = slot.proposal.filter(|proposal| proposal.accepted) else { return };
        let digest = proposal.digest;
        let before = slot.prepared.as_ref().is_some_and(|known| known.view == view && known.epoch == epoch);
        if self.changing.is_some() || before || slot.prepares.count_good(view, digest) < quorum {
            return;
        }
        let votes = slot.prepares.good(view, digest);
        let certificate = Certificate { phase: Phase::Prepare, epoch, view, seq, digest, votes };
        slot.prepared = Some(certificate.clone());
        self.prepared_max = self.prepared_max.max(seq);
        self.append(Record::Prepared(certificate), out);
        self.vote(Phase::Commit, view, seq, digest, out);
        self.check_votes(now, Phase::Commit, view, seq, digest, out);
    }

    /// committed-local: a quorum voted to commit. It holds in every later view, so the view does not matter
    /// here. The votes are kept together: those of later views would replace them one by one, and others may
    /// need the proof.
    fn decide(&mut self, now: Moment, certificate: Certificate, out: &mut Vec<Effect>) {
        let Certificate { seq, digest, .. } = certificate;
        let Some(slot) = self.log.get_mut(seq) else { return };
        if slot.decided.is_some() {
            return;
        }
        slot.decided = Some(digest);
        slot.proof = Some(certificate.clone());
        if digest == Batch::null().digest() {
            slot.keep_body(Arc::new(Batch::null()));
        }
        if slot.body(&digest).is_none() && slot.fetch_at.is_none() {
            slot.fetch_at = Some(now.elapsed);
        }
        self.append(Record::Committed(certificate), out);
        self.execute_decided(now, out);
    }

    /// A proof from a peer that thinks we lack it.
    pub(super) fn on_committed(
        &mut self,
        now: Moment,
        from: ReplicaId,
        certificate: Certificate,
        out: &mut Vec<Effect>,
    ) {
        let missing = self.log.get(certificate.seq).is_some_and(|slot| slot.decided.is_none());
        // TOCS 4.2: committed-local takes a quorum of COMMITs.
        if !missing || certificate.phase != Phase::Commit {
            return;
        }
        let (Some(claims), Some(sender)) = (certificate.claims(self.membership()), self.key_of(from)) else {
            return;
        };
        self.verify(Job::Certificate(certificate), claims, Some(sender), now, out);
    }

    pub(super) fn take_committed(&mut self, now: Moment, certificate: Certificate, out: &mut Vec<Effect>) {
        if certificate.epoch == self.epoch() {
            self.decide(now, certificate, out);
        }
    }

    /// Fetches missing bodies from all.
    pub(super) fn fetch_bodies(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let again = now.elapsed + self.config.status_interval;
        let mut wanted = Vec::new();
        for (seq, slot) in self.log.iter_mut() {
            if slot.fetch_at.is_some_and(|at| at <= now.elapsed) {
                let missing = slot.missing();
                slot.fetch_at = missing.map(|_| again);
                wanted.extend(missing.map(|digest| Fetch::Batch(seq, digest)));
            }
        }
        for fetch in wanted {
            out.push(Effect::Send(To::Others, Message::Fetch(fetch)));
        }
    }

    /// TOCS 4.2: a vote counts in the configuration in which it was cast; here that is its epoch.
    pub(super) fn counts(&self, epoch: crate::pbft::core::ids::Epoch) -> bool {
        self.config.holds(Guard::CurrentEpoch, epoch == self.epoch())
    }

    /// TOCS 4.2 and 4.3: h < n <= H.
    fn within(&self, seq: Seq) -> bool {
        seq > self.log.low() && seq <= self.high()
    }
}
