//! [`ControlLink`] within the process of the control side. What serves agents over a network calls this as
//! well.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::{error::Error, liveness::Liveness, observations::Observations, proposer::Proposer, view::View};
use crate::{
    engine::link::{
        Assignments, AssignmentsQuery, ControlLink, LinkError, Observation, Registered, Registration,
        ReportAnswer, Reported,
    },
    fault::EngineFault,
    model::{NodeState, Report, Session},
    state::{Command, Envelope, Rejection},
    store::Revision,
    with_causes,
};

/// Door for agents, for as long as there is a control side behind it.
#[derive(Debug)]
pub(super) struct WeakLink(Weak<LocalLink>);

impl WeakLink {
    async fn call<T, F>(&self, call: impl FnOnce(Arc<LocalLink>) -> F + Send) -> Result<T, LinkError>
    where
        F: Future<Output = Result<T, LinkError>> + Send,
    {
        let link = self.0.upgrade().ok_or(LinkError::Closed)?;
        let mut stop = link.stop.clone();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Err(LinkError::Closed),
            answer = call(link) => answer,
        }
    }
}

#[async_trait]
impl ControlLink for WeakLink {
    async fn register(&self, registration: Registration) -> Result<Registered, LinkError> {
        self.call(|link| async move { link.register(registration).await }).await
    }

    async fn heartbeat(&self, session: &Session) -> Result<(), LinkError> {
        self.call(|link| async move { link.admit(session).await }).await
    }

    async fn assignments(
        &self,
        session: &Session,
        query: AssignmentsQuery,
    ) -> Result<Assignments, LinkError> {
        self.call(|link| async move { link.assignments(session, query).await }).await
    }

    async fn report(&self, session: &Session, reports: Vec<Report>) -> Result<Reported, LinkError> {
        self.call(|link| async move { link.report(session, reports).await }).await
    }

    async fn observe(&self, session: &Session, observations: Vec<Observation>) -> Result<(), LinkError> {
        self.call(|link| async move { link.observe(session, observations).await }).await
    }
}

/// Parts that answer agents.
#[derive(Debug)]
pub(super) struct LocalLink {
    pub(super) proposer: Arc<Proposer>,
    pub(super) view: Arc<View>,
    pub(super) observations: Arc<Observations>,
    pub(super) liveness: Arc<Mutex<Liveness>>,
    pub(super) heartbeat_interval: Duration,
    pub(super) assignments_wait: Duration,
    /// Ends all calls.
    pub(super) stop: watch::Receiver<bool>,
}

impl LocalLink {
    /// A door that does not keep the control side.
    pub(super) fn weak(self: &Arc<Self>) -> Arc<dyn ControlLink> {
        Arc::new(WeakLink(Arc::downgrade(self)))
    }

    /// Refuses a session that is not the node's current one, and notes a heartbeat. Before a refusal this
    /// member makes sure that it is not behind.
    async fn admit(&self, session: &Session) -> Result<(), LinkError> {
        if self.check(session).is_err() {
            self.barrier().await?;
            self.check(session)?;
        }
        self.liveness.lock().heard(&session.node, Instant::now());
        Ok(())
    }

    fn check(&self, session: &Session) -> Result<(), LinkError> {
        let known = self.view.node(&session.node).ok_or(LinkError::NotRegistered)?;
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

    /// Sees to it that this member has everything up to `revision`. Where it has not after a barrier, the
    /// revision is of another incarnation of the cluster.
    async fn catch_up(&self, revision: Revision) -> Result<(), LinkError> {
        if self.view.revision() < revision {
            self.barrier().await?;
        }
        Ok(())
    }

    /// Sees to it that this member has everything that was decided anywhere before the call.
    async fn barrier(&self) -> Result<(), LinkError> {
        if EngineFault::AnswersWithoutBarrier.is_made() {
            return Ok(());
        }
        self.proposer.barrier().await.map(drop).map_err(|error| unavailable(&error.into()))
    }

    async fn register(&self, registration: Registration) -> Result<Registered, LinkError> {
        let Registration { spec, incarnation, number, held } = registration;
        let node = spec.id.clone();
        let command = Command::RegisterNode { spec, incarnation, number, held };
        let decided =
            self.proposer.decide(Envelope::anonymous(command)).await.map_err(|error| match error {
                Error::Rejected(taken @ Rejection::NodeIdTaken { .. }) => {
                    LinkError::NameTaken(taken.to_string())
                }
                Error::Rejected(fenced @ Rejection::Fenced { .. }) => LinkError::Fenced(fenced.to_string()),
                Error::Rejected(rejection) => LinkError::Refused(rejection.to_string()),
                other => unavailable(&other),
            })?;
        self.catch_up(decided.revision).await?;
        let known = self.view.node(&node).ok_or(LinkError::NotRegistered)?;
        let session = Session { node, incarnation, number: known.record.session };
        // Another process may have registered in between.
        self.check(&session)?;
        self.liveness.lock().heard(&session.node, Instant::now());
        let heartbeat_interval = self.heartbeat_interval;
        Ok(Registered { session, revision: decided.revision, heartbeat_interval })
    }

    async fn assignments(
        &self,
        session: &Session,
        query: AssignmentsQuery,
    ) -> Result<Assignments, LinkError> {
        self.admit(session).await?;
        self.catch_up(query.at_least).await?;
        let (view, node) = (&self.view, &session.node);
        let (_, mut posted) = view.mailboxes.open(node);
        let deadline = Instant::now() + self.assignments_wait;
        loop {
            posted.borrow_and_update();
            match query.after.and_then(|after| view.mailboxes.after(node, after)) {
                // What is not named is removed: nothing that was decided anywhere may be missing.
                None => {
                    self.barrier().await?;
                    let (now, _) = view.mailboxes.open(node);
                    let all = view.all_assignments(node, now, query.specs_after);
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
                    self.proposer.propose(envelope).await.map_err(|error| unavailable(&error))?;
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
        let applied = self.observations.apply(&session.node, self.proposer.now(), observations).await;
        applied.map_err(|error| unavailable(&error))
    }
}

fn unavailable(error: &Error) -> LinkError {
    LinkError::Unavailable(with_causes(error).to_string())
}
