//! Containers a second through [`DockerRuntime`] (start, wait, remove) beside the same calls straight through
//! bollard, in turns, so that both see the same engine. Needs an engine at `ORCH_TEST_DOCKER_HOST` that has
//! `ORCH_TEST_IMAGE`.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    process::ExitCode,
    time::{Duration, Instant},
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    errors::Error,
    models::{ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig},
    query_parameters::{
        CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
        WaitContainerOptionsBuilder,
    },
};
use futures_util::{StreamExt, TryStreamExt, stream};
use orch_benches::{Failure, exit_code};
use orch_core::{
    model::{AttemptId, NetworkMode, TaskId, TaskSpec},
    runtime::{Runtime, Work},
};
use orch_docker::{DockerConfig, DockerRuntime};
use tempfile::TempDir;

const IN_FLIGHT: usize = 8;
const CONTAINERS: usize = 32;
/// Number of measured rounds of each kind, after one for warm-up.
const ROUNDS: usize = 8;

fn main() -> ExitCode {
    exit_code(orch_core::block_on(measure()))
}

fn variable(name: &str) -> Result<String, Failure> {
    std::env::var(name).map_err(|_| {
        let what =
            "this benchmark needs an engine that is reached by a socket (ORCH_TEST_DOCKER_HOST, unix://...)";
        format!("{name} is not set: {what} and has a small image (ORCH_TEST_IMAGE)").into()
    })
}

async fn measure() -> Result<(), Failure> {
    let (host, image) = (variable("ORCH_TEST_DOCKER_HOST")?, variable("ORCH_TEST_IMAGE")?);
    let path = host.strip_prefix("unix://").ok_or("ORCH_TEST_DOCKER_HOST does not begin with unix://")?;
    let docker = Docker::connect_with_unix(path, 60, API_DEFAULT_VERSION)?;
    let secrets = TempDir::new()?;
    let mut config = DockerConfig::new("benches", TaskId::generate().to_string());
    (config.host, config.secrets_dir) = (Some(host.clone()), secrets.path().join("secrets"));
    let runtime = DockerRuntime::connect(config).await?;

    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        // The order alternates from round to round.
        for turn in 0..2 {
            let is_ours = (round + turn) % 2 == 0;
            let begin = Instant::now();
            if is_ours {
                in_flight((0..CONTAINERS).map(|_| through_runtime(&runtime, &image))).await?;
            } else {
                in_flight((0..CONTAINERS).map(|_| straight(&docker, &image))).await?;
            }
            if round > 0 {
                if is_ours { &mut ours } else { &mut raw }.push(begin.elapsed());
            }
        }
    }
    let (ours, raw) = (rate(&mut ours), rate(&mut raw));
    say(&format!("docker/start_wait_remove/runtime   {ours:.2} containers/s (median of {ROUNDS} rounds)"));
    say(&format!("docker/start_wait_remove/bollard   {raw:.2} containers/s (median of {ROUNDS} rounds)"));
    say(&format!("docker/start_wait_remove/share     {:.1} %", 100.0 * ours / raw));
    Ok(())
}

async fn in_flight(
    all: impl Iterator<Item = impl Future<Output = Result<(), Failure>>>,
) -> Result<(), Failure> {
    stream::iter(all).buffer_unordered(IN_FLIGHT).try_collect().await
}

fn rate(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    let middle = (times[(times.len() - 1) / 2] + times[times.len() / 2]) / 2;
    CONTAINERS as f64 / middle.as_secs_f64()
}

async fn through_runtime(runtime: &DockerRuntime, image: &str) -> Result<(), Failure> {
    let attempt = AttemptId { task: TaskId::generate(), attempt: NonZeroU32::MIN };
    let mut spec = TaskSpec::image("job", image).command(["true"]);
    spec.isolation.network = NetworkMode::None;
    runtime.start(&Work { attempt, spec: spec.into(), secrets: BTreeMap::new() }).await?;
    let exit = runtime.wait(attempt).await?;
    runtime.remove(attempt).await?;
    match exit.is_success() {
        true => Ok(()),
        false => Err(format!("the container ended with {exit}").into()),
    }
}

/// The calls that change something, for a container with the same description.
async fn straight(docker: &Docker, image: &str) -> Result<(), Failure> {
    let name = format!("orch-bench-{}", TaskId::generate());
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let created = docker.create_container(Some(options), container(image)).await?;
    docker.start_container(&created.id, None::<StartContainerOptions>).await?;
    let options = WaitContainerOptionsBuilder::default().condition("not-running").build();
    let ended = docker.wait_container(&created.id, Some(options)).next().await;
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    docker.remove_container(&created.id, Some(options)).await?;
    match ended {
        Some(Ok(_)) => Ok(()),
        Some(Err(Error::DockerContainerWaitError { code, .. })) => {
            Err(format!("the container ended with exit code {code}").into())
        }
        Some(Err(error)) => Err(error.into()),
        None => Err("the engine closed the connection".into()),
    }
}

fn container(image: &str) -> ContainerCreateBody {
    let log = [("max-size", "2097152"), ("max-file", "2")];
    ContainerCreateBody {
        image: Some(image.into()),
        entrypoint: Some(vec!["true".into()]),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }),
        host_config: Some(HostConfig {
            network_mode: Some("none".into()),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".into()),
                config: Some(log.map(|(name, value)| (name.into(), value.into())).into()),
            }),
            security_opt: Some(vec!["no-new-privileges".into()]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

#[expect(clippy::print_stdout, reason = "the numbers are what it is for")]
fn say(text: &str) {
    println!("{text}");
}
