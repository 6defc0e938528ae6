//! Runtime of a deployment's tasks: containers, or processes where there is no engine.

use std::{fmt, time::Duration};

use orch_core::{
    model::{AttemptId, PullPolicy, TaskId, TaskSpec, Workload},
    runtime::{Progress, Runtime as _, Work},
};
use orch_docker::{DockerConfig, DockerRuntime};

use crate::{say::announce, service::explain, style::Style};

/// Runtime of the tasks.
#[derive(Clone, Debug)]
pub enum Ground {
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
///
/// # Errors
/// For people.
pub async fn choose_ground(style: &Style, process: bool, image: Option<String>) -> Result<Ground, String> {
    if process {
        return Ok(Ground::Process("as asked".into()));
    }
    let runtime =
        match DockerRuntime::connect(DockerConfig::new(format!("{}-demo", style.program), "probe")).await {
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
             or {} demo --image IMAGE",
            candidates.join(" or "),
            style.program
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

impl Ground {
    /// A task of this shell script, with the resources that it asks for left open.
    #[must_use]
    pub fn shell(&self, name: &str, script: &str) -> TaskSpec {
        match self {
            Self::Docker(image) => TaskSpec::image(name, image).command(["/bin/sh", "-c"]).args([script]),
            Self::Process(_) => TaskSpec::program(name, "/bin/sh").args(["-c", script]),
        }
    }
}
