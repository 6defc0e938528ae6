//! The life of tasks over HTTP.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use orch_core::{
    Orchestrator,
    engine::{Agent, AgentHandle, EngineConfig, Observation, ObservationKind, OutputRange, TaskFilter},
    model::{CommandId, Exit, NodeId, TaskId, TaskSpec, Timestamp},
    output::{MemoryOutput, NewOutput, OutputError, OutputStore},
    runtime::OutputStream,
    state::{Outcome, TaskStatus},
    store::StoreError,
    testkit::{Layered, OutputLayer, SimulatedRuntime},
};
use orch_net::http::{
    Client, ClientConfig, HttpLink, Timeouts,
    testkit::{
        ADMIN, TestServer, WORKER, agent_config, client_config, engine_config, server_config, soon, until,
    },
    wire::NewTask,
};

use crate::bench::{Proxy, attempt, hang, running, serving, worker};

#[tokio::test]
async fn a_task_lives_and_everybody_can_see_it() {
    let (server, runtime) = (serving().await, SimulatedRuntime::new());
    let (client, _worker) = (server.client(), worker(&server, &runtime).await);
    let said = client.submit_one(TaskSpec::program("said", "say").args(["grüße"])).await.unwrap();
    let id = said.view.record.id;
    let done = soon(client.wait(id)).await.unwrap();
    assert_eq!((done.status, done.view.record.attempts_made), (TaskStatus::Succeeded, 1));
    assert_eq!(client.task(id).await.unwrap(), done);
    assert_eq!(client.logs(id, false).await.unwrap().text().await.unwrap(), "grüße\n");
    let raw = server.admin("GET", &format!("/api/v1/tasks/{id}/logs?format=text"), "").await;
    assert!(raw.body.contains("grüße\n") && raw.head.contains("text/plain"), "{raw:?}");

    let task = client.submit_one(hang("taken back")).await.unwrap().view.record.id;
    running(&server.orchestrator, task).await;
    assert_eq!(client.cancel(task, "enough").await.unwrap(), Outcome::Done);
    assert_eq!(soon(client.wait(task)).await.unwrap().status, TaskStatus::Cancelled);
    let again = client.cancel(task, "").await.unwrap_err();
    assert_eq!((again.status(), again.code()), (Some(409), Some("already_finished")), "{again}");

    let status = client.status().await.unwrap();
    assert_eq!(status.tasks.get(&TaskStatus::Succeeded), Some(&1));
    let metrics = server.request("GET", "/metrics", "", "").await.body;
    for line in [
        "orch_tasks{status=\"succeeded\"} 1",
        "orch_nodes{state=\"ready\",scheduling=\"open\"} 1",
        "orch_http_requests_total{method=\"POST\",route=\"/api/v1/tasks\",status=\"201\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    assert!(!metrics.contains(&id.to_string()), "ids are no labels");
}

#[tokio::test]
async fn a_lost_question_for_assignments_is_asked_again_soon() {
    let (server, runtime) = (serving().await, SimulatedRuntime::new());
    let proxy = Proxy::losing_a_question(server.address).await;
    let config = client_config(proxy.address, WORKER);
    let timeouts = Timeouts {
        long_poll: Duration::from_secs(3600),
        assignments: Duration::from_millis(500),
        ..config.timeouts
    };
    let link = HttpLink::new(&ClientConfig { timeouts, ..config }).unwrap();
    let _agent = Agent::start(agent_config("a"), Arc::new(runtime), Arc::new(link));
    let task = server.client().submit_one(TaskSpec::program("said", "say")).await.unwrap();
    assert_eq!(soon(server.client().wait(task.view.record.id)).await.unwrap().status, TaskStatus::Succeeded);
}

#[tokio::test]
async fn a_repeated_submission_is_one_submission() {
    let server = serving().await;
    let (client, command) = (server.client(), CommandId::generate());
    let tasks = || vec![NewTask::from(hang("one")), NewTask { id: None, spec: hang("two") }];
    let first = client.submit(command, tasks()).await.unwrap();
    let second = client.submit(command, tasks()).await.unwrap();
    let ids = |tasks: &[orch_net::http::wire::TaskInfo]| -> Vec<TaskId> {
        tasks.iter().map(|task| task.view.record.id).collect()
    };
    assert_eq!(ids(&first), ids(&second));
    assert_ne!(ids(&first)[0], ids(&first)[1]);
    assert_eq!(client.tasks(&TaskFilter::default()).await.unwrap().tasks.len(), 2);
}

#[tokio::test]
async fn what_can_never_run_is_told_at_once() {
    let (server, runtime) = (serving().await, SimulatedRuntime::new());
    let (client, _worker) = (server.client(), worker(&server, &runtime).await);
    let huge = client.submit_one(hang("huge").cpu_millis(1_000_000)).await.unwrap();
    let why = huge.explanation.unwrap();
    assert!(why.unplaced.never && why.text.contains("no node can ever run this"), "{why:?}");
    assert_eq!(client.explain(huge.view.record.id).await.unwrap(), Some(why));
    let small = client.submit_one(hang("small")).await.unwrap();
    assert_eq!((small.status, small.explanation), (TaskStatus::Placed, None));
    assert_eq!(client.explain(small.view.record.id).await.unwrap(), None);
}

#[tokio::test]
async fn tasks_are_listed_page_by_page_and_filtered() {
    let server = serving().await;
    let client = server.client();
    let tasks = (0..5).map(|n| hang(&format!("t{n}")).label("parity", ["even", "odd"][n % 2]).into());
    client.submit(CommandId::generate(), tasks.collect()).await.unwrap();
    let (mut filter, mut names) = (TaskFilter { limit: 2, ..TaskFilter::default() }, Vec::new());
    loop {
        let page = client.tasks(&filter).await.unwrap();
        names.push(page.tasks.iter().map(|task| task.view.record.spec.name.clone()).collect::<Vec<_>>());
        filter.after_seq = page.next;
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(names, [vec!["t0", "t1"], vec!["t2", "t3"], vec!["t4"]]);
    let count = async |filter: TaskFilter| client.tasks(&filter).await.unwrap().tasks.len();
    let even = Some(("parity".to_owned(), "even".to_owned()));
    assert_eq!(count(TaskFilter { label: even, ..TaskFilter::default() }).await, 3);
    assert_eq!(count(TaskFilter { name: Some("t3".into()), ..TaskFilter::default() }).await, 1);
    let statuses = vec![TaskStatus::Placed, TaskStatus::Pending];
    assert_eq!(count(TaskFilter { statuses, ..TaskFilter::default() }).await, 5);
    let listed = server.admin("GET", "/api/v1/tasks?status=running,placed&status=pending", "").await;
    assert_eq!(listed.json()["tasks"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn nodes_are_steered() {
    let (server, runtime) = (serving().await, SimulatedRuntime::new());
    let (client, worker) = (server.client(), worker(&server, &runtime).await);
    let node = NodeId::new("a").unwrap();
    assert_eq!(client.nodes().await.unwrap().len(), 1);
    assert_eq!(client.cordon(&node).await.unwrap(), Outcome::Done);
    let task = client.submit_one(hang("waits")).await.unwrap();
    assert_eq!(task.status, TaskStatus::Pending);
    assert_eq!(client.uncordon(&node).await.unwrap(), Outcome::Done);
    running(&server.orchestrator, task.view.record.id).await;
    let in_use = client.remove(&node).await.unwrap_err();
    assert_eq!((in_use.status(), in_use.code()), (Some(409), Some("node_in_use")), "{in_use}");
    assert_eq!(client.node(&node).await.unwrap().tasks, 1);
    assert_eq!(client.drain(&node, Duration::ZERO).await.unwrap(), Outcome::Done);
    soon(server.orchestrator.drained(&node)).await.unwrap();
    worker.leave().await;
    assert_eq!(client.remove(&node).await.unwrap(), Outcome::Done);
    assert_eq!(client.node(&node).await.unwrap_err().code(), Some("unknown_node"));
}

#[tokio::test]
async fn waiting_and_reading_output_survive_broken_connections() {
    let (server, runtime) = (serving().await, SimulatedRuntime::new());
    let _worker = worker(&server, &runtime).await;
    let proxy = Proxy::to(server.address).await;
    let client = Client::new(&client_config(proxy.address, ADMIN)).unwrap();
    // The first attempt fails and says nothing, the second is ended by hand.
    let spec = hang("broken").max_attempts(2).backoff(Duration::from_millis(1));
    let task = client.submit_one(spec).await.unwrap().view.record.id;
    let mut output = client.logs(task, true).await.unwrap();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.wait(task).await }
    });
    running(&server.orchestrator, task).await;
    proxy.cut();
    runtime.finish(attempt(task, 1), Exit::from_code(1));
    until(&server.orchestrator, || {
        let view = server.orchestrator.get(task).unwrap();
        view.record.attempts_made == 2 && view.status() == TaskStatus::Running
    })
    .await;
    proxy.cut();
    runtime.finish(attempt(task, 2), Exit::from_code(0));
    assert_eq!(soon(waiting).await.unwrap().unwrap().status, TaskStatus::Succeeded);
    assert_eq!(soon(output.next()).await, None);

    let said = client.submit_one(TaskSpec::program("said", "say").args(["once"])).await.unwrap();
    let mut output = client.logs(said.view.record.id, true).await.unwrap();
    let chunk = soon(output.next()).await.unwrap().unwrap();
    assert_eq!(&chunk.data[..], b"once\n");
    proxy.cut();
    assert_eq!(soon(output.next()).await, None, "nothing is given twice");
}

#[tokio::test]
async fn the_newest_tasks_come_first_with_how_many_there_are() {
    let server = serving().await;
    let client = server.client();
    let tasks = (0..5).map(|n| hang(&format!("t{n}")).into()).collect();
    client.submit(CommandId::generate(), tasks).await.unwrap();
    let names = |page: &orch_net::http::wire::TaskPage| -> Vec<String> {
        page.tasks.iter().map(|task| task.view.record.spec.name.clone()).collect()
    };
    let mut filter = TaskFilter { newest_first: true, limit: 2, ..TaskFilter::default() };
    let first = client.tasks(&filter).await.unwrap();
    assert_eq!((names(&first), first.total), (vec!["t4".into(), "t3".into()], None));
    filter.after_seq = first.next;
    assert_eq!(names(&client.tasks(&filter).await.unwrap()), ["t2", "t1"]);
    let shown = client.tasks_with_reasons(&filter).await.unwrap();
    assert_eq!(shown.total, Some(5), "of all pages together");
    let why = shown.tasks[0].explanation.as_ref().unwrap();
    assert_eq!(why.text, "there are no nodes yet");
}

#[tokio::test]
async fn one_task_is_posted_as_it_is() {
    let server = serving().await;
    let spec = r#"{"name":"hello","workload":{"kind":"program","program":"hang"}}"#;
    let answer = server.admin("POST", "/api/v1/tasks", spec).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let made = &answer.json()["tasks"][0]["record"];
    assert_eq!(made["spec"]["name"], "hello");
    let listed = server.admin("POST", "/api/v1/tasks", &format!(r#"{{"tasks":[{{"spec":{spec}}}]}}"#)).await;
    assert_ne!(listed.json()["tasks"][0]["record"]["id"], made["id"], "an id is made up where none is given");
}

/// A running task, and a client whose connections can be cut.
struct Writing {
    server: TestServer,
    proxy: Proxy,
    client: Client,
    task: TaskId,
    _worker: AgentHandle,
}

impl Writing {
    async fn start() -> Self {
        let server = serving().await;
        let worker = worker(&server, &SimulatedRuntime::new()).await;
        let proxy = Proxy::to(server.address).await;
        let client = Client::new(&client_config(proxy.address, ADMIN)).unwrap();
        let task = server.orchestrator.submit(hang("writes")).await.unwrap();
        running(&server.orchestrator, task).await;
        Self { server, proxy, client, task, _worker: worker }
    }
}

/// Output of the task's first attempt, as its agent tells it.
async fn write(server: &TestServer, task: TaskId, offset: u64, text: &str) {
    let session = server.orchestrator.node(&NodeId::new("a").unwrap()).unwrap().record.current_session();
    let data = text.to_owned().into_bytes().into();
    let kind = ObservationKind::Output { stream: OutputStream::Stdout, offset, data };
    let observation = Observation { attempt: attempt(task, 1), kind };
    server.orchestrator.link().observe(&session, vec![observation]).await.unwrap();
}

#[tokio::test]
async fn a_tail_goes_on_through_a_disconnect() {
    let Writing { server, proxy, client, task, _worker } = Writing::start().await;
    let writes = async |offset, text| write(&server, task, offset, text).await;
    writes(0, "one\ntwo\nthree\n").await;
    let range = OutputRange { follow: true, tail: Some(1), ..OutputRange::default() };
    let mut tail = client.logs_in(task, range).await.unwrap();
    let first = soon(tail.next()).await.unwrap().unwrap();
    assert_eq!((first.offset, &first.data[..]), (8, &b"three\n"[..]));
    proxy.cut();
    writes(14, "four\n").await;
    let next = soon(tail.next()).await.unwrap().unwrap();
    assert_eq!((next.offset, &next.data[..]), (14, &b"four\n"[..]));
    let text = server.admin("GET", &format!("/api/v1/tasks/{task}/logs?tail=2"), "").await;
    assert!(text.body.contains("four\n") && !text.body.contains("two"), "{text:?}");
    for wrong in ["tail=-1", "tail=100001", "attempt=0"] {
        let path = format!("/api/v1/tasks/{task}/logs?{wrong}");
        server.admin("GET", &path, "").await.problem(400, "malformed_request");
    }
}

#[tokio::test]
async fn output_since_a_time_goes_on_through_a_disconnect() {
    let Writing { server, proxy, client, task, _worker } = Writing::start().await;
    let writes = async |offset, text| write(&server, task, offset, text).await;
    writes(0, "one\n").await;
    let all = OutputRange { follow: true, times: true, ..OutputRange::default() };
    let first = soon(client.logs_in(task, all).await.unwrap().next()).await.unwrap().unwrap();
    let since = first.time.unwrap().after(Duration::from_millis(1));
    let mut later = client.logs_in(task, OutputRange { since: Some(since), ..all }).await.unwrap();
    // The group's clock goes on from that of the system, which it read in whole milliseconds.
    while Timestamp::now() < since.after(Duration::from_millis(5)) {
        tokio::task::yield_now().await;
    }
    for (offset, text) in [(4, "two\n"), (8, "three\n")] {
        writes(offset, text).await;
        let next = soon(later.next()).await.unwrap().unwrap();
        assert_eq!((next.offset, &next.data[..]), (offset, text.as_bytes()));
        assert!(next.time >= Some(since), "{next:?}");
        proxy.cut();
    }
    let logs =
        async |query: &str| server.admin("GET", &format!("/api/v1/tasks/{task}/logs?{query}"), "").await;
    // Every other line of a body in chunks is the size of the next one.
    let read = async |query: &str| {
        let body = logs(query).await.body;
        body.split("\r\n").skip(1).step_by(2).collect::<String>()
    };
    assert_eq!(read("").await, "one\ntwo\nthree\n");
    assert_eq!(read(&format!("since={}", since.as_millis())).await, "two\nthree\n");
    let timed = read("timestamps=true&format=json").await;
    assert_eq!((timed.lines().count(), timed.matches("\"time\":").count()), (3, 3), "{timed}");
    let untimed = read("format=json").await;
    assert_eq!((untimed.lines().count(), untimed.matches("time").count()), (3, 0), "{untimed}");
    for wrong in ["since=-1", "since=now", "timestamps=yes&format=json", "timestamps=true"] {
        logs(wrong).await.problem(400, "malformed_request");
    }
}

/// Store of output on a disk that is full.
#[derive(Debug)]
struct Full(MemoryOutput);

#[async_trait]
impl OutputLayer for Full {
    fn below(&self) -> &dyn OutputStore {
        &self.0
    }

    async fn append(&self, _: Vec<NewOutput>) -> Result<(), OutputError> {
        Err(OutputError::Store(StoreError::Closed))
    }
}

#[tokio::test]
async fn output_that_could_not_be_kept_is_told_in_each_form() {
    let output = Arc::new(Layered(Full(MemoryOutput::new(1 << 20))));
    let engine = EngineConfig { output_grace: Duration::ZERO, ..engine_config() };
    let orch = Orchestrator::builder().output(output).engine(engine).build().await.unwrap();
    let (server, runtime) = (TestServer::start(orch, server_config()).await, SimulatedRuntime::new());
    let (client, _worker) = (server.client(), worker(&server, &runtime).await);
    let said = client.submit_one(TaskSpec::program("said", "say").args(["words"])).await.unwrap();
    let task = said.view.record.id;
    assert_eq!(soon(client.wait(task)).await.unwrap().status, TaskStatus::Succeeded);

    let notice = "up to 6 bytes of the standard output of attempt 1 could not be kept";
    let text = soon(client.logs(task, true).await.unwrap().text()).await.unwrap();
    assert!(text.contains(notice), "{text}");
    let chunk = soon(client.logs(task, false).await.unwrap().next()).await.unwrap().unwrap();
    assert_eq!((chunk.offset, chunk.lost, chunk.data.len()), (6, 6, 0));
    for (format, told) in [("text", notice), ("json", r#""lost":6"#)] {
        let raw = server.admin("GET", &format!("/api/v1/tasks/{task}/logs?format={format}"), "").await;
        assert!(raw.body.contains(told), "{raw:?}");
    }
}
