//! Containers that were lost with the machine.

use orch_core::{
    model::{Exit, TaskSpec},
    runtime::{FoundState, Progress, Runtime, RuntimeErrorKind, Work},
};

use crate::common::stand_in::{Answer, StandIn, container_with, refusal};

mod common;

/// Engine with one container that has ended with this code, and was created in the boot of this id.
fn engine_with(work: &Work, boot: &str, code: i32) -> StandIn {
    let state = format!(
        r#"{{"Status":"exited","Running":false,"ExitCode":{code},"StartedAt":"2026-01-01T00:00:00Z"}}"#
    );
    let body = container_with(work, "it", &state, &format!(r#","orch.boot":"{boot}""#));
    let summary = format!(r#"[{{"Labels":{}}}]"#, common::stand_in::labels(work, ""));
    StandIn::start(move |method, path| -> Answer {
        match method {
            "GET" if path.starts_with("/containers/json") => Some((200, summary.clone())),
            "GET" if path.starts_with("/containers/") => Some((200, body.clone())),
            "GET" => Some((200, "{}".into())),
            _ => refusal(500, "nothing may be changed"),
        }
    })
}

#[tokio::test]
async fn an_exit_that_the_engine_made_up_after_a_reboot_is_a_loss() {
    let work = common::work(TaskSpec::image("job", "image"));
    let engine = engine_with(&work, "another", 255);
    let runtime = engine.runtime().await;
    assert_eq!(runtime.list().await.unwrap()[0].state, FoundState::Lost);
    let second = std::time::Duration::from_secs(1);
    for error in [
        runtime.adopt(work.attempt).await.unwrap_err(),
        runtime.start(&work).await.unwrap_err(),
        runtime.wait(work.attempt).await.unwrap_err(),
        runtime.stop(work.attempt, second).await.unwrap_err(),
        runtime.kill(work.attempt).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, RuntimeErrorKind::NotFound, "{error}");
        assert!(error.message.contains("the machine went down under it"), "{error}");
    }
    runtime.prepare(&work, &Progress::none()).await.unwrap();
    let changed = engine.requests().into_iter().find(|request| !request.starts_with("GET"));
    assert_eq!(changed, None);
}

#[tokio::test]
async fn every_other_exit_is_the_program_s() {
    let here = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for (boot, code) in [(here.trim(), 255), ("another", 0), ("another", 3)] {
        let work = common::work(TaskSpec::image("job", "image"));
        let engine = engine_with(&work, boot, code);
        let runtime = engine.runtime().await;
        assert_eq!(runtime.wait(work.attempt).await.unwrap(), Exit::from_code(code));
        assert_eq!(runtime.list().await.unwrap()[0].state, FoundState::Ended(Exit::from_code(code)));
    }
}

#[tokio::test]
async fn what_runs_is_adopted_whatever_the_engine_says_of_its_start() {
    let work = common::work(TaskSpec::image("job", "image"));
    let body = container_with(&work, "it", r#"{"Status":"running","Running":true,"StartedAt":"?"}"#, "");
    let engine = StandIn::start(move |_, _| Some((200, body.clone())));
    let before = orch_core::model::Timestamp::now();
    let started = engine.runtime().await.adopt(work.attempt).await.unwrap();
    assert!(started.at >= before, "its run limit would be over at once: {started:?}");
}

#[tokio::test]
async fn what_has_run_is_not_started_again_whatever_the_engine_says_of_its_start() {
    let work = common::work(TaskSpec::image("job", "image"));
    let state = r#"{"Status":"exited","Running":false,"ExitCode":3,"StartedAt":"1969-12-31T23:59:59Z"}"#;
    let body = container_with(&work, "it", state, "");
    let engine = StandIn::start(move |_, _| Some((200, body.clone())));
    let runtime = engine.runtime().await;
    runtime.start(&work).await.unwrap();
    assert!(!engine.requests().iter().any(|request| request.contains("/start")));
    assert_eq!(runtime.wait(work.attempt).await.unwrap().code, 3);
}
