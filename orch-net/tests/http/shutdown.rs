//! A server that stops lets go of everybody.

use orch_net::http::{Client, EventStart};

use crate::bench::{ADMIN, Bench, client_config, hang, server_config, soon};

#[tokio::test]
async fn streams_and_long_polls_end_and_clients_go_on_with_the_next_server() {
    let bench = Bench::new().await;
    let address = bench.address;
    let client = Client::new(&client_config(address, ADMIN)).unwrap();
    let task = client.submit_one(hang("waits")).await.unwrap().view.record.id;
    let mut events = client.events(EventStart::Now).await.unwrap();
    let mut output = client.logs(task, true).await.unwrap();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.wait(task).await }
    });
    let orch = bench.orch.clone();
    bench.stop().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens any more");

    let mut config = server_config();
    config.address = address;
    let bench = Bench::serving(orch, config).await;
    bench.orch.cancel(task, "over").await.unwrap();
    assert_eq!(soon(waiting).await.unwrap().unwrap().status, "cancelled");
    assert_eq!(soon(output.next()).await, None);
    assert!(soon(events.next()).await.unwrap().is_ok());
}
