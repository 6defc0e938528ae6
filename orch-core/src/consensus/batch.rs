//! Bounded queue of proposals, taken in batches, that both disciplines of one process use: one write to a
//! store costs the same for one command as for a thousand.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    Committed, ConsensusError, ConsensusStatus, Context, HybridClock, LostHistory, MemberId, StateMachine,
};
use crate::{
    environment::Environment,
    store::{Key, Revision, StateStore, StateStoreExt as _, StoreError, Write},
};

pub(super) type Reply<T> = oneshot::Sender<Result<T, ConsensusError>>;

/// Request of a caller to the loop.
pub(super) enum Request {
    Propose(Bytes, Reply<Committed>),
    Barrier(Reply<Revision>),
    Shutdown,
}

/// Callers' side of the loop: its queue, its status, its clock.
#[derive(Debug)]
pub(super) struct ProposalQueue {
    queue: mpsc::Sender<Request>,
    waiting: Mutex<Option<mpsc::Receiver<Request>>>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    status: Arc<Mutex<ConsensusStatus>>,
    /// Error that ended the loop without a shutdown.
    lost: Arc<OnceLock<StoreError>>,
    clock: HybridClock,
    environment: Arc<dyn Environment>,
    max_command_bytes: usize,
}

impl ProposalQueue {
    pub(super) fn new(queue_max: usize, max_command_bytes: usize, environment: Arc<dyn Environment>) -> Self {
        let (queue, waiting) = mpsc::channel(queue_max.max(1));
        let status = ConsensusStatus {
            last_error: Some("not started yet".into()),
            ..ConsensusStatus::of([MemberId::local()])
        };
        Self {
            queue,
            waiting: Mutex::new(Some(waiting)),
            task: tokio::sync::Mutex::new(None),
            status: Arc::new(Mutex::new(status)),
            lost: Arc::default(),
            clock: HybridClock::starting_at(environment.now()),
            environment,
            max_command_bytes,
        }
    }

    /// The loop's side of the queue. Only the first call gets it.
    pub(super) fn take_queue(&self) -> Result<mpsc::Receiver<Request>, ConsensusError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.take().ok_or(ConsensusError::Lifecycle("started twice"))
    }

    pub(super) fn reporter(&self) -> Reporter {
        Reporter { status: self.status.clone(), lost: self.lost.clone() }
    }

    /// Error for every call after the end of the loop.
    fn ended(&self) -> ConsensusError {
        self.lost.get().map_or(ConsensusError::Stopped, |error| ConsensusError::StoreLost(error.clone()))
    }

    pub(super) async fn run(&self, driver: impl Future<Output = ()> + Send + 'static) {
        *self.task.lock().await = Some(self.environment.spawn(Box::pin(driver)));
    }

    pub(super) fn clock(&self) -> HybridClock {
        self.clock.clone()
    }

    pub(super) fn status(&self) -> ConsensusStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) async fn propose(&self, command: Bytes) -> Result<Committed, ConsensusError> {
        let (size, max) = (command.len(), self.max_command_bytes);
        if size > max {
            return Err(ConsensusError::TooLarge { size, max });
        }
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Request::Propose(command, reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ConsensusError::Busy,
            mpsc::error::TrySendError::Closed(_) => self.ended(),
        })?;
        answer.await.unwrap_or_else(|_| Err(self.ended()))
    }

    pub(super) async fn barrier(&self) -> Result<Revision, ConsensusError> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Request::Barrier(reply)).await.map_err(|_| self.ended())?;
        answer.await.unwrap_or_else(|_| Err(self.ended()))
    }

    pub(super) async fn shutdown(&self) {
        let _ = self.queue.send(Request::Shutdown).await;
        if let Some(task) = self.task.lock().await.take() {
            let _ = task.await;
        }
    }
}

/// Reports of the loop to its callers.
pub(super) struct Reporter {
    status: Arc<Mutex<ConsensusStatus>>,
    lost: Arc<OnceLock<StoreError>>,
}

impl Reporter {
    pub(super) fn applied(&self, revision: Revision) {
        self.change(|status| {
            (status.applied, status.leader, status.last_error) = (revision, true, None);
        });
    }

    /// The history that was known up to `expected` is not the store's any more, which is at `found`.
    pub(super) fn history_lost(&self, expected: Revision, found: Revision) {
        self.change(|status| {
            let times = status.lost_history.map_or(0, |lost| lost.times) + 1;
            status.lost_history = Some(LostHistory { expected, found, times });
        });
    }

    pub(super) fn last_error(&self, last_error: String) {
        self.change(|status| status.last_error = Some(last_error));
    }

    pub(super) fn stopped(&self, why: &str) {
        self.change(|status| (status.leader, status.last_error) = (false, Some(why.into())));
    }

    /// The store failed with `error`; the loop ends.
    pub(super) fn lost(&self, error: StoreError) {
        self.stopped(&format!("its store cannot be used any more: {error}"));
        // It stops once.
        let _ = self.lost.set(error);
    }

    fn change(&self, change: impl FnOnce(&mut ConsensusStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Proposals that are decided together, and what else was in the queue between them.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) proposals: Vec<(Bytes, Reply<Committed>)>,
    pub(super) barriers: Vec<Reply<Revision>>,
    pub(super) shutdown: bool,
}

impl Batch {
    /// `first` and whatever else waits already, at most `max` proposals and some megabytes of commands.
    pub(super) fn gather(first: Request, queue: &mut mpsc::Receiver<Request>, max: usize) -> Self {
        const MAX_BYTES: usize = 8 << 20;
        let (mut batch, mut next, mut bytes) = (Self::default(), Some(first), 0);
        while let Some(request) = next {
            match request {
                Request::Propose(command, reply) => {
                    bytes += command.len();
                    batch.proposals.push((command, reply));
                }
                Request::Barrier(reply) => batch.barriers.push(reply),
                Request::Shutdown => batch.shutdown = true,
            }
            let full = batch.shutdown || batch.proposals.len() >= max || bytes >= MAX_BYTES;
            next = if full { None } else { queue.try_recv().ok() };
        }
        batch
    }

    /// Answers the first proposals with the outcomes decided for them; the others stay.
    pub(super) fn commit(&mut self, revision: Revision, outcomes: Vec<Bytes>) {
        for ((_, reply), outcome) in self.proposals.drain(..outcomes.len()).zip(outcomes) {
            let _ = reply.send(Ok(Committed { revision, outcome }));
        }
    }

    /// Answers the barriers, when every proposal before them is answered.
    pub(super) fn finish(self, revision: Revision) {
        for reply in self.barriers {
            let _ = reply.send(Ok(revision));
        }
    }

    /// Answers everything with `error`.
    pub(super) fn fail(self, error: &ConsensusError) {
        for (_, reply) in self.proposals {
            let _ = reply.send(Err(error.clone()));
        }
        for reply in self.barriers {
            let _ = reply.send(Err(error.clone()));
        }
    }
}

/// Writes of one transaction that a batch may fill before no further proposal is added to it. A single
/// decision may go beyond: the cluster's own bounds keep it far below what a store takes.
pub(super) fn writes_wanted(store: &dyn StateStore) -> usize {
    (store.capabilities().max_txn_writes / 4).max(1)
}

/// Has the machine decide proposals, in order, until there are as many writes as wanted; says what came of
/// those that were decided. The writes hold each key once, with what the last decision made of it. Without
/// `writes_wanted` nothing is written down and all are decided.
pub(super) fn decide_some(
    machine: &mut dyn StateMachine,
    context: &Context<'_>,
    proposals: &[(Bytes, Reply<Committed>)],
    writes_wanted: Option<usize>,
) -> (Vec<Bytes>, Vec<Write>) {
    let (mut outcomes, mut writes) =
        (Vec::with_capacity(proposals.len()), BTreeMap::<Key, Option<Bytes>>::new());
    for (command, _) in proposals {
        let decision = machine.decide(context, command);
        outcomes.push(decision.outcome);
        if let Some(wanted) = writes_wanted {
            writes.extend(decision.changes.into_writes().into_iter().map(|write| (write.key, write.value)));
            if writes.len() >= wanted {
                break;
            }
        }
    }
    let writes = writes.into_iter().map(|(key, value)| Write { key, value }).collect();
    (outcomes, writes)
}

/// All records of a machine in a store.
pub(super) struct Loaded {
    /// Of the first page.
    pub(super) revision: Revision,
    /// The latest revision at which one of the records was written: what a reader of decisions has seen last.
    /// The store may have have written other records since.
    pub(super) written: Revision,
    pub(super) records: Vec<Write>,
}

/// Every record of the machine's in the store, as writes.
pub(super) async fn read_all(store: &dyn StateStore, prefixes: &[&str]) -> Result<Loaded, StoreError> {
    const PAGE: usize = 4096;
    let (mut records, mut first, mut written) = (Vec::new(), None, Revision::ZERO);
    for prefix in prefixes {
        let mut pages = store.pages(prefix, PAGE);
        while let Some(page) = pages.next().await? {
            first.get_or_insert(page.position.revision);
            for entry in page.entries {
                written = written.max(entry.version.revision);
                records.push(Write::put(entry.key, entry.value));
            }
        }
    }
    Ok(Loaded { revision: first.unwrap_or_default(), written, records })
}
