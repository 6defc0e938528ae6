//! [`StoreConsensus`]: turns any store with compare-and-swap into a consensus. Several processes decide, each
//! on its own view; the store's guard on one record says whose decision counts.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tracing::{error, warn};

use super::{
    Author, Committed, Consensus, ConsensusCapabilities, ConsensusError, ConsensusStatus, Context,
    FaultModel, HybridClock, Records, StateMachine,
    batch::{Batch, ProposalQueue, Reporter, Request, decide_some, read_all, writes_wanted},
    head::{Head, head_key},
};
use crate::store::{
    CommitError, CommitId, Entry, Key, Position, ReadLevel, Revision, StateStore, StoreError, Txn, Watch,
    WatchBatch, Write,
};
use crate::{
    environment::{Environment, System},
    fault::EngineFault,
    model::Timestamp,
};

/// Settings of a [`StoreConsensus`].
#[derive(Clone, Debug)]
pub struct StoreConsensusConfig {
    /// Name of this member, unique within the group and one segment of a key. Random when absent.
    pub member: Option<Arc<str>>,
    /// Clock, randomness and background work.
    pub environment: Arc<dyn Environment>,
    /// Proposals that may wait; one more is refused as busy.
    pub queue_max: usize,
    /// Proposals that are decided and written together. A larger batch loses fewer races and less to each.
    pub batch_max: usize,
    /// The largest command in bytes.
    pub max_command_bytes: usize,
    /// Races that a batch may lose before it is given up.
    pub races_max: u32,
}

impl Default for StoreConsensusConfig {
    fn default() -> Self {
        Self {
            member: None,
            environment: System::shared(),
            queue_max: 65_536,
            batch_max: 1024,
            max_command_bytes: 16 << 20,
            races_max: 1000,
        }
    }
}

/// Decide, then compare-and-swap. Every commit also writes the record `consensus/head`, guarded by the
/// version that the decision was based on: the first writer wins, all others apply its changes and decide
/// again. So all decisions form one order, whatever records they touch.
#[derive(Debug)]
pub struct StoreConsensus {
    store: Arc<dyn StateStore>,
    config: StoreConsensusConfig,
    member: Arc<str>,
    proposals: ProposalQueue,
}

impl StoreConsensus {
    /// Decides over `store`, which must offer compare-and-swap ([`crate::store::StoreCapabilities`]); the
    /// engine's builder refuses one that does not.
    #[must_use]
    pub fn new(store: Arc<dyn StateStore>) -> Self {
        Self::with_config(store, StoreConsensusConfig::default())
    }

    /// The same under a name that people recognise.
    #[must_use]
    pub fn named(store: Arc<dyn StateStore>, member: impl Into<Arc<str>>) -> Self {
        Self::with_config(
            store,
            StoreConsensusConfig { member: Some(member.into()), ..StoreConsensusConfig::default() },
        )
    }

    /// The same with a configuration of your own.
    #[must_use]
    pub fn with_config(store: Arc<dyn StateStore>, config: StoreConsensusConfig) -> Self {
        let random = || format!("{:032x}", config.environment.random()).into();
        let member = config.member.clone().unwrap_or_else(random);
        let proposals =
            ProposalQueue::new(config.queue_max, config.max_command_bytes, config.environment.clone());
        Self { store, config, member, proposals }
    }
}

#[async_trait]
impl Consensus for StoreConsensus {
    fn capabilities(&self) -> ConsensusCapabilities {
        ConsensusCapabilities::new("store", FaultModel::Crash)
            .durability(self.store.capabilities().durability)
            .records(Records::InStore)
            .max_command_bytes(self.config.max_command_bytes)
    }

    async fn start(&self, machine: Box<dyn StateMachine>) -> Result<(), ConsensusError> {
        if !self.store.capabilities().compare_and_swap {
            return Err(ConsensusError::Unsupported("deciding over a store without compare-and-swap"));
        }
        let queue = self.proposals.take_queue()?;
        let mut replica = Replica {
            store: self.store.clone(),
            clock: self.proposals.clock(),
            environment: self.config.environment.clone(),
            author: self.author(),
            machine,
            applied: Position::ZERO,
            head: None,
            seen: None,
            watch: futures_util::stream::empty().boxed(),
            reporter: self.proposals.reporter(),
        };
        replica.reload().await?;
        self.proposals.run(replica.run(queue, self.config.clone())).await;
        Ok(())
    }

    async fn propose(&self, command: Bytes) -> Result<Committed, ConsensusError> {
        self.proposals.propose(command).await
    }

    async fn read_barrier(&self) -> Result<Revision, ConsensusError> {
        self.proposals.barrier().await
    }

    fn now(&self) -> Timestamp {
        self.proposals.clock().now()
    }

    fn set_clock_back(&self, time: Timestamp) {
        self.proposals.clock().go_back(time);
    }

    fn author(&self) -> Author {
        Author::Member(self.member.clone())
    }

    fn status(&self) -> ConsensusStatus {
        self.proposals.status()
    }

    async fn shutdown(&self) {
        self.proposals.shutdown().await;
    }
}

/// The loop and everything it owns.
struct Replica {
    store: Arc<dyn StateStore>,
    machine: Box<dyn StateMachine>,
    clock: HybridClock,
    environment: Arc<dyn Environment>,
    author: Author,
    /// Everything up to here is in the machine.
    applied: Position,
    /// The record `consensus/head` that the machine's state belongs to.
    head: Option<Head>,
    /// The last one that was read or written, also when nothing is known any more.
    seen: Option<Head>,
    watch: Watch,
    reporter: Reporter,
}

impl Replica {
    async fn run(mut self, mut queue: mpsc::Receiver<Request>, config: StoreConsensusConfig) {
        loop {
            let request = tokio::select! {
                request = queue.recv() => request,
                next = self.watch.next() => {
                    if let Err(error) = self.follow(next).await {
                        self.reporter.last_error(error.to_string());
                        warn!(%error, "the store's watch failed; the state is read again");
                        self.invalidate();
                    }
                    continue;
                }
            };
            let Some(first) = request else { break };
            let batch = Batch::gather(first, &mut queue, config.batch_max);
            let last = batch.shutdown;
            self.process(batch, config.races_max).await;
            if last {
                break;
            }
        }
        self.reporter.stopped("shut down");
    }

    /// Nothing is known any more: everything is read again, with the next command or after a moment.
    fn invalidate(&mut self) {
        (self.head, self.applied) = (None, Position::ZERO);
        let missed = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Err(StoreError::Compacted { oldest: Position::ZERO })
        };
        self.watch = futures_util::stream::once(missed).boxed();
    }

    async fn process(&mut self, mut batch: Batch, races_max: u32) {
        if let Err(error) = self.commit_all(&mut batch, races_max).await {
            error!(%error, "a batch of commands could not be written");
            self.reporter.last_error(error.to_string());
            batch.fail(&error);
            self.invalidate();
            return;
        }
        self.reporter.applied(self.applied.revision);
        batch.finish(self.applied.revision);
    }

    async fn commit_all(&mut self, batch: &mut Batch, races_max: u32) -> Result<(), ConsensusError> {
        if self.applied == Position::ZERO || !batch.barriers.is_empty() {
            self.catch_up().await?;
        }
        while !batch.proposals.is_empty() {
            let outcomes = self.decide_and_swap(batch, races_max).await?;
            self.reporter.applied(self.applied.revision);
            batch.commit(self.applied.revision, outcomes);
        }
        Ok(())
    }

    async fn decide_and_swap(&mut self, batch: &Batch, races_max: u32) -> Result<Vec<Bytes>, ConsensusError> {
        let wanted = Some(writes_wanted(&*self.store));
        for _ in 0..races_max {
            let context = Context::new(self.clock.now(), &self.author);
            let (outcomes, mut writes) = decide_some(&mut *self.machine, &context, &batch.proposals, wanted);
            if writes.is_empty() {
                // No guard says that this was decided on the latest state.
                if self.is_current().await? {
                    self.machine.commit(self.applied.revision);
                    return Ok(outcomes);
                }
                self.machine.rollback();
                self.catch_up().await?;
                continue;
            }
            let (guard, next) = Head::after(self.head.as_ref(), || self.environment.random());
            writes.push(Write::put(head_key(), next.clone()));
            match self.commit(Txn::of(writes).guarded(guard)).await {
                Ok(position) => {
                    self.machine.commit(position.revision);
                    let head = Head::read(position, &next)?;
                    self.seen = Some(head.clone());
                    (self.applied, self.head) = (position, Some(head));
                    self.clock.reach(self.machine.time());
                    return Ok(outcomes);
                }
                Err(CommitError::Conflict { .. } | CommitError::Contention { .. }) => {
                    self.machine.rollback();
                    self.catch_up().await?;
                }
                Err(CommitError::Store(error)) => {
                    self.machine.rollback();
                    return Err(error.into());
                }
            }
        }
        Err(ConsensusError::Contention(races_max))
    }

    /// Commits `txn`. If the answer is lost, the store is asked what became of it: one that was not applied
    /// is a lost race, and will not come later.
    async fn commit(&mut self, txn: Txn) -> Result<Position, CommitError> {
        const TRIES: u32 = 3;
        let id = CommitId::drawn(self.environment.random());
        let (since, settles) = (self.applied.revision, self.store.capabilities().outcomes);
        let lost = match self.store.commit(txn.named(id)).await {
            Err(CommitError::Store(error)) if error.outcome_unknown() && settles => error,
            done => return done,
        };
        for _ in 0..TRIES {
            match self.store.outcome(id, since).await {
                Ok(Some(position)) => return Ok(position),
                Ok(None) => return Err(CommitError::Contention { races: 1 }),
                Err(error) if error.is_retryable() => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(_) => break,
            }
        }
        Err(lost.into())
    }

    /// The record `consensus/head` of now.
    async fn newest_head(&mut self) -> Result<Option<Head>, ConsensusError> {
        if self.store.capabilities().reads == ReadLevel::Local {
            self.store.head().await?;
        }
        read(self.store.get(&head_key()).await?.as_ref())
    }

    /// True when no other member has decided anything since.
    async fn is_current(&mut self) -> Result<bool, ConsensusError> {
        let head = self.newest_head().await?;
        Ok(head == self.head || EngineFault::EmptyDecisionsNotChecked.is_made())
    }

    /// Applies everything that was decided anywhere before this call.
    async fn catch_up(&mut self) -> Result<(), ConsensusError> {
        let head = self.newest_head().await?;
        let replaced = match (&head, &self.head) {
            (Some(head), Some(known)) => head.replaces(known),
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if self.applied == Position::ZERO || replaced {
            return self.reload().await;
        }
        let Some(head) = head else { return Ok(()) };
        while self.applied.revision < head.version().revision {
            let next = self.watch.next().await;
            self.follow(next).await?;
        }
        Ok(())
    }

    async fn follow(&mut self, next: Option<Result<WatchBatch, StoreError>>) -> Result<(), ConsensusError> {
        match next {
            Some(Ok(batch)) => self.apply(&batch).await,
            Some(Err(error)) if error.is_stale_position() => self.reload().await,
            Some(Err(error)) => Err(error.into()),
            None => Err(StoreError::Closed.into()),
        }
    }

    /// True if the last known head is not in the history of the store, whose head is `last` now.
    async fn has_lost_history(&mut self, last: Option<&Head>) -> Result<bool, ConsensusError> {
        let Some(seen) = &self.seen else { return Ok(false) };
        if last.is_none_or(|last| last.replaces(seen)) {
            return Ok(true);
        }
        // Others may have decided more than is known here since, in either history.
        match self.store.watch(head_key().as_str(), seen.version()).await {
            Ok(_) | Err(StoreError::Compacted { .. }) => Ok(false),
            Err(StoreError::Diverged { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Nothing is decided on what was known here: every decision is guarded by the head, whose position no
    /// commit of the other history has.
    fn history_lost(&self, expected: Revision, found: Revision) {
        error!(
            %expected, %found,
            "the store came back with another history than the one that was known up to here: what was decided since is \
             lost, also where it was acknowledged; going on from what is there"
        );
        self.reporter.history_lost(expected, found);
    }

    async fn apply(&mut self, batch: &WatchBatch) -> Result<(), ConsensusError> {
        if batch.position.revision <= self.applied.revision {
            return Ok(());
        }
        let head = batch.writes.iter().find(|write| write.key == head_key());
        if let Some(Some(value)) = head.map(|write| &write.value) {
            let head = Head::read(batch.position, value)?;
            if !head.follows(self.head.as_ref()) {
                return self.reload().await;
            }
            self.machine.absorb(batch.position.revision, &batch.writes)?;
            self.clock.reach(self.machine.time());
            self.seen = Some(head.clone());
            self.head = Some(head);
        }
        self.applied = batch.position;
        self.reporter.applied(self.applied.revision);
        Ok(())
    }

    /// Reads everything: a scan that is no snapshot, because decisions go on meanwhile, and on top of it
    /// every decision since its beginning. Writes are of whole records, so that the result is the state at
    /// the last of these decisions.
    async fn reload(&mut self) -> Result<(), ConsensusError> {
        const TRIES: u32 = 10;
        for _ in 0..TRIES {
            let start = self.store.head().await?;
            let mut watch = self.store.watch("", start).await?;
            let loaded = read_all(&*self.store, self.machine.prefixes()).await?;
            let mut records: BTreeMap<Key, Option<_>> =
                loaded.records.into_iter().map(|write| (write.key, write.value)).collect();
            let last = read(self.store.get(&head_key()).await?.as_ref())?;
            let until = last.as_ref().map_or(Position::ZERO, Head::version);
            if until.revision > start.revision && EngineFault::StartNeedsQuiet.is_made() {
                continue;
            }
            let (mut at, mut stale) = (start, false);
            while at.revision < until.revision && !stale {
                match watch.next().await {
                    Some(Ok(batch)) => {
                        at = batch.position;
                        let ours = |key: &Key| {
                            self.machine.prefixes().iter().any(|prefix| key.as_str().starts_with(prefix))
                        };
                        let writes = batch.writes.into_iter().filter(|write| ours(&write.key));
                        records.extend(writes.map(|write| (write.key, write.value)));
                    }
                    Some(Err(error)) if error.is_stale_position() => stale = true,
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(StoreError::Closed.into()),
                }
            }
            if stale || at.revision > until.revision.max(start.revision) {
                continue;
            }
            let there = records.into_iter().filter(|(_, value)| value.is_some());
            let records: Vec<Write> = there.map(|(key, value)| Write { key, value }).collect();
            let lost = self.has_lost_history(last.as_ref()).await?;
            self.machine.load(until.revision, &records)?;
            if let (true, Some(seen)) = (lost, &self.seen) {
                self.history_lost(seen.version().revision, until.revision);
            }
            self.clock.reach(self.machine.time());
            self.seen.clone_from(&last);
            (self.watch, self.head, self.applied) = (watch, last, at);
            self.reporter.applied(at.revision);
            return Ok(());
        }
        Err(ConsensusError::Contention(TRIES))
    }
}

fn read(head: Option<&Entry>) -> Result<Option<Head>, ConsensusError> {
    head.map(|entry| Head::read(entry.version, &entry.value)).transpose()
}
