//! Numbers for Prometheus, in its text format.

use std::{collections::BTreeMap, fmt::Write as _};

use axum::{
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
};
use orch_core::model::{NodeState, Scheduling};

use super::app::App;

/// `GET /metrics`.
pub(super) async fn show(State(app): State<App>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text(&app)).into_response()
}

fn text(app: &App) -> String {
    let (status, mut text) = (app.embedded.orchestrator().status(), Page(String::with_capacity(4096)));
    text.family("orch_tasks", "gauge", "Tasks by status.");
    for (name, count) in &status.tasks {
        text.line(format_args!("orch_tasks{{status=\"{name}\"}} {count}"));
    }
    text.family("orch_nodes", "gauge", "Nodes by state and by whether they take work.");
    let mut nodes = BTreeMap::<_, u64>::new();
    for node in app.embedded.orchestrator().nodes() {
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
    text.family(
        "orch_consensus_lost_histories_total",
        "counter",
        "Times that the store came back with another history, with decisions lost.",
    );
    let lost = status.consensus.lost_history.map_or(0, |lost| lost.times);
    text.line(format_args!("orch_consensus_lost_histories_total {lost}"));
    text.family("orch_http_requests_total", "counter", "Answers by method, route and status.");
    let metrics = app.shell.metrics();
    for ((method, route, status), count) in metrics.requests() {
        text.line(format_args!(
            "orch_http_requests_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}} {count}"
        ));
    }
    text.family("orch_http_connections", "gauge", "Open connections.");
    text.line(format_args!("orch_http_connections {}", metrics.open_connections()));
    text.family("orch_http_connections_refused_total", "counter", "Connections beyond the limit.");
    let refused = metrics.refused_connections();
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
