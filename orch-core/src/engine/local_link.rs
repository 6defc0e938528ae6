//! [`ControlLink`] within the process of the control side. What serves agents over a network calls this as well.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join_all;

use super::{
    driver::observed_key,
    error::Error,
    link::{
        Assignments, ControlLink, Cursor, LinkError, Observation, Registered, Registration, ReportAnswer,
        Reported, Seen,
    },
    orchestrator::Inner,
};
use crate::{
    fault::EngineFault,
    model::{NodeState, Report, Session},
    output::OutputChunk,
    state::{Command, Envelope, Rejection},
    store::{Revision, Write},
    with_causes,
};

#[derive(Debug)]
pub(super) struct LocalLink(pub(super) Arc<Inner>);

impl LocalLink {
    /// Refuses a session that is not the node's current one, and notes a sign of life. Before a refusal this member makes sure
    /// that it is not behind.
    async fn admit(&self, session: &Session) -> Result<(), LinkError> {
        if self.check(session).is_err() {
            self.barrier().await?;
            self.check(session)?;
        }
        self.0.heard.note(&session.node);
        Ok(())
    }

    fn check(&self, session: &Session) -> Result<(), LinkError> {
        let known = self.0.view.node(&session.node).ok_or(LinkError::NotRegistered)?;
        let record = &known.record;
        if record.fenced.contains(&session.incarnation) && !EngineFault::SessionsNotChecked.is_made() {
            let node = session.node.clone();
            return Err(LinkError::Fenced(Rejection::Fenced { node }.to_string()));
        }
        let current = (record.incarnation, record.session) == (session.incarnation, session.number)
            || EngineFault::SessionsNotChecked.is_made();
        match current && record.state == NodeState::Ready {
            true => Ok(()),
            false => Err(LinkError::NotRegistered),
        }
    }

    /// Sees to it that this member has everything up to `revision`. Where it has not after a barrier, the revision is of
    /// another life of the cluster.
    async fn catch_up(&self, revision: Revision) -> Result<(), LinkError> {
        if self.0.view.revision() < revision {
            self.barrier().await?;
        }
        Ok(())
    }

    /// Sees to it that this member has everything that was decided anywhere before the call.
    async fn barrier(&self) -> Result<(), LinkError> {
        if EngineFault::AnswersWithoutBarrier.is_made() {
            return Ok(());
        }
        self.0.consensus.read_barrier().await.map(drop).map_err(|error| unavailable(&error.into()))
    }
}

#[async_trait]
impl ControlLink for LocalLink {
    async fn register(&self, registration: Registration) -> Result<Registered, LinkError> {
        let inner = &self.0;
        let Registration { spec, incarnation, number, held } = registration;
        let node = spec.id.clone();
        let command = Command::RegisterNode { spec, incarnation, number, held };
        let decided = inner.decide(Envelope::anonymous(command)).await.map_err(|error| match error {
            Error::Rejected(taken @ Rejection::NodeIdTaken { .. }) => LinkError::NameTaken(taken.to_string()),
            Error::Rejected(fenced @ Rejection::Fenced { .. }) => LinkError::Fenced(fenced.to_string()),
            Error::Rejected(rejection) => LinkError::Refused(rejection.to_string()),
            other => unavailable(&other),
        })?;
        self.catch_up(decided.revision).await?;
        let known = inner.view.node(&node).ok_or(LinkError::NotRegistered)?;
        let session = Session { node, incarnation, number: known.record.session };
        // Another process may have registered in between.
        self.check(&session)?;
        inner.heard.note(&session.node);
        let heartbeat_interval = inner.config.heartbeat_interval;
        Ok(Registered { session, revision: decided.revision, heartbeat_interval })
    }

    async fn heartbeat(&self, session: &Session) -> Result<(), LinkError> {
        self.admit(session).await
    }

    async fn assignments(
        &self,
        session: &Session,
        after: Option<Cursor>,
        seen: Revision,
    ) -> Result<Assignments, LinkError> {
        self.admit(session).await?;
        self.catch_up(seen).await?;
        let (view, node) = (&self.0.view, &session.node);
        let (_, mut posted) = view.mailboxes.open(node);
        let deadline = tokio::time::Instant::now() + self.0.config.assignments_wait;
        loop {
            posted.borrow_and_update();
            match after.and_then(|after| view.mailboxes.after(node, after)) {
                // What is not named is removed: nothing that was decided anywhere may be missing.
                None => {
                    self.barrier().await?;
                    let (now, _) = view.mailboxes.open(node);
                    let all = view.all_assignments(node, now);
                    self.check(session)?;
                    return Ok(all);
                }
                Some((cursor, changed)) if !changed.is_empty() => {
                    let some = view.some_assignments(node, cursor, &changed);
                    self.check(session)?;
                    return Ok(some);
                }
                Some((cursor, _)) => {
                    if tokio::time::timeout_at(deadline, posted.changed()).await.is_err() {
                        return Ok(view.some_assignments(node, cursor, &[]));
                    }
                }
            }
        }
    }

    async fn report(&self, session: &Session, reports: Vec<Report>) -> Result<Reported, LinkError> {
        let node = &session.node;
        if reports.iter().any(|report| report.node != *node) {
            return Err(LinkError::Refused(format!("node {node} may report about itself only")));
        }
        self.admit(session).await?;
        let decided = reports.into_iter().map(|report| {
            let envelope = Envelope::anonymous(Command::Report { session: session.number, report });
            async move {
                let (revision, outcome) =
                    self.0.propose(envelope).await.map_err(|error| unavailable(&error))?;
                match outcome {
                    Ok(_) => Ok((revision, ReportAnswer::Accepted)),
                    Err(Rejection::StaleAttempt { .. }) => Ok((revision, ReportAnswer::Stale)),
                    Err(Rejection::StaleSession { .. }) => {
                        Err(self.check(session).err().unwrap_or(LinkError::NotRegistered))
                    }
                    Err(rejection) => Err(LinkError::Refused(rejection.to_string())),
                }
            }
        });
        let mut reported = Reported { revision: Revision::ZERO, answers: Vec::new() };
        for answer in join_all(decided).await {
            let (revision, answer) = answer?;
            reported.revision = reported.revision.max(revision);
            reported.answers.push(answer);
        }
        Ok(reported)
    }

    async fn observe(&self, session: &Session, observations: Vec<Observation>) -> Result<(), LinkError> {
        self.admit(session).await?;
        let (view, mut pieces, mut writes) = (&self.0.view, Vec::new(), Vec::new());
        let time = Some(self.0.consensus.now());
        for Observation { attempt, seen } in observations {
            let seen = seen.clipped();
            if let Seen::Output { offset, data, .. } = &seen
                && offset.checked_add(data.len() as u64).is_none()
            {
                // Nobody wrote so much.
                continue;
            }
            if !view.observe(&session.node, attempt, &seen) {
                continue;
            }
            match seen {
                Seen::Output { stream, offset, data } => {
                    let limit = view.task(attempt.task).map_or(0, |task| task.record.spec.output_limit_bytes);
                    pieces.push(OutputChunk { attempt, limit, stream, offset, time, data });
                }
                Seen::Running { .. } | Seen::Health(_) | Seen::Progress(_) => {
                    if let Some(observed) = view.observed(attempt.task) {
                        writes.push(Write::put(observed_key(attempt), observed.to_record()));
                    }
                }
                Seen::Usage(_) => {}
            }
        }
        let kept = async { self.0.output.append(pieces).await.map_err(Error::from) };
        let written = async { self.0.write_observed(writes).await.map_err(Error::from) };
        // Neither waits for the other, and each may be done again.
        let (kept, written) = tokio::join!(kept, written);
        kept.and(written).map_err(|error| unavailable(&error))
    }
}

fn unavailable(error: &Error) -> LinkError {
    LinkError::Unavailable(with_causes(error).to_string())
}
