//! Orchestrators and servers to test, and ways between them and their clients.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use orch_core::{
    Orchestrator,
    engine::AgentHandle,
    model::{AttemptId, TaskId, TaskSpec},
    state::TaskStatus,
    testkit::SimulatedRuntime,
};
use orch_net::http::{
    Limits, ServerConfig,
    testkit::{TestServer, agent_config, engine_config, server_config, until},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub(crate) async fn orchestrator() -> Orchestrator {
    Orchestrator::builder().engine(engine_config()).build().await.unwrap()
}

/// A server around an orchestrator in memory.
pub(crate) async fn serving() -> TestServer {
    TestServer::start(orchestrator().await, server_config()).await
}

pub(crate) async fn serving_within(limits: Limits) -> TestServer {
    TestServer::start(orchestrator().await, ServerConfig { limits, ..server_config() }).await
}

/// A worker that reaches the server over HTTP.
pub(crate) async fn worker(server: &TestServer, runtime: &SimulatedRuntime) -> AgentHandle {
    server.agent(agent_config("a"), Arc::new(runtime.clone())).await
}

pub(crate) fn hang(name: &str) -> TaskSpec {
    TaskSpec::program(name, "hang")
}

pub(crate) fn attempt(task: TaskId, number: u32) -> AttemptId {
    format!("{task}.{number}").parse().unwrap()
}

pub(crate) async fn running(orchestrator: &Orchestrator, task: TaskId) {
    until(orchestrator, || orchestrator.get(task).unwrap().status() == TaskStatus::Running).await;
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
