//! The one thread that writes. It owns the replica, takes what is queued as one group with one sync, and answers and sends
//! only after that; while the disk works, the next group gathers by itself.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use orch_core::{
    model::Timestamp,
    store::{CommitError, History, Revision, StoreError, Txn},
    transport::PeerId,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc::Sender, oneshot};

use super::{
    disk::{DiskTables, Extent, Keep},
    refused,
};
use crate::{
    crdt::{
        message::Message,
        replica::{Decision, DecisionError, Effect, Event, Moment, Replica, Verdict},
    },
    file::{
        File,
        error::{self, Cause},
    },
};

/// Jobs of one group: enough to make the sync cheap, few enough to answer soon.
const GROUP_MAX: usize = 8192;

/// What the writer is asked to do. Each is answered once it is durable.
pub(super) enum Job {
    Commit { txn: Txn, answer: oneshot::Sender<Result<Revision, CommitError>>, room: OwnedSemaphorePermit },
    Receive { from: PeerId, message: Bytes, room: OwnedSemaphorePermit },
    Decide { number: u64, decision: Decision, answer: oneshot::Sender<Result<(), DecisionError>> },
    Look(Box<dyn FnOnce(&Replica) + Send>),
    Compact { before: Revision, answer: oneshot::Sender<()> },
    Close { answer: oneshot::Sender<()> },
}

pub(super) struct Writer {
    pub(super) replica: Replica,
    pub(super) file: Arc<File>,
    pub(super) history: Arc<History>,
    pub(super) jobs: Receiver<Job>,
    /// To the network; what does not fit is lost.
    pub(super) outgoing: Sender<(PeerId, Bytes)>,
    pub(super) keep: Keep,
    pub(super) digest_interval: Duration,
    pub(super) begun: Instant,
    pub(super) random: u64,
}

/// What to say once the group is on the disk.
enum Answer {
    Commit(oneshot::Sender<Result<Revision, CommitError>>, Result<Revision, CommitError>),
    Decide(oneshot::Sender<Result<(), DecisionError>>, Result<(), DecisionError>),
    Compact(oneshot::Sender<()>),
    Look(Box<dyn FnOnce(&Replica) + Send>),
}

/// What came of a group.
struct Done {
    effects: Vec<Effect>,
    answers: Vec<Answer>,
    extent: Extent,
    /// Released when the group is done.
    _room: Vec<OwnedSemaphorePermit>,
}

impl Writer {
    /// Works until the store closes, is dropped, or fails.
    pub(super) fn run(mut self) {
        let mut due = self.begun;
        loop {
            let wait = due.saturating_duration_since(Instant::now());
            let first = match self.jobs.recv_timeout(wait) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let tick = Instant::now() >= due;
            if tick {
                due = Instant::now() + self.interval();
            }
            let mut group = Vec::from_iter(first);
            while group.len() < GROUP_MAX && !matches!(group.last(), Some(Job::Close { .. })) {
                let Ok(job) = self.jobs.try_recv() else { break };
                group.push(job);
            }
            let close = match group.pop() {
                Some(Job::Close { answer }) => Some(answer),
                last => {
                    group.extend(last);
                    None
                }
            };
            let file = Arc::clone(&self.file);
            match file.write("committing", |database| self.work(database, group, tick)) {
                Ok(done) => self.tell(done),
                // Whoever waits hears it from the file.
                Err(_) => return,
            }
            if let Some(answer) = close {
                self.file.release();
                let _ = answer.send(());
                return;
            }
        }
    }

    /// Carries out a group in one transaction.
    fn work(&mut self, database: &redb::Database, group: Vec<Job>, tick: bool) -> Result<Done, redb::Error> {
        let transaction = database.begin_write()?;
        let mut tables = DiskTables::open(&transaction)?;
        let now = self.now();
        let mut done =
            Done { effects: Vec::new(), answers: Vec::new(), extent: tables.extent()?, _room: Vec::new() };
        let mut txns = Vec::new();
        for job in group {
            if let Job::Commit { txn, answer, room } = job {
                done._room.push(room);
                txns.push((txn, answer));
                continue;
            }
            // Neighbours share segments; what came in between stays there.
            self.commit(&mut tables, now, &mut txns, &mut done)?;
            match job {
                Job::Receive { from, message, room } => {
                    done._room.push(room);
                    match Message::decode(message) {
                        Ok(message) => {
                            self.replica.receive(&mut tables, now, from, message, &mut done.effects)?;
                        }
                        Err(error) => tracing::warn!(%from, %error, "a message is dropped"),
                    }
                }
                Job::Decide { number, decision, answer } => {
                    let decided = self.replica.decide(&mut tables, number, decision, &mut done.effects)?;
                    done.answers.push(Answer::Decide(answer, decided));
                }
                Job::Look(look) => done.answers.push(Answer::Look(look)),
                Job::Compact { before, answer } => {
                    done.extent = tables.forget(before, self.replica.revision())?;
                    done.answers.push(Answer::Compact(answer));
                }
                Job::Commit { .. } | Job::Close { .. } => unreachable!("taken out above"),
            }
        }
        self.commit(&mut tables, now, &mut txns, &mut done)?;
        if tick {
            let nonce = (u128::from(self.next_random()) << 64 | u128::from(self.next_random())).to_le_bytes();
            self.replica.tick(&mut tables, now, nonce, &mut done.effects)?;
        } else if tables.changed() {
            self.replica.collect(&mut tables, now)?;
        }
        let applied = done.effects.iter().filter_map(|effect| match effect {
            Effect::Applied(applied) => Some(applied),
            Effect::Send(..) | Effect::Event(_) => None,
        });
        done.extent = tables.log(applied, self.keep)?;
        let changed = tables.changed();
        drop(tables);
        if changed {
            transaction.commit()?;
        } else {
            transaction.abort()?;
        }
        Ok(done)
    }

    fn commit(
        &mut self,
        tables: &mut DiskTables<'_>,
        now: Moment,
        txns: &mut Vec<(Txn, oneshot::Sender<Result<Revision, CommitError>>)>,
        done: &mut Done,
    ) -> Result<(), redb::Error> {
        if txns.is_empty() {
            return Ok(());
        }
        let (txns, answers): (Vec<_>, Vec<_>) = txns.drain(..).unzip();
        let verdicts = self.replica.write(tables, now, txns, &mut done.effects)?;
        for (verdict, answer) in verdicts.into_iter().zip(answers) {
            let verdict = match verdict {
                Verdict::Applied(revision) => Ok(revision),
                Verdict::Conflict(key) => Err(CommitError::Conflict { key }),
                Verdict::Refused(refusal) => Err(refused(refusal).into()),
            };
            done.answers.push(Answer::Commit(answer, verdict));
        }
        Ok(())
    }

    /// Tells everybody what the disk now holds.
    fn tell(&self, done: Done) {
        for effect in done.effects {
            match effect {
                Effect::Applied(applied) => {
                    let revision = self.history.append(applied.writes);
                    debug_assert_eq!(revision, applied.revision);
                }
                Effect::Send(peer, message) => {
                    // A full queue loses it, like a network; the next digest makes up for it.
                    let _ = self.outgoing.try_send((peer, message.encode().into()));
                }
                Effect::Event(event) => log_event(&event),
            }
        }
        // Whoever has an answer must not be told of an older beginning than there is.
        self.history.forget(done.extent.oldest);
        for answer in done.answers {
            // Whoever gave up waiting does not want it.
            match answer {
                Answer::Commit(to, answer) => drop(to.send(answer)),
                Answer::Decide(to, answer) => drop(to.send(answer)),
                Answer::Compact(to) => drop(to.send(())),
                Answer::Look(look) => look(&self.replica),
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

    /// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators"), from a seed of the system.
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
        Event::Filling => tracing::info!("something may be missing here: comparing with other members"),
        Event::Filled => tracing::info!("compared with enough members: nothing is missing"),
        Event::RolledBack { author, to } => {
            tracing::warn!(%author, position = to.position, "a decision took back what an author wrote");
        }
    }
}

/// However the thread ends, the file is let go of and no watch waits for ever.
impl Drop for Writer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.file.fail(error::backend("working", true, Cause::Writer { path: self.file.path().into() }));
        }
        self.file.release();
        match self.file.gone() {
            StoreError::Closed => self.history.close(),
            failure => {
                tracing::error!(path = %self.file.path().display(), %failure, "the store stopped");
                self.history.fail(failure);
            }
        }
    }
}
