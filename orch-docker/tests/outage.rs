//! Engine that stops while work runs, hangs, and comes back. It is the test's own, at a socket of its own.

use std::{path::PathBuf, time::Duration};

use futures_util::{StreamExt, TryStreamExt};
use orch_core::{
    model::TaskSpec,
    runtime::{FoundState, Progress, RuntimeErrorKind},
};

use orch_docker::testkit::{Containers, OwnEngine};

mod common;

/// Engine whose containers outlive it, with the tests' image.
fn start_engine() -> OwnEngine {
    let engine = OwnEngine::start(&scratch(), Containers::Outlive);
    engine.load_image(&common::variable("ORCH_TEST_DOCKER_HOST"), &common::image());
    engine
}

fn scratch() -> PathBuf {
    common::variable("ORCH_TEST_SCRATCH").into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_survives_an_engine_that_crashes_and_comes_back() {
    let mut engine = start_engine();
    let runtime = common::runtime(&common::config_at(engine.host())).await;
    let work = common::work(common::sh("trap 'exit 4' TERM; echo ready; while :; do sleep 0.05; done"));
    common::start(&*runtime, &work).await.unwrap();
    let mut logs = runtime.logs(work.attempt, true).await.unwrap();
    assert_eq!(logs.next().await.unwrap().unwrap().data, "ready\n");
    let mut events = runtime.events().await.unwrap();

    // Every waiting call fails, and none reports that the work has ended.
    let (waited, event, log, ()) =
        tokio::join!(runtime.wait(work.attempt), events.next(), logs.next(), async { engine.crash() });
    assert_eq!(waited.unwrap_err().kind, RuntimeErrorKind::Unavailable);
    assert_eq!(event.unwrap().unwrap_err().kind, RuntimeErrorKind::Unavailable);
    assert!(events.next().await.is_none());
    assert!(log.is_none_or(|log| log.is_err()));
    for kind in [
        runtime.wait(work.attempt).await.unwrap_err().kind,
        runtime.list().await.unwrap_err().kind,
        runtime.start(&work).await.unwrap_err().kind,
        runtime.remove(work.attempt).await.unwrap_err().kind,
        runtime.stop(work.attempt, Duration::ZERO).await.unwrap_err().kind,
    ] {
        assert_eq!(kind, RuntimeErrorKind::Unavailable);
    }

    // The same runtime continues when the engine is back, and the work was never interrupted.
    engine.restart();
    assert_eq!(runtime.list().await.unwrap()[0].state, FoundState::Running);
    let (exit, stopped) =
        tokio::join!(runtime.wait(work.attempt), runtime.stop(work.attempt, Duration::from_secs(30)));
    stopped.unwrap();
    assert_eq!(exit.unwrap().code, 4);
    runtime.remove(work.attempt).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_restarted_in_good_order_loses_nothing() {
    for containers in [Containers::Outlive, Containers::EndWithIt] {
        let mut engine = OwnEngine::start(&scratch(), containers);
        engine.load_image(&common::variable("ORCH_TEST_DOCKER_HOST"), &common::image());
        let runtime = common::runtime(&common::config_at(engine.host())).await;
        let work = common::work(common::sh(
            "trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.05; done",
        ));
        common::start(&*runtime, &work).await.unwrap();
        let mut logs = runtime.logs(work.attempt, true).await.unwrap();
        assert_eq!(logs.next().await.unwrap().unwrap().data, "ready\n");
        let rest = async { logs.collect::<Vec<_>>().await };
        let (waited, rest, ()) = tokio::join!(runtime.wait(work.attempt), rest, async { engine.shut_down() });
        // Its end may be reported in time, or not; that it does not exist, never.
        match waited {
            Ok(exit) => assert_eq!((exit.code, containers), (4, Containers::EndWithIt)),
            Err(error) => assert_eq!(error.kind, RuntimeErrorKind::Unavailable, "{error}"),
        }
        for error in rest.into_iter().filter_map(Result::err) {
            assert_eq!(error.kind, RuntimeErrorKind::Unavailable, "{error}");
        }

        engine.restart();
        if containers == Containers::Outlive {
            runtime.stop(work.attempt, Duration::from_secs(30)).await.unwrap();
        }
        assert_eq!(runtime.wait(work.attempt).await.unwrap().code, 4);
        let chunks: Vec<_> = runtime.logs(work.attempt, true).await.unwrap().try_collect().await.unwrap();
        let text: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.data).collect();
        assert_eq!(String::from_utf8_lossy(&text), "ready\nbye\n");
        runtime.remove(work.attempt).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_hangs_is_noticed() {
    let engine = start_engine();
    let mut config = common::config_at(engine.host());
    config.request_timeout = Duration::from_millis(500);
    config.probe_interval = Duration::from_millis(200);
    let runtime = common::runtime(&config).await;
    let work = common::work(common::sh("echo ready; exec sleep 1000"));
    common::start(&*runtime, &work).await.unwrap();
    let mut logs = runtime.logs(work.attempt, true).await.unwrap();
    logs.next().await.unwrap().unwrap();

    let waiting = tokio::spawn({
        let (runtime, attempt) = (std::sync::Arc::clone(&runtime), work.attempt);
        async move { runtime.wait(attempt).await }
    });
    engine.signal("STOP");
    assert_eq!(waiting.await.unwrap().unwrap_err().kind, RuntimeErrorKind::Unavailable);
    assert_eq!(logs.next().await.unwrap().unwrap_err().kind, RuntimeErrorKind::Unavailable);
    assert_eq!(runtime.list().await.unwrap_err().kind, RuntimeErrorKind::Unavailable);

    engine.signal("CONT");
    runtime.kill(work.attempt).await.unwrap();
    assert_eq!(runtime.wait(work.attempt).await.unwrap().code, 137);
    runtime.remove(work.attempt).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told() {
    let engine = OwnEngine::start_on_a_small_disk(&scratch());
    let runtime = common::runtime(&common::config_at(engine.host())).await;
    let reference = format!("{}/{}", common::variable("ORCH_TEST_REGISTRY"), common::image());
    let work = common::work(TaskSpec::image("job", reference));
    engine.fill_disk();
    let error = runtime.prepare(&work, &Progress::none()).await.unwrap_err();
    assert_eq!(error.kind, RuntimeErrorKind::NoSpace, "{error}");
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_unavailable() {
    let host = "unix:///no/such/socket".to_string();
    let error = orch_docker::DockerRuntime::connect(common::config_at(host)).await.unwrap_err();
    assert_eq!(error.kind, RuntimeErrorKind::Unavailable);
    assert!(error.message.contains("/no/such/socket"), "{error}");
}
