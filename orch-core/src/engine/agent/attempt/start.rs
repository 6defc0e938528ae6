//! Starting an attempt, or adopting it.

use std::collections::BTreeMap;

use tracing::warn;

use super::{AttemptContext, lifecycle::lost, retry::retry_while_unavailable};
use crate::{
    engine::{
        agent::{outbox::Answered, secrets::SecretSource},
        link::{Assignment, ObservationKind, ReportAnswer},
    },
    model::{AttemptEnd, AttemptId, Report, ReportKind, RestartPolicy, StartFailure, TaskSpec, Workload},
    runtime::{FoundState, Progress, RuntimeErrorKind, Secret, Started, Work},
};

/// Prepares and starts the attempt. An engine that is away is waited for once anything may have been started.
pub(super) async fn start(
    context: &AttemptContext,
    assignment: &Assignment,
    here: Option<FoundState>,
) -> Result<Started, AttemptEnd> {
    let attempt = assignment.attempt;
    let failed = |failure: StartFailure| AttemptEnd::StartFailed { failure: failure.into() };
    if here.is_some_and(|state| state != FoundState::Created) {
        // What was started once is never started again, whatever became of it since, and needs no secrets.
        let adopted = retry_while_unavailable(context, attempt, || context.runtime.adopt(attempt)).await;
        return adopted.map_err(|error| {
            warn!(%attempt, %error, "it cannot be taken over");
            lost(error.to_string())
        });
    }
    let secrets = look_up_secrets(&*context.secrets, &assignment.spec).map_err(failed)?;
    let work = Work { attempt, spec: assignment.spec.clone(), secrets };
    if here.is_none() {
        let outbox = context.outbox.clone();
        let progress =
            Progress::new(move |text| outbox.try_observe(attempt, ObservationKind::Progress(text)));
        let prepared =
            retry_while_unavailable(context, attempt, || context.runtime.prepare(&work, &progress));
        // Nothing was started, so it may go elsewhere at once; for one that is never restarted a loss would
        // be the end.
        let elsewhere = assignment.spec.restart != RestartPolicy::Never;
        tokio::select! {
            prepared = prepared => prepared.map_err(|error| failed(error.into_start_failure()))?,
            why = context.health.away(), if elsewhere => return Err(lost(format!("it was not started: {why}"))),
        }
    }
    if assignment.spec.restart == RestartPolicy::Never && !assignment.started {
        announce(context, attempt).await?;
    }
    retry_while_unavailable(context, attempt, || async {
        let _permit = context.starts.acquire().await;
        let started = context.runtime.start(&work).await;
        context.health.note_start(&started);
        started
    })
    .await
    .map_err(|error| match error.kind {
        // It may have run before it vanished: it is lost, which is no failure of the task's.
        RuntimeErrorKind::NotFound => lost(error.to_string()),
        _ => failed(error.into_start_failure()),
    })
}

/// Has it decided that the attempt starts, before it does: should this machine lose its memory, work that
/// must not run twice is not started again.
async fn announce(context: &AttemptContext, attempt: AttemptId) -> Result<(), AttemptEnd> {
    let kind = ReportKind::Started { at: context.environment.now() };
    let report = Report { attempt, node: context.node.clone(), kind };
    match context.outbox.report(report).await {
        Some(Answered { answer: ReportAnswer::Accepted, .. }) => Ok(()),
        // The cluster has given it up, and says so with its next answer.
        _ => Err(AttemptEnd::Stopped),
    }
}

fn look_up_secrets(
    source: &dyn SecretSource,
    spec: &TaskSpec,
) -> Result<BTreeMap<String, Secret>, StartFailure> {
    let login = match &spec.workload {
        Workload::Image { registry_credentials, .. } => registry_credentials.as_ref(),
        Workload::Program { .. } => None,
    };
    let names = spec.secrets.iter().map(|secret| &secret.name).chain(login);
    names
        .map(|name| {
            let value = source.get(name).map_err(|error| StartFailure {
                reason: "secret_unavailable".into(),
                message: error.to_string(),
                retryable: true,
            })?;
            Ok((name.clone(), value))
        })
        .collect()
}
