//! The parts of a style as they are deployed, to be started, killed and healed: by its demonstration, and by
//! the acceptance suite.

mod ground;
mod supervisor;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use orch_net::http::Api;

pub use self::{
    ground::{Ground, choose_ground},
    supervisor::Supervisor,
};

/// Parts of a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Processes that decide: servers, replicas.
    pub control: Vec<String>,
    /// Processes that run tasks, by the name of their node. Where nodes decide as well, they are in both
    /// lists.
    pub nodes: Vec<String>,
}

impl Parts {
    /// Every part once, the control side first.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        let nodes = self.nodes.iter().filter(|node| !self.control.contains(node));
        self.control.iter().chain(nodes).cloned().collect()
    }
}

/// A style on this machine: its control side and its nodes, each of which can be killed and brought back.
/// Errors are for people.
///
/// Implementations start the programs that users start; what they keep is in a directory of their own, which
/// is removed when the deployment is stopped.
#[async_trait]
pub trait Deployment: Send {
    /// Parts by name.
    fn parts(&self) -> Parts;

    /// The cluster. Remains usable while parts are down: calls fail or wait as they do for a user.
    fn api(&self) -> Arc<dyn Api>;

    /// Directory of the machine that its tasks may use, under the same path.
    fn scratch(&self) -> PathBuf;

    /// Runtime of its tasks.
    fn ground(&self) -> &Ground;

    /// Kills a part with SIGKILL: it cannot do anything more. What it runs may go on.
    async fn kill(&mut self, part: &str) -> Result<(), String>;

    /// Starts a killed part again on what it kept, and waits until it is ready.
    async fn heal(&mut self, part: &str) -> Result<(), String>;

    /// Ends everything, gracefully first, with what killed parts left running, and removes what it kept.
    async fn stop(self: Box<Self>);
}
