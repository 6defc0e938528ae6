//! The style as it is deployed, on this machine: one manager and its workers, as separate processes.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use orch_kit::{
    ADMIN_TOKEN,
    config::secret,
    demo::{self, DemoArgs},
    deployment::{Deployment, Ground, Parts, Supervisor, choose_ground},
    say::announce,
    service::explain,
};
use orch_net::http::{Api, Client, ClientConfig};

use crate::{STYLE, manager::WORKER_TOKEN};

/// Name of the manager among the parts.
const MANAGER: &str = "manager";
/// Directory that tasks may use.
const SCRATCH: &str = "scratch";

/// One manager and some workers.
#[derive(Debug)]
pub struct ManagerAndWorkers {
    ground: Ground,
    processes: Supervisor,
    /// Address of the manager, which stays the same when it is started again.
    address: String,
    workers: Vec<String>,
    /// Further options of every worker.
    worker_options: Vec<String>,
    client: Client,
    /// Parts that were killed and not healed.
    down: BTreeSet<String>,
}

/// Starts the style and shows it at work.
///
/// # Errors
/// For people: the deviation from the expected result.
pub(crate) async fn demonstrate(args: DemoArgs) -> Result<(), String> {
    let ground = choose_ground(&STYLE, args.process, args.image).await?;
    announce(format_args!("Tasks run as {ground}."));
    let program = std::env::current_exe().map_err(explain)?;
    demo::run(Box::new(ManagerAndWorkers::start(program, ground, 3, &[]).await?)).await
}

impl ManagerAndWorkers {
    /// Starts a manager and this many workers, with further options of theirs. `program` is `orch`.
    ///
    /// # Errors
    /// For people: a part cannot be started.
    pub async fn start(
        program: PathBuf,
        ground: Ground,
        workers: usize,
        worker_options: &[&str],
    ) -> Result<Self, String> {
        let mut processes = Supervisor::new(STYLE, program)?;
        let scratch = processes.path(SCRATCH);
        std::fs::create_dir(&scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
        let address = start_manager(&mut processes, "127.0.0.1:0").await?;
        let token = secret::read(&processes.path(MANAGER).join(ADMIN_TOKEN)).map_err(explain)?;
        let client = Client::new(&ClientConfig::new(format!("http://{address}"), token)).map_err(explain)?;
        let worker_options = worker_options.iter().map(ToString::to_string).collect();
        let mut deployment = Self {
            ground,
            processes,
            address,
            workers: Vec::new(),
            worker_options,
            client,
            down: BTreeSet::new(),
        };
        for number in 1..=workers {
            let worker = format!("worker-{number}");
            deployment.start_worker(&worker).await?;
            deployment.workers.push(worker);
        }
        Ok(deployment)
    }

    /// Address of the manager.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Token that permits everything.
    ///
    /// # Errors
    /// For people: its file cannot be read.
    pub fn admin_token(&self) -> Result<String, String> {
        secret::read(&self.processes.path(MANAGER).join(ADMIN_TOKEN)).map_err(explain)
    }

    async fn start_worker(&mut self, worker: &str) -> Result<(), String> {
        let runtime = match self.ground {
            Ground::Docker(_) => "docker",
            Ground::Process(_) => "process",
        };
        let url = self.url();
        let mut command =
            self.processes.command(&["worker", "--manager", &url, "--id", worker, "--runtime", runtime]);
        command.args(["--cpus", "2", "--memory", "1g", "--drain-on-exit", "1s"]);
        command.args(&self.worker_options).arg("--allow-host-path").arg(self.scratch()).arg("--token-file");
        command.arg(self.processes.path(MANAGER).join(WORKER_TOKEN));
        command.arg("--data-dir").arg(self.processes.path(worker));
        self.processes.start(worker, command, "is registered").await.map(drop)
    }
}

/// Starts the manager, and returns the address at which it listens.
async fn start_manager(processes: &mut Supervisor, listen: &str) -> Result<String, String> {
    let mut command = processes.command(&["manager", "--listen", listen, "--no-legacy-api"]);
    command.args(["--heartbeat-interval", "500ms", "--node-timeout", "3s", "--data-dir"]);
    command.arg(processes.path(MANAGER));
    let line = processes.start(MANAGER, command, "listens on").await?;
    Ok(line.rsplit('/').next().unwrap_or_default().to_owned())
}

#[async_trait]
impl Deployment for ManagerAndWorkers {
    fn parts(&self) -> Parts {
        Parts { control: vec![MANAGER.into()], nodes: self.workers.clone() }
    }

    fn api(&self) -> Arc<dyn Api> {
        Arc::new(self.client.clone())
    }

    fn scratch(&self) -> PathBuf {
        self.processes.path(SCRATCH)
    }

    fn ground(&self) -> &Ground {
        &self.ground
    }

    async fn kill(&mut self, part: &str) -> Result<(), String> {
        self.processes.kill(part).await?;
        self.down.insert(part.to_owned());
        Ok(())
    }

    async fn heal(&mut self, part: &str) -> Result<(), String> {
        if part == MANAGER {
            let address = self.address.clone();
            start_manager(&mut self.processes, &address).await?;
        } else {
            self.start_worker(part).await?;
        }
        self.down.remove(part);
        Ok(())
    }

    async fn stop(mut self: Box<Self>) {
        // What a killed worker left running ends with a worker that takes it over.
        for part in self.parts().all() {
            if self.down.contains(&part) {
                let _ = self.heal(&part).await;
            }
        }
        self.processes.stop().await;
    }
}
