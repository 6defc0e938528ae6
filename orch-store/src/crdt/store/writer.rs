//! The one thread that writes. It owns the replica, takes what is queued as one group with one sync, and
//! completes and sends only after that; while the disk works, the next group gathers by itself.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use orch_core::{
    model::{Moment, Timestamp},
    store::{CommitError, History, Incarnation, Position, Revision},
    transport::PeerId,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc::Sender, oneshot};

use super::{
    disk::{DiskTables, position},
    error::refused,
    log::{Keep, LogBounds},
};
use crate::{
    completion::{CompletionSender, complete_all},
    crdt::{
        applied::Applied,
        message::Message,
        replica::{Decision, DecisionError, Effect, Event, Prepared, Replica, TxnOutcome},
    },
    file_store::{redb_file::RedbFile, status::StoreFile as _},
    permits::QueuePermits,
};

/// Jobs of one group: enough to make the sync cheap, few enough to complete soon.
const GROUP_MAX: usize = 8192;

/// Sender of the outcome of a commit.
type CommitSender = CompletionSender<Result<Position, CommitError>>;

/// Job of the writer. Each is completed once it is durable.
pub(super) enum Job {
    Commit { txn: Prepared, sender: CommitSender, permits: OwnedSemaphorePermit },
    Receive { from: PeerId, message: Bytes, permits: OwnedSemaphorePermit },
    Decide { number: u64, decision: Decision, sender: oneshot::Sender<Result<(), DecisionError>> },
    Inspect(Box<dyn FnOnce(&Replica) + Send>),
    Compact { before: Revision, sender: oneshot::Sender<()> },
    Close { sender: oneshot::Sender<()> },
}

pub(super) struct Writer {
    pub(super) replica: Replica,
    pub(super) file: Arc<RedbFile>,
    pub(super) history: Arc<History>,
    pub(super) incarnation: Incarnation,
    /// Queue to the network, and its permits; messages beyond are dropped.
    pub(super) outgoing: Sender<Envelope>,
    pub(super) sending: QueuePermits,
    pub(super) keep: Keep,
    pub(super) digest_interval: Duration,
    pub(super) begun: Instant,
    pub(super) random: u64,
}

/// Completion to send once the group is on the disk.
enum Reply {
    Decide(oneshot::Sender<Result<(), DecisionError>>, Result<(), DecisionError>),
    Compact(oneshot::Sender<()>),
    Inspect(Box<dyn FnOnce(&Replica) + Send>),
}

/// A message to a peer, with its queue permits until it is sent.
pub(super) type Envelope = (PeerId, Bytes, OwnedSemaphorePermit);

/// Messages for other members, which somebody has to carry.
pub(super) type Outgoing = tokio::sync::mpsc::Receiver<Envelope>;

/// A group on its way. Who waits for it is in here until it is known what came of it: dropped answers say
/// that the disk failed, and by then the file has to say so too.
#[derive(Default)]
struct Group {
    jobs: VecDeque<Job>,
    /// Neighbours that will share segments, and who waits for them.
    txns: Vec<Prepared>,
    committing: Vec<CommitSender>,
    deciding: Option<oneshot::Sender<Result<(), DecisionError>>>,
    applied: Vec<Applied>,
    events: Vec<Event>,
    sends: Vec<Envelope>,
    commits: Vec<(CommitSender, Result<Position, CommitError>)>,
    replies: Vec<Reply>,
    bounds: LogBounds,
    /// Released when the group is done.
    permits: Vec<OwnedSemaphorePermit>,
}

impl Writer {
    /// Works until the store closes, is dropped, or fails.
    pub(super) fn run(mut self, queue: &Receiver<Job>) {
        let mut due = self.begun;
        loop {
            let wait = due.saturating_duration_since(Instant::now());
            let first = match queue.recv_timeout(wait) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let tick = Instant::now() >= due;
            if tick {
                due = Instant::now() + self.interval();
            }
            let mut jobs = VecDeque::from_iter(first);
            while jobs.len() < GROUP_MAX && !matches!(jobs.back(), Some(Job::Close { .. })) {
                let Ok(job) = queue.try_recv() else { break };
                jobs.push_back(job);
            }
            let close = match jobs.pop_back() {
                Some(Job::Close { sender }) => Some(sender),
                last => {
                    jobs.extend(last);
                    None
                }
            };
            let mut group = Group { jobs, ..Group::default() };
            let file = Arc::clone(&self.file);
            if file.write("committing", |database| self.work(database, &mut group, tick)).is_err() {
                // The callers get the error from the file.
                return;
            }
            self.complete(group);
            if let Some(sender) = close {
                self.file.release();
                let _ = sender.send(());
                return;
            }
        }
    }

    /// Carries out a group in one transaction.
    fn work(&mut self, database: &redb::Database, group: &mut Group, tick: bool) -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        let mut tables = DiskTables::open(&transaction)?;
        let now = self.now();
        group.bounds = tables.bounds();
        let mut out = Vec::new();
        while let Some(job) = group.jobs.pop_front() {
            if let Job::Commit { txn, sender, permits } = job {
                group.permits.push(permits);
                group.txns.push(txn);
                group.committing.push(sender);
                continue;
            }
            self.commit(&mut tables, now, group)?;
            match job {
                Job::Receive { from, message, permits } => {
                    group.permits.push(permits);
                    match Message::decode(message) {
                        Ok(message) => {
                            self.replica.receive(&mut tables, now, from, message, &mut out)?;
                        }
                        Err(error) => tracing::warn!(%from, %error, "a message is dropped"),
                    }
                }
                Job::Decide { number, decision, sender } => {
                    group.deciding = Some(sender);
                    let decided = self.replica.decide(&mut tables, number, decision, &mut out)?;
                    group.replies.extend(group.deciding.take().map(|sender| Reply::Decide(sender, decided)));
                }
                Job::Inspect(inspect) => group.replies.push(Reply::Inspect(inspect)),
                Job::Compact { before, sender } => {
                    group.bounds = tables.forget(before, self.replica.revision())?;
                    group.replies.push(Reply::Compact(sender));
                }
                Job::Commit { .. } | Job::Close { .. } => unreachable!("taken out above"),
            }
            self.hold(&mut out, group);
        }
        self.commit(&mut tables, now, group)?;
        if tick {
            let nonce = (u128::from(self.next_random()) << 64 | u128::from(self.next_random())).to_le_bytes();
            self.replica.tick(&mut tables, now, nonce, &mut out)?;
        } else if tables.changed() {
            self.replica.collect(&mut tables, now)?;
        }
        self.hold(&mut out, group);
        group.bounds = tables.log(&group.applied, self.keep)?;
        let changed = tables.changed();
        drop(tables);
        if changed { Ok(transaction.commit()?) } else { Ok(transaction.abort()?) }
    }

    /// Writes the transactions that have gathered.
    fn commit(
        &mut self,
        tables: &mut DiskTables<'_>,
        now: Moment,
        group: &mut Group,
    ) -> Result<(), redb::Error> {
        if group.txns.is_empty() {
            return Ok(());
        }
        let mut out = Vec::new();
        let txns = std::mem::take(&mut group.txns);
        let outcomes = self.replica.write(tables, now, txns, &mut out)?;
        self.hold(&mut out, group);
        for (outcome, sender) in outcomes.into_iter().zip(group.committing.drain(..)) {
            let outcome = match outcome {
                TxnOutcome::Applied(revision) => Ok(position(revision, self.incarnation)),
                TxnOutcome::Conflict(key) => Err(CommitError::Conflict { key }),
                TxnOutcome::Refused(refusal) => Err(refused(refusal).into()),
            };
            group.commits.push((sender, outcome));
        }
        Ok(())
    }

    /// Keeps what is to be done once the group is on the disk. Messages without a permit are dropped at once,
    /// as in a network; the next digest makes up for them.
    fn hold(&self, out: &mut Vec<Effect>, group: &mut Group) {
        for effect in out.drain(..) {
            match effect {
                Effect::Applied(applied) => group.applied.push(applied),
                Effect::Event(event) => group.events.push(event),
                Effect::Send(peer, message) => {
                    let message = Bytes::from(message.encode());
                    if let Some(permits) = self.sending.try_acquire(message.len()) {
                        group.sends.push((peer, message, permits));
                    }
                }
            }
        }
    }

    /// Tells everybody what the disk now holds.
    fn complete(&self, group: Group) {
        for applied in group.applied {
            let position = self.history.append(self.incarnation, applied.writes);
            debug_assert_eq!(position.revision, applied.revision);
        }
        for envelope in group.sends {
            // Without a network there is nobody who takes it.
            let _ = self.outgoing.try_send(envelope);
        }
        group.events.iter().for_each(log_event);
        // A completed commit must not show an older start of the log than there is.
        self.history.forget(position(group.bounds.oldest, self.incarnation));
        complete_all(group.commits);
        for reply in group.replies {
            // Whoever gave up waiting does not want it.
            match reply {
                Reply::Decide(sender, result) => drop(sender.send(result)),
                Reply::Compact(to) => drop(to.send(())),
                Reply::Inspect(inspect) => inspect(&self.replica),
            }
        }
    }

    fn now(&self) -> Moment {
        Moment { elapsed: self.begun.elapsed(), wall: Timestamp::now() }
    }

    /// The time until the next digest: three to five quarters of what was chosen.
    fn interval(&mut self) -> Duration {
        let thousandth = self.digest_interval / 1000;
        thousandth * (750 + u32::try_from(self.next_random() % 500).expect("less than 500"))
    }

    /// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators"), from a seed of the
    /// system.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn log_event(event: &Event) {
    match event {
        Event::Evidence(evidence) => {
            let (author, position) = (evidence.author(), evidence.first.header.position);
            tracing::error!(%author, position, "an author signed two segments for one position; a decision has to settle it");
        }
        Event::Refused { from, author, why } => tracing::warn!(%from, %author, why, "a segment is refused"),
        Event::Ahead { author, time } => {
            tracing::warn!(%author, time = time.as_millis(), "a segment from the future waits; check the clocks");
        }
        Event::RepairStarted => tracing::info!("something may be missing here: comparing with other members"),
        Event::RepairFinished => tracing::info!("compared with enough members: nothing is missing"),
        Event::RolledBack { author, to } => {
            tracing::warn!(%author, position = to.position, "a decision took back what an author wrote");
        }
    }
}
