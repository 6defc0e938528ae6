//! The state machine as openraft drives it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use openraft::{
    AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, StorageIOError,
    storage::RaftStateMachine,
};
use orch_core::{
    consensus::{Author, ConsensusError, Context, HybridClock, MachineError, StateMachine},
    store::Revision,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::{
    sessions::{Admission, Sessions},
    snapshot::{self, Meta},
    snapshot_store::{Image, SnapshotStore},
    types::{Applied, Command, Entry, Lease, LogId, Members, Outcomes, StorageError, Types},
};

/// View of the machine that the rest of a member shares.
#[derive(Debug)]
pub(super) struct View {
    /// The last entry that was applied.
    pub(super) applied: watch::Sender<u64>,
    pub(super) clock: HybridClock,
    /// Rung when a snapshot is due.
    pub(super) snapshot_due: Notify,
    /// Latest incarnation of this member that the group saw.
    pub(super) session: AtomicU64,
}

impl View {
    pub(super) fn new() -> Self {
        Self {
            applied: watch::Sender::new(0),
            clock: HybridClock::new(),
            snapshot_due: Notify::new(),
            session: AtomicU64::new(0),
        }
    }
}

/// The machine with what Raft adds to it.
#[derive(Debug)]
pub(super) struct Replica {
    /// Never locked: it makes what only one task has fit for openraft, which asks for more.
    machine: Mutex<Box<dyn StateMachine>>,
    sessions: Sessions,
    applied: Option<LogId>,
    members: Members,
    store: SnapshotStore,
    current: Current,
    /// Bytes of commands that were applied since the last snapshot, and how many call for the next.
    log_bytes: u64,
    log_bytes_min: u64,
    us: u64,
    view: Arc<View>,
    lease: Lease,
}

/// The snapshot that followers are given.
type Current = Arc<Mutex<Option<(Meta, Image)>>>;

impl Replica {
    /// The machine as the latest snapshot has it.
    pub(super) async fn load(
        machine: Box<dyn StateMachine>,
        store: SnapshotStore,
        log_bytes_min: u64,
        us: u64,
        view: Arc<View>,
        lease: Lease,
    ) -> Result<Self, ConsensusError> {
        let mut replica = Self {
            machine: Mutex::new(machine),
            sessions: Sessions::default(),
            applied: None,
            members: Members::default(),
            store,
            current: Current::default(),
            log_bytes: 0,
            log_bytes_min,
            us,
            view,
            lease,
        };
        let unreadable = |error: io::Error| MachineError::unavailable("the snapshot", error);
        if let Some(image) = replica.store.newest().await.map_err(unreadable)? {
            let bytes = image.all().await.map_err(unreadable)?;
            let meta = replica.restore(&bytes)?;
            replica.keep(meta, image);
        }
        replica.publish();
        Ok(replica)
    }

    fn machine(&mut self) -> &mut dyn StateMachine {
        &mut **self.machine.get_mut()
    }

    /// Replaces the state by that of a snapshot.
    fn restore(&mut self, bytes: &Bytes) -> Result<Meta, MachineError> {
        let opened =
            snapshot::open(bytes).map_err(|error| MachineError::unparsable("the snapshot", error))?;
        self.machine().restore(&opened.machine)?;
        self.sessions = opened.sessions;
        self.applied = opened.meta.last_log_id;
        self.members = opened.meta.last_membership.clone();
        self.log_bytes = 0;
        self.publish();
        Ok(opened.meta)
    }

    fn keep(&self, meta: Meta, image: Image) {
        keep(&self.current, meta, image);
    }

    fn apply_one(&mut self, entry: Entry) -> Applied {
        let log_id = entry.log_id;
        let applied = match entry.payload {
            EntryPayload::Blank => Applied::Nothing,
            EntryPayload::Normal(command) => self.apply_command(log_id, &command),
            EntryPayload::Membership(members) => {
                self.sessions.retain(|node| members.get_node(&node).is_some());
                self.members = Members::new(Some(log_id), members);
                Applied::Nothing
            }
        };
        self.applied = Some(log_id);
        applied
    }

    fn apply_command(&mut self, log_id: LogId, command: &Command) -> Applied {
        self.log_bytes += command.size() as u64;
        let Some(proposer) = self.members.membership().get_node(&command.origin) else {
            return Applied::Refused(super::types::Refusal::NotMember);
        };
        let author = Author::member(proposer.name.as_str());
        match self.sessions.admit(command) {
            Admission::Refused(refusal) => return Applied::Refused(refusal),
            Admission::Known(outcomes) => return Applied::Outcomes(outcomes),
            Admission::New => {}
        }
        let revision = Revision(log_id.index);
        let machine = self.machine();
        let context = Context::new(command.at, &author);
        let decide = |bytes: &[u8]| machine.decide(&context, bytes).outcome;
        let each: Arc<[Bytes]> = command.commands.iter().map(decide).collect();
        machine.commit(revision);
        let outcomes = Outcomes { revision, each };
        self.sessions.record(command, outcomes.clone());
        Applied::Outcomes(outcomes)
    }

    /// Lets the rest of the member know how far it is.
    fn publish(&mut self) {
        let time = self.machine().time();
        self.view.clock.reach(time);
        self.view.session.store(self.sessions.session_of(self.us), Ordering::Relaxed);
        self.view.applied.send_replace(self.applied.map_or(0, |log_id| log_id.index));
        let last = self.current.lock();
        let last = last.as_ref().map_or(0, |(_, image)| image.length());
        if self.log_bytes >= last.max(self.log_bytes_min) {
            self.log_bytes = 0;
            self.view.snapshot_due.notify_one();
        }
    }
}

impl RaftStateMachine<Types> for Replica {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Members), StorageError> {
        Ok((self.applied, self.members.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let applied = entries.into_iter().map(|entry| self.apply_one(entry)).collect();
        self.publish();
        Ok(applied)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let index = self.applied.map_or(0, |log_id| log_id.index);
        let meta = Meta {
            last_log_id: self.applied,
            last_membership: self.members.clone(),
            snapshot_id: self.applied.map_or_else(String::new, |log_id| log_id.to_string()),
        };
        let state = self.machine().snapshot();
        let bytes = snapshot::seal(&meta, &self.sessions, &state);
        Builder {
            index,
            meta,
            bytes,
            store: self.store.clone(),
            current: self.current.clone(),
            _lease: self.lease.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Image>, StorageError> {
        Ok(Box::new(Image::Memory(Bytes::new())))
    }

    async fn install_snapshot(&mut self, meta: &Meta, image: Box<Image>) -> Result<(), StorageError> {
        let failed = |error: AnyError| {
            StorageError::from(StorageIOError::write_snapshot(Some(meta.signature()), error))
        };
        let bytes = image.all().await.map_err(|error| failed(AnyError::new(&error)))?;
        // A snapshot that the machine cannot read must not replace one that it could.
        let meta = self.restore(&bytes).map_err(|error| failed(AnyError::new(&error)))?;
        let index = meta.last_log_id.map_or(0, |log_id| log_id.index);
        let image = self.store.adopt(index, *image).await.map_err(|error| failed(AnyError::new(&error)))?;
        self.keep(meta, image);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let current = self.current.lock();
        Ok(current
            .as_ref()
            .map(|(meta, image)| Snapshot { meta: meta.clone(), snapshot: Box::new(image.clone()) }))
    }
}

/// The state as it was when the snapshot was asked for.
#[derive(Debug)]
pub(super) struct Builder {
    index: u64,
    meta: Meta,
    bytes: Vec<u8>,
    store: SnapshotStore,
    current: Current,
    _lease: Lease,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let bytes = std::mem::take(&mut self.bytes);
        let image = self.store.store(self.index, bytes).await.map_err(|error| {
            StorageIOError::write_snapshot(Some(self.meta.signature()), AnyError::new(&error))
        })?;
        keep(&self.current, self.meta.clone(), image.clone());
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Box::new(image) })
    }
}

/// Makes it the current one, unless a later one was installed in the meantime.
fn keep(current: &Current, meta: Meta, image: Image) {
    let mut current = current.lock();
    if current.as_ref().is_none_or(|(other, _)| other.last_log_id <= meta.last_log_id) {
        *current = Some((meta, image));
    }
}
