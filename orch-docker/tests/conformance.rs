//! Conformance suite of runtimes, on a real engine.

use std::sync::Arc;

use async_trait::async_trait;
use orch_core::{
    model::TaskSpec,
    runtime::Runtime,
    testkit::runtime::{RuntimeHarness, run_all},
};
use orch_docker::DockerConfig;

mod common;

struct Engine(DockerConfig);

#[async_trait]
impl RuntimeHarness for Engine {
    async fn runtime(&self) -> Arc<dyn Runtime> {
        common::runtime(&self.0).await
    }

    fn sh(&self, script: &str) -> TaskSpec {
        common::sh(script)
    }

    fn secret_path(&self) -> String {
        "/run/secrets/token".into()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_is_a_runtime() {
    run_all(&Engine(common::config())).await;
}
