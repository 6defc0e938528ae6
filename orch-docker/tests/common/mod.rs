//! Shared parts of the tests against a real engine: its address, and runtimes on it.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc};

use bollard::{API_DEFAULT_VERSION, Docker};
use orch_core::{
    model::{AttemptId, NetworkMode, TaskId, TaskSpec},
    runtime::{Progress, Runtime, RuntimeError, Started, Work},
};
use orch_docker::{DockerConfig, DockerRuntime};

pub(crate) mod stand_in;

/// A variable that `cargo xtask test` sets. These tests never skip themselves.
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run these tests by `cargo xtask test`, which starts what they need")
    })
}

pub(crate) fn image() -> String {
    variable("ORCH_TEST_IMAGE")
}

/// Configuration whose containers are its own, whatever else runs on the engine.
pub(crate) fn config() -> DockerConfig {
    config_at(variable("ORCH_TEST_DOCKER_HOST"))
}

pub(crate) fn config_at(host: String) -> DockerConfig {
    let mut config = DockerConfig::new("tests", TaskId::generate().to_string());
    config.host = Some(host);
    let scratch = std::path::PathBuf::from(variable("ORCH_TEST_SCRATCH"));
    (config.secrets_dir, config.state_dir) = (scratch.join("secrets"), scratch.join("state"));
    config
}

pub(crate) async fn runtime(config: &DockerConfig) -> Arc<dyn Runtime> {
    Arc::new(DockerRuntime::connect(config.clone()).await.expect("the engine answers"))
}

/// Client of the engine that bypasses the runtime.
pub(crate) fn docker() -> Docker {
    docker_at(&variable("ORCH_TEST_DOCKER_HOST"))
}

pub(crate) fn docker_at(host: &str) -> Docker {
    let path = host.strip_prefix("unix://").expect("the tests' engine is at a socket");
    Docker::connect_with_unix(path, 60, API_DEFAULT_VERSION).expect("a socket")
}

/// Task with a shell and without a network, which starts fastest.
pub(crate) fn sh(script: &str) -> TaskSpec {
    let mut spec = TaskSpec::image("job", image()).command(["sh", "-c", script]);
    spec.isolation.network = NetworkMode::None;
    spec
}

pub(crate) fn work(spec: TaskSpec) -> Work {
    let attempt = AttemptId { task: TaskId::generate(), attempt: NonZeroU32::MIN };
    Work { attempt, spec: spec.into(), secrets: BTreeMap::new() }
}

pub(crate) async fn start(runtime: &dyn Runtime, work: &Work) -> Result<Started, RuntimeError> {
    runtime.prepare(work, &Progress::none()).await?;
    runtime.start(work).await
}
