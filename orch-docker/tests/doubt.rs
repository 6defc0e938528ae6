//! A start whose outcome is unknown.

use std::{pin::pin, time::Duration};

use orch_core::{
    model::TaskSpec,
    runtime::{Runtime, RuntimeErrorKind, Work},
};
use orch_docker::DockerRuntime;

use crate::common::stand_in::{Answer, SILENCE, StandIn, created};

mod common;

/// Engine that has a container of `work`, and responds in this way to the request to start it.
fn engine(work: &Work, to_start: Answer) -> StandIn {
    let container = created(work);
    StandIn::start(move |method, path| match method {
        "POST" if path.contains("/start") => to_start.clone(),
        "DELETE" => Some((204, String::new())),
        "GET" if path.starts_with("/containers/") => Some((200, container.clone())),
        _ => Some((200, "{}".into())),
    })
}

async fn check_that_it_is_not_repeated(engine: &StandIn, runtime: &DockerRuntime, work: &Work) {
    let error = runtime.start(work).await.expect_err("it may have run");
    assert_eq!(error.kind, RuntimeErrorKind::NotFound, "{error}");
    assert!(error.message.contains("it may have run") && error.kind.is_retryable(), "{error}");
    let requests = engine.requests();
    let count = |word: &str| requests.iter().filter(|request| request.contains(word)).count();
    assert_eq!((count("/start"), count("DELETE")), (1, 1), "one start, and nothing is left: {requests:?}");
}

#[tokio::test]
async fn a_start_that_may_have_happened_is_not_repeated() {
    let work = common::work(TaskSpec::image("job", "image"));
    let engine = engine(&work, None);
    let runtime = engine.runtime().await;
    assert_eq!(runtime.start(&work).await.unwrap_err().kind, RuntimeErrorKind::Unavailable);
    check_that_it_is_not_repeated(&engine, &runtime, &work).await;

    // Once it is removed, no uncertain start is left.
    assert_eq!(runtime.start(&work).await.unwrap_err().kind, RuntimeErrorKind::Unavailable);
}

#[tokio::test]
async fn a_start_that_was_not_answered_in_time_is_not_repeated() {
    let work = common::work(TaskSpec::image("job", "image"));
    let engine = engine(&work, SILENCE);
    let mut config = engine.config();
    config.start_timeout = Duration::from_millis(200);
    let runtime = DockerRuntime::connect(config).await.unwrap();
    assert_eq!(runtime.start(&work).await.unwrap_err().kind, RuntimeErrorKind::Unavailable);
    check_that_it_is_not_repeated(&engine, &runtime, &work).await;
}

#[tokio::test]
async fn a_start_that_was_given_up_is_not_repeated() {
    let work = common::work(TaskSpec::image("job", "image"));
    let engine = engine(&work, SILENCE);
    let runtime = engine.runtime().await;
    {
        let mut start = pin!(runtime.start(&work));
        let mut ordered = Vec::new();
        while !ordered.iter().any(|request: &String| request.contains("/start")) {
            let turn = tokio::time::timeout(Duration::from_millis(1), &mut start).await;
            assert!(turn.is_err(), "it was answered: {turn:?}");
            ordered.extend(engine.requests());
        }
    }
    let error = runtime.start(&work).await.unwrap_err();
    assert_eq!(error.kind, RuntimeErrorKind::NotFound, "{error}");
    assert!(!engine.requests().iter().any(|request| request.contains("/start")));
}

#[tokio::test]
async fn a_start_that_was_refused_may_be_tried_again() {
    let work = common::work(TaskSpec::image("job", "image"));
    let engine = engine(&work, Some((500, r#"{"message":"port is already allocated"}"#.into())));
    let runtime = engine.runtime().await;
    for _ in 0..2 {
        assert_eq!(runtime.start(&work).await.unwrap_err().kind, RuntimeErrorKind::Internal);
    }
    let starts = engine.requests().iter().filter(|request| request.contains("/start")).count();
    assert_eq!(starts, 2);
}
