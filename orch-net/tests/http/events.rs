//! Events are followed through broken connections without a gap and without a repetition.

use orch_core::{
    Orchestrator,
    engine::{EngineConfig, Event, EventKind},
    model::{Exit, NodeId},
    state::TaskStatus,
    store::Revision,
    testkit::SimulatedRuntime,
};
use orch_net::http::{
    Client, ClientError, EventStart, EventSubscription,
    testkit::{ADMIN, TestServer, client_config, engine_config, server_config, soon},
};

use crate::bench::{Proxy, attempt, hang, running, serving, worker};

async fn next(events: &mut EventSubscription) -> Event {
    soon(events.next()).await.unwrap().unwrap().event
}

#[tokio::test]
async fn every_event_comes_once_however_often_the_connection_breaks() {
    let (server, runtime) = (serving().await, SimulatedRuntime::new());
    let _worker = worker(&server, &runtime).await;
    let proxy = Proxy::to(server.address).await;
    let client = Client::new(&client_config(proxy.address, ADMIN)).unwrap();
    let mut here = server.orchestrator.events();
    let mut there = client.events(EventStart::Now).await.unwrap();
    proxy.cut(); // Not even what happens before the first event was read is lost.
    let mut revisions = Vec::new();
    for round in 0..4 {
        // Three tasks in one submission: several events of one revision, then observations of the same
        // revision.
        let specs = (0..3).map(|n| hang(&format!("t{round}-{n}")));
        let tasks = server.orchestrator.submit_all(specs).await.unwrap();
        for task in &tasks {
            running(&server.orchestrator, *task).await;
        }
        for task in tasks {
            runtime.finish(attempt(task, 1), Exit::from_code(0));
            soon(server.orchestrator.wait(task)).await.unwrap();
        }
        // Three placed, three observed, three finished.
        for _ in 0..9 {
            let expected = soon(here.next()).await.unwrap().unwrap();
            revisions.push(expected.revision);
            assert_eq!(next(&mut there).await, expected);
            proxy.cut();
        }
    }
    let shared = revisions.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!(shared >= 8, "revisions were shared: {revisions:?}");
}

#[tokio::test]
async fn a_subscription_goes_on_after_a_position_or_a_revision() {
    let server = serving().await;
    let client = server.client();
    let tasks = server.orchestrator.submit_all((0..3).map(|n| hang(&format!("t{n}")))).await.unwrap();
    let mut all = client.events(EventStart::After(Revision::ZERO)).await.unwrap();
    let first = soon(all.next()).await.unwrap().unwrap();
    let second = soon(all.next()).await.unwrap().unwrap();
    assert_eq!(first.event.revision, second.event.revision);
    let mut rest = client.events(EventStart::Position(first.position)).await.unwrap();
    assert_eq!(soon(rest.next()).await.unwrap().unwrap(), second);

    let mut later = client.events(EventStart::After(second.event.revision)).await.unwrap();
    server.orchestrator.cancel(tasks[0], "").await.unwrap();
    let EventKind::Task(record) = next(&mut later).await.kind else { panic!("a task") };
    assert_eq!((record.id, record.status()), (tasks[0], TaskStatus::Cancelled));
}

#[tokio::test]
async fn another_life_of_the_server_skips_nothing() {
    let server = serving().await;
    server.orchestrator.submit_all((0..3).map(|n| hang(&format!("t{n}")))).await.unwrap();
    let mut all = server.client().events(EventStart::After(Revision::ZERO)).await.unwrap();
    let first = soon(all.next()).await.unwrap().unwrap();
    let orch = server.orchestrator.clone();
    server.stop().await;
    let server = TestServer::start(orch, server_config()).await;
    let mut again = server.client().events(EventStart::Position(first.position.clone())).await.unwrap();
    let repeated = soon(again.next()).await.unwrap().unwrap();
    assert_eq!(repeated.event, first.event, "the whole revision comes again");
    assert_ne!(repeated.position, first.position);
}

#[tokio::test]
async fn events_that_are_no_longer_kept_are_gone() {
    let engine = EngineConfig { events_kept: 2, ..engine_config() };
    let orch = Orchestrator::builder().engine(engine).build().await.unwrap();
    let server = TestServer::start(orch, server_config()).await;
    for n in 0..4 {
        server.orchestrator.submit(hang(&format!("t{n}"))).await.unwrap();
    }
    let gone = server.client().events(EventStart::After(Revision::ZERO)).await.unwrap_err();
    assert_eq!((gone.status(), gone.code()), (Some(410), Some("events_compacted")), "{gone}");
    let wrong = server.client().events(EventStart::Position("nonsense".into())).await.unwrap_err();
    assert!(matches!(&wrong, ClientError::Problem(problem) if problem.status == 400), "{wrong}");
}

#[tokio::test]
async fn each_kind_of_event_has_its_name() {
    let (server, runtime) = (serving().await, SimulatedRuntime::new());
    let mut events = server.client().events(EventStart::Now).await.unwrap();
    let worker = worker(&server, &runtime).await;
    let EventKind::Node(node) = next(&mut events).await.kind else { panic!("a node") };
    assert_eq!(node.spec.id, NodeId::new("a").unwrap());
    worker.leave().await;
    server.orchestrator.remove(&node.spec.id).await.unwrap();
    assert_eq!(next(&mut events).await.kind, EventKind::NodeRemoved(node.spec.id.clone()));
}
