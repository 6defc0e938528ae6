//! One interface, two ways to the cluster: both answer alike.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use orch_core::{
    engine::{Agent, EventKind, OutputRange, TaskFilter},
    model::{CommandId, Exit, NodeId, TaskId, TaskSpec},
    state::TaskStatus,
    testkit::SimulatedRuntime,
};
use orch_net::http::{
    Api, ClientError, Embedded, EventStart,
    testkit::{TestServer, agent_config, soon},
};

use crate::bench::{attempt, hang, running, serving};

fn code<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> String {
    answer.unwrap_err().code().unwrap().to_owned()
}

/// Uses every operation on a cluster with the node `a`, whose runtime is `runtime`.
async fn use_everything(server: &TestServer, api: &dyn Api, runtime: &SimulatedRuntime) {
    let node = NodeId::new("a").unwrap();
    let mut events = api.events(EventStart::Now).await.unwrap();
    let command = CommandId::generate();
    let two = vec![hang("one").into(), hang("two").into()];
    let tasks = api.submit(command, two.clone()).await.unwrap();
    let again = api.submit(command, two).await.unwrap();
    let ids = |tasks: &[orch_net::http::wire::TaskInfo]| -> Vec<TaskId> {
        tasks.iter().map(|task| task.view.record.id).collect()
    };
    assert_eq!(ids(&tasks), ids(&again), "the same command");
    let (one, two) = (ids(&tasks)[0], ids(&tasks)[1]);
    assert_eq!(code(api.submit(command, vec![hang("other").into()]).await), "command_id_reused");

    // Events of one revision are in the order of their records' keys.
    let (earlier, later) = (one.min(two), one.max(two));
    let first = events.next().await.unwrap().unwrap();
    assert!(matches!(&first.event.kind, EventKind::Task(record) if record.id == earlier), "{first:?}");
    let mut rest = api.events(EventStart::Position(first.position)).await.unwrap();
    let second = rest.next().await.unwrap().unwrap();
    assert!(matches!(&second.event.kind, EventKind::Task(record) if record.id == later), "{second:?}");
    assert!(api.events(EventStart::Position("nowhere".into())).await.is_err());

    let page =
        |limit, name: Option<&str>| TaskFilter { limit, name: name.map(Into::into), ..TaskFilter::default() };
    let listed = api.tasks(&page(1, None)).await.unwrap();
    assert_eq!((ids(&listed.tasks), listed.next.is_some(), listed.total), (vec![one], true, None));
    assert_eq!(api.tasks_with_reasons(&page(1, Some("two"))).await.unwrap().total, Some(1));
    for limit in [0, 1001] {
        assert_eq!(code(api.tasks(&page(limit, None)).await), "malformed_request");
    }

    running(&server.orchestrator, one).await;
    runtime.finish(attempt(one, 1), Exit::from_code(0));
    assert_eq!(soon(api.wait(one)).await.unwrap().status, TaskStatus::Succeeded);
    let output: Vec<_> = api.output(one, OutputRange::default()).await.unwrap().collect().await;
    assert!(output.iter().all(Result::is_ok), "{output:?}");
    assert_eq!(code(api.cancel(one, "late").await), "already_finished");
    api.cancel(two, "not wanted").await.unwrap();
    assert_eq!(soon(api.wait(two)).await.unwrap().status, TaskStatus::Cancelled);

    let nobody = TaskId::generate();
    assert_eq!(code(api.task(nobody).await), "unknown_task");
    assert_eq!(code(api.wait(nobody).await), "unknown_task");
    assert_eq!(code(api.explain(nobody).await), "unknown_task");
    assert_eq!(code(api.output(nobody, OutputRange::default()).await.map(drop)), "unknown_task");
    assert_eq!(api.explain(one).await.unwrap(), None);

    api.cordon(&node).await.unwrap();
    let waits = api.submit_one(TaskSpec::program("waits", "true")).await.unwrap().view.record.id;
    assert!(api.explain(waits).await.unwrap().unwrap().text.contains("cordoned"));
    assert_eq!(api.status().await.unwrap().tasks[&TaskStatus::Pending], 1);
    api.cancel(waits, "").await.unwrap();
    api.uncordon(&node).await.unwrap();
    api.drain(&node, Duration::ZERO).await.unwrap();
    assert_eq!(api.node(&node).await.unwrap().tasks, 0);
    assert_eq!(api.nodes().await.unwrap(), [api.node(&node).await.unwrap()]);
    api.remove(&node).await.unwrap();
    for answer in [api.node(&node).await.map(drop), api.remove(&node).await.map(drop)] {
        assert_eq!(code(answer), "unknown_node");
    }
}

#[tokio::test]
async fn a_cluster_answers_alike_over_http_and_in_its_own_process() {
    for embedded in [false, true] {
        let (server, runtime) = (serving().await, SimulatedRuntime::default());
        let agent = Agent::start(agent_config("a"), Arc::new(runtime.clone()), server.orchestrator.link());
        soon(agent.registered()).await.unwrap();
        let api: Box<dyn Api> = match embedded {
            true => Box::new(Embedded::new(server.orchestrator.clone())),
            false => Box::new(server.client()),
        };
        use_everything(&server, &*api, &runtime).await;
    }
}
