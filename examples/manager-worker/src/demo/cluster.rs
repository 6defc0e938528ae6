//! A manager and three workers, as separate processes in a directory that is removed at the end.

use std::{fmt, path::PathBuf, process::Stdio, time::Duration};

use orch_core::{
    model::{AttemptId, PullPolicy, TaskId, TaskSpec, Workload},
    runtime::{Progress, Runtime as _, Work},
};
use orch_docker::{DockerConfig, DockerRuntime};
use orch_net::http::{Client, ClientConfig};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
};

use super::load::{MAY_DIE, ROLE, STEADY};
use crate::{
    data_dir::read_secret,
    manager::{ADMIN_TOKEN, WORKER_TOKEN, explain},
    say::announce,
};

/// Runtime of the tasks.
#[derive(Clone, Debug)]
pub(super) enum Ground {
    /// Containers of this image.
    Docker(String),
    /// Processes, with the reason.
    Process(String),
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Docker(image) => write!(f, "containers of {image} on the Docker engine"),
            Self::Process(why) => write!(f, "plain processes, without isolation ({why})"),
        }
    }
}

/// Docker where an engine responds and has, or can fetch, an image with a shell. A missing part is reported
/// at once; an error is that of an image that the user named.
pub(super) async fn choose_ground(process: bool, image: Option<String>) -> Result<Ground, String> {
    if process {
        return Ok(Ground::Process("as asked".into()));
    }
    let runtime = match DockerRuntime::connect(DockerConfig::new("orch-demo", "probe")).await {
        Ok(runtime) => runtime,
        Err(error) if image.is_some() => {
            return Err(format!("--image needs a Docker engine: {}", explain(error)));
        }
        Err(error) => return Ok(Ground::Process(format!("no Docker engine: {}", explain(error)))),
    };
    const USUAL: [&str; 2] = ["busybox:1.36", "busybox:latest"];
    let candidates = image.as_ref().map_or(USUAL.map(String::from).to_vec(), |image| vec![image.clone()]);
    for image in &candidates {
        if has_image(&runtime, image, PullPolicy::Never).await.is_ok() {
            return Ok(Ground::Docker(image.clone()));
        }
    }
    let wanted = candidates.first().cloned().unwrap_or_default();
    announce(format_args!("The Docker engine has no image {}; fetching {wanted}.", candidates.join(" or ")));
    match has_image(&runtime, &wanted, PullPolicy::IfMissing).await {
        Ok(()) => Ok(Ground::Docker(wanted)),
        Err(error) if image.is_some() => {
            Err(format!("the image {wanted} is not there and cannot be fetched: {error}"))
        }
        Err(error) => Ok(Ground::Process(format!(
            "the Docker engine has no image {} and cannot fetch one: {error}; with one that has a shell: docker pull {wanted}, \
             or orch demo --image IMAGE",
            candidates.join(" or ")
        ))),
    }
}

async fn has_image(runtime: &DockerRuntime, image: &str, policy: PullPolicy) -> Result<(), String> {
    const PATIENCE: Duration = Duration::from_secs(20);
    let mut spec = TaskSpec::image("probe", image);
    if let Workload::Image { pull, .. } = &mut spec.workload {
        *pull = policy;
    }
    let attempt = AttemptId { task: TaskId::generate(), attempt: std::num::NonZeroU32::MIN };
    let work = Work { attempt, spec: spec.into(), secrets: Default::default() };
    match tokio::time::timeout(PATIENCE, runtime.prepare(&work, &Progress::none())).await {
        Ok(result) => result.map_err(explain),
        Err(_) => Err(format!("{image} was not fetched within {PATIENCE:?}")),
    }
}

pub(super) struct Cluster {
    ground: Ground,
    dir: PathBuf,
    url: String,
    manager: Child,
    workers: Vec<(String, Child)>,
    client: Client,
}

impl Cluster {
    pub(super) async fn start(ground: Ground) -> Result<Self, String> {
        let dir = std::env::temp_dir().join(format!("orch-demo-{}", uuid::Uuid::new_v4().simple()));
        let data = dir.join("manager");
        let mut manager = orch(&["manager", "--listen", "127.0.0.1:0", "--no-legacy-api"])
            .args(["--heartbeat-interval", "500ms", "--node-timeout", "3s", "--data-dir"])
            .arg(&data)
            .spawn()
            .map_err(explain)?;
        let line = first_line(&mut manager, "listens on").await?;
        let url = line.rsplit(' ').next().unwrap_or_default().to_owned();
        let token = read_secret(&data.join(ADMIN_TOKEN)).map_err(explain)?;
        let client = Client::new(&ClientConfig::new(&url, token)).map_err(explain)?;
        let mut cluster = Self { ground, dir, url, manager, workers: Vec::new(), client };
        for number in 1..=3 {
            cluster.revive(&format!("worker-{number}")).await?;
        }
        Ok(cluster)
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn ground(&self) -> &Ground {
        &self.ground
    }

    /// Kills a worker with SIGKILL: it cannot shut down.
    pub(super) async fn kill(&mut self, worker: &str) -> Result<(), String> {
        match self.workers.iter_mut().find(|(name, _)| name == worker) {
            Some((_, child)) => child.kill().await.map_err(explain),
            None => Err(format!("there is no worker {worker}")),
        }
    }

    /// Starts a worker, on its earlier data if it had any, and waits until it is registered.
    pub(super) async fn revive(&mut self, worker: &str) -> Result<(), String> {
        let runtime = match self.ground {
            Ground::Docker(_) => "docker",
            Ground::Process(_) => "process",
        };
        let role = if worker == "worker-1" { STEADY } else { MAY_DIE };
        let mut child = orch(&["worker", "--manager", &self.url, "--id", worker, "--runtime", runtime])
            .args(["--cpus", "2", "--memory", "1g", "--drain-on-exit", "1s"])
            .args(["--label", &format!("{ROLE}={role}"), "--token-file"])
            .arg(self.dir.join("manager").join(WORKER_TOKEN))
            .arg("--data-dir")
            .arg(self.dir.join(worker))
            .spawn()
            .map_err(explain)?;
        first_line(&mut child, "is registered").await?;
        self.workers.retain(|(name, _)| name != worker);
        self.workers.push((worker.into(), child));
        Ok(())
    }

    /// Ends everything, gracefully first, and removes the directory.
    pub(super) async fn stop(mut self) {
        for (_, child) in &mut self.workers {
            end(child).await;
        }
        end(&mut self.manager).await;
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Command of this program as another part of the cluster. It ends with us in every case.
fn orch(args: &[&str]) -> Command {
    let program = std::env::current_exe().unwrap_or_else(|_| "orch".into());
    let mut command = Command::new(program);
    let quiet = std::env::var("ORCH_LOG").unwrap_or_else(|_| "error".into());
    command.args(args).env("ORCH_LOG", quiet).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

/// First line on standard output that contains `words`. Later output is read and dropped.
async fn first_line(child: &mut Child, words: &str) -> Result<String, String> {
    const PATIENCE: Duration = Duration::from_secs(20);
    let stdout: ChildStdout = child.stdout.take().ok_or("no standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    let found = async {
        while let Some(line) = lines.next_line().await.map_err(explain)? {
            if line.contains(words) {
                return Ok(line);
            }
        }
        Err("it ended at once".to_owned())
    };
    let line = tokio::time::timeout(PATIENCE, found)
        .await
        .map_err(|_| format!("a part of the cluster did not say that it {words} within {PATIENCE:?}"))??;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(line)
}

async fn end(child: &mut Child) {
    const PATIENCE: Duration = Duration::from_secs(10);
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
