//! State that the next incarnation of an agent finds beyond the containers themselves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{num::NonZeroU32, time::Duration};

use bollard::query_parameters::{KillContainerOptionsBuilder, LogsOptionsBuilder};
use futures_util::StreamExt;
use orch_core::{
    model::HealthCheck,
    runtime::{LogChunk, Logs, RuntimeEvent, RuntimeEvents},
};

mod common;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

async fn until_unhealthy(events: &mut RuntimeEvents) -> RuntimeEvent {
    let verdict = async {
        loop {
            let event = events.next().await.unwrap().unwrap();
            if matches!(event, RuntimeEvent::Health { healthy: false, .. }) {
                return event;
            }
        }
    };
    tokio::time::timeout(PATIENCE, verdict).await.expect("nobody says that it is unhealthy")
}

#[tokio::test]
async fn a_container_that_is_unhealthy_already_is_told() {
    let config = common::config();
    let mut spec = common::sh("exec sleep 1000");
    let second = Duration::from_secs(1);
    spec.health = Some(Box::new(HealthCheck {
        command: ["sh", "-c", "echo not well; exit 1"].map(Into::into).into(),
        interval: second,
        timeout: 10 * second,
        start_period: Duration::ZERO,
        retries: NonZeroU32::MIN,
    }));
    let work = common::work(spec);
    let first = common::runtime(&config).await;
    let mut events = first.events().await.unwrap();
    common::start(&*first, &work).await.unwrap();
    until_unhealthy(&mut events).await;
    drop((events, first));

    let next = common::runtime(&config).await;
    let mut events = next.events().await.unwrap();
    let expected =
        RuntimeEvent::Health { attempt: work.attempt, healthy: false, output: "not well\n".into() };
    assert_eq!(until_unhealthy(&mut events).await, expected);
    // An agent that got the event before it knew of the attempt gets it once more.
    next.start(&work).await.unwrap();
    assert_eq!(until_unhealthy(&mut events).await, expected);
    next.remove(work.attempt).await.unwrap();
}

/// The next line, which is a number, with its offset.
async fn line(logs: &mut Logs) -> (u64, u64) {
    let next = tokio::time::timeout(PATIENCE, logs.next()).await.expect("no more output comes");
    let LogChunk { offset, data, .. } = next.unwrap().unwrap();
    (std::str::from_utf8(&data).unwrap().trim().parse().unwrap(), offset)
}

/// Waits until this is the newest line of the container. Engines skip lines for readers that they rotate
/// under, so it is not followed, and nobody else should read before.
async fn until_written(handle: &str, line: &str) {
    let docker = common::docker();
    let newest = async || {
        let options = LogsOptionsBuilder::default().stdout(true).tail("1").build();
        docker.logs(handle, Some(options)).next().await.map(|line| line.unwrap().to_string())
    };
    let written = async { while newest().await.as_deref() != Some(line) {} };
    tokio::time::timeout(PATIENCE, written).await.expect("it is never written");
}

#[tokio::test]
async fn offsets_go_on_after_the_engine_has_rotated_output_away() {
    const FIRST: u64 = 10_000;
    const OFFSET: fn(u64) -> u64 = |number| (number - FIRST) * 6;
    let config = common::config();
    let script = "trap 'seq 30000 39999' USR1; seq 10000 29999; while :; do sleep 0.05; done";
    let mut spec = common::sh(script);
    spec.output_limit_bytes = 1; // the engine's files are as small as they get: two of some 14,000 numbers
    let work = common::work(spec);
    let first = common::runtime(&config).await;
    let handle = common::start(&*first, &work).await.unwrap().handle;
    until_written(&handle, "29999\n").await;
    let mut logs = first.logs(work.attempt, true).await.unwrap();
    for expected in FIRST..30_000 {
        assert_eq!(line(&mut logs).await, (expected, OFFSET(expected)));
    }
    drop((logs, first));
    let signal = KillContainerOptionsBuilder::default().signal("USR1").build();
    common::docker().kill_container(&handle, Some(signal)).await.unwrap();
    until_written(&handle, "39999\n").await;

    let next = common::runtime(&config).await;
    let mut logs = next.logs(work.attempt, true).await.unwrap();
    let (oldest, offset) = line(&mut logs).await;
    assert!(oldest > FIRST, "nothing was rotated away");
    assert_eq!(offset, OFFSET(oldest));
    for expected in oldest + 1..40_000 {
        assert_eq!(line(&mut logs).await, (expected, OFFSET(expected)));
    }
    next.remove(work.attempt).await.unwrap();
    let left = config.state_dir.join(format!("orch-{}-1.json", work.attempt.task));
    assert!(!left.exists(), "{} is left behind", left.display());
}
