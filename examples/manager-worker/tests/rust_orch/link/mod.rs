//! Our worker at a manager of rust-orch.

mod answers;
mod fake_manager;
mod images;
mod life;

use std::{net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use manager_worker::rust_orch::{Link, LinkConfig};
use orch_core::{
    engine::{Agent, AgentHandle},
    model::{AttemptId, TaskId},
    store::{MemoryStore, StateStore},
    testkit::Layered,
};
use orch_net::http::testkit::{agent_config, soon};

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

    async fn link(&self, manager: SocketAddr) -> Link {
        let config = LinkConfig {
            poll_interval: Duration::from_millis(10),
            answer_bytes_max: 64 << 10,
            ..LinkConfig::new(format!("http://{manager}/"))
        };
        Link::open(&config, self.store.clone()).await.unwrap()
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

fn attempt(task: TaskId, number: u32) -> AttemptId {
    AttemptId { task, attempt: NonZeroU32::new(number).unwrap() }
}
