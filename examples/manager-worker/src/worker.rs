//! The worker: an agent with a runtime, linked to its manager over HTTP, or to a manager of rust-orch.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::{Args, ValueEnum};
use orch_core::{
    engine::{
        Agent, AgentConfig, AgentState, ControlLink, DirSecrets, NoSecrets, SecretSource, local_capacity,
    },
    model::{InstanceId, NodeId, NodeSpec, Resources},
    runtime::{ProcessRuntime, ProcessRuntimeConfig, Runtime},
};
use orch_docker::{DockerConfig, DockerRuntime};
use orch_kit::{
    Failure,
    config::{address, data_dir::DataDir, layers::ConfigFile, secret, units, variable},
    say::announce,
    service::{explain, shutdown},
};
use orch_net::http::{ClientConfig, HttpLink, TokenState};
use orch_store::redb::{RedbStore, RedbStoreConfig};
use tokio::sync::watch;

use tracing::{info, warn};

use crate::{STYLE, manager::WORKER_TOKEN, rust_orch};

/// Options of a worker.
#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    #[command(flatten)]
    pub file: ConfigFile,
    /// Address of the manager. [default: ORCH_MANAGER, or http://127.0.0.1:3000]
    // The id of the command line's own option, which it stands in for.
    #[arg(id = "server", long = "manager", value_name = "URL")]
    pub manager: Option<String>,
    /// Work for the manager of rust-orch at this address instead. It knows its worker by the name given with
    /// --id: worker-1. ORCH_MANAGER must not be set.
    #[arg(
        long,
        value_name = "URL",
        conflicts_with_all = ["server", "token_file", "device", "label", "allow_host_path", "secrets_dir"]
    )]
    pub legacy: Option<String>,
    /// Interval in which a manager of rust-orch is asked for tasks.
    #[arg(long, value_name = "TIME", default_value = "5s", requires = "legacy", value_parser = units::duration)]
    pub legacy_poll: Duration,
    /// Name of this node. [default: the machine's host name]
    #[arg(long, value_name = "NAME")]
    pub id: Option<NodeId>,
    /// Directory for data that must survive the worker; created when missing. [default:
    /// ~/.local/share/orch/worker-NAME]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// File with the worker token. [default: ORCH_WORKER_TOKEN, or that of a manager of this user on this
    /// machine]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Time for which a worker that was accepted before retries while the manager refuses its token.
    #[arg(long, value_name = "TIME", default_value = "1min", value_parser = units::duration)]
    pub token_grace: Duration,
    /// Certificate of the authority that signed the manager's certificate, PEM.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Runtime of tasks on this node.
    #[arg(long, value_enum, default_value_t)]
    pub runtime: RuntimeChoice,
    /// Docker engine, such as unix:///var/run/docker.sock. [default: DOCKER_HOST, or the default socket]
    #[arg(long, value_name = "URL")]
    pub docker_host: Option<String>,
    /// Cores to offer. [default: all]
    #[arg(long, value_name = "CORES", value_parser = units::cores)]
    pub cpus: Option<u64>,
    /// Memory to offer, such as 4g. [default: all]
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    pub memory: Option<u64>,
    /// A device to offer, such as gpu=2. May be given several times.
    #[arg(long, value_name = "NAME=COUNT", value_parser = units::counted)]
    pub device: Vec<(String, u64)>,
    /// A label that constraints may match. May be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = units::pair)]
    pub label: Vec<(String, String)>,
    /// Maximum number of tasks at a time.
    #[arg(long, value_name = "COUNT", default_value_t = NodeSpec::DEFAULT_MAX_TASKS)]
    pub max_tasks: u32,
    /// Maximum number of containers that are started at a time.
    #[arg(long, value_name = "COUNT", default_value = "8")]
    pub starts_in_flight: NonZeroUsize,
    /// A directory of this machine that tasks may mount. May be given several times.
    #[arg(long, value_name = "DIR")]
    pub allow_host_path: Vec<PathBuf>,
    /// Directory with one file for each secret that tasks may refer to, mode 600.
    #[arg(long, value_name = "DIR")]
    pub secrets_dir: Option<PathBuf>,
    /// On shutdown: wait this long for running tasks, then stop them. Without this, they continue, and the
    /// worker adopts them when it is started again.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub drain_on_exit: Option<Duration>,
}

/// Runtime of tasks on a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RuntimeChoice {
    /// Docker where an engine responds, otherwise processes.
    #[default]
    Auto,
    /// Containers of a Docker engine.
    Docker,
    /// Processes of the operating system. No isolation.
    Process,
}

/// Runs a worker until a shutdown is requested.
///
/// # Errors
/// The reason for which it cannot start, for people.
pub async fn run(args: WorkerArgs) -> Result<(), Failure> {
    let manager = manager(&args)?;
    let data = DataDir::open(match &args.data_dir {
        Some(dir) => dir.clone(),
        None => default_data(&args)?,
    })?;
    let id = match args.id.clone() {
        Some(id) => id,
        // A machine that is renamed keeps its node id: it may have work.
        None => data.kept("name", || host_name().map(|id| id.to_string()))?,
    };
    let instance: InstanceId = data.id("instance")?;
    let runtime = runtime(&args, &data, instance).await?;
    let capabilities = runtime.capabilities();
    let secrets: Arc<dyn SecretSource> = match &args.secrets_dir {
        Some(dir) => Arc::new(DirSecrets::new(dir)),
        None => Arc::new(NoSecrets),
    };
    let node = NodeSpec {
        max_tasks: args.max_tasks,
        labels: args.label.iter().cloned().collect::<BTreeMap<_, _>>(),
        ..NodeSpec::new(id.clone(), instance, capacity(&args), [capabilities.kind])
    };
    let token = if args.legacy.is_none() { Some(token(&args).map_err(Failure::usage)?) } else { None };
    let (link, access) = link(&args, &manager, token.as_ref(), &data).await?;
    let mut agent_config = AgentConfig::new(node);
    agent_config.secrets = secrets;
    agent_config.starts_in_flight = args.starts_in_flight.get();
    if args.legacy.is_some() {
        // A rust-orch manager accepts no usage reports.
        agent_config.usage_every = None;
    }
    let agent = Agent::start(agent_config, runtime, link);
    info!(node = %id, runtime = capabilities.name, %manager, "starting");
    let fenced = tell_state(id.clone(), agent.state());
    tokio::select! {
        requested = shutdown::requested() => requested.map_err(explain)?,
        why = fenced => return Err(why.into()),
        why = refused(access, args.token_grace) => {
            // Running tasks are left for the worker's next incarnation.
            agent.leave().await;
            let from = token.map(|token| token.from).unwrap_or_default();
            return Err(Failure::token_refused(format!(
                "the manager at {manager} refuses the token of {from}: {why}; give this worker the manager's {WORKER_TOKEN} \
                 with --token-file or {TOKEN_VARIABLE}"
            )));
        }
    }
    match args.drain_on_exit {
        Some(grace) => agent.drain(grace).await,
        None => agent.leave().await,
    }
    Ok(())
}

/// Address of the manager.
fn manager(args: &WorkerArgs) -> Result<String, Failure> {
    let name = STYLE.server_variable();
    let normal = |text: &str, from: &str| address::normal(text, from, &STYLE).map_err(Failure::usage);
    match (&args.legacy, &args.manager, variable(&name)) {
        (Some(_), _, Some(_)) => Err(Failure::usage(format!(
            "--legacy names the manager, and {name} in the environment another one; unset it"
        ))),
        (Some(url), ..) => normal(url, "--legacy"),
        (None, Some(url), _) => normal(url, "--manager"),
        (None, None, Some(url)) => normal(&url, &name),
        (None, None, None) => Ok(STYLE.url.into()),
    }
}

/// State of the token at the manager; `None` for rust-orch, which has no tokens.
type Access = Option<watch::Receiver<TokenState>>;

/// Link to the manager.
async fn link(
    args: &WorkerArgs,
    manager: &str,
    token: Option<&Token>,
    data: &DataDir,
) -> Result<(Arc<dyn ControlLink>, Access), Failure> {
    let ca_pem = args.ca.as_deref().map(secret::read_ca).transpose().map_err(Failure::usage)?;
    let Some(token) = token else {
        let journal = RedbStore::open(RedbStoreConfig::new(data.path("legacy"))).await.map_err(explain)?;
        let config = rust_orch::LinkConfig {
            ca_pem,
            poll_interval: args.legacy_poll,
            ..rust_orch::LinkConfig::new(manager)
        };
        let link = rust_orch::Link::open(&config, Arc::new(journal)).await.map_err(explain)?;
        return Ok((Arc::new(link), None));
    };
    let config = ClientConfig { ca_pem, ..ClientConfig::new(manager, &token.text) };
    let link = HttpLink::new(&config).map_err(explain)?;
    let access = link.token_state();
    Ok((Arc::new(link), Some(access)))
}

/// Returns with the reason when the token is refused permanently: at once where it was never accepted,
/// otherwise after `grace`, as the manager may be restarting with another file.
async fn refused(access: Access, grace: Duration) -> String {
    let Some(mut access) = access else { return std::future::pending().await };
    let mut accepted = false;
    loop {
        let now = access.borrow_and_update().clone();
        match now {
            TokenState::Refused(why) if !accepted => return why,
            TokenState::Refused(why) => {
                let accepted_again = access.wait_for(|state| !matches!(state, TokenState::Refused(_)));
                if tokio::time::timeout(grace, accepted_again).await.is_err() {
                    return why;
                }
            }
            TokenState::Accepted => accepted = true,
            TokenState::Untried => {}
        }
        if access.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Logs changes of the agent's state. Returns when it was fenced because a newer process has registered the
/// node, with the reason.
async fn tell_state(id: NodeId, mut state: tokio::sync::watch::Receiver<AgentState>) -> String {
    loop {
        let now = state.borrow_and_update().clone();
        match now {
            AgentState::Registered => announce(format_args!("orch-worker {id} is registered")),
            AgentState::Refused(why) => warn!(%why, "the manager rejects this worker; retrying"),
            AgentState::Connecting(why) => info!(%why, "not connected to the manager yet"),
            AgentState::Fenced(why) => return why,
        }
        if state.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn runtime(
    args: &WorkerArgs,
    data: &DataDir,
    instance: InstanceId,
) -> Result<Arc<dyn Runtime>, String> {
    let mut config = DockerConfig::new("orch", instance.to_string());
    config.host = args.docker_host.clone();
    config.state_dir = data.path("docker");
    config.starts_in_flight = args.starts_in_flight;
    config.allowed_host_paths = args.allow_host_path.clone();
    let processes = || -> Result<Arc<dyn Runtime>, String> {
        let runtime =
            ProcessRuntime::new(ProcessRuntimeConfig::new(data.path("attempts"))).map_err(explain)?;
        Ok(Arc::new(runtime))
    };
    match args.runtime {
        RuntimeChoice::Process => {
            if args.legacy.is_some() {
                warn!(
                    "tasks of rust-orch are images, which plain processes cannot run: all of them will fail"
                );
            }
            processes()
        }
        RuntimeChoice::Docker => Ok(Arc::new(DockerRuntime::connect(config).await.map_err(explain)?)),
        RuntimeChoice::Auto => match DockerRuntime::connect(config).await {
            Ok(runtime) => Ok(Arc::new(runtime)),
            Err(error) if args.legacy.is_some() => {
                Err(format!("--legacy needs a Docker engine: {}", explain(error)))
            }
            Err(error) => {
                warn!(%error, "no Docker engine responds; tasks run as plain processes, without isolation");
                processes()
            }
        },
    }
}

fn capacity(args: &WorkerArgs) -> Resources {
    let mut capacity = local_capacity();
    capacity.cpu_millis = args.cpus.unwrap_or(capacity.cpu_millis);
    capacity.memory_bytes = args.memory.unwrap_or(capacity.memory_bytes);
    capacity.devices.extend(args.device.iter().cloned());
    capacity
}

/// A token and its source.
struct Token {
    text: String,
    from: String,
}

const TOKEN_VARIABLE: &str = "ORCH_WORKER_TOKEN";

fn token(args: &WorkerArgs) -> Result<Token, String> {
    let of_file = |path: &Path| match secret::read(path) {
        Ok(text) => Ok(Token { text, from: path.display().to_string() }),
        Err(error) => Err(format!("{}: {error}", path.display())),
    };
    if let Some(path) = &args.token_file {
        return of_file(path);
    }
    if let Some(text) = variable(TOKEN_VARIABLE) {
        return Ok(Token { text, from: TOKEN_VARIABLE.into() });
    }
    of_file(&STYLE.data_dir(STYLE.server).join(WORKER_TOKEN))
        .map_err(|error| format!("no worker token: {error}; give --token-file, or set {TOKEN_VARIABLE}"))
}

/// Default data directory of a worker. One without an explicit id has the same directory whatever the machine
/// is called; where an earlier version created one with the machine's name, that is used.
fn default_data(args: &WorkerArgs) -> Result<PathBuf, String> {
    if let Some(id) = &args.id {
        return Ok(STYLE.data_dir(&format!("worker-{id}")));
    }
    let named = STYLE.data_dir(&format!("worker-{}", host_name()?));
    Ok(if named.is_dir() { named } else { STYLE.data_dir("worker") })
}

fn host_name() -> Result<NodeId, String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    NodeId::new(name.trim()).map_err(|error| format!("{error}; name the node with --id"))
}
