//! The API's server.

mod accept;
mod agent;
mod app;
mod auth;
mod config;
mod events;
mod extract;
mod guard;
mod legacy;
mod logs;
mod metrics;
mod nodes;
mod openapi;
mod problem;
mod routes;
mod tasks;

use std::{net::SocketAddr, sync::Arc};

use orch_core::Orchestrator;
use tokio::{net::TcpListener, sync::watch};

pub use auth::{TokenError, Tokens};
pub use config::{Limits, ServerConfig, ServerError, TlsFiles};
pub use legacy::LegacyConfig;

use accept::Connections;
use app::{App, Shared};

/// An orchestrator's API on a socket.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> { orch_core::block_on(async {
/// use orch_core::{Orchestrator, model::TaskSpec};
/// use orch_net::http::{Client, ClientConfig, Server, ServerConfig, Tokens};
///
/// let orchestrator = Orchestrator::local().await?;
/// let config = ServerConfig::new("127.0.0.1:0".parse()?, Tokens::new("admin-secret", "worker-secret")?);
/// let server = Server::bind(config, orchestrator.clone()).await?;
/// let client = Client::new(&ClientConfig::new(format!("http://{}", server.local_addr()), "admin-secret"))?;
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let serving = tokio::spawn(server.serve(async { drop(stopped.await) }));
///
/// let task = client.submit_one(TaskSpec::program("hello", "echo").args(["hello"])).await?;
/// assert_eq!(client.wait(task.view.record.id).await?.status, orch_core::state::TaskStatus::Succeeded);
///
/// drop(stop);
/// serving.await?;
/// orchestrator.shutdown().await?;
/// # Ok(()) }) }
/// ```
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    connections: Connections,
    app: App,
    closing: watch::Sender<bool>,
}

impl Server {
    /// Opens the socket. Connections wait there until [`Server::serve`] takes them.
    ///
    /// # Errors
    /// [`ServerError`] when the configuration cannot work, a certificate or key cannot be read, or the
    /// address cannot be bound.
    pub async fn bind(config: ServerConfig, orchestrator: Orchestrator) -> Result<Self, ServerError> {
        config.limits.validate()?;
        let tls = config.tls.as_ref().map(TlsFiles::acceptor).transpose()?;
        let bind = |source| ServerError::Bind { address: config.address, source };
        let listener = TcpListener::bind(config.address).await.map_err(bind)?;
        let local_addr = listener.local_addr().map_err(bind)?;
        let (closing, closed) = watch::channel(false);
        let app: App = Arc::new(Shared::new(&config, local_addr, orchestrator, closed));
        let connections = Connections::new(tls, config.limits, app.metrics.clone());
        Ok(Self { listener, local_addr, connections, app, closing })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Answers requests until `shutdown` resolves. Then takes no more connections, ends streams and long
    /// polls, lets other requests end within [`Limits::shutdown_grace`], and returns. The orchestrator goes
    /// on. Dropping the future cuts all connections.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) {
        let keep_alive = legacy::keep_workers(&self.app);
        let router = routes::router(self.app);
        self.connections.run(self.listener, router, shutdown, self.closing).await;
        drop(keep_alive);
    }
}
