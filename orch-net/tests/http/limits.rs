//! Callers that take too much or too long.

use std::time::Duration;

use orch_core::model::TaskSpec;
use orch_net::http::{
    Limits, ServerConfig,
    testkit::{ADMIN, Answer, server_config, soon},
    wire::TaskPage,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::bench::{serving, serving_within};

const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn headers_that_dribble_end_the_connection() {
    let server = serving_within(Limits { header_timeout: SHORT, ..Limits::default() }).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: ").await.unwrap();
    let answer = Answer::read(&mut stream).await;
    assert!(matches!(answer.status, 0 | 408), "{answer:?}");
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = serving_within(Limits { header_timeout: SHORT, ..Limits::default() }).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await.unwrap();
    assert_eq!(Answer::read(&mut stream).await.status, 200);
}

#[tokio::test]
async fn headers_may_not_be_endless() {
    let server = serving_within(Limits { header_bytes_max: 8192, ..Limits::default() }).await;
    let answer = server.request("GET", "/healthz", &format!("x: {}\r\n", "y".repeat(10_000)), "").await;
    assert_eq!(answer.status, 431, "{answer:?}");
}

#[tokio::test]
async fn a_body_that_dribbles_is_not_waited_for() {
    let server = serving_within(Limits { body_timeout: SHORT, ..Limits::default() }).await;
    let answer = server
        .raw(format!(
            "POST /api/v1/tasks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\n\
             content-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
        ))
        .await;
    answer.problem(408, "body_timeout");
}

#[tokio::test]
async fn a_body_may_not_be_endless() {
    let server = serving_within(Limits { body_bytes_max: 1000, ..Limits::default() }).await;
    let answer = server.admin("POST", "/api/v1/tasks", &"x".repeat(1001)).await;
    assert!(answer.problem(413, "body_too_large").contains("1000"));
    // What a worker sends may be larger, because output that is not text takes four characters a byte.
    let answer = server.admin("POST", "/api/v1/agent/a/heartbeat", &"x".repeat(1001)).await;
    answer.problem(400, "malformed_request");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused_until_one_ends() {
    let server = serving_within(Limits { connections_max: 1, ..Limits::default() }).await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    first.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut some = [0; 12];
    soon(first.read_exact(&mut some)).await.unwrap();
    assert_eq!(&some, b"HTTP/1.1 200");
    let mut second = TcpStream::connect(server.address).await.unwrap();
    Answer::read(&mut second).await.problem(503, "too_many_connections");
    drop(first);
    soon(async {
        while server.request("GET", "/healthz", "", "").await.status != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn limits_that_contradict_each_other_are_refused() {
    let orch = orch_core::Orchestrator::builder().build().await.unwrap();
    let limits = Limits { body_timeout: Duration::from_secs(60), ..Limits::default() };
    let config = ServerConfig { limits, ..server_config() };
    let error = orch_net::http::Server::bind(config, orch).await.unwrap_err().to_string();
    assert!(error.contains("body_timeout must not be longer"), "{error}");
}

#[tokio::test]
async fn a_page_of_large_tasks_ends_early_and_the_next_one_goes_on() {
    const TASKS: usize = 40;
    let server = serving().await;
    let spec = |number| TaskSpec::program(format!("t{number}"), "true").env("LARGE", "x".repeat(200_000));
    let submitted = server.orchestrator.submit_all((0..TASKS).map(spec)).await.unwrap();
    let (mut found, mut pages) = (Vec::new(), 0);
    let mut after = String::new();
    loop {
        let answer = server.admin("GET", &format!("/api/v1/tasks?order=oldest{after}"), "").await;
        assert!(answer.body.len() < 5 << 20, "{} bytes", answer.body.len());
        let page: TaskPage = serde_json::from_str(&answer.body).unwrap();
        found.extend(page.tasks.iter().map(|task| task.view.record.id));
        pages += 1;
        let Some(next) = page.next else { break };
        after = format!("&after={next}");
    }
    assert_eq!((found, pages), (submitted, 2));
}
