//! The life of one attempt on its node: from an assignment to a report that was taken in.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _};
use orch_base::backoff::Backoff;
use tokio::sync::{Semaphore, watch};
use tracing::{debug, error, info, warn};

use super::{
    outbox::{Answered, Outbox},
    runtime_health::RuntimeHealth,
    secrets::SecretSource,
};
use crate::{
    engine::link::{Assignment, ObservationKind, ReportAnswer},
    environment::Environment,
    model::{
        AttemptEnd, AttemptId, NodeId, Report, ReportKind, RestartPolicy, StartFailure, TaskSpec, Workload,
    },
    panics::panic_words,
    runtime::{FoundState, OutputStream, Progress, Runtime, RuntimeError, RuntimeErrorKind, Started, Work},
    store::Revision,
};

/// What the cluster wants of an attempt. Only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    /// It should run.
    Run,
    /// It should stop and be reported.
    Stop,
    /// It is void: remove whatever there is of it and say nothing.
    Gone,
    /// This agent ends and leaves it to its next life.
    Leave,
}

/// What all attempts of an agent share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) node: NodeId,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) outbox: Outbox,
    pub(super) secrets: Arc<dyn SecretSource>,
    /// Starting is what engines are slow at; so many at a time.
    pub(super) starts: Semaphore,
    /// Work that ends sooner is not reported as running.
    pub(super) quick: Duration,
    pub(super) usage_every: Option<Duration>,
    pub(super) engine: RuntimeHealth,
    pub(super) environment: Arc<dyn Environment>,
}

/// What the agent's loop tells an attempt.
#[derive(Debug)]
pub(super) struct Orders {
    pub(super) wish: watch::Receiver<Wish>,
    /// What the last failed health check printed.
    pub(super) unhealthy: watch::Receiver<Option<String>>,
}

/// How bringing an attempt up, or watching it, ended.
enum Ended {
    /// It is over; the cluster should know.
    End(AttemptEnd),
    /// The cluster does not want it any more.
    Void,
    /// The agent ends.
    Left,
}

/// End of an attempt that this node is done with.
#[derive(Debug)]
pub(super) struct Over {
    pub(super) end: AttemptEnd,
    /// The control side has it from this revision on.
    pub(super) known_at: Revision,
}

/// Sees one attempt through, whatever the runtime does. `here` says how far an earlier life of the agent came with it. `None`
/// when it is left to the agent's next life.
pub(super) async fn drive(
    shared: Arc<Shared>,
    assignment: Assignment,
    here: Option<FoundState>,
    mut orders: Orders,
) -> Option<Over> {
    let attempt = assignment.attempt;
    let ended = if assignment.started && matches!(here, None | Some(FoundState::Created)) {
        // Also where the runtime has it as made and not started: what says that it was started may have gone with the power.
        warn!(%attempt, "it was running before and is not here any more");
        Ended::End(lost("it was running before its node went down, and is not there any more"))
    } else {
        match AssertUnwindSafe(run(&shared, &assignment, here, &mut orders)).catch_unwind().await {
            Ok(ended) => ended,
            Err(panic) => {
                let message = format!("the runtime panicked: {}", panic_words(&*panic));
                error!(%attempt, %message, "an attempt is given up");
                // It may run, and another attempt may follow.
                remove(&shared, attempt, &mut orders.wish).await;
                let reason = "runtime_panicked".into();
                let failure = StartFailure { reason, message, retryable: true };
                Ended::End(AttemptEnd::StartFailed { failure: failure.into() })
            }
        }
    };
    let over = match ended {
        Ended::Left => return None,
        Ended::Void => {
            debug!(%attempt, "void; removing what there is of it");
            Over {
                end: lost("the cluster had given it up, so its node removed it"),
                known_at: Revision::ZERO,
            }
        }
        Ended::End(end) => {
            debug!(%attempt, %end, "ended");
            let kind = ReportKind::Ended(end.clone());
            let report = Report { attempt, node: shared.node.clone(), kind };
            let known_at = tokio::select! {
                // Without an answer the node belongs to a newer process.
                answered = shared.outbox.report(report) => answered.map_or(Revision::ZERO, |known| known.revision),
                wish = wished(&mut orders.wish, Wish::Gone) => match wish {
                    Wish::Leave => return None,
                    Wish::Run | Wish::Stop | Wish::Gone => Revision::ZERO,
                },
            };
            Over { end, known_at }
        }
    };
    remove(&shared, attempt, &mut orders.wish).await;
    Some(over)
}

/// Removes what the runtime has of the attempt, unless the agent ends before.
async fn remove(shared: &Shared, attempt: AttemptId, wish: &mut watch::Receiver<Wish>) {
    let removed = patiently(shared, attempt, || shared.runtime.remove(attempt));
    tokio::select! {
        result = AssertUnwindSafe(removed).catch_unwind() => match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%attempt, %error, "what was left of it could not be removed"),
            Err(panic) => error!(%attempt, panic = panic_words(&*panic), "the runtime panicked while it removed it"),
        },
        _ = wished(wish, Wish::Leave) => {}
    }
}

fn lost(message: impl Into<String>) -> AttemptEnd {
    AttemptEnd::Lost { message: message.into() }
}

async fn run(
    shared: &Arc<Shared>,
    assignment: &Assignment,
    here: Option<FoundState>,
    orders: &mut Orders,
) -> Ended {
    let started = tokio::select! {
        biased;
        wish = wished(&mut orders.wish, Wish::Stop) => Err(wish),
        started = bring_up(shared, assignment, here) => Ok(started),
    };
    match started {
        Ok(Ok(started)) => watch_over(shared, assignment, started, orders).await,
        Ok(Err(end)) => Ended::End(end),
        Err(Wish::Leave) => Ended::Left,
        Err(Wish::Gone) => Ended::Void,
        Err(Wish::Run | Wish::Stop) => {
            // A start that was under way may have happened: it must be gone before it is reported as stopped.
            let attempt = assignment.attempt;
            tokio::select! {
                removed = patiently(shared, attempt, || shared.runtime.remove(attempt)) => Ended::End(match removed {
                    Ok(()) => AttemptEnd::Stopped,
                    Err(error) => AttemptEnd::StartFailed { failure: error.into_start_failure().into() },
                }),
                wish = wished(&mut orders.wish, Wish::Gone) => given_up(wish),
            }
        }
    }
}

/// Makes ready and starts. An engine that is gone is waited for, once anything may have been started.
async fn bring_up(
    shared: &Arc<Shared>,
    assignment: &Assignment,
    here: Option<FoundState>,
) -> Result<Started, AttemptEnd> {
    let attempt = assignment.attempt;
    let failed = |failure: StartFailure| AttemptEnd::StartFailed { failure: failure.into() };
    if here.is_some_and(|state| state != FoundState::Created) {
        // What was started once is never started again, whatever became of it since, and needs no secrets.
        let adopted = patiently(shared, attempt, || shared.runtime.adopt(attempt)).await;
        return adopted.map_err(|error| {
            warn!(%attempt, %error, "it cannot be taken over");
            lost(error.to_string())
        });
    }
    let secrets = look_up_secrets(&*shared.secrets, &assignment.spec).map_err(failed)?;
    let work = Work { attempt, spec: assignment.spec.clone(), secrets };
    if here.is_none() {
        let outbox = shared.outbox.clone();
        let progress =
            Progress::new(move |text| outbox.try_observe(attempt, ObservationKind::Progress(text)));
        let prepared = patiently(shared, attempt, || shared.runtime.prepare(&work, &progress));
        // Nothing was started, so it may go elsewhere at once; for one that is never restarted a loss would be the end.
        let elsewhere = assignment.spec.restart != RestartPolicy::Never;
        tokio::select! {
            prepared = prepared => prepared.map_err(|error| failed(error.into_start_failure()))?,
            why = shared.engine.away(), if elsewhere => return Err(lost(format!("it was not started: {why}"))),
        }
    }
    if assignment.spec.restart == RestartPolicy::Never && !assignment.started {
        announce(shared, attempt).await?;
    }
    patiently(shared, attempt, || async {
        let _permit = shared.starts.acquire().await;
        let started = shared.runtime.start(&work).await;
        shared.engine.note_start(&started);
        started
    })
    .await
    .map_err(|error| match error.kind {
        // It may have run before it vanished: it is lost, which is no failure of the task's.
        RuntimeErrorKind::NotFound => lost(error.to_string()),
        _ => failed(error.into_start_failure()),
    })
}

/// Has it decided that the attempt starts, before it does: should this machine lose its memory, work that must not run twice
/// is not started again.
async fn announce(shared: &Shared, attempt: AttemptId) -> Result<(), AttemptEnd> {
    let kind = ReportKind::Started { at: shared.environment.now() };
    let report = Report { attempt, node: shared.node.clone(), kind };
    match shared.outbox.report(report).await {
        Some(Answered { answer: ReportAnswer::Accepted, .. }) => Ok(()),
        // The cluster has given it up, and says so with its next answer.
        _ => Err(AttemptEnd::Stopped),
    }
}

async fn watch_over(
    shared: &Arc<Shared>,
    assignment: &Assignment,
    started: Started,
    orders: &mut Orders,
) -> Ended {
    let (attempt, spec) = (assignment.attempt, &assignment.spec);
    let output = Aborting(tokio::spawn(forward_output(shared.clone(), attempt)));
    let time_left =
        spec.timeouts.run.map(|limit| limit.saturating_sub(shared.environment.now().since(started.at)));
    let timeout = tokio::time::sleep(time_left.unwrap_or_default());
    let quick = tokio::time::sleep(shared.quick);
    tokio::pin!(timeout, quick);
    let mut announced = false;
    let mut sessions = shared.outbox.sessions();
    let mut running = None;
    let observe_running = || {
        let running = ObservationKind::Running { handle: started.handle.clone(), at: started.at };
        let outbox = shared.outbox.clone();
        Some(Aborting(tokio::spawn(async move { outbox.observe(attempt, running).await })))
    };
    // Neither may hold up what follows while the control side is away.
    let mut beside = Vec::new();
    if spec.timeouts.run.is_some() && spec.restart != RestartPolicy::Never {
        let kind = ReportKind::Started { at: started.at };
        let (outbox, report) = (shared.outbox.clone(), Report { attempt, node: shared.node.clone(), kind });
        beside.push(Aborting(tokio::spawn(async move {
            let _ = outbox.report(report).await;
        })));
    }
    let ended = patiently(shared, attempt, || shared.runtime.wait(attempt));
    tokio::pin!(ended);
    let end = loop {
        tokio::select! {
            exit = &mut ended => break match exit {
                Ok(exit) => AttemptEnd::Exited { exit },
                Err(error) => {
                    warn!(%attempt, %error, "it vanished while it was watched");
                    lost(error.to_string())
                }
            },
            wish = wished(&mut orders.wish, Wish::Stop) => match wish {
                Wish::Leave => return Ended::Left,
                Wish::Gone => return Ended::Void,
                Wish::Run | Wish::Stop => break AttemptEnd::Stopped,
            },
            () = &mut timeout, if time_left.is_some() => break AttemptEnd::RunTimeout,
            output = failed_check(&mut orders.unhealthy) => break AttemptEnd::Unhealthy { output },
            () = &mut quick, if !announced => {
                announced = true;
                running = observe_running();
                beside.extend(shared.usage_every.map(|every| {
                    Aborting(tokio::spawn(observe_usage(shared.clone(), attempt, every)))
                }));
            }
            // What was seen of an attempt is forgotten with its node; where it is taken back, it has to be seen again.
            Ok(()) = sessions.changed(), if announced => running = observe_running(),
        }
    };
    if !matches!(end, AttemptEnd::Exited { .. } | AttemptEnd::Lost { .. }) {
        info!(%attempt, why = %end, "stopping");
        tokio::select! {
            () = stop_or_remove(shared, attempt, spec.stop.grace) => {}
            wish = wished(&mut orders.wish, Wish::Gone) => return given_up(wish),
        }
    }
    drop((beside, running));
    tokio::select! {
        () = output.finish() => {}
        wish = wished(&mut orders.wish, Wish::Gone) => return given_up(wish),
    }
    Ended::End(end)
}

/// Another attempt may follow this one: it must be gone before it is reported as stopped.
async fn stop_or_remove(shared: &Shared, attempt: AttemptId, grace: Duration) {
    let Err(error) = patiently(shared, attempt, || shared.runtime.stop(attempt, grace)).await else { return };
    if error.kind == RuntimeErrorKind::NotFound {
        return;
    }
    warn!(%attempt, %error, "it could not be stopped; removing it");
    if let Err(error) = patiently(shared, attempt, || shared.runtime.remove(attempt)).await {
        warn!(%attempt, %error, "it could not be removed either");
    }
}

/// Sends all output and returns when it is delivered. Reading again after the engine was gone repeats nothing.
async fn forward_output(shared: Arc<Shared>, attempt: AttemptId) {
    let mut next: BTreeMap<OutputStream, u64> = BTreeMap::new();
    let mut sent = false;
    loop {
        let result = async {
            let mut logs = shared.runtime.logs(attempt, true).await?;
            while let Some(chunk) = logs.next().await {
                let chunk = chunk?;
                let known = next.entry(chunk.stream).or_default();
                let repeated = usize::try_from(known.saturating_sub(chunk.offset)).unwrap_or(usize::MAX);
                if repeated >= chunk.data.len() {
                    continue;
                }
                let (offset, data) = (chunk.offset.max(*known), chunk.data.slice(repeated..));
                *known = offset + data.len() as u64;
                sent = true;
                shared
                    .outbox
                    .observe(attempt, ObservationKind::Output { stream: chunk.stream, offset, data })
                    .await;
            }
            Ok::<(), RuntimeError>(())
        };
        match result.await {
            Ok(()) => break,
            Err(error) if error.kind == RuntimeErrorKind::Unavailable => {
                tokio::time::sleep(RETRY_MAX / 4).await;
            }
            Err(error) => {
                debug!(%attempt, %error, "its output could not be read");
                break;
            }
        }
    }
    if sent {
        shared.outbox.flush().await;
    }
}

async fn observe_usage(shared: Arc<Shared>, attempt: AttemptId, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        if let Ok(usage) = shared.runtime.stats(attempt).await {
            shared.outbox.try_observe(attempt, ObservationKind::Usage(usage));
        }
    }
}

fn look_up_secrets(
    source: &dyn SecretSource,
    spec: &TaskSpec,
) -> Result<BTreeMap<String, crate::runtime::Secret>, StartFailure> {
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

const RETRY_MAX: Duration = Duration::from_secs(2);

/// Calls again while the engine does not answer, and says so.
async fn patiently<T, F>(
    shared: &Shared,
    attempt: AttemptId,
    mut call: impl FnMut() -> F,
) -> Result<T, RuntimeError>
where
    F: Future<Output = Result<T, RuntimeError>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(100), RETRY_MAX);
    loop {
        let result = call().await;
        shared.engine.note(&result);
        match result {
            Err(error) if error.kind == RuntimeErrorKind::Unavailable => {
                let delay = backoff.next_delay();
                if delay < RETRY_MAX {
                    warn!(%attempt, %error, "the engine does not answer; trying again");
                    let text = format!("the engine does not answer, trying again: {error}");
                    shared.outbox.try_observe(attempt, ObservationKind::Progress(text));
                }
                tokio::time::sleep(delay).await;
            }
            other => return other,
        }
    }
}

/// Returns the cluster's wish as soon as it is `least` or beyond.
async fn wished(wish: &mut watch::Receiver<Wish>, least: Wish) -> Wish {
    let reached = wish.wait_for(|wish| *wish >= least).await.map(|wish| *wish);
    match reached {
        Ok(wish) => wish,
        Err(_) => std::future::pending().await,
    }
}

fn given_up(wish: Wish) -> Ended {
    match wish {
        Wish::Leave => Ended::Left,
        Wish::Run | Wish::Stop | Wish::Gone => Ended::Void,
    }
}

async fn failed_check(unhealthy: &mut watch::Receiver<Option<String>>) -> String {
    match unhealthy.wait_for(Option::is_some).await.map(|output| output.clone()) {
        Ok(output) => output.unwrap_or_default(),
        Err(_) => std::future::pending().await,
    }
}

/// A task that ends with its owner.
struct Aborting(tokio::task::JoinHandle<()>);

impl Aborting {
    async fn finish(mut self) {
        let _ = (&mut self.0).await;
    }
}

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}
