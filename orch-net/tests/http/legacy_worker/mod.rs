//! Our worker at a manager of rust-orch.

mod images;
mod life;
mod link;
mod manager;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use orch_core::{
    engine::{Agent, AgentHandle},
    store::{MemoryStore, StateStore},
    testkit::Layered,
};
use orch_net::http::{
    LegacyLink, LegacyLinkConfig,
    testkit::{agent_config, soon},
};

use self::images::Images;

/// Things that survive a worker: its engine and its journal.
#[derive(Clone, Debug)]
struct Machine {
    images: Images,
    store: Arc<dyn StateStore>,
}

impl Machine {
    fn new() -> Self {
        Self { images: Images::default(), store: Arc::new(MemoryStore::default()) }
    }

    async fn link(&self, manager: SocketAddr) -> LegacyLink {
        let config = LegacyLinkConfig {
            poll_interval: Duration::from_millis(10),
            answer_bytes_max: 64 << 10,
            ..LegacyLinkConfig::new(format!("http://{manager}/"))
        };
        LegacyLink::open(&config, self.store.clone()).await.unwrap()
    }

    async fn worker(&self, manager: SocketAddr) -> AgentHandle {
        let link = Arc::new(self.link(manager).await);
        let agent = Agent::start(agent_config("worker-1"), Arc::new(Layered(self.images.clone())), link);
        soon(agent.registered()).await.unwrap();
        agent
    }

    /// Starts that really started something.
    fn starts(&self) -> Vec<String> {
        self.images.0.starts().iter().map(ToString::to_string).collect()
    }
}
