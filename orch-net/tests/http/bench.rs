//! A server to test, and ways to reach it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use orch_core::{
    Orchestrator,
    engine::{Agent, AgentConfig, AgentHandle, EngineConfig},
    model::{AttemptId, Resources, TaskId, TaskSpec, WorkKind},
    state::TaskStatus,
    testkit::SimulatedRuntime,
};
use orch_net::http::{
    Client, ClientConfig, HttpLink, LegacyConfig, Limits, Server, ServerConfig, Timeouts, Tokens, rust_orch,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinHandle,
};

pub(crate) const ADMIN: &str = "the admin's token";
pub(crate) const WORKER: &str = "the workers' token";

/// Nothing in these tests takes so long unless it hangs.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it hangs")
}

pub(crate) fn quick() -> EngineConfig {
    EngineConfig {
        heartbeat_interval: Duration::from_millis(50),
        node_timeout: Duration::from_secs(5),
        assignments_wait: Duration::from_millis(200),
        shutdown_grace: Duration::from_millis(200),
        ..EngineConfig::default()
    }
}

pub(crate) fn server_config() -> ServerConfig {
    ServerConfig::new("127.0.0.1:0".parse().unwrap(), Tokens::new(ADMIN, WORKER).unwrap())
}

pub(crate) fn client_config(address: SocketAddr, token: &str) -> ClientConfig {
    ClientConfig {
        timeouts: Timeouts { backoff: Duration::from_millis(5), ..Timeouts::default() },
        ..ClientConfig::new(format!("http://{address}"), token)
    }
}

pub(crate) struct Bench {
    pub(crate) orch: Orchestrator,
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with_limits(Limits::default()).await
    }

    pub(crate) async fn with_limits(limits: Limits) -> Self {
        let orch = Orchestrator::builder().engine(quick()).build().await.unwrap();
        Self::serving(orch, ServerConfig { limits, ..server_config() }).await
    }

    pub(crate) async fn serving(orch: Orchestrator, config: ServerConfig) -> Self {
        Self::with_mounts(orch, config, |server| server).await
    }

    /// A server with the routes of rust-orch beside its own.
    pub(crate) async fn of_rust_orch(orch: Orchestrator, config: ServerConfig, legacy: LegacyConfig) -> Self {
        Self::with_mounts(orch, config, |server| server.mount(rust_orch(legacy))).await
    }

    pub(crate) async fn with_mounts(
        orch: Orchestrator,
        config: ServerConfig,
        mount: impl FnOnce(Server) -> Server,
    ) -> Self {
        let server = mount(Server::bind(config, orch.clone()).await.unwrap());
        let (stop, stopped) = oneshot::channel();
        let address = server.local_addr();
        let serving = tokio::spawn(server.serve(async { drop(stopped.await) }));
        Self { orch, address, stop, serving }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&client_config(self.address, ADMIN)).unwrap()
    }

    /// A worker that reaches the server over HTTP.
    pub(crate) async fn worker(&self, runtime: &SimulatedRuntime) -> AgentHandle {
        let link = HttpLink::new(&client_config(self.address, WORKER)).unwrap();
        let agent = Agent::start(agent_config("a"), Arc::new(runtime.clone()), Arc::new(link));
        soon(agent.registered()).await.unwrap();
        agent
    }

    /// Returns when the server has stopped.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        soon(self.serving).await.unwrap();
    }

    /// Sends `request` and reads until the server closes.
    pub(crate) async fn raw(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_ref()).await.unwrap();
        Answer::read(&mut stream).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        self.raw(format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        ))
        .await
    }

    /// The same with the admin token and JSON.
    pub(crate) async fn admin(&self, method: &str, path: &str, body: &str) -> Answer {
        let headers = format!("authorization: Bearer {ADMIN}\r\ncontent-type: application/json\r\n");
        self.request(method, path, &headers, body).await
    }
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) async fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        // A connection that is cut after the answer is as good as one that is closed.
        let _ = soon(stream.read_to_end(&mut bytes)).await;
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that it is a problem of this kind, and gives its detail.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.head.contains("content-type: application/problem+json"), "{self:?}");
        assert!(self.head.contains("content-length: "), "{self:?}");
        let json = self.json();
        assert_eq!(json["code"], code, "{self:?}");
        assert_eq!(json["type"], format!("urn:orch:problem:{code}"), "{self:?}");
        assert_eq!(json["status"], status, "{self:?}");
        let field = json["field"].as_str().map(|field| format!("{field}: ")).unwrap_or_default();
        field + json["detail"].as_str().unwrap()
    }
}

pub(crate) fn agent_config(node: &str) -> AgentConfig {
    let mut config = AgentConfig::local(node, [WorkKind::Program]).unwrap();
    config.node.capacity = Resources::new(4000, 4 << 30);
    config.observe_every = Duration::from_millis(5);
    config
}

pub(crate) fn hang(name: &str) -> TaskSpec {
    TaskSpec::program(name, "hang")
}

pub(crate) fn attempt(task: TaskId, number: u32) -> AttemptId {
    format!("{task}.{number}").parse().unwrap()
}

/// Waits until something holds, looking again after each event.
pub(crate) async fn until(orch: &Orchestrator, what: impl Fn() -> bool) {
    let mut events = orch.events();
    soon(async {
        while !what() {
            events.next().await.unwrap().unwrap();
        }
    })
    .await;
}

pub(crate) async fn running(orch: &Orchestrator, task: TaskId) {
    until(orch, || orch.get(task).unwrap().status() == TaskStatus::Running).await;
}

/// A way to the server whose connections can be cut.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    cuts: watch::Sender<u64>,
}

impl Proxy {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cuts, cut) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut inner, _)) = listener.accept().await {
                let mut cut = cut.clone();
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(mut outer) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut inner, &mut outer) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, cuts }
    }

    /// The same, and the first question for assignments gets lost.
    pub(crate) async fn losing_a_question(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lost = Arc::new(AtomicBool::new(false));
        tokio::spawn(async move {
            while let Ok((inner, _)) = listener.accept().await {
                let lost = lost.clone();
                tokio::spawn(async move {
                    let Ok(outer) = TcpStream::connect(target).await else { return };
                    let ((mut requests, mut to_client), (mut answers, mut to_server)) =
                        (inner.into_split(), outer.into_split());
                    let asking = async {
                        let mut bytes = vec![0; 64 << 10];
                        while let Ok(count @ 1..) = requests.read(&mut bytes).await {
                            let is_question =
                                String::from_utf8_lossy(&bytes[..count]).contains("/assignments ");
                            if is_question && !lost.swap(true, Ordering::SeqCst) {
                                return true;
                            }
                            if to_server.write_all(&bytes[..count]).await.is_err() {
                                break;
                            }
                        }
                        false
                    };
                    let is_lost = tokio::select! {
                        _ = tokio::io::copy(&mut answers, &mut to_client) => false,
                        is_lost = asking => is_lost,
                    };
                    if is_lost {
                        // Nobody hears of it, as the connection stays open.
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { address, cuts: watch::Sender::new(0) }
    }

    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}
