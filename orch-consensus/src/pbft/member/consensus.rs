//! A member of a group, for the engine.

use std::{collections::BTreeSet, fmt, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use orch_core::{
    consensus::{
        Author, Committed, Consensus, ConsensusCapabilities, ConsensusError, ConsensusStatus, Evidence,
        FaultModel, MembershipChange, StateMachine,
    },
    model::Timestamp,
    store::{Durability, Revision, StoreError},
    transport::Transport,
};
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    calls::{Call, Shared, permit_for},
    config::{PbftConfig, PbftConfigError},
    disk::{Directory, Disk, failed},
    driver::{Clock, Driver, DriverContext},
    journal::Journal,
    outbox::Outbox,
    signer::Signer,
};
use crate::pbft::core::membership::Membership;
use crate::pbft::core::{
    ids::{Digest, PublicKey},
    io::Effect,
    record::Image,
    replica::{Replica, Setup},
    wal,
};

/// One member of a group that agrees with PBFT: as long as fewer than a third of the members are faulty, in
/// whatever way, the group has one order of commands and goes on.
///
/// Every member takes proposals; those that do not lead pass them on. All that arrives by the transport is
/// taken, so no other protocol can share it.
///
/// A change of members is a vote: it is adopted once as many members as contain a correct one (f + 1) have
/// asked for the same, and [`Consensus::change_membership`] answers when the vote of this member is ordered.
/// It is in force some checkpoints later; the status shows the members that are. There are
/// no learners. The transport has to know the new member first, and the new member
/// begins with the same [`PbftConfig::members`] as all others.
///
/// Dropping the last handle stops it without waiting for anything; [`Consensus::shutdown`] does so in good
/// order.
pub struct PbftConsensus {
    config: PbftConfig,
    group: Digest,
    genesis: Membership,
    signer: Arc<dyn Signer>,
    transport: Arc<dyn Transport>,
    disk: Option<Arc<dyn Disk>>,
    calls: mpsc::UnboundedSender<Call>,
    /// The loop's side, until it starts.
    queue: Mutex<Option<mpsc::UnboundedReceiver<Call>>>,
    /// Bounds what is in `calls` and in the loop.
    permits: Arc<Semaphore>,
    shared: Arc<Shared>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl PbftConsensus {
    /// A member that is not started. `signer` and `transport` have the same key.
    ///
    /// # Errors
    /// [`PbftConfigError`].
    pub fn new(
        config: PbftConfig,
        signer: Arc<dyn Signer>,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, PbftConfigError> {
        match config.durability {
            Durability::Memory if config.directory.is_some() => {
                Err(PbftConfigError::DirectoryWithoutDurability)
            }
            Durability::Group | Durability::Sync | Durability::Replicated if config.directory.is_none() => {
                Err(PbftConfigError::NoDirectory)
            }
            _ => Self::build(config, signer, transport, None),
        }
    }

    /// A member that keeps its log on a disk of its own kind, instead of in [`PbftConfig::directory`].
    ///
    /// # Errors
    /// [`PbftConfigError`].
    pub fn on_disk(
        config: PbftConfig,
        signer: Arc<dyn Signer>,
        transport: Arc<dyn Transport>,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, PbftConfigError> {
        if config.durability == Durability::Memory || config.directory.is_some() {
            return Err(PbftConfigError::DiskAndDirectory);
        }
        Self::build(config, signer, transport, Some(disk))
    }

    fn build(
        config: PbftConfig,
        signer: Arc<dyn Signer>,
        transport: Arc<dyn Transport>,
        disk: Option<Arc<dyn Disk>>,
    ) -> Result<Self, PbftConfigError> {
        config.validate()?;
        config.check_transport(&*transport, &signer.public_key())?;
        let (group, genesis) = (config.group()?, config.genesis()?);
        let (calls, queue) = mpsc::unbounded_channel();
        let permits = Arc::new(Semaphore::new(config.queue_max.min(Semaphore::MAX_PERMITS)));
        let names = config.members.keys().filter_map(|name| name.parse().ok()).collect();
        Ok(Self {
            group,
            genesis,
            signer,
            transport,
            disk,
            calls,
            queue: Mutex::new(Some(queue)),
            permits,
            shared: Shared::new(names),
            task: tokio::sync::Mutex::new(None),
            config,
        })
    }

    /// Digest that stands for the group in everything that is signed;
    /// [`verify_evidence`](super::verify_evidence) asks for it.
    #[must_use]
    pub fn group(&self) -> Digest {
        self.group
    }

    fn setup(&self, machine: Box<dyn StateMachine>) -> Setup {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Setup {
            config: self.config.core.clone(),
            genesis: self.genesis.clone(),
            key: self.signer.public_key(),
            session: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            machine,
        }
    }

    fn keeper(&self) -> Keeper {
        Keeper {
            disk: self.disk.clone(),
            directory: self.config.directory.clone(),
            durability: self.config.durability,
            group: self.group,
            key: self.signer.public_key(),
        }
    }
}

/// A disk, what its log says, and whether that is anything.
type Opened = (Arc<dyn Disk>, Image, bool);

/// Reader of the log at the start, which keeps it from then on.
struct Keeper {
    disk: Option<Arc<dyn Disk>>,
    directory: Option<std::path::PathBuf>,
    durability: Durability,
    group: Digest,
    key: PublicKey,
}

impl Keeper {
    /// A replica that goes on from the log. Blocks.
    fn recover(
        self,
        setup: Setup,
        clock: Clock,
    ) -> Result<(Replica, Vec<Effect>, Option<Journal>), ConsensusError> {
        let corrupt = |problem: String| ConsensusError::Store(StoreError::Corrupt(problem));
        let mut replica = Replica::new(setup).map_err(|error| corrupt(error.to_string()))?;
        let Some((disk, image, begun)) = self.open()? else {
            return Ok((replica, Vec::new(), None));
        };
        let mut effects = Vec::new();
        replica.recover(clock.now(), image, &mut effects).map_err(|error| corrupt(error.to_string()))?;
        let journal = Journal::start(disk, self.durability, begun);
        let journal = journal.map_err(|error| failed("starting the thread that writes the log", error))?;
        Ok((replica, effects, Some(journal)))
    }

    fn open(&self) -> Result<Option<Opened>, StoreError> {
        let disk = match (&self.disk, &self.directory) {
            (Some(disk), _) => disk.clone(),
            (None, Some(path)) => Arc::new(Directory::open(path, &self.group, &self.key)?),
            (None, None) => return Ok(None),
        };
        let log = Bytes::from(disk.read().map_err(|error| failed("reading the log", error))?);
        let (image, sound) = wal::read(&log).map_err(|error| StoreError::Corrupt(error.to_string()))?;
        if sound < log.len() {
            tracing::warn!(
                bytes = log.len() - sound,
                "the end of the log was not written whole and is cut off"
            );
            disk.truncate(sound as u64).map_err(|error| failed("cutting the log", error))?;
        }
        // What an earlier incarnation wrote and did not sync is about to be built on.
        disk.sync().map_err(|error| failed("syncing the log", error))?;
        Ok(Some((disk, image, sound > 0)))
    }
}

#[async_trait]
impl Consensus for PbftConsensus {
    fn capabilities(&self) -> ConsensusCapabilities {
        ConsensusCapabilities::new("pbft", FaultModel::Byzantine)
            .durability(self.config.durability)
            .membership(true)
            .max_command_bytes(self.config.max_command_bytes)
    }

    async fn start(&self, machine: Box<dyn StateMachine>) -> Result<(), ConsensusError> {
        let queue = self.queue.lock().take();
        let queue = queue.ok_or(ConsensusError::Lifecycle("started twice"))?;
        let (setup, keeper, clock) = (self.setup(machine), self.keeper(), Clock::start());
        let recovered = tokio::task::spawn_blocking(move || keeper.recover(setup, clock)).await;
        let (replica, effects, journal) = recovered.map_err(|_| ConsensusError::Stopped)??;
        let outbox = Outbox::new(
            self.transport.clone(),
            self.signer.clone(),
            self.group,
            self.config.channel,
            &self.genesis,
        );
        let context = DriverContext {
            replica,
            group: self.group,
            transport: self.transport.clone(),
            outbox,
            journal,
            shared: self.shared.clone(),
            clock,
            genesis: self.genesis.members().iter().map(|member| member.key).collect::<BTreeSet<_>>(),
            clients: self.config.core.clients.clone(),
            message_bytes_max: self.config.message_bytes_max(),
            log_queue_bytes_max: self.config.log_queue_bytes_max,
            batch_commands_max: self.config.core.batch_commands_max,
            batch_delay: self.config.core.batch_delay,
            shutdown_timeout: self.config.shutdown_timeout,
        };
        let driver = Driver::new(context, effects);
        *self.task.lock().await = Some(tokio::spawn(Box::pin(driver.run(queue))));
        Ok(())
    }

    async fn propose(&self, command: Bytes) -> Result<Committed, ConsensusError> {
        let permit = permit_for(&command, self.config.max_command_bytes, &self.permits)?;
        let (reply, answer) = oneshot::channel();
        self.calls.send(Call::Propose(command, reply, permit)).map_err(|_| ConsensusError::Stopped)?;
        answer.await.unwrap_or(Err(ConsensusError::Stopped))
    }

    async fn read_barrier(&self) -> Result<Revision, ConsensusError> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| ConsensusError::Stopped)?;
        let (reply, answer) = oneshot::channel();
        self.calls.send(Call::Barrier(reply, permit)).map_err(|_| ConsensusError::Stopped)?;
        answer.await.unwrap_or(Err(ConsensusError::Stopped))
    }

    fn now(&self) -> Timestamp {
        self.shared.now()
    }

    fn author(&self) -> Author {
        Author::Key { key: self.signer.public_key().0, member: true }
    }

    fn status(&self) -> ConsensusStatus {
        self.shared.status()
    }

    fn evidence(&self) -> Vec<Evidence> {
        self.shared.evidence()
    }

    async fn change_membership(&self, change: MembershipChange) -> Result<Revision, ConsensusError> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| ConsensusError::Stopped)?;
        let (reply, answer) = oneshot::channel();
        self.calls.send(Call::ChangeMembers(change, reply, permit)).map_err(|_| ConsensusError::Stopped)?;
        answer.await.unwrap_or(Err(ConsensusError::Stopped))
    }

    async fn shutdown(&self) {
        self.permits.close();
        let _ = self.calls.send(Call::Shutdown);
        // One that was never started has nothing to finish.
        drop(self.queue.lock().take());
        if let Some(task) = self.task.lock().await.take() {
            // A loop that panicked has logged it.
            let _ = task.await;
        }
    }
}

impl fmt::Debug for PbftConsensus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PbftConsensus")
            .field("group_name", &self.config.group_name)
            .field("key", &self.signer.public_key())
            .finish_non_exhaustive()
    }
}
