//! What the next life of an agent finds beyond the containers themselves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{num::NonZeroU32, time::Duration};

use futures_util::StreamExt;
use orch_core::{
    model::HealthCheck,
    runtime::{RuntimeEvent, RuntimeEvents},
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
    // An agent that was told before it knew of the attempt is told once more.
    next.start(&work).await.unwrap();
    assert_eq!(until_unhealthy(&mut events).await, expected);
    next.remove(work.attempt).await.unwrap();
}
