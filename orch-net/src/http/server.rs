//! [`Server`]: an orchestrator's API on a socket, with the routes that a style mounts beside it.

use std::{fmt, net::SocketAddr, sync::Arc};

use axum::Router;
use futures_util::future::BoxFuture;
use orch_core::Orchestrator;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use super::{
    api::{self, Advice},
    shell::{Authenticator, Connections, Limits, ServerError, Shell, TlsFiles, Tokens},
};

/// Configuration of a server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Address to listen on; port 0 takes any free one.
    pub address: SocketAddr,
    /// Establishes who calls, and in which role.
    pub authenticator: Arc<dyn Authenticator>,
    /// Certificate and key; without them connections are not encrypted, which is for loopback and for servers
    /// behind a proxy.
    pub tls: Option<TlsFiles>,
    /// Bounds on what callers may ask of it.
    pub limits: Limits,
}

impl ServerConfig {
    /// A server with these bearer tokens, without TLS, and with defaults for the rest.
    #[must_use]
    pub fn new(address: SocketAddr, tokens: Tokens) -> Self {
        Self { address, authenticator: Arc::new(tokens), tls: None, limits: Limits::default() }
    }
}

/// Part of a server that a style brings: routes beside the engine's, work in the background, advice.
pub struct Mount {
    router: Router,
    background: Vec<BoxFuture<'static, ()>>,
    advice: Option<Arc<dyn Advice>>,
}

impl Mount {
    /// These routes. Their paths must not be those of the engine.
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self { router, background: Vec::new(), advice: None }
    }

    /// Adds work that goes on for as long as the server serves.
    #[must_use]
    pub fn background(mut self, work: impl Future<Output = ()> + Send + 'static) -> Self {
        self.background.push(Box::pin(work));
        self
    }

    /// Adds advice on tasks that wait.
    #[must_use]
    pub fn advice(mut self, advice: Arc<dyn Advice>) -> Self {
        self.advice = Some(advice);
        self
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mount").field("advice", &self.advice).finish_non_exhaustive()
    }
}

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
    shell: Shell,
    orchestrator: Orchestrator,
    mounts: Vec<Mount>,
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
        let loopback = local_addr.ip().is_loopback();
        let shell = Shell::new(config.authenticator, config.limits, loopback, closed);
        let connections = Connections::new(tls, config.limits, shell.metrics().clone());
        Ok(Self { listener, local_addr, connections, shell, orchestrator, mounts: Vec::new(), closing })
    }

    /// Adds routes of a style.
    ///
    /// # Panics
    /// In [`Server::serve`], when two parts have a route at the same path.
    #[must_use]
    pub fn mount(mut self, mount: impl FnOnce(&Shell, &Orchestrator) -> Mount) -> Self {
        self.mounts.push(mount(&self.shell, &self.orchestrator));
        self
    }

    /// Address that it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Answers requests until `shutdown` resolves. Then takes no more connections, ends streams and long
    /// polls, lets other requests end within [`Limits::shutdown_grace`], and returns. The orchestrator goes
    /// on. Dropping the future cuts all connections.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) {
        let (mut background, mut advice, mut router) = (JoinSet::new(), Vec::new(), Router::new());
        for mount in self.mounts {
            mount.background.into_iter().for_each(|work| drop(background.spawn(work)));
            advice.extend(mount.advice);
            router = router.merge(mount.router);
        }
        let api = api::router(api::Shared::new(self.shell.clone(), self.orchestrator, advice));
        let router = self.shell.complete(api.merge(router));
        self.connections.run(self.listener, router, shutdown, self.closing).await;
        drop(background);
    }
}
