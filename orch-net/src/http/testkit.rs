//! Tools for tests of routes that are mounted beside the engine's: a server on loopback around an
//! orchestrator, requests as bytes, and answers whose problems can be checked. They panic where a test would.
//!
//! ```
//! # orch_core::block_on(async {
//! use axum::{Router, routing::get};
//! use orch_core::Orchestrator;
//! use orch_net::http::{Mount, testkit::{TestServer, engine_config, server_config}};
//!
//! let orchestrator = Orchestrator::builder().engine(engine_config()).build().await.expect("it starts");
//! let hello = Router::new().route("/hello", get(async || "hello"));
//! let mount = |_: &_, _: &_| Mount::new(hello);
//! let server = TestServer::mounted(orchestrator, server_config(), |server| server.mount(mount)).await;
//! assert_eq!(server.request("GET", "/hello", "", "").await.body, "hello");
//! server.admin("GET", "/api/v1/nodes/nobody", "").await.problem(404, "unknown_node");
//! server.stop().await;
//! # });
//! ```

use std::{net::SocketAddr, sync::Arc, time::Duration};

use orch_core::{
    Orchestrator,
    engine::{Agent, AgentConfig, AgentHandle, EngineConfig},
    model::{Resources, WorkKind},
    runtime::Runtime,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};

use super::{Client, ClientConfig, HttpLink, Server, ServerConfig, Timeouts, Tokens};

/// Token of administrators.
pub const ADMIN: &str = "the admin's token";
/// Token of workers.
pub const WORKER: &str = "the workers' token";

/// Awaits something that takes no time unless it hangs.
///
/// # Panics
/// After 20 seconds.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it hangs")
}

/// Waits until something holds, looking again after each event.
///
/// # Panics
/// When it does not hold [`soon`].
pub async fn until(orchestrator: &Orchestrator, holds: impl Fn() -> bool) {
    let mut events = orchestrator.events();
    soon(async {
        while !holds() {
            events.next().await.expect("the orchestrator goes on").expect("no event is lost");
        }
    })
    .await;
}

/// An engine that hears of everything at once.
#[must_use]
pub fn engine_config() -> EngineConfig {
    EngineConfig {
        heartbeat_interval: Duration::from_millis(50),
        node_timeout: Duration::from_secs(5),
        assignments_wait: Duration::from_millis(200),
        shutdown_grace: Duration::from_millis(200),
        ..EngineConfig::default()
    }
}

/// An agent for programs with four cores and 4 GiB, which tells at once of what it observes.
///
/// # Panics
/// When `node` cannot be the name of a node.
#[must_use]
pub fn agent_config(node: &str) -> AgentConfig {
    let mut config = AgentConfig::local(node, [WorkKind::Program]).expect("a node's name");
    config.node.capacity = Resources::new(4000, 4 << 30);
    config.observe_every = Duration::from_millis(5);
    config
}

/// A server at a free port of loopback, with the tokens [`ADMIN`] and [`WORKER`].
#[must_use]
pub fn server_config() -> ServerConfig {
    let tokens = Tokens::new(ADMIN, WORKER).expect("two tokens");
    ServerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), tokens)
}

/// A client that tries again soon.
#[must_use]
pub fn client_config(address: SocketAddr, token: &str) -> ClientConfig {
    ClientConfig {
        timeouts: Timeouts { backoff: Duration::from_millis(5), ..Timeouts::default() },
        ..ClientConfig::new(format!("http://{address}"), token)
    }
}

/// A server that serves until it is stopped or dropped with its runtime.
#[derive(Debug)]
pub struct TestServer {
    /// The orchestrator behind it.
    pub orchestrator: Orchestrator,
    /// Address that it listens on.
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl TestServer {
    /// Serves the engine's routes alone.
    ///
    /// # Panics
    /// When the server cannot start.
    pub async fn start(orchestrator: Orchestrator, config: ServerConfig) -> Self {
        Self::mounted(orchestrator, config, |server| server).await
    }

    /// Serves what `mount` makes of the server.
    ///
    /// # Panics
    /// When the server cannot start.
    pub async fn mounted(
        orchestrator: Orchestrator,
        config: ServerConfig,
        mount: impl FnOnce(Server) -> Server,
    ) -> Self {
        let server = mount(Server::bind(config, orchestrator.clone()).await.expect("a server"));
        let (stop, stopped) = oneshot::channel();
        let address = server.local_addr();
        let serving = tokio::spawn(server.serve(async { drop(stopped.await) }));
        Self { orchestrator, address, stop, serving }
    }

    /// Returns when the server has stopped. The orchestrator goes on.
    ///
    /// # Panics
    /// When serving panicked, or does not end [`soon`].
    pub async fn stop(self) {
        drop(self.stop);
        soon(self.serving).await.expect("serving ends");
    }

    /// A client of the API with the token [`ADMIN`].
    ///
    /// # Panics
    /// Never: the configuration works.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(&client_config(self.address, ADMIN)).expect("a client")
    }

    /// An agent that has registered over HTTP with the token [`WORKER`].
    ///
    /// # Panics
    /// When it cannot register.
    pub async fn agent(&self, config: AgentConfig, runtime: Arc<dyn Runtime>) -> AgentHandle {
        let link = HttpLink::new(&client_config(self.address, WORKER)).expect("a link");
        let agent = Agent::start(config, runtime, Arc::new(link));
        soon(agent.registered()).await.expect("it registers");
        agent
    }

    /// Sends these bytes on a connection of their own and reads until the server closes it.
    ///
    /// # Panics
    /// When that does not work.
    pub async fn raw(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.expect("a connection");
        stream.write_all(request.as_ref()).await.expect("the server reads");
        Answer::read(&mut stream).await
    }

    /// One request on a connection of its own. Each line of `headers` ends with `\r\n`.
    ///
    /// # Panics
    /// As [`TestServer::raw`].
    pub async fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        self.raw(format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        ))
        .await
    }

    /// The same with the token [`ADMIN`] and a body of JSON.
    ///
    /// # Panics
    /// As [`TestServer::raw`].
    pub async fn admin(&self, method: &str, path: &str, body: &str) -> Answer {
        let headers = format!("authorization: Bearer {ADMIN}\r\ncontent-type: application/json\r\n");
        self.request(method, path, &headers, body).await
    }
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status; 0 for what is no answer.
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    /// Body.
    pub body: String,
}

impl Answer {
    /// Reads until the connection ends.
    ///
    /// # Panics
    /// When it does not end [`soon`], or what comes is not text.
    pub async fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        // A connection that is cut after the answer is as good as one that is closed.
        let _ = soon(stream.read_to_end(&mut bytes)).await;
        Self::parse(bytes)
    }

    /// An answer that was read to its end.
    ///
    /// # Panics
    /// When it is not text.
    #[must_use]
    pub fn parse(bytes: Vec<u8>) -> Self {
        let text = String::from_utf8(bytes).expect("the answer is text");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that it is a [problem](super::shell::Problem) of this kind, and gives its detail, behind the
    /// name of its field if it has one.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "the check is what most callers want")]
    pub fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.head.contains("content-type: application/problem+json"), "{self:?}");
        assert!(self.head.contains("content-length: "), "{self:?}");
        let json = self.json();
        assert_eq!(json["code"], code, "{self:?}");
        assert_eq!(json["type"], format!("urn:orch:problem:{code}"), "{self:?}");
        assert_eq!(json["status"], status, "{self:?}");
        let field = json["field"].as_str().map(|field| format!("{field}: ")).unwrap_or_default();
        field + json["detail"].as_str().expect("a problem has a detail")
    }
}
