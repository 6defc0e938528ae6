//! Numbers for Prometheus, in its text format.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, Method, header::CONTENT_TYPE},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use orch_core::model::{NodeState, Scheduling};
use parking_lot::Mutex;

use super::{app::App, guard, problem::Problem};

/// What is counted. Bounded by the number of routes, methods and statuses.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, String, u16), u64>>,
    connections: AtomicU64,
    refused: AtomicU64,
}

impl Metrics {
    pub(super) fn connection_opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn connection_closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn connection_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn answered(&self, method: &Method, route: &str, status: u16) {
        let mut requests = self.requests.lock();
        *requests.entry((known_method(method), route.to_owned(), status)).or_default() += 1;
    }
}

/// Counts answers.
pub(super) async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    app.metrics.answered(&method, route, response.status().as_u16());
    response
}

/// `GET /metrics`.
pub(super) async fn show(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    guard::local_or_admin(&app, &headers)?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text(&app)).into_response())
}

fn text(app: &App) -> String {
    let (status, mut text) = (app.orchestrator.status(), Page(String::with_capacity(4096)));
    text.family("orch_tasks", "gauge", "Tasks by status.");
    for (name, count) in &status.tasks {
        text.line(format_args!("orch_tasks{{status=\"{name}\"}} {count}"));
    }
    text.family("orch_nodes", "gauge", "Nodes by state and by whether they take work.");
    let mut nodes = BTreeMap::<_, u64>::new();
    for node in app.orchestrator.nodes() {
        *nodes.entry((state(node.record.state), scheduling(node.record.scheduling))).or_default() += 1;
    }
    for ((state, scheduling), count) in nodes {
        text.line(format_args!("orch_nodes{{state=\"{state}\",scheduling=\"{scheduling}\"}} {count}"));
    }
    text.family("orch_revision", "gauge", "The last decision that is visible here.");
    text.line(format_args!("orch_revision {}", status.revision));
    text.family("orch_consensus_applied", "gauge", "The last position that consensus applied here.");
    text.line(format_args!("orch_consensus_applied {}", status.consensus.applied));
    text.family("orch_consensus_leader", "gauge", "Whether this member takes proposals itself.");
    text.line(format_args!("orch_consensus_leader {}", u8::from(status.consensus.leader)));
    text.family("orch_http_requests_total", "counter", "Answers by method, route and status.");
    let requests = app.metrics.requests.lock().clone();
    for ((method, route, status), count) in requests {
        text.line(format_args!(
            "orch_http_requests_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}} {count}"
        ));
    }
    text.family("orch_http_connections", "gauge", "Open connections.");
    text.line(format_args!("orch_http_connections {}", app.metrics.connections.load(Ordering::Relaxed)));
    text.family("orch_http_connections_refused_total", "counter", "Connections beyond the limit.");
    let refused = app.metrics.refused.load(Ordering::Relaxed);
    text.line(format_args!("orch_http_connections_refused_total {refused}"));
    text.0
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{line}");
    }
}

fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Ready => "ready",
        NodeState::Lost => "lost",
    }
}

fn scheduling(scheduling: Scheduling) -> &'static str {
    match scheduling {
        Scheduling::Open => "open",
        Scheduling::Cordoned => "cordoned",
        Scheduling::Draining { .. } => "draining",
    }
}

/// Methods are what callers say; only known ones may become labels.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}
