//! One attempt on its node, from its assignment to a report that is decided: [`lifecycle`] says what to do
//! next, [`drive`] does it.

mod lifecycle;
mod output;
mod retry;
mod start;
mod watch;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::sync::{Semaphore, watch as channel};
use tracing::{debug, error, info, warn};

pub(super) use self::lifecycle::{Desired, Over};
use self::{
    lifecycle::{Action, Input, Lifecycle},
    retry::retry_while_unavailable,
    start::start,
    watch::Watching,
};
use super::{outbox::Outbox, runtime_health::RuntimeHealth, secrets::SecretSource};
use crate::{
    engine::link::Assignment,
    environment::Environment,
    model::{AttemptEnd, AttemptId, NodeId, Report, ReportKind},
    panics::panic_words,
    runtime::{FoundState, Runtime, RuntimeErrorKind},
};

/// Parts that all attempts of an agent share.
#[derive(Debug)]
pub(super) struct AttemptContext {
    pub(super) node: NodeId,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) outbox: Outbox,
    pub(super) secrets: Arc<dyn SecretSource>,
    /// Permits to start: engines are slow at it.
    pub(super) starts: Semaphore,
    /// Work that ends sooner is not reported as running.
    pub(super) settled_after: Duration,
    /// Interval of usage observations, if there are any.
    pub(super) usage_every: Option<Duration>,
    pub(super) health: RuntimeHealth,
    pub(super) environment: Arc<dyn Environment>,
}

/// Control of the agent's loop over an attempt.
#[derive(Debug)]
pub(super) struct AttemptControl {
    pub(super) desired: channel::Receiver<Desired>,
    /// Output of the last failed health check.
    pub(super) unhealthy: channel::Receiver<Option<String>>,
}

/// Work under way for an attempt.
enum Operation<'a> {
    Once(BoxFuture<'a, Input>),
    Watch,
}

/// Sees one attempt through, whatever the runtime does. `here` is the state in which an earlier incarnation
/// of the agent left it. `None` when it is left to the agent's next incarnation.
pub(super) async fn drive(
    context: Arc<AttemptContext>,
    assignment: Assignment,
    here: Option<FoundState>,
    mut control: AttemptControl,
) -> Option<Over> {
    let (context, assignment, attempt) = (&context, &assignment, assignment.attempt);
    let (mut lifecycle, mut action) = Lifecycle::new(assignment.started, here);
    let mut watching: Option<Watching> = None;
    // It may be something else than to run from the beginning.
    control.desired.mark_changed();
    loop {
        let mut operation = match action {
            Action::Start => once(async move { Input::Started(start(context, assignment, here).await) }),
            Action::Watch(started) => {
                let unhealthy = control.unhealthy.clone();
                watching = Some(Watching::new(context, attempt, &assignment.spec, started, unhealthy));
                Operation::Watch
            }
            Action::Announce => {
                watching.iter_mut().for_each(Watching::announce);
                Operation::Watch
            }
            Action::Stop => once(async move {
                stop(context, attempt, assignment.spec.stop.grace).await;
                Input::Stopped
            }),
            Action::Clear => {
                watching = None;
                once(clear(context, attempt))
            }
            Action::Flush => {
                let watching = watching.take();
                once(async move {
                    if let Some(watching) = watching {
                        watching.flush().await;
                    }
                    Input::Flushed
                })
            }
            Action::Report(end) => once(report(context, attempt, end)),
            Action::Remove => {
                watching = None;
                once(remove(context, attempt))
            }
            Action::Finish(over) => return over,
        };
        action = loop {
            let next = async {
                match &mut operation {
                    Operation::Once(work) => work.await,
                    Operation::Watch => watching.as_mut().expect("it is watched").next().await,
                }
            };
            let input = tokio::select! {
                biased;
                desired = next_desired(&mut control.desired) => Input::Desired(desired),
                input = AssertUnwindSafe(next).catch_unwind() => input.unwrap_or_else(|panic| {
                    let words = panic_words(&*panic);
                    error!(%attempt, panic = words, "the runtime panicked");
                    Input::Panicked(words.to_owned())
                }),
            };
            if let Some(action) = lifecycle.step(input) {
                break action;
            }
        };
    }
}

fn once<'a>(work: impl Future<Output = Input> + Send + 'a) -> Operation<'a> {
    Operation::Once(Box::pin(work))
}

/// The next change of what is desired; never, when nobody is left to change it. Cancel safe.
async fn next_desired(desired: &mut channel::Receiver<Desired>) -> Desired {
    match desired.changed().await {
        Ok(()) => *desired.borrow_and_update(),
        Err(_) => std::future::pending().await,
    }
}

/// Stops an attempt, or removes it where it cannot be stopped: another one may follow.
async fn stop(context: &AttemptContext, attempt: AttemptId, grace: Duration) {
    info!(%attempt, "stopping");
    let stopped = retry_while_unavailable(context, attempt, || context.runtime.stop(attempt, grace)).await;
    let Err(error) = stopped else { return };
    if error.kind == RuntimeErrorKind::NotFound {
        return;
    }
    warn!(%attempt, %error, "it could not be stopped; removing it");
    let removed = retry_while_unavailable(context, attempt, || context.runtime.remove(attempt)).await;
    if let Err(error) = removed {
        warn!(%attempt, %error, "it could not be removed either");
    }
}

async fn clear(context: &AttemptContext, attempt: AttemptId) -> Input {
    let removed = retry_while_unavailable(context, attempt, || context.runtime.remove(attempt)).await;
    Input::Cleared(removed.map_err(|error| {
        warn!(%attempt, %error, "what there is of it could not be removed");
        AttemptEnd::StartFailed { failure: error.into_start_failure().into() }
    }))
}

async fn report(context: &AttemptContext, attempt: AttemptId, end: AttemptEnd) -> Input {
    debug!(%attempt, %end, "ended");
    let report = Report { attempt, node: context.node.clone(), kind: ReportKind::Ended(end) };
    Input::Reported(context.outbox.report(report).await.map(|answered| answered.revision))
}

async fn remove(context: &AttemptContext, attempt: AttemptId) -> Input {
    let removed = retry_while_unavailable(context, attempt, || context.runtime.remove(attempt)).await;
    if let Err(error) = removed {
        warn!(%attempt, %error, "what was left of it could not be removed");
    }
    Input::Removed
}
