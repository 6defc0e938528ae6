//! The CLI and the worker of rust-orch as they are in use: plain requests, one a connection, read until it
//! closes.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use manager_worker::rust_orch::{Config, routes};
use orch_core::{
    Orchestrator,
    consensus::LocalConsensus,
    model::{NodeId, TaskId, TaskSpec},
    state::TaskStatus,
    store::{MemoryStore, StateStore},
    testkit::SimulatedRuntime,
};
use orch_net::http::testkit::{Answer, TestServer, agent_config, engine_config, server_config, soon, until};
use serde_json::{Value, json};

fn worker_1() -> NodeId {
    NodeId::new("worker-1").unwrap()
}

/// A manager whose worker-1 is in the cluster.
async fn manager(orch: Orchestrator) -> TestServer {
    let server = TestServer::mounted(orch, server_config(), |server| {
        server.mount(routes(Config::with_workers([worker_1()])))
    })
    .await;
    until(&server.orchestrator, || !server.orchestrator.nodes().is_empty()).await;
    server
}

async fn in_memory() -> TestServer {
    manager(Orchestrator::builder().engine(engine_config()).build().await.unwrap()).await
}

/// Their clients: one JSON request a connection.
async fn call(server: &TestServer, method: &str, path: &str, body: &str) -> Answer {
    let answer = server.request(method, path, "content-type: application/json\r\n", body).await;
    assert!(answer.head.contains("content-length: "), "{answer:?}");
    answer
}

/// `run NAME IMAGE` of their CLI.
async fn run(server: &TestServer, name: &str) -> Value {
    let answer = call(server, "POST", "/tasks", &json!({ "name": name, "image": "nginx" }).to_string()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()
}

async fn list(server: &TestServer, query: &str) -> Vec<Value> {
    call(server, "GET", &format!("/tasks{query}"), "").await.json().as_array().unwrap().clone()
}

/// Update as their worker sends it.
async fn update(server: &TestServer, id: &str, status: &str) -> Answer {
    let body = json!({ "status": status, "container_id": "0123456789abcdef" }).to_string();
    call(server, "PUT", &format!("/tasks/{id}/status"), &body).await
}

fn id_of(task: &Value) -> (String, TaskId) {
    let text = task["id"].as_str().unwrap();
    (text.to_owned(), text.parse().unwrap())
}

/// One life of an orchestrator that keeps its records in this store.
async fn over(store: &Arc<dyn StateStore>) -> Orchestrator {
    let consensus = Arc::new(LocalConsensus::durable(store.clone()));
    Orchestrator::builder()
        .store(store.clone())
        .consensus(consensus)
        .engine(engine_config())
        .build()
        .await
        .unwrap()
}

#[tokio::test]
async fn their_cli_and_worker_are_served_unchanged() {
    let server = in_memory().await;
    let created = run(&server, "web").await;
    let (text, id) = id_of(&created);
    let at = created["created_at"].as_str().unwrap();
    assert_eq!(
        created,
        json!({
            "id": text, "name": "web", "image": "nginx", "memory": 256, "cpu": 0.5, "env": {},
            "status": "Scheduled", "created_at": at, "started_at": null, "node_id": "worker-1", "container_id": null,
        })
    );
    assert!(at.len() == "2026-02-03T04:05:06.789000000Z".len() && at.ends_with("000000Z"), "{at}");
    assert_eq!(list(&server, "").await, [created]);

    let answer = update(&server, &text, "Running").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert!(list(&server, "").await.is_empty(), "a running task would be started twice");
    let all = list(&server, "?all=1").await;
    assert_eq!(all[0]["status"], "Running");
    assert_eq!(all[0]["container_id"], "0123456789abcdef");
    assert!(all[0]["started_at"].is_string());

    assert_eq!(update(&server, &text, "Complete").await.status, 200);
    assert_eq!(update(&server, &text, "Complete").await.status, 200, "saying it twice is harmless");
    assert_eq!(soon(server.orchestrator.wait(id)).await.unwrap().status(), TaskStatus::Succeeded);
    assert_eq!(list(&server, "?all=1").await[0]["status"], "Complete");
    update(&server, &text, "Running").await.problem(409, "stale_attempt");
}

#[tokio::test]
async fn a_worker_that_fails_to_start_a_task_ends_it() {
    let server = in_memory().await;
    let (text, id) = id_of(&run(&server, "bad").await);
    assert_eq!(update(&server, &text, "Failed").await.status, 200);
    let done = soon(server.orchestrator.wait(id)).await.unwrap();
    assert_eq!(done.status(), TaskStatus::Failed);
    assert!(done.record.last_end().unwrap().to_string().contains("worker-1 could not start it"));
    assert_eq!(list(&server, "?all=1").await[0]["status"], "Failed");
}

#[tokio::test]
async fn memory_cpu_and_env_are_honoured() {
    let server = in_memory().await;
    let body =
        json!({ "name": "n", "image": "i", "memory": 64, "cpu": 1.25, "env": { "A": "b" }, "other": 1 });
    let created = call(&server, "POST", "/tasks", &body.to_string()).await.json();
    assert_eq!(
        (&created["memory"], &created["cpu"], &created["env"]["A"]),
        (&json!(64), &json!(1.25), &json!("b"))
    );
    let record = server.orchestrator.get(id_of(&created).1).unwrap().record;
    assert_eq!((record.spec.resources.cpu_millis, record.spec.resources.memory_bytes), (1250, 64 << 20));
}

#[tokio::test]
async fn everything_else_is_refused_with_a_reason() {
    let server = in_memory().await;
    for (body, missing) in
        [(r#"{"image":"i"}"#, "name"), (r#"{"name":"n","image":""}"#, "image"), ("{}", "name")]
    {
        let detail = call(&server, "POST", "/tasks", body).await.problem(400, "malformed_request");
        assert!(detail.contains(&format!("{missing} is missing")), "{detail}");
    }
    update(&server, &TaskId::generate().to_string(), "Running").await.problem(404, "unknown_task");
    update(&server, "7", "Running").await.problem(404, "unknown_task");
    for (method, path) in [("DELETE", "/tasks"), ("GET", "/"), ("GET", "/tasks/x/status"), ("GET", "/task")] {
        call(&server, method, path, "").await.problem(404, "unknown_route");
    }
    let (text, _) = id_of(&run(&server, "t").await);
    update(&server, &text, "Scheduled").await.problem(400, "malformed_request");
    update(&server, &text, "Lost").await.problem(400, "malformed_request");
    let page = "origin: http://evil.example\r\n";
    server.request("POST", "/tasks", page, r#"{"name":"n","image":"i"}"#).await.problem(403, "forbidden");
    let rebound = "GET /tasks HTTP/1.1\r\nhost: evil.example:3000\r\nconnection: close\r\n\r\n";
    server.raw(rebound).await.problem(403, "forbidden");
}

#[tokio::test]
async fn a_cancelled_task_of_their_worker_ends_at_once() {
    let server = in_memory().await;
    let (text, id) = id_of(&run(&server, "endless").await);
    update(&server, &text, "Running").await;
    server.client().cancel(id, "enough").await.unwrap();
    assert_eq!(soon(server.client().wait(id)).await.unwrap().status, TaskStatus::Cancelled);
    update(&server, &text, "Complete").await.problem(409, "stale_attempt");
}

#[tokio::test]
async fn a_task_that_their_worker_would_run_wrongly_is_not_given_to_it() {
    let server = in_memory().await;
    let plain = run(&server, "plain").await;
    assert_eq!(plain["node_id"], "worker-1", "the worker is there");
    let task = server.orchestrator.submit(TaskSpec::image("args", "busybox").args(["echo"])).await.unwrap();
    let why = server.orchestrator.explain(task).unwrap().unwrap().to_string();
    assert!(why.contains("does not run work of kind \"image\""), "{why}");
}

#[tokio::test]
async fn a_worker_of_ours_and_theirs_get_along() {
    let (server, runtime) = (in_memory().await, SimulatedRuntime::new());
    let _worker = server.agent(agent_config("a"), Arc::new(runtime.clone())).await;
    let ours = server.orchestrator.submit(TaskSpec::program("ours", "true")).await.unwrap();
    assert_eq!(soon(server.orchestrator.wait(ours)).await.unwrap().status(), TaskStatus::Succeeded);
    assert_eq!(run(&server, "theirs").await["node_id"], "worker-1");
    update(&server, &ours.to_string(), "Failed").await.problem(409, "stale_attempt");
}

/// A manager in memory whose worker-1 holds few tasks at a time.
async fn with_places(config: Config) -> TestServer {
    let orch = Orchestrator::builder().engine(engine_config()).build().await.unwrap();
    let server = TestServer::mounted(orch, server_config(), |server| server.mount(routes(config))).await;
    until(&server.orchestrator, || !server.orchestrator.nodes().is_empty()).await;
    server
}

#[tokio::test]
async fn a_worker_that_never_tells_of_ends_gets_more_by_the_operators_rule() {
    let few = || Config { max_tasks: NonZeroU32::new(2), ..Config::with_workers([worker_1()]) };
    let server = with_places(few()).await;
    for _ in 0..2 {
        let (text, _) = id_of(&run(&server, "runs").await);
        update(&server, &text, "Running").await;
    }
    let (_, waits) = id_of(&run(&server, "waits").await);
    let why = server.client().explain(waits).await.unwrap().unwrap().text;
    assert!(why.contains("worker-1 holds 2 tasks") && why.contains("never tells"), "{why}");

    // The oldest beyond a number.
    let server = with_places(Config { running_max: Some(1), ..few() }).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (text, id) = id_of(&run(&server, "runs").await);
        until(&server.orchestrator, || server.orchestrator.get(id).unwrap().status() == TaskStatus::Placed)
            .await;
        update(&server, &text, "Running").await;
        ids.push(id);
    }
    for id in &ids[..2] {
        assert_eq!(
            soon(server.orchestrator.wait(*id)).await.unwrap().status(),
            TaskStatus::Succeeded,
            "it made room"
        );
    }
    assert_eq!(server.orchestrator.get(ids[2]).unwrap().status(), TaskStatus::Running);

    // Those that ran for long.
    let server = with_places(Config { done_after: Some(Duration::from_millis(50)), ..few() }).await;
    let (text, id) = id_of(&run(&server, "runs").await);
    let (_, not_started) = id_of(&run(&server, "placed").await);
    update(&server, &text, "Running").await;
    assert_eq!(soon(server.orchestrator.wait(id)).await.unwrap().status(), TaskStatus::Succeeded);
    assert_eq!(
        server.orchestrator.get(not_started).unwrap().status(),
        TaskStatus::Placed,
        "what was not started is not over"
    );
}

#[tokio::test]
async fn a_failure_that_may_be_of_a_second_start_does_not_end_what_may_run() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let build = async || over(&store).await;
    let before = manager(build().await).await;
    let (told, id) = id_of(&run(&before, "told").await);
    assert_eq!(list(&before, "").await.len(), 1);
    let (bad, bad_id) = id_of(&run(&before, "bad").await);
    let orch = before.orchestrator.clone();
    // The worker starts the first one now, and nobody hears that it runs.
    before.stop().await;
    drop(orch);

    let after = manager(build().await).await;
    assert_eq!(list(&after, "").await.len(), 2);
    // Its name is taken by its own container.
    assert_eq!(update(&after, &told, "Failed").await.status, 200);
    let view = after.orchestrator.get(id).unwrap();
    assert_eq!(view.status(), TaskStatus::Running);
    let progress = view.observed.unwrap().progress.unwrap();
    assert!(progress.contains("may run") && progress.contains(&format!("rust-orch-{id}")), "{progress}");
    assert_eq!(list(&after, "").await.len(), 1, "it is not to be started again");
    // This one was not seen by a worker before, so that it says what it means.
    assert_eq!(update(&after, &bad, "Failed").await.status, 200);
    assert_eq!(soon(after.orchestrator.wait(bad_id)).await.unwrap().status(), TaskStatus::Failed);
    assert_eq!(update(&after, &told, "Failed").await.status, 200);
    assert_eq!(
        soon(after.orchestrator.wait(id)).await.unwrap().status(),
        TaskStatus::Failed,
        "a second word is believed"
    );
}

#[tokio::test]
async fn a_first_failure_is_believed_however_long_the_list_is() {
    let workers = [worker_1(), NodeId::new("worker-2").unwrap()];
    let server = with_places(Config::with_workers(workers)).await;
    until(&server.orchestrator, || server.orchestrator.nodes().len() == 2).await;
    let specs = (0..1100).map(|number| TaskSpec::image(format!("t{number}"), "nginx"));
    let ids = server.orchestrator.submit_all(specs).await.unwrap();
    for _ in 0..2 {
        assert_eq!(list(&server, "").await.len(), ids.len());
    }
    for id in [ids[0], ids[1099]] {
        assert_eq!(update(&server, &id.to_string(), "Failed").await.status, 200);
        assert_eq!(server.orchestrator.get(id).unwrap().status(), TaskStatus::Failed);
    }
}

#[tokio::test]
async fn a_manager_that_is_started_again_never_lists_a_running_task() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let build = async || over(&store).await;
    let before = manager(build().await).await;
    let (text, id) = id_of(&run(&before, "long").await);
    assert_eq!(update(&before, &text, "Running").await.status, 200);
    let orch = before.orchestrator.clone();
    before.stop().await;
    drop(orch);

    let after = manager(build().await).await;
    assert!(list(&after, "").await.is_empty());
    let all = list(&after, "?all=1").await;
    assert_eq!((&all[0]["status"], &all[0]["container_id"]), (&json!("Running"), &json!("0123456789abcdef")));
    assert_eq!(update(&after, &text, "Complete").await.status, 200);
    assert_eq!(soon(after.orchestrator.wait(id)).await.unwrap().record.attempts_made, 1);
}
