//! Health check that is built into an image.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{num::NonZeroU32, time::Duration};

use bollard::{
    models::{ContainerConfig, ContainerCreateBody, HealthConfig},
    query_parameters::{
        CommitContainerOptionsBuilder, CreateContainerOptions, InspectContainerOptions,
        RemoveContainerOptions, RemoveImageOptionsBuilder,
    },
};
use futures_util::StreamExt;
use orch_core::{
    model::{HealthCheck, TaskId, Workload},
    runtime::{RuntimeEvent, Work},
};

mod common;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Builds the tests' image with a check of its own that always fails. Returns its name.
async fn make_image() -> String {
    let docker = common::docker();
    let cmd = Some(vec!["true".into()]);
    let body = ContainerCreateBody { image: Some(common::image()), cmd, ..Default::default() };
    let container = docker.create_container(None::<CreateContainerOptions>, body).await.unwrap().id;
    let (repo, tag) = ("orch-test-health", TaskId::generate().to_string());
    let check = "HEALTHCHECK --interval=1s --start-period=1s --retries=1 CMD echo not well; exit 1";
    let options =
        CommitContainerOptionsBuilder::default().container(&container).repo(repo).tag(&tag).changes(check);
    docker.commit_container(options.build(), ContainerConfig::default()).await.unwrap();
    docker.remove_container(&container, None::<RemoveContainerOptions>).await.unwrap();
    format!("{repo}:{tag}")
}

async fn remove_image(image: &str) {
    let options = RemoveImageOptionsBuilder::default().force(true).build();
    common::docker().remove_image(image, Some(options), None).await.unwrap();
}

fn work(image: &str) -> Work {
    let mut spec = common::sh("exec sleep 1000");
    if let Workload::Image { image: name, .. } = &mut spec.workload {
        image.clone_into(name);
    }
    common::work(spec)
}

/// Health check that the engine runs for the container.
async fn check_of(handle: &str) -> HealthConfig {
    let answer = common::docker().inspect_container(handle, None::<InspectContainerOptions>).await.unwrap();
    answer.config.unwrap().healthcheck.unwrap()
}

#[tokio::test]
async fn the_verdict_of_an_image_s_own_check_is_told() {
    let image = make_image().await;
    let runtime = common::runtime(&common::config()).await;
    let work = work(&image);
    let mut events = runtime.events().await.unwrap();
    common::start(&*runtime, &work).await.unwrap();
    let verdict = async {
        while let Some(event) = events.next().await {
            if matches!(event, Ok(RuntimeEvent::Health { .. }) | Err(_)) {
                return event.unwrap();
            }
        }
        panic!("the events ended");
    };
    let verdict = tokio::time::timeout(PATIENCE, verdict).await.expect("there is no verdict");
    let output = "not well\n".into();
    assert_eq!(verdict, RuntimeEvent::Health { attempt: work.attempt, healthy: false, output });
    runtime.remove(work.attempt).await.unwrap();
    remove_image(&image).await;
}

#[tokio::test]
async fn the_spec_s_check_replaces_the_image_s_and_the_agent_may_switch_that_off() {
    let image = make_image().await;
    let mut config = common::config();
    config.image_health_checks = false;
    let runtime = common::runtime(&config).await;
    let without = work(&image);
    let handle = common::start(&*runtime, &without).await.unwrap().handle;
    assert_eq!(check_of(&handle).await.test.unwrap(), ["NONE"]);
    runtime.remove(without.attempt).await.unwrap();
    drop(runtime);

    config.image_health_checks = true;
    let runtime = common::runtime(&config).await;
    let mut own = work(&image);
    let mut spec = (*own.spec).clone();
    spec.health = Some(Box::new(HealthCheck {
        command: vec!["true".into()],
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        start_period: Duration::ZERO,
        retries: NonZeroU32::MIN,
    }));
    own.spec = spec.into();
    let handle = common::start(&*runtime, &own).await.unwrap().handle;
    let check = check_of(&handle).await;
    assert_eq!(check.test.unwrap(), ["CMD", "true"]);
    assert!(
        check.start_period.unwrap() <= 1_000_000,
        "the image's start period counts: {:?}",
        check.start_period
    );
    runtime.remove(own.attempt).await.unwrap();
    remove_image(&image).await;
}
