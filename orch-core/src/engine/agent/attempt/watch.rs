//! [`Watching`]: an attempt that runs, and everything that goes on beside it.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    sync::watch,
    time::{Sleep, sleep},
};
use tracing::warn;

use super::{
    AttemptContext,
    lifecycle::{Input, lost},
    output,
    retry::retry_while_unavailable,
};
use crate::{
    engine::{agent::outbox::Sessions, link::ObservationKind},
    model::{AttemptEnd, AttemptId, Report, ReportKind, RestartPolicy, TaskSpec},
    runtime::Started,
};

/// Watch over an attempt that runs. Whatever goes on beside it ends with it.
pub(super) struct Watching {
    context: Arc<AttemptContext>,
    attempt: AttemptId,
    started: Started,
    ended: BoxFuture<'static, AttemptEnd>,
    /// Its run timeout, where it has one.
    timeout: Option<Pin<Box<Sleep>>>,
    /// Work that ends sooner is not reported as running.
    settled: Option<Pin<Box<Sleep>>>,
    sessions: Sessions,
    /// Output of its last failed health check.
    unhealthy: watch::Receiver<Option<String>>,
    output: Aborting,
    /// Neither may hold up what follows while the control side is away.
    beside: Vec<Aborting>,
    running: Option<Aborting>,
}

impl Watching {
    pub(super) fn new(
        context: &Arc<AttemptContext>,
        attempt: AttemptId,
        spec: &TaskSpec,
        started: Started,
        unhealthy: watch::Receiver<Option<String>>,
    ) -> Self {
        let time_left =
            spec.timeouts.run.map(|limit| limit.saturating_sub(context.environment.now().since(started.at)));
        let mut beside = Vec::new();
        // The cluster has to know since when its time runs. One that is never restarted was announced before
        // its start.
        if spec.timeouts.run.is_some() && spec.restart != RestartPolicy::Never {
            let kind = ReportKind::Started { at: started.at };
            let (outbox, report) =
                (context.outbox.clone(), Report { attempt, node: context.node.clone(), kind });
            beside.push(Aborting::spawn(async move {
                let _ = outbox.report(report).await;
            }));
        }
        Self {
            ended: Box::pin(wait(context.clone(), attempt)),
            timeout: time_left.map(|left| Box::pin(sleep(left))),
            settled: Some(Box::pin(sleep(context.settled_after))),
            sessions: context.outbox.sessions(),
            unhealthy,
            output: Aborting::spawn(output::forward(context.clone(), attempt)),
            beside,
            running: None,
            context: context.clone(),
            attempt,
            started,
        }
    }

    /// The next thing that happens. Cancel safe.
    pub(super) async fn next(&mut self) -> Input {
        tokio::select! {
            end = &mut self.ended => Input::Ended(end),
            () = elapsed(&mut self.timeout) => Input::Ended(AttemptEnd::RunTimeout),
            output = failed_check(&mut self.unhealthy) => Input::Ended(AttemptEnd::Unhealthy { output }),
            () = elapsed(&mut self.settled) => {
                self.settled = None;
                self.beside.extend(self.context.usage_every.map(|every| {
                    Aborting::spawn(observe_usage(self.context.clone(), self.attempt, every))
                }));
                Input::Settled
            }
            Ok(()) = self.sessions.changed() => Input::Registered,
        }
    }

    /// Reports that it runs, however long that takes.
    pub(super) fn announce(&mut self) {
        let Started { handle, at } = self.started.clone();
        let (outbox, attempt) = (self.context.outbox.clone(), self.attempt);
        self.running = Some(Aborting::spawn(async move {
            outbox.observe(attempt, ObservationKind::Running { handle, at }).await;
        }));
    }

    /// Delivers the rest of its output.
    pub(super) async fn flush(self) {
        drop((self.beside, self.running));
        self.output.finish().await;
    }
}

async fn wait(context: Arc<AttemptContext>, attempt: AttemptId) -> AttemptEnd {
    match retry_while_unavailable(&context, attempt, || context.runtime.wait(attempt)).await {
        Ok(exit) => AttemptEnd::Exited { exit },
        Err(error) => {
            warn!(%attempt, %error, "it vanished while it was watched");
            lost(error.to_string())
        }
    }
}

async fn elapsed(timer: &mut Option<Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}

async fn observe_usage(context: Arc<AttemptContext>, attempt: AttemptId, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        if let Ok(usage) = context.runtime.stats(attempt).await {
            context.outbox.try_observe(attempt, ObservationKind::Usage(usage));
        }
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
    fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }

    async fn finish(mut self) {
        let _ = (&mut self.0).await;
    }
}

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}
