//! An agent's way to the control side: reports that are answered, observations that are delivered, both in
//! batches, both tried again until they get through. Queues are bounded; who fills them waits.

use std::{sync::Arc, time::Duration};

use orch_base::backoff::Backoff;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tracing::{debug, warn};

use crate::{
    engine::link::{ControlLink, LinkError, Observation, ObservationKind, ReportAnswer},
    environment::Environment,
    model::{AttemptId, Report, ReportKind, Session},
    store::Revision,
};

/// Session of the agent: absent until it has registered, the newest one afterwards.
pub(super) type Sessions = watch::Receiver<Option<Session>>;

#[derive(Clone, Debug)]
pub(super) struct Outbox {
    reports: mpsc::Sender<(Report, oneshot::Sender<Answered>)>,
    observations: mpsc::Sender<ToObserve>,
    sessions: Sessions,
}

/// Answer to a report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub(super) answer: ReportAnswer,
    /// A revision at which it is decided.
    pub(super) revision: Revision,
}

#[derive(Debug)]
enum ToObserve {
    Observation(Observation),
    /// Answered when everything before it was delivered.
    Flush(oneshot::Sender<()>),
}

const QUEUE: usize = 1024;
const BATCH: usize = 256;
const BATCH_BYTES: usize = 512 << 10;

impl Outbox {
    /// Starts the two senders; they end when the last clone of the outbox is gone.
    pub(super) fn start(
        environment: &dyn Environment,
        sessions: Sessions,
        link: Arc<dyn ControlLink>,
        observe_every: Duration,
    ) -> Self {
        let (reports, to_report) = mpsc::channel(QUEUE);
        let (observations, to_observe) = mpsc::channel(QUEUE);
        environment.spawn(Box::pin(send_reports(sessions.clone(), link.clone(), to_report)));
        environment.spawn(Box::pin(send_observations(sessions.clone(), link, to_observe, observe_every)));
        Self { reports, observations, sessions }
    }

    /// Tells of sessions from now on.
    pub(super) fn sessions(&self) -> Sessions {
        let mut sessions = self.sessions.clone();
        sessions.mark_unchanged();
        sessions
    }

    /// Returns when the report is decided and durable, however long that takes. `None` when the senders are
    /// gone.
    pub(super) async fn report(&self, mut report: Report) -> Option<Answered> {
        if let ReportKind::Ended(end) = &mut report.kind {
            *end = end.clipped();
        }
        let (answer, answered) = oneshot::channel();
        self.reports.send((report, answer)).await.ok()?;
        answered.await.ok()
    }

    /// Queues an observation; waits while the queue is full.
    pub(super) async fn observe(&self, attempt: AttemptId, kind: ObservationKind) {
        let kind = kind.clipped();
        let _ = self.observations.send(ToObserve::Observation(Observation { attempt, kind })).await;
    }

    /// Queues an observation unless the queue is full. For what is not worth waiting for.
    pub(super) fn try_observe(&self, attempt: AttemptId, kind: ObservationKind) {
        let kind = kind.clipped();
        let _ = self.observations.try_send(ToObserve::Observation(Observation { attempt, kind }));
    }

    /// Returns when every observation queued before was delivered.
    pub(super) async fn flush(&self) {
        let (done, delivered) = oneshot::channel();
        if self.observations.send(ToObserve::Flush(done)).await.is_ok() {
            let _ = delivered.await;
        }
    }
}

async fn send_reports(
    sessions: Sessions,
    link: Arc<dyn ControlLink>,
    mut queue: mpsc::Receiver<(Report, oneshot::Sender<Answered>)>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let reports: Vec<Report> = batch.iter().map(|(report, _)| report.clone()).collect();
        let ask = |session: Session| {
            let (link, reports) = (link.clone(), reports.clone());
            async move {
                let count = reports.len();
                let reported = link.report(&session, reports).await?;
                match reported.answers.len() == count {
                    true => Ok(reported),
                    false => Err(LinkError::Unavailable("it answered another number of reports".into())),
                }
            }
        };
        // Who ends without an answer leaves the attempt to the agent's next incarnation, which will report
        // it.
        let nobody_waits = || batch.iter().all(|(_, waiting)| waiting.is_closed());
        let Some(reported) = persist("reports", &sessions, nobody_waits, ask).await else {
            batch.clear();
            continue;
        };
        for ((_, waiting), answer) in batch.drain(..).zip(reported.answers) {
            let _ = waiting.send(Answered { answer, revision: reported.revision });
        }
    }
}

async fn send_observations(
    sessions: Sessions,
    link: Arc<dyn ControlLink>,
    mut queue: mpsc::Receiver<ToObserve>,
    every: Duration,
) {
    let (mut batch, mut flushes, mut bytes) = (Vec::new(), Vec::new(), 0usize);
    while let Some(first) = queue.recv().await {
        let deadline = Instant::now() + every;
        let mut next = Some(first);
        while let Some(item) = next.take() {
            match item {
                ToObserve::Observation(observation) => {
                    if let ObservationKind::Output { data, .. } = &observation.kind {
                        bytes += data.len();
                    }
                    batch.push(observation);
                }
                ToObserve::Flush(done) => flushes.push(done),
            }
            let full = batch.len() >= BATCH || bytes >= BATCH_BYTES;
            next = match (full, flushes.is_empty()) {
                (true, _) => None,
                (false, false) => queue.try_recv().ok(),
                (false, true) => tokio::time::timeout_at(deadline, queue.recv()).await.ok().flatten(),
            };
        }
        if !batch.is_empty() {
            let observations = std::mem::take(&mut batch);
            let nobody_is_left = || queue.is_closed();
            let send = |session: Session| {
                let (link, observations) = (link.clone(), observations.clone());
                async move { link.observe(&session, observations).await }
            };
            let _ = persist("observations", &sessions, nobody_is_left, send).await;
        }
        bytes = 0;
        for done in flushes.drain(..) {
            let _ = done.send(());
        }
    }
}

/// Calls with the newest session until it is delivered. A refusal (a token that was changed, say) is waited
/// out too: giving up would lose the result of work that was done. `None` when a newer process of the agent
/// took over, the control side has ended with its process, or when it failed and was `given_up` by everybody
/// it matters to.
async fn persist<T, F>(
    what: &str,
    sessions: &Sessions,
    given_up: impl Fn() -> bool,
    mut call: impl FnMut(Session) -> F,
) -> Option<T>
where
    F: Future<Output = Result<T, LinkError>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    let mut sessions = sessions.clone();
    loop {
        let session = sessions.borrow_and_update().clone();
        let result = match session {
            Some(session) => call(session).await,
            None => Err(LinkError::NotRegistered),
        };
        match result {
            Ok(answer) => return Some(answer),
            Err(LinkError::Fenced(_) | LinkError::Closed) => return None,
            Err(LinkError::Refused(why)) => warn!(%why, what, "refused; trying again"),
            Err(error) => debug!(%error, what, "not delivered; trying again"),
        }
        if given_up() {
            return None;
        }
        let delay = backoff.next_delay();
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            changed = sessions.changed() => {
                if changed.is_err() {
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }
}
