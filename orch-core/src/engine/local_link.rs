//! [`ControlLink`] within the process of the control side. What serves agents over a network calls this as well.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join_all;

use super::{
    driver::observed_key,
    error::Error,
    link::{Assignments, ControlLink, Cursor, LinkError, Observation, Registration, ReportAnswer, Seen},
    orchestrator::Inner,
    output::Piece,
};
use crate::{
    model::{InstanceId, NodeId, NodeSpec, NodeState, Report},
    state::{Command, Envelope, Rejection},
    store::Write,
};

#[derive(Debug)]
pub(super) struct LocalLink(pub(super) Arc<Inner>);

#[async_trait]
impl ControlLink for LocalLink {
    async fn register(&self, spec: NodeSpec) -> Result<Registration, LinkError> {
        let inner = &self.0;
        let node = spec.id.clone();
        inner.decide(Envelope::anonymous(Command::RegisterNode { spec })).await.map_err(
            |error| match error {
                Error::Rejected(rejection) => LinkError::Refused(rejection.to_string()),
                other => unavailable(&other),
            },
        )?;
        inner.heard.note(&node);
        Ok(Registration { heartbeat_interval: inner.config.heartbeat_interval })
    }

    async fn heartbeat(&self, node: &NodeId, instance: InstanceId) -> Result<(), LinkError> {
        let known = self.0.view.node(node).ok_or(LinkError::NotRegistered)?;
        if known.record.state != NodeState::Ready || known.record.spec.instance != instance {
            return Err(LinkError::NotRegistered);
        }
        self.0.heard.note(node);
        Ok(())
    }

    async fn assignments(&self, node: &NodeId, after: Option<Cursor>) -> Result<Assignments, LinkError> {
        let view = &self.0.view;
        if view.node(node).is_none_or(|known| known.record.state != NodeState::Ready) {
            return Err(LinkError::NotRegistered);
        }
        let (now, mut posted) = view.mailboxes.open(node);
        let Some(after) = after else { return Ok(view.all_assignments(node, now)) };
        let deadline = tokio::time::Instant::now() + self.0.config.assignments_wait;
        loop {
            posted.borrow_and_update();
            match view.mailboxes.after(node, after) {
                None => {
                    let (now, _) = view.mailboxes.open(node);
                    return Ok(view.all_assignments(node, now));
                }
                Some((cursor, changed)) if !changed.is_empty() => {
                    return Ok(view.some_assignments(node, cursor, &changed));
                }
                Some((cursor, _)) => {
                    if tokio::time::timeout_at(deadline, posted.changed()).await.is_err() {
                        return Ok(view.some_assignments(node, cursor, &[]));
                    }
                }
            }
        }
    }

    async fn report(&self, node: &NodeId, reports: Vec<Report>) -> Result<Vec<ReportAnswer>, LinkError> {
        if reports.iter().any(|report| report.node != *node) {
            return Err(LinkError::Refused(format!("node {node} may report about itself only")));
        }
        let decided = reports.into_iter().map(|report| {
            let envelope = Envelope::anonymous(Command::Report(report));
            async move {
                match self.0.decide(envelope).await {
                    Ok(_) => Ok(ReportAnswer::Accepted),
                    Err(Error::Rejected(Rejection::StaleAttempt { .. })) => Ok(ReportAnswer::Stale),
                    Err(Error::Rejected(rejection)) => Err(LinkError::Refused(rejection.to_string())),
                    Err(other) => Err(unavailable(&other)),
                }
            }
        });
        join_all(decided).await.into_iter().collect()
    }

    async fn observe(&self, node: &NodeId, observations: Vec<Observation>) -> Result<(), LinkError> {
        let (view, mut pieces, mut writes) = (&self.0.view, Vec::new(), Vec::new());
        for Observation { attempt, seen } in observations {
            if let Seen::Output { offset, data, .. } = &seen
                && offset.checked_add(data.len() as u64).is_none()
            {
                // Nobody wrote so much.
                continue;
            }
            if !view.observe(node, attempt, &seen) {
                continue;
            }
            match seen {
                Seen::Output { stream, offset, data } => {
                    let limit = view.task(attempt.task).map_or(0, |task| task.record.spec.output_limit_bytes);
                    pieces.push(Piece { attempt, limit, stream, offset, data });
                }
                Seen::Running { .. } | Seen::Health(_) | Seen::Progress(_) => {
                    if let Some(observed) = view.observed(attempt.task) {
                        writes.push(Write::put(observed_key(attempt), observed.to_record()));
                    }
                }
                Seen::Usage(_) => {}
            }
        }
        self.0.output.write(pieces, writes).await.map_err(|error| LinkError::Unavailable(error.to_string()))
    }
}

fn unavailable(error: &Error) -> LinkError {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    LinkError::Unavailable(format!("{error}{cause}"))
}
