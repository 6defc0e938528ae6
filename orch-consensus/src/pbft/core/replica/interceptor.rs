//! Seeded faults at the edges of a replica: inputs that are left out, effects that are changed or left out,
//! and state that a step leaves behind. Nothing of this exists outside of the feature `simulation`.

use std::collections::BTreeSet;

use super::{Replica, new_view::Plan};
use crate::pbft::core::{
    fault::SeededFault,
    ids::{Epoch, Seq, View},
    io::{Effect, Event, Input, Moment},
    log::Proposal,
    message::{Message, NewView},
    record::Record,
    statement::Phase,
};

/// Memory of the mistakes that need one.
#[derive(Debug, Default)]
pub(super) struct Interceptor {
    /// Changes of the log that were left out: later ones are counted without them.
    left_out: u64,
    view_changes: BTreeSet<(Epoch, View)>,
    checkpoints: BTreeSet<Seq>,
}

/// State before a step.
struct Before {
    view: (View, bool),
    proposals: Vec<(Seq, Proposal)>,
}

impl Replica {
    /// A step of a replica that makes the mistake.
    pub(super) fn step_wrongly(
        &mut self,
        fault: SeededFault,
        now: Moment,
        input: Input,
        out: &mut Vec<Effect>,
    ) {
        // An input that is left out took its time all the same.
        let mut next = Some(if self.misses(fault, &input) { Input::Tick } else { input });
        let mut unchecked = Vec::new();
        while let Some(input) = next {
            let (before, mut effects) = (self.before(), Vec::new());
            self.handle(now, input, &mut effects);
            self.leave_behind(fault, before);
            for effect in effects {
                match effect {
                    Effect::Verify(job, _) if fault == SeededFault::SignaturesNotChecked => {
                        unchecked.push(job);
                    }
                    effect => out.extend(self.let_out(fault, effect)),
                }
            }
            next = unchecked.pop().map(|job| Input::Verified(job, Vec::new()));
        }
    }

    /// The effects and the state of a recovery by a replica that makes the mistake.
    pub(super) fn recover_wrongly(
        &mut self,
        fault: SeededFault,
        from_snapshot: bool,
        effects: Vec<Effect>,
        out: &mut Vec<Effect>,
    ) {
        self.interceptor = Interceptor::default();
        if fault == SeededFault::ReplyCacheLost && from_snapshot {
            self.service.forget_replies();
        }
        // Their votes went out before the restart.
        self.interceptor.checkpoints = self.own_checkpoints().collect();
        for effect in effects {
            out.extend(self.let_out(fault, effect));
        }
    }

    fn misses(&self, fault: SeededFault, input: &Input) -> bool {
        let commit = |message: &Message| match message {
            Message::Vote(vote) => vote.phase == Phase::Commit,
            message => matches!(message, Message::Committed(_)),
        };
        match (fault, input) {
            (SeededFault::CommitsIgnoredWhileChanging, Input::Message(_, message) | Input::Own(message)) => {
                self.changing.is_some() && commit(message)
            }
            (SeededFault::TimerNeedsOwnRequest, Input::Message(_, Message::Request(_))) => !self.is_primary(),
            (SeededFault::LockAcrossViews, Input::Message(_, Message::PrePrepare(_, vote))) => {
                let prepared = self.log.get(vote.seq).and_then(|slot| slot.prepared.as_ref());
                prepared.is_some_and(|prepared| prepared.digest != vote.digest)
            }
            _ => false,
        }
    }

    fn before(&self) -> Before {
        let proposals = self.log.iter().filter_map(|(seq, slot)| Some((seq, slot.proposal?)));
        Before { view: self.view(), proposals: proposals.collect() }
    }

    fn leave_behind(&mut self, fault: SeededFault, before: Before) {
        match fault {
            SeededFault::StaleProposalKept if self.view() != before.view => {
                for (seq, proposal) in before.proposals {
                    if let Some(slot) = self.log.get_mut(seq).filter(|slot| slot.proposal.is_none()) {
                        slot.proposal = Some(proposal);
                    }
                }
            }
            SeededFault::LockAcrossViews => {
                for (_, slot) in self.log.iter_mut() {
                    let prepared = slot.prepared.as_ref().map(|prepared| prepared.digest);
                    slot.proposal = slot
                        .proposal
                        .filter(|proposal| prepared.is_none_or(|digest| digest == proposal.digest));
                }
            }
            SeededFault::ReadWithoutFallback => self.reads.wait_for_ever(),
            _ => {}
        }
    }

    fn let_out(&mut self, fault: SeededFault, effect: Effect) -> Option<Effect> {
        match effect {
            Effect::Append(record) => match appended(fault, record) {
                Some(record) => Some(Effect::Append(record)),
                None => {
                    self.interceptor.left_out += 1;
                    None
                }
            },
            Effect::Replace(mut image) => {
                image.records.retain(|record| {
                    fault != SeededFault::EvidenceDropped || !matches!(record, Record::Evidence(_))
                });
                Some(Effect::Replace(image))
            }
            Effect::Publish { message, after } => {
                let after = after - self.interceptor.left_out;
                let message = self.published(fault, message)?;
                Some(Effect::Publish { message, after })
            }
            Effect::Event(Event::Evidence(_)) if fault == SeededFault::EvidenceDropped => None,
            effect => Some(effect),
        }
    }

    fn published(&mut self, fault: SeededFault, message: Message) -> Option<Message> {
        let interceptor = &mut self.interceptor;
        match (fault, message) {
            (SeededFault::ViewChangeNotResent, Message::ViewChange(change)) => {
                let new = interceptor.view_changes.insert((change.summary.epoch, change.summary.view));
                new.then_some(Message::ViewChange(change))
            }
            (SeededFault::CheckpointNotResent, Message::Checkpoint(vote)) => {
                interceptor.checkpoints.insert(vote.seq).then_some(Message::Checkpoint(vote))
            }
            (SeededFault::LockAcrossViews, Message::Vote(vote)) if vote.phase == Phase::Prepare => {
                let prepared = self.log.get(vote.seq).and_then(|slot| slot.prepared.as_ref());
                let locked = prepared.is_some_and(|prepared| prepared.digest != vote.digest);
                (!locked).then_some(Message::Vote(vote))
            }
            (SeededFault::MatchingCheckpointsOnly, Message::NewView(new)) => {
                Some(Message::NewView(planned_from_matching(&new).into()))
            }
            (_, message) => Some(message),
        }
    }
}

fn appended(fault: SeededFault, record: Record) -> Option<Record> {
    match (fault, record) {
        (SeededFault::VoteNotPersisted, Record::Accepted(..) | Record::Prepared(_))
        | (SeededFault::EvidenceDropped, Record::Evidence(_)) => None,
        (SeededFault::MatchingCheckpointsOnly, Record::NewView(new)) => {
            Some(Record::NewView(planned_from_matching(&new).into()))
        }
        (_, record) => Some(record),
    }
}

/// The NEW-VIEW that only the claims from the highest checkpoint lead to.
fn planned_from_matching(new: &NewView) -> NewView {
    let base = Plan::of(&new.summaries).base;
    let matching = new.summaries.iter().filter(|summary| summary.stable == base).cloned();
    let plan = Plan::of(&matching.collect::<Vec<_>>());
    let mut new = new.clone();
    new.proposals = plan.proposals();
    new.prepared.retain(|proof| plan.slots.contains(&(proof.seq, Some((proof.view, proof.digest)))));
    new
}
