//! The callers' side: what they ask of the loop, and what the loop says about itself.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use orch_core::{
    consensus::{Committed, ConsensusError, ConsensusStatus, Evidence, MemberId, MembershipChange},
    model::Timestamp,
    store::Revision,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};

use crate::pbft::core::io::{Answer, Refusal};

pub(super) type Reply<T> = oneshot::Sender<Result<T, ConsensusError>>;

/// A permit in the queue, for a command of this size.
pub(super) fn permit_for(
    command: &Bytes,
    max: usize,
    permits: &Arc<Semaphore>,
) -> Result<OwnedSemaphorePermit, ConsensusError> {
    let size = command.len();
    if size > max {
        return Err(ConsensusError::TooLarge { size, max });
    }
    permits.clone().try_acquire_owned().map_err(|error| match error {
        TryAcquireError::NoPermits => ConsensusError::Busy,
        TryAcquireError::Closed => ConsensusError::Stopped,
    })
}

/// Requests of callers to the loop. Each holds its queue permit until it is answered.
#[derive(Debug)]
pub(super) enum Call {
    Propose(Bytes, Reply<Committed>, OwnedSemaphorePermit),
    Barrier(Reply<Revision>, OwnedSemaphorePermit),
    ChangeMembers(MembershipChange, Reply<Revision>, OwnedSemaphorePermit),
    /// Answered when everything before it is.
    Shutdown,
}

/// State that the loop and the callers share.
#[derive(Debug)]
pub(super) struct Shared {
    status: Mutex<ConsensusStatus>,
    evidence: Mutex<Vec<Evidence>>,
    time: AtomicU64,
}

impl Shared {
    pub(super) fn new(members: Vec<MemberId>) -> Arc<Self> {
        let mut status = ConsensusStatus::of(members);
        status.last_error = Some("not started yet".into());
        Arc::new(Self { status: Mutex::new(status), evidence: Mutex::default(), time: AtomicU64::new(0) })
    }

    pub(super) fn status(&self) -> ConsensusStatus {
        lock(&self.status).clone()
    }

    pub(super) fn change_status(&self, change: impl FnOnce(&mut ConsensusStatus)) {
        change(&mut lock(&self.status));
    }

    pub(super) fn evidence(&self) -> Vec<Evidence> {
        lock(&self.evidence).clone()
    }

    pub(super) fn add_evidence(&self, evidence: Evidence) {
        lock(&self.evidence).push(evidence);
    }

    /// The machine is at this time.
    pub(super) fn saw(&self, time: Timestamp) {
        self.time.fetch_max(time.as_millis(), Ordering::Relaxed);
    }

    /// The system's clock, or what was seen where that is later.
    pub(super) fn now(&self) -> Timestamp {
        let system = Timestamp::now().as_millis();
        Timestamp::from_millis(self.time.fetch_max(system, Ordering::Relaxed).max(system))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// Callers that wait for the replica, by the tokens of what they asked.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    callers: HashMap<u64, (Caller, OwnedSemaphorePermit)>,
    last: u64,
}

#[derive(Debug)]
enum Caller {
    Command(Reply<Committed>),
    Revision(Reply<Revision>),
}

impl Waiting {
    pub(super) fn command(&mut self, reply: Reply<Committed>, permit: OwnedSemaphorePermit) -> u64 {
        self.add(Caller::Command(reply), permit)
    }

    pub(super) fn revision(&mut self, reply: Reply<Revision>, permit: OwnedSemaphorePermit) -> u64 {
        self.add(Caller::Revision(reply), permit)
    }

    fn add(&mut self, caller: Caller, permit: OwnedSemaphorePermit) -> u64 {
        self.last += 1;
        self.callers.insert(self.last, (caller, permit));
        self.last
    }

    pub(super) fn is_empty(&self) -> bool {
        self.callers.is_empty()
    }

    /// Answers the caller, and returns true if it waited for a command.
    pub(super) fn answer(&mut self, token: u64, answer: Result<Answer, Refusal>) -> bool {
        let Some((caller, _permit)) = self.callers.remove(&token) else { return false };
        // A caller that dropped the future does not want the answer.
        match caller {
            Caller::Command(reply) => {
                let answer =
                    answer.map(|Answer { seq, outcome }| Committed { revision: Revision(seq.0), outcome });
                let _ = reply.send(answer.map_err(error_of));
                true
            }
            Caller::Revision(reply) => {
                let answer = answer.map(|answer| Revision(answer.seq.0));
                let _ = reply.send(answer.map_err(error_of));
                false
            }
        }
    }

    /// Drops all callers without an answer.
    pub(super) fn give_up(&mut self) {
        self.callers.clear();
    }
}

fn error_of(refusal: Refusal) -> ConsensusError {
    match refusal {
        Refusal::Unknown => ConsensusError::unknown_outcome(refusal),
        // The size was checked against a smaller bound before.
        Refusal::NotAMember | Refusal::Membership(_) | Refusal::TooLarge(_) => {
            ConsensusError::refused(refusal)
        }
    }
}
