//! Composing an orchestrator, and refusing parts that cannot work together.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicBool},
};

use tokio::sync::{Mutex, watch};
use tracing::info;

use super::{
    config::EngineConfig,
    driver::Driver,
    error::{Error, Result},
    gossip::{self, Gossip, Pace},
    liveness::{Hearsay, Liveness},
    local_link::LocalLink,
    lost_output::LostOutput,
    observations::{self, Observations},
    orchestrator::{Orchestrator, Parts},
    proposer::Proposer,
    view::{Publisher, View},
};
use crate::{
    consensus::{
        Consensus, FaultModel, LocalConfig, LocalConsensus, Records, StoreConsensus, StoreConsensusConfig,
    },
    engine::agent::{Agent, AgentConfig},
    environment::{Environment, System},
    model::AttemptId,
    output::{MemoryOutput, OutputStore, StoreOutput, move_out},
    runtime::Runtime,
    scheduler::{Guarded, LeastFragmentation, Scheduler},
    state::{ClusterConfig, ClusterMachine, ClusterState},
    store::{Durability, Key, MemoryStore, StateStore},
};

impl Orchestrator {
    /// Everything in this process and in memory: no server, no files that stay. Runs programs of the
    /// operating system on a node called `local`.
    ///
    /// # Errors
    /// [`Error::Agent`] when the machine cannot run programs.
    #[cfg(target_os = "linux")]
    pub async fn local() -> Result<Self> {
        Self::builder().local_node()?.build().await
    }

    /// Composes an orchestrator from parts.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }
}

/// The parts of an orchestrator. Each has a default that needs no server.
#[derive(Debug)]
pub struct Builder {
    scheduler: Arc<dyn Scheduler>,
    consensus: Option<Arc<dyn Consensus>>,
    store: Option<Arc<dyn StateStore>>,
    observations: Option<Arc<dyn StateStore>>,
    output: Option<Arc<dyn OutputStore>>,
    node: Option<(AgentConfig, Arc<dyn Runtime>)>,
    /// Number of nodes given; more than one is a mistake.
    nodes_given: u32,
    cluster: ClusterConfig,
    engine: EngineConfig,
    environment: Arc<dyn Environment>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            scheduler: Arc::new(LeastFragmentation),
            consensus: None,
            store: None,
            observations: None,
            output: None,
            node: None,
            nodes_given: 0,
            cluster: ClusterConfig::default(),
            engine: EngineConfig::default(),
            environment: System::shared(),
        }
    }
}

impl Builder {
    /// Scheduler: the policy that places tasks on nodes. Default: [`LeastFragmentation`].
    #[must_use]
    pub fn scheduler(mut self, scheduler: Arc<dyn Scheduler>) -> Self {
        self.scheduler = scheduler;
        self
    }

    /// Consensus on decisions. Default: this process decides alone, in the store where one is given
    /// ([`LocalConsensus`], or [`StoreConsensus`] where other processes write there too), else in memory.
    #[must_use]
    pub fn consensus(mut self, consensus: Arc<dyn Consensus>) -> Self {
        self.consensus = Some(consensus);
        self
    }

    /// Store of records and observations. Default: in memory.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn StateStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Store of observations (all records below `observed/`), apart from the store of decisions. Default: the
    /// store of [`Builder::store`]. It need not have compare-and-swap, unless members decide over one store:
    /// they share this one as well, and write heartbeat digests to it. What a store of one process holds of
    /// observations from before is moved.
    #[must_use]
    pub fn observations(mut self, store: Arc<dyn StateStore>) -> Self {
        self.observations = Some(store);
        self
    }

    /// Store of the output of tasks. Default: in the store of observations where one is given
    /// ([`StoreOutput`]), else in memory ([`MemoryOutput`]), up to [`EngineConfig::output_bytes_max`]. With a
    /// durable store of one process give a [`FileOutput`](crate::output::FileOutput), which takes a fraction
    /// of the disk; output that the store holds from before is moved there.
    #[must_use]
    pub fn output(mut self, output: Arc<dyn OutputStore>) -> Self {
        self.output = Some(output);
        self
    }

    /// Makes this process a node as well.
    #[must_use]
    pub fn node(mut self, config: AgentConfig, runtime: Arc<dyn Runtime>) -> Self {
        self.node = Some((config, runtime));
        self.nodes_given += 1;
        self
    }

    /// Makes this process a node called `local` that runs programs of the operating system, with a directory
    /// for their output that is removed at the end. For a cluster in memory: where its state is durable, work
    /// that runs should be found again after a restart, which takes [`Builder::local_node_in`].
    ///
    /// # Errors
    /// [`Error::Agent`] when no such directory can be made.
    #[cfg(target_os = "linux")]
    pub fn local_node(self) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("orch-{}", uuid::Uuid::new_v4()));
        self.local_node_with(crate::runtime::ProcessRuntimeConfig::temporary(dir))
    }

    /// The same with a directory that stays, in which the next process finds what still runs.
    ///
    /// # Errors
    /// [`Error::Agent`] when the directory cannot be made or read.
    #[cfg(target_os = "linux")]
    pub fn local_node_in(self, dir: impl Into<std::path::PathBuf>) -> Result<Self> {
        self.local_node_with(crate::runtime::ProcessRuntimeConfig::new(dir.into()))
    }

    #[cfg(target_os = "linux")]
    fn local_node_with(self, config: crate::runtime::ProcessRuntimeConfig) -> Result<Self> {
        use crate::{
            model::{InstanceId, WorkKind},
            runtime::ProcessRuntime,
        };
        let runtime = ProcessRuntime::new(config).map_err(|error| Error::Agent(error.to_string()))?;
        let mut config = AgentConfig::local("local", [WorkKind::Program])
            .map_err(|error| Error::Agent(error.to_string()))?;
        // One id for ever: whoever holds the state of the cluster is this node, in every incarnation of the
        // host.
        config.node.instance = InstanceId::from_bytes(*b"orch: local node");
        Ok(self.node(config, Arc::new(runtime)))
    }

    /// Settings that all members of the cluster must agree on.
    #[must_use]
    pub fn cluster(mut self, config: ClusterConfig) -> Self {
        self.cluster = config;
        self
    }

    /// Behaviour of this member.
    #[must_use]
    pub fn engine(mut self, config: EngineConfig) -> Self {
        self.engine = config;
        self
    }

    /// Clock, randomness and background work. A consensus of your own and the agent of this process have a
    /// setting of their own.
    #[must_use]
    pub fn environment(mut self, environment: Arc<dyn Environment>) -> Self {
        self.environment = environment;
        self
    }

    /// Reads what earlier lives decided and starts. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Composition`] when the parts cannot work together, with the way out; [`Error::Consensus`] and
    /// [`Error::Store`] when the durable state cannot be read; [`Error::Agent`] when the node of this process
    /// cannot start.
    pub async fn build(self) -> Result<Orchestrator> {
        self.engine.validate().map_err(Error::Composition)?;
        let consensus = self.compose()?;
        if let Some((config, runtime)) = &self.node {
            let capabilities = runtime.capabilities();
            let takes = BTreeSet::from([capabilities.kind]);
            if let Some(kind) = config.node.kinds.iter().find(|kind| !kind.is_taken_by(&takes)) {
                return Err(Error::Composition(format!(
                    "node {} offers work of kind {kind}, which its {} runtime cannot run; it runs {}",
                    config.node.id, capabilities.name, capabilities.kind
                )));
            }
        }
        if self.nodes_given > 1 {
            return Err(Error::Composition(
                "node(...) was called more than once; a process is one node, start an Agent on link() for each other".into(),
            ));
        }
        let capabilities = consensus.capabilities();
        let shares_store = capabilities.shares_store();
        let digest_key = if shares_store { Some(self.check_member(&*consensus)?) } else { None };
        self.check_observations(&*consensus)?;
        self.check_watch_latency(&*consensus)?;
        let apart = self.observations.is_some();
        let given = apart || self.store.is_some();
        let store = self.store.clone().unwrap_or_else(|| Arc::new(MemoryStore::default()));
        let observed = self.observations.unwrap_or_else(|| store.clone());
        let epoch = u64::try_from(self.environment.random() & u128::from(u64::MAX)).expect("64 bits");
        let view = Arc::new(View::new(self.engine.events_kept, self.engine.changes_kept, epoch));
        let scheduler = Arc::new(Guarded::new(self.scheduler));
        let state = ClusterState::new(self.cluster, scheduler.clone());
        let machine = ClusterMachine::new(state, Box::new(Publisher(view.clone())));
        consensus.start(Box::new(machine)).await?;
        let moves = apart && observations::are_elsewhere(&*store, &*observed).await?;
        if moves {
            observations::move_out(&*store, &*observed).await?;
        }
        observations::restore(&*observed, &view).await?;
        let bytes_max = self.engine.output_bytes_max;
        let output: Arc<dyn OutputStore> = match self.output {
            Some(output) => {
                settle_output(&*output, &*observed, &*consensus, &view).await?;
                output
            }
            None if given => Arc::new(StoreOutput::open(observed.clone(), bytes_max).await?),
            None => Arc::new(MemoryOutput::new(bytes_max)),
        };
        if moves {
            move_output(&*output, &*store, &view).await?;
        }
        let hearsay = match capabilities.fault_model == FaultModel::None || shares_store {
            true => Hearsay::Counts,
            false => Hearsay::SaysNothing,
        };
        let liveness = Arc::new(parking_lot::Mutex::new(Liveness::new(hearsay)));
        let proposer = Arc::new(Proposer::new(consensus.clone(), self.environment.clone()));
        let lost = Arc::new(LostOutput::new(observed.clone(), self.engine.output_grace));
        lost.restore(|task| view.task(task).is_some()).await?;
        let observations =
            Arc::new(Observations::new(observed.clone(), output.clone(), lost.clone(), view.clone()));
        let (stop, stopped) = watch::channel(false);
        let EngineConfig { heartbeat_interval, node_timeout, assignments_wait, .. } = self.engine;
        let pace = Pace { heartbeat_interval, node_timeout };
        let mut gossip = digest_key
            .map(|key| Gossip::new(key, observed.clone(), consensus.clone(), liveness.clone(), pace));
        if let Some(gossip) = &mut gossip {
            gossip.compare_clocks().await;
        }
        let driver = Driver {
            proposer: proposer.clone(),
            view: view.clone(),
            observations: observations.clone(),
            liveness: liveness.clone(),
            author: consensus.author().to_string(),
            heartbeat_interval,
            node_timeout,
        };
        let driving = self.environment.spawn(Box::pin(driver.run(gossip, stopped.clone())));
        let link = Arc::new(LocalLink {
            proposer: proposer.clone(),
            view: view.clone(),
            observations,
            liveness,
            heartbeat_interval,
            assignments_wait,
            stop: stopped,
        });
        let orchestrator = Orchestrator::new(Parts {
            consensus,
            proposer,
            scheduler,
            stores: [store, observed],
            output,
            lost,
            view,
            link,
            config: self.engine,
            closing: AtomicBool::new(false),
            stop,
            driver: Mutex::new(Some(driving)),
            agent: Mutex::new(None),
        });
        if let Some((config, runtime)) = self.node {
            orchestrator.start_agent(|link| Agent::start(config, runtime, link)).await?;
        }
        Ok(orchestrator)
    }

    fn local_consensus(&self, store: Option<Arc<dyn StateStore>>) -> Arc<dyn Consensus> {
        let config = LocalConfig { environment: self.environment.clone(), ..LocalConfig::default() };
        Arc::new(LocalConsensus::with_config(store, config))
    }

    fn store_consensus(&self, store: Arc<dyn StateStore>) -> StoreConsensus {
        let environment = self.environment.clone();
        StoreConsensus::with_config(store, StoreConsensusConfig { environment, ..Default::default() })
    }

    /// Finds the consensus and checks that it can work with the rest.
    fn compose(&self) -> Result<Arc<dyn Consensus>> {
        let refuse = |why: String| Err(Error::Composition(why));
        let Some(consensus) = &self.consensus else {
            let Some(store) = &self.store else { return Ok(self.local_consensus(None)) };
            let capabilities = store.capabilities();
            return match (capabilities.compare_and_swap, capabilities.shared) {
                (true, false) => Ok(self.local_consensus(Some(store.clone()))),
                (true, true) => Ok(Arc::new(self.store_consensus(store.clone()))),
                (false, _) => refuse(format!(
                    "the {} store merges what its writers say and cannot be the only home of decisions; add \
                     .consensus(...), for example Arc::new(LocalConsensus::in_memory()) or a replicated one",
                    capabilities.name
                )),
            };
        };
        let capabilities = consensus.capabilities();
        let byzantine = capabilities.fault_model == FaultModel::Byzantine;
        if byzantine && self.cluster.suspicions_needed < 2 {
            return refuse(format!(
                "the {} consensus expects members that lie, but one suspicion is enough to lose a node; set \
                 ClusterConfig::suspicions_needed to f + 1",
                capabilities.name
            ));
        }
        Ok(consensus.clone())
    }

    /// Checks what a member needs that decides with others over one store; says where it tells what it hears.
    fn check_member(&self, consensus: &dyn Consensus) -> Result<Key> {
        let refuse = |why: &str| Err(Error::Composition(why.into()));
        let key = gossip::key_of(&consensus.author()).map_err(|error| {
            Error::Composition(format!(
                "the member's name {:?} must be one part of a key, without a slash: {error}",
                consensus.author().to_string()
            ))
        })?;
        if self.store.is_none() && self.observations.is_none() {
            return refuse(
                "members that decide over one store tell each other in it which nodes they hear; give the store of the \
                 consensus to .store(...) too",
            );
        }
        // It takes a third of an interval to be told, and a third to be read. One that was lost comes half of
        // one later.
        match self.engine.node_timeout < self.engine.heartbeat_interval * 3 {
            true => refuse(
                "a heartbeat reaches the other members of a store up to one heartbeat_interval late; set \
                 EngineConfig::node_timeout to at least three times heartbeat_interval",
            ),
            false => Ok(key),
        }
    }

    /// Checks that members which share a store hear of each other through it before nodes count as lost.
    fn check_watch_latency(&self, consensus: &dyn Consensus) -> Result<()> {
        let capabilities = match &self.store {
            Some(store) if consensus.capabilities().shares_store() => store.capabilities(),
            _ => return Ok(()),
        };
        let (needed, timeout) = (capabilities.watch_latency * 2, self.engine.node_timeout);
        if needed <= timeout {
            return Ok(());
        }
        Err(Error::Composition(format!(
            "the {} store tells members of each other's changes after {:?} or so, and nodes count as lost after a silence of \
             {timeout:?}; set EngineConfig::node_timeout to {needed:?} or more",
            capabilities.name, capabilities.watch_latency
        )))
    }

    /// Checks that a store of observations of its own can do what is asked of it.
    fn check_observations(&self, consensus: &dyn Consensus) -> Result<()> {
        let Some(observations) = &self.observations else { return Ok(()) };
        let refuse = |why: String| Err(Error::Composition(why));
        let (observations, consensus) = (observations.capabilities(), consensus.capabilities());
        let name = observations.name;
        if consensus.shares_store() && !(observations.shared && observations.compare_and_swap) {
            return refuse(format!(
                "members that decide over one store tell each other below observed/ which nodes they hear, which takes \
                 a shared store with compare-and-swap; the {name} store given to .observations(...) is not one, leave \
                 it out"
            ));
        }
        if self.store.is_some() && consensus.records == Records::None {
            return refuse(format!(
                "the {} consensus keeps decisions itself, and observations go to .observations(...), so that nothing \
                 would be kept in the store given to .store(...); leave it out",
                consensus.name
            ));
        }
        if self.consensus.is_none() && self.store.is_none() && observations.durability > Durability::Memory {
            return refuse(format!(
                "decisions would be in memory, and what was observed of their tasks would outlive them in the {name} \
                 store; give a store of decisions to .store(...)"
            ));
        }
        Ok(())
    }
}

/// Brings output that an earlier incarnation kept in the store to its place, and forgets that of tasks which
/// are gone.
async fn settle_output(
    output: &dyn OutputStore,
    store: &dyn StateStore,
    consensus: &dyn Consensus,
    view: &View,
) -> Result<()> {
    move_output(output, store, view).await?;
    let capabilities = consensus.capabilities();
    // A member that is behind others does not know all tasks yet.
    if capabilities.fault_model == FaultModel::None && !capabilities.shares_store() {
        let mut gone = output.tasks().await;
        gone.retain(|task| view.task(*task).is_none());
        output.forget(&gone).await?;
    }
    Ok(())
}

/// Moves output that an earlier incarnation kept in a store of one process.
async fn move_output(output: &dyn OutputStore, store: &dyn StateStore, view: &View) -> Result<()> {
    if store.capabilities().shared {
        return Ok(());
    }
    let limit = |id: AttemptId| Some(view.task(id.task)?.record.spec.output_limit_bytes);
    let moved = move_out(store, output, limit).await?;
    if moved > 0 {
        // Its history is most of what it takes.
        store.compact(store.head().await?.revision).await?;
        info!(pieces = moved, "output was moved out of the state store");
    }
    Ok(())
}
