//! Changes of the node's clock while a container runs.

use std::time::Duration;

use bollard::query_parameters::InspectContainerOptions;
use orch_core::runtime::Runtime;

use crate::common::stand_in::{StandIn, container};

mod common;

#[tokio::test]
async fn a_start_is_told_by_the_clock_of_now() {
    let runtime = common::runtime(&common::config()).await;
    let work = common::work(common::sh("exec sleep 1000"));
    let started = common::start(&*runtime, &work).await.unwrap();
    let docker = common::docker();
    let answer = docker.inspect_container(&started.handle, None::<InspectContainerOptions>).await.unwrap();
    let pid = answer.state.unwrap().pid.unwrap();

    // State from an engine that recorded the start before the clock was set forward by some fifty years.
    let state = format!(r#"{{"Running":true,"Pid":{pid},"StartedAt":"1976-01-01T00:00:00Z"}}"#);
    let body = container(&work, &started.handle, &state);
    let engine = StandIn::start(move |_, _| Some((200, body.clone())));
    let adopted = engine.runtime().await.adopt(work.attempt).await.unwrap();
    let difference = adopted.at.since(started.at).max(started.at.since(adopted.at));
    assert!(difference < Duration::from_secs(60), "{adopted:?}, {started:?}");
    runtime.remove(work.attempt).await.unwrap();
}
