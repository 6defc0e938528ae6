//! Images and containers that somebody else removes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use bollard::query_parameters::{
    PushImageOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder,
    RestartContainerOptions, TagImageOptionsBuilder,
};
use futures_util::{StreamExt, TryStreamExt};
use orch_core::{
    model::{PullPolicy, TaskId, TaskSpec, Workload},
    runtime::{Progress, Runtime, RuntimeErrorKind, Work},
};

use crate::common::stand_in::{StandIn, container, refusal};

mod common;

/// Separate name for the tests' image.
async fn tag() -> (String, String) {
    let (repo, tag) =
        (format!("{}/vanished", common::variable("ORCH_TEST_REGISTRY")), TaskId::generate().to_string());
    let options = TagImageOptionsBuilder::default().repo(&repo).tag(&tag).build();
    common::docker().tag_image(&common::image(), Some(options)).await.unwrap();
    (repo, tag)
}

async fn untag(image: &str) {
    let options = RemoveImageOptionsBuilder::default().build();
    common::docker().remove_image(image, Some(options), None).await.unwrap();
}

fn work(image: &str, policy: PullPolicy) -> Work {
    let mut spec = common::sh("exit 3");
    if let Workload::Image { image: name, pull, .. } = &mut spec.workload {
        image.clone_into(name);
        *pull = policy;
    }
    common::work(spec)
}

#[tokio::test]
async fn an_image_that_vanishes_before_the_start_is_pulled_again() {
    let (repo, tag) = tag().await;
    let options = PushImageOptionsBuilder::default().tag(&tag).build();
    let login = bollard::auth::DockerCredentials::default();
    let pushed: Vec<_> =
        common::docker().push_image(&repo, Some(options), Some(login)).try_collect().await.unwrap();
    assert!(!pushed.is_empty());
    let image = format!("{repo}:{tag}");
    let work = work(&image, PullPolicy::IfMissing);
    let runtime = common::runtime(&common::config()).await;
    runtime.prepare(&work, &Progress::none()).await.unwrap();
    untag(&image).await;
    runtime.start(&work).await.unwrap();
    assert_eq!(runtime.wait(work.attempt).await.unwrap().code, 3);
    runtime.remove(work.attempt).await.unwrap();
    untag(&image).await;
}

#[tokio::test]
async fn an_image_that_vanishes_and_may_not_be_pulled_is_told() {
    let (repo, tag) = tag().await;
    let image = format!("{repo}:{tag}");
    let work = work(&image, PullPolicy::Never);
    let runtime = common::runtime(&common::config()).await;
    runtime.prepare(&work, &Progress::none()).await.unwrap();
    untag(&image).await;
    let error = runtime.start(&work).await.unwrap_err();
    assert_eq!(error.kind, RuntimeErrorKind::ImageNotFound, "{error}");
    assert!(error.message.contains("pull policy is never"), "{error}");
    assert_eq!(runtime.list().await.unwrap(), []);
}

#[tokio::test]
async fn an_image_that_keeps_vanishing_does_not_make_the_task_fail_for_good() {
    let engine = StandIn::start(|method, path| match method {
        "POST" if path.starts_with("/containers/create") => refusal(404, "No such image: image:latest"),
        "GET" if path.starts_with("/containers/") => refusal(404, "No such container: it"),
        _ => Some((200, "{}".into())),
    });
    let work = common::work(TaskSpec::image("job", "image"));
    let error = engine.runtime().await.start(&work).await.unwrap_err();
    assert_eq!(error.kind, RuntimeErrorKind::Internal, "{error}");
    assert!(
        error.kind.is_retryable() && error.message.contains("is removed as soon as it is there"),
        "{error}"
    );
    let creations = engine.requests().iter().filter(|request| request.contains("/containers/create")).count();
    assert_eq!(creations, 2);
}

async fn remove_by_hand(handle: &str) {
    let force = RemoveContainerOptionsBuilder::default().force(true).build();
    common::docker().remove_container(handle, Some(force)).await.unwrap();
}

#[tokio::test]
async fn a_container_that_is_removed_by_hand_is_told_from_one_that_we_remove() {
    let runtime = common::runtime(&common::config()).await;
    let work = common::work(common::sh("exec sleep 1000"));
    let handle = common::start(&*runtime, &work).await.unwrap().handle;
    let (waited, ()) = tokio::join!(runtime.wait(work.attempt), remove_by_hand(&handle));
    let error = waited.unwrap_err();
    assert_eq!(error.kind, RuntimeErrorKind::NotFound, "{error}");
    assert!(error.message.contains("the container was removed from outside"), "{error}");
    runtime.remove(work.attempt).await.unwrap();
    assert!(!runtime.wait(work.attempt).await.unwrap_err().message.contains("outside"));

    let work = common::work(common::sh("exec sleep 1000"));
    common::start(&*runtime, &work).await.unwrap();
    let (waited, removed) = tokio::join!(runtime.wait(work.attempt), runtime.remove(work.attempt));
    removed.unwrap();
    let error = waited.unwrap_err();
    assert_eq!(error.kind, RuntimeErrorKind::NotFound, "{error}");
    assert!(!error.message.contains("outside"), "{error}");
}

#[tokio::test]
async fn the_output_of_a_container_that_is_removed_by_hand_does_not_end_well() {
    let runtime = common::runtime(&common::config()).await;
    let work = common::work(common::sh("echo ready; exec sleep 1000"));
    let handle = common::start(&*runtime, &work).await.unwrap().handle;
    let mut logs = runtime.logs(work.attempt, true).await.unwrap();
    logs.next().await.unwrap().unwrap();
    remove_by_hand(&handle).await;
    assert_eq!(logs.next().await.unwrap().unwrap_err().kind, RuntimeErrorKind::NotFound);
    assert!(logs.next().await.is_none());
}

#[tokio::test]
async fn a_container_that_is_restarted_by_hand_has_not_ended() {
    let runtime = common::runtime(&common::config()).await;
    let work = common::work(common::sh("trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done"));
    let handle = common::start(&*runtime, &work).await.unwrap().handle;
    let restarted = async {
        common::docker().restart_container(&handle, None::<RestartContainerOptions>).await.unwrap();
        runtime.kill(work.attempt).await
    };
    let (waited, killed) = tokio::join!(runtime.wait(work.attempt), restarted);
    killed.unwrap();
    assert_eq!(waited.unwrap().code, 137);
    runtime.remove(work.attempt).await.unwrap();
}

#[tokio::test]
async fn a_404_of_a_server_that_is_no_engine_does_not_mean_that_the_attempt_is_gone() {
    let engine = StandIn::start(|_, path| match path {
        "/_ping" => Some((200, "OK".into())),
        _ => refusal(404, "page not found"),
    });
    let runtime = engine.runtime().await;
    let work = common::work(TaskSpec::image("job", "image"));
    assert_ne!(runtime.wait(work.attempt).await.unwrap_err().kind, RuntimeErrorKind::NotFound);
    assert!(runtime.remove(work.attempt).await.is_err());
}

#[tokio::test]
async fn a_container_that_ends_while_its_use_is_read_uses_nothing() {
    let work = common::work(TaskSpec::image("job", "image"));
    let state = r#"{"Status":"running","Running":true,"StartedAt":"2026-01-01T00:00:00Z"}"#;
    let body = container(&work, "it", state);
    let engine = StandIn::start(move |_, path| match path.contains("/stats") {
        true => Some((200, r#"{"read":"0001-01-01T00:00:00Z"}"#.into())),
        false => Some((200, body.clone())),
    });
    let error = engine.runtime().await.stats(work.attempt).await.unwrap_err();
    assert_eq!(error.kind, RuntimeErrorKind::NotFound, "{error}");
}
