//! Every refusal is a problem with a stable code.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use orch_core::{
    Orchestrator,
    consensus::LocalConsensus,
    model::{CommandId, IncarnationId, NodeId, Session, TaskId},
    state::{ClusterConfig, TaskStatus},
    store::{CommitError, Entry, Key, MemoryStore, Page, Position, StateStore, StoreError, Txn},
    testkit::{Layered, SimulatedRuntime, StoreLayer},
};
use orch_net::http::{
    Client, HttpLink, TokenState,
    testkit::{ADMIN, TestServer, WORKER, agent_config, client_config, engine_config, server_config},
    wire::NewTask,
};

use crate::bench::{hang, serving, worker};

#[tokio::test]
async fn requests_that_cannot_be_read() {
    let server = serving().await;
    let post = async |body: &str| server.admin("POST", "/api/v1/tasks", body).await;
    assert!(post("{").await.problem(400, "malformed_request").contains("EOF"));
    let detail = post(r#"{"tasks":[{"spec":{"workload":{"kind":"program","program":"x"}}}]}"#).await;
    assert_eq!(
        detail.problem(400, "malformed_request").split(" at line").next().unwrap(),
        "tasks[0].spec: missing field `name`"
    );
    let detail = post(r#"{"tasks":[],"task":[]}"#).await.problem(400, "malformed_request");
    assert!(detail.contains("unknown field `task`"), "{detail}");
    for body in [
        r#"{"name":"hello"}"#,
        r#"{"name":"hello","image":"busybox"}"#,
        r#"{"command":"echo hello"}"#,
        r#"{"tasks":{}}"#,
        "[]",
    ] {
        let detail = post(body).await.problem(400, "malformed_request");
        let example = detail.split("a task looks like ").nth(1).unwrap_or_else(|| panic!("{body}: {detail}"));
        let example = example.split(", several like ").next().unwrap();
        assert_eq!(post(example).await.status, 201, "{example}");
    }
    let unknown =
        server.admin("GET", "/api/v1/tasks?status=done", "").await.problem(400, "malformed_request");
    assert!(unknown.contains("succeeded") && unknown.contains("\"done\""), "{unknown}");
    let headers = format!("authorization: Bearer {ADMIN}\r\n");
    server.request("POST", "/api/v1/tasks", &headers, "{}").await.problem(415, "not_json");
    let keyed = format!("{headers}content-type: application/json\r\nidempotency-key: 7\r\n");
    let answer = server.request("POST", "/api/v1/tasks", &keyed, r#"{"tasks":[]}"#).await;
    assert!(answer.problem(400, "malformed_request").starts_with("idempotency-key: "));
    for path in ["/api/v1/tasks/7", "/api/v1/tasks?limit=0", "/api/v1/tasks?limt=1", "/api/v1/tasks?label=x"]
    {
        server.admin("GET", path, "").await.problem(400, "malformed_request");
    }
}

#[tokio::test]
async fn things_that_are_not_there() {
    let server = serving().await;
    server.admin("GET", "/nowhere", "").await.problem(404, "unknown_route");
    server.admin("GET", "/tasks", "").await.problem(404, "unknown_route");
    let answer = server.admin("PUT", "/api/v1/tasks", "").await;
    answer.problem(405, "method_not_allowed");
    assert!(answer.head.contains("allow: "), "{answer:?}");
    let task = TaskId::generate();
    for path in ["", "/wait", "/explain", "/logs"] {
        server.admin("GET", &format!("/api/v1/tasks/{task}{path}"), "").await.problem(404, "unknown_task");
    }
    server.admin("POST", &format!("/api/v1/tasks/{task}/cancel"), "").await.problem(404, "unknown_task");
    server.admin("POST", "/api/v1/nodes/n/cordon", "").await.problem(404, "unknown_node");
    server.admin("DELETE", "/api/v1/nodes/n", "").await.problem(404, "unknown_node");
}

#[tokio::test]
async fn tokens_open_their_own_doors_only() {
    let server = serving().await;
    let answer = server.request("GET", "/api/v1/status", "", "").await;
    answer.problem(401, "unauthenticated");
    assert!(answer.head.contains("www-authenticate: bearer"), "{answer:?}");
    let with = async |path: &str, token: &str| {
        server.request("GET", path, &format!("authorization: Bearer {token}\r\n"), "").await
    };
    with("/api/v1/status", "wrong").await.problem(401, "unauthenticated");
    with("/api/v1/status", WORKER).await.problem(403, "forbidden");
    let ask = async |token: &str| {
        let session =
            Session { node: NodeId::new("a").unwrap(), incarnation: IncarnationId::generate(), number: 1 };
        let body = serde_json::json!({ "session": session, "seen": 0 }).to_string();
        let token = format!("authorization: Bearer {token}\r\ncontent-type: application/json\r\n");
        server.request("POST", "/api/v1/agent/a/assignments", &token, &body).await
    };
    ask("wrong").await.problem(401, "unauthenticated");
    ask(WORKER).await.problem(409, "not_registered");
    for open in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(server.request("GET", open, "", "").await.status, 200);
    }
    let page = "origin: http://evil.example\r\n";
    server.request("GET", "/metrics", page, "").await.problem(403, "forbidden");
    let error = Client::new(&client_config(server.address, WORKER)).unwrap().status().await.unwrap_err();
    assert_eq!(error.to_string(), "The caller may not do this: this needs the admin token");
    assert!(!format!("{:?}", client_config(server.address, ADMIN)).contains(ADMIN));
}

#[tokio::test]
async fn what_the_cluster_refuses() {
    let cluster = ClusterConfig { unfinished_max: 2, submission_max: 3, ..ClusterConfig::default() };
    let orch = Orchestrator::builder().engine(engine_config()).cluster(cluster).build().await.unwrap();
    let server = TestServer::start(orch, server_config()).await;
    let client = server.client();
    let id = TaskId::generate();
    let submit = async |id, name: &str| {
        client.submit(CommandId::generate(), vec![NewTask { id, spec: hang(name) }]).await
    };
    submit(Some(id), "one").await.unwrap();
    let taken = submit(Some(id), "other").await.unwrap_err();
    assert_eq!((taken.status(), taken.code()), (Some(409), Some("task_id_taken")));
    let invalid = submit(None, "").await.unwrap_err();
    assert_eq!((invalid.status(), invalid.code()), (Some(422), Some("invalid_spec")));
    assert!(invalid.to_string().contains("name: is empty"), "{invalid}");
    let three = (0..3).map(|_| hang("x").into()).collect();
    let body = serde_json::to_string(&orch_net::http::wire::Submission { tasks: three }).unwrap();
    let full = server.admin("POST", "/api/v1/tasks", &body).await;
    full.problem(429, "queue_full");
    assert!(full.head.contains("retry-after: "), "{full:?}");
    let four = (0..4).map(|_| hang("x").into()).collect();
    let large = client.submit(CommandId::generate(), four).await.unwrap_err();
    assert_eq!((large.status(), large.code()), (Some(413), Some("submission_too_large")));
    server.orchestrator.shutdown().await.unwrap();
    let closing = server.admin("POST", "/api/v1/tasks", r#"{"tasks":[]}"#).await;
    closing.problem(503, "shutting_down");
}

#[tokio::test]
async fn a_full_disk_is_told_by_its_name() {
    let store = Arc::new(Layered(FullStore { inner: MemoryStore::default(), full: AtomicBool::new(false) }));
    let consensus = Arc::new(LocalConsensus::durable(store.clone()));
    let builder = Orchestrator::builder().store(store.clone()).consensus(consensus).engine(engine_config());
    let server = TestServer::start(builder.build().await.unwrap(), server_config()).await;
    let kept = server.client().submit_one(hang("before")).await.unwrap().view.record.id;
    store.0.full.store(true, Ordering::SeqCst);
    let spec = r#"{"name":"t","workload":{"kind":"program","program":"x"}}"#;
    for time in ["at first", "and whenever it is asked again"] {
        let answer = server.admin("POST", "/api/v1/tasks", spec).await;
        let detail = answer.problem(507, "storage_full");
        assert!(detail.contains("no space") && !detail.contains("/somewhere"), "{time}: {detail}");
        server.admin("GET", "/readyz", "").await.problem(507, "storage_full");
    }
    let error = server.client().submit_one(hang("after")).await.unwrap_err();
    assert_eq!((error.status(), error.is_retryable()), (Some(507), false), "a person has to do something");
    assert_eq!(
        server.client().task(kept).await.unwrap().status,
        TaskStatus::Pending,
        "what there is can be read"
    );
}

/// A store on a disk that can be full, after which nothing can be read either, as with a file of redb.
#[derive(Debug)]
struct FullStore {
    inner: MemoryStore,
    full: AtomicBool,
}

impl FullStore {
    fn check(&self) -> Result<(), StoreError> {
        if !self.full.load(Ordering::SeqCst) {
            return Ok(());
        }
        let source = std::io::Error::new(std::io::ErrorKind::StorageFull, "/somewhere/file");
        Err(StoreError::Backend {
            store: "full",
            operation: "committing",
            retryable: false,
            outcome_unknown: true,
            source: Arc::new(source),
        })
    }
}

#[async_trait::async_trait]
impl StoreLayer for FullStore {
    fn below(&self) -> &dyn StateStore {
        &self.inner
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.check()?;
        self.inner.get(key).await
    }

    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.check()?;
        self.inner.scan(prefix, after, limit).await
    }

    async fn commit(&self, txn: Txn) -> Result<Position, CommitError> {
        self.check()?;
        self.inner.commit(txn).await
    }
}

#[tokio::test]
async fn an_idempotency_key_belongs_to_one_request() {
    let server = serving().await;
    let key = CommandId::generate();
    let headers = format!(
        "authorization: Bearer {ADMIN}\r\ncontent-type: application/json\r\nidempotency-key: {key}\r\n"
    );
    let submit = async |program: &str| {
        let spec = format!(r#"{{"name":"t","workload":{{"kind":"program","program":"{program}"}}}}"#);
        let body = format!(r#"{{"tasks":[{{"spec":{spec}}}]}}"#);
        server.request("POST", "/api/v1/tasks", &headers, &body).await
    };
    let first = submit("true").await;
    assert_eq!(first.status, 201, "{first:?}");
    assert_eq!(submit("true").await.status, 201, "the same request again");
    submit("false").await.problem(422, "command_id_reused");
}

#[tokio::test]
async fn a_worker_learns_what_is_wrong() {
    use orch_core::engine::{Agent, AssignmentsQuery, ControlLink as _, LinkError, Registration};
    let (server, runtime) = (serving().await, SimulatedRuntime::new());
    let _worker = worker(&server, &runtime).await;
    let link = |token: &str| HttpLink::new(&client_config(server.address, token)).unwrap();
    let other =
        Agent::start(agent_config("a"), std::sync::Arc::new(runtime), std::sync::Arc::new(link(WORKER)));
    let error = other.registered().await.unwrap_err().to_string();
    assert!(error.contains("another agent that is still there"), "{error}");
    let incarnation = IncarnationId::generate();
    let registration =
        Registration { spec: agent_config("b").node, incarnation, number: 1, held: Vec::new() };
    let wrong = link("wrong");
    let token = wrong.token_state();
    assert_eq!(*token.borrow(), TokenState::Untried);
    let refused = wrong.register(registration.clone()).await;
    assert!(matches!(refused, Err(LinkError::Refused(_))), "{refused:?}");
    assert!(matches!(&*token.borrow(), TokenState::Refused(why) if !why.contains("wrong")), "{token:?}");
    let session = Session { node: NodeId::new("b").unwrap(), incarnation, number: 1 };
    let right = link(WORKER);
    let unknown = right.assignments(&session, AssignmentsQuery::default()).await;
    assert!(matches!(unknown, Err(LinkError::NotRegistered)), "{unknown:?}");
    assert_eq!(*right.token_state().borrow(), TokenState::Accepted, "refused for another reason");
    let gone = HttpLink::new(&client_config("127.0.0.1:1".parse().unwrap(), WORKER)).unwrap();
    let unreachable = gone.assignments(&session, AssignmentsQuery::default()).await;
    assert!(matches!(unreachable, Err(LinkError::Unavailable(_))), "{unreachable:?}");
    let body = serde_json::to_string(&registration).unwrap();
    server.admin("POST", "/api/v1/agent/c/register", &body).await.problem(422, "refused");
    let body = serde_json::json!({ "session": session }).to_string();
    server.admin("POST", "/api/v1/agent/c/heartbeat", &body).await.problem(422, "refused");

    // Another process with the same data takes the node over, and the first one is told so.
    let (first, second) =
        (link(WORKER), Registration { incarnation: IncarnationId::generate(), ..registration.clone() });
    let session = first.register(registration.clone()).await.unwrap().session;
    first.heartbeat(&session).await.unwrap();
    link(WORKER).register(second).await.unwrap();
    let fenced = first.heartbeat(&session).await;
    assert!(matches!(fenced, Err(LinkError::Fenced(_))), "{fenced:?}");
    let fenced = first.register(registration.clone()).await;
    assert!(matches!(fenced, Err(LinkError::Fenced(_))), "{fenced:?}");

    // Once the orchestrator has ended, a worker asks again: another may answer at this address.
    server.orchestrator.shutdown().await.unwrap();
    let closed = first.register(registration).await;
    assert!(
        matches!(&closed, Err(LinkError::Unavailable(why)) if why.contains("shutting down")),
        "{closed:?}"
    );
}

#[tokio::test]
async fn the_description_and_the_routes_agree() {
    let server = serving().await;
    let document = server.request("GET", "/openapi.json", "", "").await.json();
    let text = document.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
    }
    let paths = document["paths"].as_object().unwrap();
    let operations: Vec<(String, &String)> = paths
        .iter()
        .flat_map(|(path, verbs)| {
            verbs.as_object().unwrap().keys().map(move |verb| (verb.to_uppercase(), path))
        })
        .collect();
    // What clients rely on. An entry may be added, never taken away.
    let promised = [
        "POST /api/v1/agent/{id}/assignments",
        "POST /api/v1/agent/{id}/heartbeat",
        "POST /api/v1/agent/{id}/observations",
        "POST /api/v1/agent/{id}/register",
        "POST /api/v1/agent/{id}/reports",
        "GET /api/v1/events",
        "GET /api/v1/nodes",
        "DELETE /api/v1/nodes/{id}",
        "GET /api/v1/nodes/{id}",
        "POST /api/v1/nodes/{id}/cordon",
        "POST /api/v1/nodes/{id}/drain",
        "POST /api/v1/nodes/{id}/uncordon",
        "GET /api/v1/status",
        "GET /api/v1/tasks",
        "POST /api/v1/tasks",
        "GET /api/v1/tasks/{id}",
        "POST /api/v1/tasks/{id}/cancel",
        "GET /api/v1/tasks/{id}/explain",
        "GET /api/v1/tasks/{id}/logs",
        "GET /api/v1/tasks/{id}/wait",
        "GET /healthz",
        "GET /metrics",
        "GET /openapi.json",
        "GET /readyz",
    ];
    let described: Vec<String> = operations.iter().map(|(verb, path)| format!("{verb} {path}")).collect();
    assert_eq!(described, promised);
    for (verb, path) in operations.iter().filter(|(_, path)| *path != "/api/v1/events") {
        let answer = server.admin(verb, &path.replace("{id}", "x"), "").await;
        assert!(
            answer.status != 405 && !answer.body.contains(r#""code":"unknown_route""#),
            "{path} {answer:?}"
        );
    }
}
