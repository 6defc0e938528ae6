//! Leaving a view whose primary does not do its work (TOCS 4.4; OSDI 1999 4.4 for the signed form).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Replica, jobs::Job};
use crate::pbft::core::{
    ids::{Digest, ReplicaId, Seq, View},
    io::{Effect, Event, Moment, To},
    message::{Message, Summary, UNSIGNED, ViewChange},
    record::Record,
    statement::Claim,
};

/// On the way to a view.
#[derive(Debug, Default)]
pub(super) struct Changing {
    /// Time at which the view after it is tried. Runs only once a quorum is on its way, so that no replica
    /// runs ahead alone.
    pub(super) deadline: Option<Duration>,
}

/// The latest VIEW-CHANGE of each replica, checked.
#[derive(Debug, Default)]
pub(super) struct Collected {
    latest: BTreeMap<ReplicaId, Arc<ViewChange>>,
}

impl Collected {
    pub(super) fn clear(&mut self) {
        self.latest.clear();
    }

    /// Those for exactly this view.
    pub(super) fn for_view(&self, view: View) -> Vec<Arc<ViewChange>> {
        self.latest.values().filter(|change| change.summary.view == view).cloned().collect()
    }

    fn beyond(&self, view: View) -> impl Iterator<Item = View> {
        self.latest.values().map(|change| change.summary.view).filter(move |other| *other > view)
    }

    fn at_least(&self, view: View) -> usize {
        self.latest.values().filter(|change| change.summary.view >= view).count()
    }
}

impl Replica {
    /// Time at which the primary is suspected: a request or a proposal has waited for too long.
    pub(super) fn suspicion_at(&self) -> Option<Duration> {
        if self.changing.is_some() || self.me.is_none() || self.transfer.is_some() {
            return None;
        }
        let request = self.pool.oldest().map(|waiting| waiting.since);
        let proposal = self.oldest_proposal();
        // An epoch that is to end takes batches, which the primary has to propose even without requests.
        let ending =
            self.service.successor().filter(|(end, _)| *end > self.executed()).map(|_| self.progress_at);
        let since = [request, proposal, ending].into_iter().flatten().min()?;
        Some(since + self.timeout())
    }

    /// Time since which the oldest proposal that is not executed is here: a timer has to run for it even
    /// without a request of ours.
    fn oldest_proposal(&self) -> Option<Duration> {
        let waiting = self.log.iter().filter(|(seq, _)| *seq > self.executed());
        waiting.filter_map(|(_, slot)| slot.proposal.map(|proposal| proposal.since)).next()
    }

    pub(super) fn run_timers(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.relay(now, out);
        self.fetch_bodies(now, out);
        if self.suspicion_at().is_some_and(|at| at <= now.elapsed) {
            self.leave_view(now, self.view.next(), out);
        }
        let expired = |changing: &Changing| changing.deadline.is_some_and(|at| at <= now.elapsed);
        if self.changing.as_ref().is_some_and(expired) {
            self.leave_view(now, self.view.next(), out);
        }
    }

    /// Stops taking part in all views before `view`.
    pub(super) fn leave_view(&mut self, now: Moment, view: View, out: &mut Vec<Effect>) {
        if self.me.is_none() {
            return;
        }
        Self::event(out, Event::Leaving(self.view));
        self.failures = self.failures.saturating_add(1);
        self.view = view;
        self.new_view = None;
        self.changing = Some(Changing::default());
        self.early.values_mut().for_each(|held| held.retain(|message| is_for(message, view)));
        self.append(Record::Left(self.epoch(), view), out);
        self.send_view_change(out);
        self.consider_view_changes(now, out);
    }

    /// Says what we know, or says it again.
    pub(super) fn send_view_change(&self, out: &mut Vec<Effect>) {
        let Some(replica) = self.me else { return };
        if self.changing.is_none() {
            return;
        }
        // P: for each sequence number after the stable checkpoint, what was prepared here in the highest
        // view.
        let certificates: Vec<_> = self
            .log
            .iter()
            .filter_map(|(_, slot)| slot.prepared.clone())
            .filter(|certificate| certificate.epoch == self.epoch())
            .collect();
        let prepared = certificates.iter().map(|known| (known.seq, known.view, known.digest)).collect();
        // C: the proof of the stable checkpoint. One that ended the epoch before needs no proof among those
        // who are in this one.
        let stable = self.stable.as_ref().filter(|proof| proof.checkpoint.epoch == self.epoch());
        let summary = Summary {
            epoch: self.epoch(),
            view: self.view,
            replica,
            stable: self.log.low(),
            prepared,
            signature: UNSIGNED,
        };
        let stable = stable.map(|proof| (**proof).clone());
        let change = ViewChange { summary, stable, prepared: certificates };
        self.publish(Message::ViewChange(Arc::new(change)), out);
    }

    pub(super) fn on_view_change(
        &mut self,
        now: Moment,
        from: ReplicaId,
        change: Arc<ViewChange>,
        out: &mut Vec<Effect>,
    ) {
        let summary = &change.summary;
        let known = self.view_changes.latest.get(&from);
        let changed = known.is_none_or(|known| {
            let (known, new) = (&known.summary, summary);
            (known.view, known.stable) < (new.view, new.stable)
        });
        if summary.replica != from
            || summary.epoch != self.epoch()
            || !changed
            || !self.is_ahead(summary.view)
        {
            return;
        }
        if let (Some(claims), Some(sender)) = (self.view_change_claims(&change), self.key_of(from)) {
            self.verify(Job::ViewChange(change), claims, Some(sender), now, out);
        }
    }

    /// TOCS 4.4: the signatures that a VIEW-CHANGE rests on, if C and P are proven: C by a quorum of
    /// CHECKPOINTs, each entry of P by a quorum of PREPAREs of its view.
    fn view_change_claims(&self, change: &ViewChange) -> Option<Vec<Claim>> {
        let summary = &change.summary;
        let mut claims = vec![Claim {
            key: self.key_of(summary.replica)?,
            statement: summary.statement(),
            signature: summary.signature,
        }];
        claims.extend(self.base_claims(summary.stable, change.stable.as_ref())?);
        if summary.prepared.len() != change.prepared.len() || !self.is_possible(summary) {
            return None;
        }
        for ((seq, view, digest), proof) in summary.prepared.iter().zip(&change.prepared) {
            let matches = proof.phase == crate::pbft::core::statement::Phase::Prepare
                && (proof.seq, proof.view, proof.digest) == (*seq, *view, *digest);
            if !matches {
                return None;
            }
            claims.extend(proof.claims(self.membership())?);
        }
        Some(claims)
    }

    /// TOCS 4.4: a replica can have claimed this, sequence numbers in order within its window, prepared in
    /// earlier views. Nothing is done with a claim before, so that a Byzantine replica cannot have us count
    /// up to any number.
    pub(super) fn is_possible(&self, summary: &Summary) -> bool {
        let Some(high) = summary.stable.0.checked_add(self.window()) else { return false };
        let ascending = summary.prepared.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let inside = |(seq, view, _): &(Seq, View, Digest)| {
            *seq > summary.stable && seq.0 <= high && *view < summary.view
        };
        ascending && summary.prepared.iter().all(inside)
    }

    /// The signatures behind a checkpoint that a view change starts from. The one where this epoch began
    /// needs none.
    pub(super) fn base_claims(
        &self,
        seq: Seq,
        proof: Option<&crate::pbft::core::message::StableProof>,
    ) -> Option<Vec<Claim>> {
        match proof {
            None => (seq == self.epoch_start()).then(Vec::new),
            Some(proof) => {
                let right = proof.checkpoint.seq == seq && proof.checkpoint.epoch == self.epoch();
                if right { proof.claims(self.membership()) } else { None }
            }
        }
    }

    /// TOCS 4.4: a view is entered once, and never again after a later one.
    pub(super) fn is_ahead(&self, view: View) -> bool {
        view > self.view || (view == self.view && self.changing.is_some())
    }

    /// The last sequence number of the epoch before.
    pub(super) fn epoch_start(&self) -> Seq {
        let current = self.steps.iter().find(|step| step.membership.epoch() == self.epoch());
        current.map_or(Seq::ZERO, |step| step.checkpoint.seq)
    }

    /// Takes down a VIEW-CHANGE that was checked.
    pub(super) fn collect_view_change(
        &mut self,
        now: Moment,
        change: Arc<ViewChange>,
        out: &mut Vec<Effect>,
    ) {
        if change.summary.epoch != self.epoch() {
            return;
        }
        let known = self.view_changes.latest.get(&change.summary.replica);
        if known.is_some_and(|known| known.summary.view > change.summary.view) {
            return;
        }
        self.view_changes.latest.insert(change.summary.replica, change);
        self.consider_view_changes(now, out);
    }

    fn consider_view_changes(&mut self, now: Moment, out: &mut Vec<Effect>) {
        // f + 1 replicas that are ahead: one of them is correct and had a reason. Joining keeps views
        // together (TOCS 4.5.2).
        let ahead: Vec<_> = self.view_changes.beyond(self.view).collect();
        if ahead.len() >= self.membership().quorum().weak()
            && let Some(view) = ahead.into_iter().min()
        {
            self.leave_view(now, view, out);
            return;
        }
        let (view, quorum, timeout) = (self.view, self.quorum(), self.timeout());
        let Some(changing) = &mut self.changing else { return };
        if changing.deadline.is_none() && self.view_changes.at_least(view) >= quorum {
            changing.deadline = Some(now.elapsed + timeout);
        }
        self.try_begin_view(out);
    }

    /// Time at which a slow request is relayed: after half of the time that the primary has for it, and again
    /// after as much.
    pub(super) fn relay_at(&self) -> Option<Duration> {
        self.me?;
        self.pool.first_relayed().map(|relayed_at| relayed_at + self.config.request_timeout / 2)
    }

    /// A slow request of ours goes to all, so that they watch the primary too; another client's goes to the
    /// primary, which may not have it (TOCS 4.1). Also on the way to another view: others may not be, and go
    /// on without us.
    fn relay(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if self.relay_at().is_none_or(|at| at > now.elapsed) {
            return;
        }
        let before = now.elapsed.saturating_sub(self.config.request_timeout / 2);
        let primary = self.membership().primary(self.view).key;
        for request in self.pool.take_unrelayed(before, now.elapsed) {
            if request.client == self.key {
                out.push(Effect::Submit(To::Others, Message::Request(request)));
            } else if primary != self.key {
                out.push(Effect::Send(To::One(primary), Message::Request(request)));
            }
        }
    }

    /// Hands what we want done to the primary of a view that begins.
    pub(super) fn resubmit(&self, out: &mut Vec<Effect>) {
        if self.is_primary() || self.me.is_none() {
            return;
        }
        let primary = self.membership().primary(self.view).key;
        for request in self.local.requests() {
            out.push(Effect::Submit(To::One(primary), Message::Request(request)));
        }
    }
}

fn is_for(message: &Message, view: View) -> bool {
    matches!(message, Message::PrePrepare(_, vote) | Message::Vote(vote) if vote.view >= view)
}
