//! The manager: an orchestrator on a redb store, behind the HTTP API.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use orch_core::{
    Orchestrator,
    engine::EngineConfig,
    model::NodeId,
    output::{FileOutput, FileOutputConfig},
};
use orch_kit::{
    ADMIN_TOKEN,
    config::{data_dir::DataDir, layers::ConfigFile, units},
    page,
    say::announce,
    service::{explain, shutdown},
};
use orch_net::http::{Limits, Server, ServerConfig, TlsFiles, Tokens};
use orch_store::redb::{RedbStore, RedbStoreConfig};

use tracing::info;

use crate::{STYLE, rust_orch};

/// Options of the manager.
#[derive(Clone, Debug, Args)]
pub struct ManagerArgs {
    #[command(flatten)]
    pub file: ConfigFile,
    /// Address to listen on. Anything but loopback should come with --tls-cert and --tls-key.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3000")]
    pub listen: SocketAddr,
    /// Directory for state and tokens; created when missing. [default: ~/.local/share/orch/manager]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// A rust-orch worker that never registers, such as worker-1. May be given several times.
    #[arg(long, value_name = "ID")]
    pub legacy_worker: Vec<NodeId>,
    /// Maximum number of tasks of a rust-orch worker. [default: 1024]
    #[arg(long, value_name = "COUNT", requires = "legacy_worker")]
    pub legacy_max_tasks: Option<NonZeroU32>,
    /// A rust-orch worker never reports ends: a task that runs there for longer than this counts as
    /// succeeded, whatever its container does, so that its slot is free.
    #[arg(long, value_name = "TIME", requires = "legacy_worker", value_parser = units::duration)]
    pub legacy_done_after: Option<Duration>,
    /// Maximum number of running tasks of a rust-orch worker; the oldest beyond it count as succeeded in the
    /// same way.
    #[arg(long, value_name = "COUNT", requires = "legacy_worker")]
    pub legacy_running_max: Option<u32>,
    /// Do not serve rust-orch clients at the root of the server.
    #[arg(long, conflicts_with = "legacy_worker")]
    pub no_legacy_api: bool,
    /// Certificate chain, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Interval between heartbeats of workers.
    #[arg(long, value_name = "TIME", default_value = "1500ms", value_parser = units::duration)]
    pub heartbeat_interval: Duration,
    /// Time without a heartbeat after which a worker is lost, and its tasks are rescheduled.
    #[arg(long, value_name = "TIME", default_value = "6s", value_parser = units::duration)]
    pub node_timeout: Duration,
}

/// File of the token that permits the workers' protocol only.
pub(crate) const WORKER_TOKEN: &str = "worker.token";

/// Runs a manager until a shutdown is requested.
///
/// # Errors
/// The reason for which it cannot start, for people.
pub async fn run(args: ManagerArgs) -> Result<(), String> {
    let data = DataDir::open(args.data_dir.unwrap_or_else(|| STYLE.data_dir(STYLE.server)))?;
    let tokens = Tokens::new(&data.token(ADMIN_TOKEN)?, &data.token(WORKER_TOKEN)?).map_err(explain)?;
    let store = RedbStore::open(RedbStoreConfig::new(data.path("state"))).await.map_err(explain)?;
    let engine = EngineConfig {
        heartbeat_interval: args.heartbeat_interval,
        node_timeout: args.node_timeout,
        ..EngineConfig::default()
    };
    let output = FileOutputConfig { dir: data.path("output"), bytes_max: engine.output_bytes_max };
    let output = FileOutput::open(output).await.map_err(explain)?;
    let builder = Orchestrator::builder().store(Arc::new(store)).output(Arc::new(output)).engine(engine);
    let orchestrator = builder.build().await.map_err(explain)?;

    let mut config = ServerConfig::new(args.listen, tokens);
    config.limits = Limits { connections_max: CONNECTIONS_MAX, ..Limits::default() };
    config.tls = args.tls_cert.zip(args.tls_key).map(|(cert_pem, key_pem)| TlsFiles { cert_pem, key_pem });
    let legacy = rust_orch::Config {
        workers: args.legacy_worker,
        max_tasks: args.legacy_max_tasks,
        done_after: args.legacy_done_after,
        running_max: args.legacy_running_max,
    };
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let plain = config.tls.is_none();
    let server = Server::bind(config, orchestrator.clone()).await.map_err(explain)?;
    let server = server.mount(page::cluster(STYLE));
    let server = if args.no_legacy_api { server } else { server.mount(rust_orch::routes(legacy)) };
    let address = server.local_addr();
    if plain && !address.ip().is_loopback() {
        tracing::warn!("tokens and output cross the network unencrypted; give --tls-cert and --tls-key");
    }
    info!(data_dir = %data.path("").display(), "tokens are in {ADMIN_TOKEN} and {WORKER_TOKEN} of the data directory");
    info!("the page on the cluster is {scheme}://{address}{}", page::CLUSTER);
    announce(format_args!("orch-manager listens on {scheme}://{address}"));

    server.serve(async { drop(shutdown::requested().await) }).await;
    info!("shutting down");
    orchestrator.shutdown().await.map_err(explain)
}

/// Maximum number of connections. A thousand workers hold up to three each.
const CONNECTIONS_MAX: usize = 8192;
