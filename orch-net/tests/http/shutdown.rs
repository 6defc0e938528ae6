//! A server that stops lets go of everybody.

use std::time::Duration;

use orch_net::http::{
    Client, EventStart, Limits,
    testkit::{ADMIN, TestServer, client_config, server_config, soon},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::bench::{hang, serving, serving_within};

#[tokio::test]
async fn streams_and_long_polls_end_and_clients_go_on_with_the_next_server() {
    let server = serving().await;
    let address = server.address;
    let client = Client::new(&client_config(address, ADMIN)).unwrap();
    let task = client.submit_one(hang("waits")).await.unwrap().view.record.id;
    let mut events = client.events(EventStart::Now).await.unwrap();
    let mut output = client.logs(task, true).await.unwrap();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.wait(task).await }
    });
    let orch = server.orchestrator.clone();
    server.stop().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens any more");

    let mut config = server_config();
    config.address = address;
    let server = TestServer::start(orch, config).await;
    server.orchestrator.cancel(task, "over").await.unwrap();
    assert_eq!(soon(waiting).await.unwrap().unwrap().status, orch_core::state::TaskStatus::Cancelled);
    assert_eq!(soon(output.next()).await, None);
    assert!(soon(events.next()).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_request_that_never_ends_holds_a_shutdown_up_for_its_grace_only() {
    let limits = Limits { shutdown_grace: Duration::from_millis(50), ..Limits::default() };
    let server = serving_within(limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /api/v1/tasks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\n\
         content-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 100\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 12];
    soon(stream.read_exact(&mut interim)).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100", "the body is being read");
    server.stop().await;
}
