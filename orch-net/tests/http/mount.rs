//! Routes of a style beside the engine's, and an authenticator of its own.

use std::sync::Arc;

use axum::{
    Json as Answered, Router,
    extract::{FromRef, State},
    http::HeaderMap,
    routing::get,
};
use orch_core::model::TaskSpec;
use orch_net::http::{
    Advice, Mount, ServerConfig,
    shell::{Access, Authenticator, Id, Operation, Principal, Problem, Role, Routes, Shell, kinds},
    testkit::{TestServer, server_config, soon},
};
use serde_json::json;
use tokio::sync::oneshot;

use crate::bench::{hang, orchestrator};

/// Takes everybody's word for their role.
#[derive(Debug)]
struct ByName;

impl Authenticator for ByName {
    fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, Problem> {
        match headers.get("x-name").and_then(|name| name.to_str().ok()) {
            Some("ada") => Ok(Principal { role: Role::Admin }),
            Some(_) => Ok(Principal { role: Role::Worker }),
            None => Err(Problem::new(kinds::UNAUTHENTICATED, "say who you are")),
        }
    }
}

#[derive(Clone)]
struct Style(Shell);

impl FromRef<Style> for Shell {
    fn from_ref(style: &Style) -> Self {
        style.0.clone()
    }
}

#[derive(Debug)]
struct Weather;

impl Advice for Weather {
    fn on(&self, spec: &TaskSpec) -> Option<String> {
        (spec.name == "kite").then(|| "there is no wind".into())
    }
}

async fn double(State(_): State<Style>, Id(number): Id<u32>) -> Answered<serde_json::Value> {
    Answered(json!({ "twice": number * 2 }))
}

/// Tells when it is dropped.
struct Dropped(Option<oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.take().unwrap().send(());
    }
}

#[tokio::test]
async fn mounted_routes_are_guarded_and_background_work_ends_with_the_server() {
    let config = ServerConfig { authenticator: Arc::new(ByName), ..server_config() };
    let ((begun, begins), (gone, ends)) = (oneshot::channel(), oneshot::channel());
    let server = TestServer::mounted(orchestrator().await, config, |server| {
        server.mount(|shell, _| {
            let routes = Routes::new(shell)
                .add(Operation::get("/style/{id}", "Doubles"), double)
                .add(Operation::get("/style/open/{id}", "Doubles").access(Access::Anyone), double);
            let dropped = Dropped(Some(gone));
            Mount::new(routes.with_state(Style(shell.clone()))).advice(Arc::new(Weather)).background(
                async move {
                    let _dropped = dropped;
                    begun.send(()).unwrap();
                    std::future::pending::<()>().await;
                },
            )
        })
    })
    .await;
    soon(begins).await.unwrap();
    server.request("GET", "/style/4", "", "").await.problem(401, "unauthenticated");
    server.request("GET", "/style/4", "x-name: bob\r\n", "").await.problem(403, "forbidden");
    server.request("GET", "/api/v1/nodes", "x-name: bob\r\n", "").await.problem(403, "forbidden");
    assert_eq!(server.request("GET", "/api/v1/nodes", "x-name: ada\r\n", "").await.status, 200);
    assert_eq!(server.request("GET", "/style/4", "x-name: ada\r\n", "").await.json(), json!({ "twice": 8 }));
    assert_eq!(server.request("GET", "/style/open/4", "", "").await.json(), json!({ "twice": 8 }));
    server.request("GET", "/style/four", "x-name: ada\r\n", "").await.problem(400, "malformed_request");

    let task = server.orchestrator.submit(hang("kite")).await.unwrap();
    let path = format!("/api/v1/tasks/{task}/explain");
    let why = server.request("GET", &path, "x-name: ada\r\n", "").await;
    assert!(why.body.contains("there is no wind"), "{why:?}");
    server.stop().await;
    soon(ends).await.unwrap();
}

#[tokio::test]
#[should_panic(expected = "Overlapping method route")]
async fn a_route_of_the_engine_cannot_be_mounted_over() {
    let server = orch_net::http::Server::bind(server_config(), orchestrator().await).await.unwrap();
    let nodes = Router::new().route("/api/v1/nodes", get(async || "mine"));
    server.mount(|_, _| Mount::new(nodes)).serve(std::future::ready(())).await;
}
