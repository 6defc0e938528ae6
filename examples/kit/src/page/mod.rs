//! Pages for people: one style sheet, light and dark, and a page on a cluster that every style can mount.
//!
//! Pages bring everything themselves: nothing is loaded from elsewhere, and a policy in the header tells the
//! browser to refuse it. The page on the cluster is a file without data; its script asks for a token, keeps
//! it for as long as the tab is open, and calls the engine's API with it.

mod document;

use axum::{
    extract::State,
    http::{HeaderName, header},
    response::IntoResponse,
};
use orch_core::Orchestrator;
use orch_net::http::{
    Mount,
    shell::{Access, Operation, Routes, Shell},
};

pub use self::document::{Document, escape};
use crate::style::Style;

/// Path of the page on the cluster.
pub const CLUSTER: &str = "/ui";
/// Path of the style sheet of all pages.
pub const STYLE_SHEET: &str = "/ui/style.css";
const SCRIPT: &str = "/ui/cluster.js";

/// Headers of every page and file: nothing from other sites, no frame of other sites, nothing guessed.
const GUARDS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'self'; \
         base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-cache"),
];

/// The page on the cluster, to be mounted in a server: nodes, tasks, output, live.
pub fn cluster(style: Style) -> impl FnOnce(&Shell, &Orchestrator) -> Mount {
    move |shell, _| {
        let open = |path, summary, media| {
            Operation::get(path, summary).access(Access::Anyone).answer(200, media, "")
        };
        let routes = Routes::new(shell)
            .add(open(CLUSTER, "Page on the cluster, for people", "text/html"), page)
            .add(open(STYLE_SHEET, "Style sheet of pages", "text/css"), style_sheet)
            .add(open(SCRIPT, "Script of the page on the cluster", "text/javascript"), script);
        Mount::new(routes.with_state(style))
    }
}

async fn page(State(style): State<Style>) -> impl IntoResponse {
    let html = include_str!("cluster.html");
    let body = html.replace("{program}", &escape(style.program)).replace("{server}", &escape(style.server));
    Document::new(style.program, &body).script(SCRIPT)
}

async fn style_sheet() -> impl IntoResponse {
    (GUARDS, [(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("style.css"))
}

async fn script() -> impl IntoResponse {
    (GUARDS, [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("cluster.js"))
}
