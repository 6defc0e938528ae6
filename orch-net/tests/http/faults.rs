//! Odd numbers and faults of the server itself have answers, too.

use std::sync::Arc;

use async_trait::async_trait;
use orch_core::{
    Orchestrator,
    model::TaskId,
    output::{MemoryOutput, OutputError, OutputPage, OutputPosition, OutputStore},
    testkit::{Layered, OutputLayer},
};
use orch_net::http::{
    Client, EventStart,
    testkit::{ADMIN, TestServer, client_config, engine_config, server_config, soon},
};

use crate::bench::{hang, serving};

const MOST: u64 = u64::MAX;

#[tokio::test]
async fn the_largest_numbers_are_answered() {
    let server = serving().await;
    let task = server.client().submit_one(hang("one")).await.unwrap().view.record.id;
    for (query, count) in
        [("", 0), ("&order=newest", 1), ("&status=pending", 0), ("&id_prefix=a&order=oldest", 0)]
    {
        let answer = server.admin("GET", &format!("/api/v1/tasks?after={MOST}{query}"), "").await;
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        assert_eq!(answer.json()["tasks"].as_array().unwrap().len(), count, "{query}");
    }
    server
        .admin("GET", "/api/v1/tasks?limit=18446744073709551615", "")
        .await
        .problem(400, "malformed_request");
    for logs in [format!("since={MOST}"), format!("attempt={}", u32::MAX), format!("tail=1&since={MOST}")] {
        let answer = server.admin("GET", &format!("/api/v1/tasks/{task}/logs?{logs}"), "").await;
        assert_eq!(answer.status, 200, "{logs}: {answer:?}");
    }
    server.admin("GET", &format!("/api/v1/events?from={MOST}"), "").await.problem(410, "events_compacted");
    server.client().cancel(task, "").await.unwrap();
    let waited = server.admin("GET", &format!("/api/v1/tasks/{task}/wait?timeout_ms={MOST}"), "").await;
    assert_eq!(waited.status, 200, "{waited:?}");
}

#[tokio::test]
async fn a_position_of_events_that_have_not_happened_is_refused() {
    let server = serving().await;
    let client = server.client();
    let mut events = client.events(EventStart::Now).await.unwrap();
    client.submit_one(hang("one")).await.unwrap();
    let position = soon(events.next()).await.unwrap().unwrap().position;
    let (before, epoch) = position.rsplit_once('.').unwrap();
    let revision = before.split('.').next().unwrap();
    let later = format!("{revision}.{MOST}.{epoch}");
    let refused = client.events(EventStart::Position(later)).await.unwrap_err();
    assert_eq!(refused.code(), Some("events_compacted"), "{refused}");
}

#[tokio::test]
async fn a_request_that_panics_is_answered_and_its_words_are_not_shown() {
    let output = Arc::new(Layered(Panicking(MemoryOutput::new(1 << 20))));
    let orch = Orchestrator::builder().output(output).engine(engine_config()).build().await.unwrap();
    let server = TestServer::start(orch, server_config()).await;
    let client = Client::new(&client_config(server.address, ADMIN)).unwrap();
    let task = client.submit_one(hang("one")).await.unwrap().view.record.id;
    let answer = server.admin("GET", &format!("/api/v1/tasks/{task}/logs?since=1"), "").await;
    answer.problem(500, "internal");
    assert!(!answer.body.contains("of the store"), "{answer:?}");
    let metrics = server.request("GET", "/metrics", "", "").await.body;
    let line = "orch_http_requests_total{method=\"GET\",route=\"/api/v1/tasks/{id}/logs\",status=\"500\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

/// Place of output that cannot be read without a panic.
#[derive(Debug)]
struct Panicking(MemoryOutput);

#[async_trait]
impl OutputLayer for Panicking {
    fn below(&self) -> &dyn OutputStore {
        &self.0
    }

    async fn read(&self, _: TaskId, _: Option<OutputPosition>) -> Result<OutputPage, OutputError> {
        panic!("a secret of the store");
    }
}
