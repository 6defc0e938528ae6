//! Effects of the replica, executed.

use bytes::Bytes;
use orch_core::consensus::{Evidence, MemberId};

use super::{Driver, evidence, journal};
use crate::pbft::core::{
    io::{Answer, Effect, Event, Input, To},
    message::Message,
    statement::{Claim, Misbehaviour, Statement},
};
use crate::pbft::member::verifier::Verifier;

impl Driver {
    pub(super) fn carry_out(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Append(record) => self.change(|| journal::Change::Append(record)),
                Effect::Replace(image) => self.change(|| journal::Change::Replace(image)),
                Effect::Send(to, message) => self.context.outbox.push(to, &message),
                Effect::Submit(to, mut message) => {
                    self.context.outbox.sign(&mut message);
                    self.context.outbox.push(to, &message);
                }
                Effect::Publish { message, after } if after <= self.durable() => self.publish(message),
                Effect::Publish { message, after } => self.held.push_back((after, message)),
                Effect::Verify(job, claims) => {
                    let request = |claim: &Claim| matches!(claim.statement, Statement::Request { .. });
                    match claims.iter().all(request) {
                        true => self.request_checks.push((job, claims)),
                        false => self.checks.push((job, claims)),
                    }
                }
                Effect::Answer(token, result) => self.answers.push((token, result)),
                Effect::ReadReady(token, seq) => {
                    self.answers.push((token, Ok(Answer { seq, outcome: Bytes::new() })));
                }
                Effect::Event(event) => self.note(event),
            }
        }
        self.effects = effects;
    }

    /// Answers callers. The status is up to date before them.
    pub(super) fn answer(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        self.say();
        self.answered += self.answers.len();
        self.round = self.now.elapsed.saturating_sub(self.handed_over);
        for (token, result) in self.answers.drain(..) {
            self.in_flight -= usize::from(self.waiting.answer(token, result));
        }
    }

    /// A change of the log. Where nothing is kept it is done at once.
    fn change(&mut self, change: impl FnOnce() -> journal::Change) {
        self.appended += 1;
        if self.context.journal.is_some() {
            self.changes.push(change());
        }
    }

    pub(super) fn durable(&self) -> u64 {
        if self.context.journal.is_some() { self.progress.durable } else { self.appended }
    }

    /// Lets go what waited for the log.
    pub(super) fn release(&mut self) {
        let durable = self.durable();
        while self.held.front().is_some_and(|(after, _)| *after <= durable) {
            if let Some((_, message)) = self.held.pop_front() {
                self.publish(message);
            }
        }
    }

    fn publish(&mut self, mut message: Message) {
        self.context.outbox.sign(&mut message);
        self.context.outbox.push(To::Others, &message);
        self.inputs.push_back(Input::Own(message));
    }

    /// Checks the signatures of many jobs at once.
    pub(super) fn check(&mut self, jobs: Vec<(u64, Vec<Claim>)>) {
        let bad = match &jobs[..] {
            [(_, claims)] => self.verifier.bad(claims),
            _ => self.verifier.bad(&jobs.iter().flat_map(|(_, claims)| claims).copied().collect::<Vec<_>>()),
        };
        let (mut bad, mut from) = (bad.into_iter().peekable(), 0);
        for (job, claims) in jobs {
            let to = from + claims.len();
            let mut of_job = Vec::new();
            while let Some(index) = bad.next_if(|index| *index < to) {
                of_job.push(index - from);
            }
            self.inputs.push_back(Input::Verified(job, of_job));
            from = to;
        }
    }

    fn note(&mut self, event: Event) {
        let problems = &mut self.reported.problems;
        match event {
            Event::Leaving(view) => {
                tracing::warn!(%view, "the primary is suspected; leaving for another view");
            }
            Event::Entered(view, primary) => tracing::info!(%view, %primary, "a view began"),
            Event::Stable(seq) => {
                tracing::debug!(%seq, "a checkpoint is stable");
                if problems.diverged.is_some_and(|diverged| diverged < seq) {
                    problems.diverged = None;
                }
            }
            Event::Epoch(epoch) => {
                tracing::info!(%epoch, "a membership is in force");
                self.meet_members();
            }
            Event::Fetching(seq) => {
                tracing::info!(%seq, "behind the others; fetching the state");
                problems.fetching = Some(seq);
            }
            Event::Caught(seq) => {
                tracing::info!(%seq, "caught up with the others");
                problems.fetching = None;
            }
            Event::Evidence(misbehaviour) => self.expose(&misbehaviour),
            Event::BadSignature(replica) => tracing::warn!(%replica, "a member sent a bad signature"),
            Event::Diverged(seq) => {
                tracing::error!(%seq, "the state here is not what the group agreed on");
                problems.diverged = Some(seq);
            }
        }
    }

    fn expose(&self, misbehaviour: &Misbehaviour) {
        let members = self.context.replica.membership();
        let name = members.member(misbehaviour.replica).map(|member| member.name.clone());
        let name = name.unwrap_or_else(|| misbehaviour.replica.to_string());
        let summary = evidence::describe(misbehaviour);
        tracing::error!(member = name, summary, "a member misbehaved, and it can be proven");
        let Ok(member) = MemberId::new(name) else { return };
        let proof = evidence::encode(&self.context.group, misbehaviour);
        self.context.shared.add_evidence(Evidence::new(member, summary, proof));
    }

    /// Brings the status up to date.
    pub(super) fn say(&mut self) {
        self.reported.problems.log.clone_from(&self.progress.last_error);
        self.reported.show(&self.context.replica, &self.context.shared);
    }

    /// The members changed, or are seen for the first time.
    pub(super) fn meet_members(&mut self) {
        let members = self.context.replica.membership();
        self.verifier = Verifier::new(self.context.group, members.members().iter().map(|member| member.key));
        self.context.outbox.set_members(members);
    }
}
