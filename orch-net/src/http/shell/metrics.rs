//! [`Metrics`]: counters of requests and connections.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::Method,
    middleware::Next,
    response::Response,
};
use parking_lot::Mutex;

use super::Shell;

/// Counters. Bounded by the number of routes, methods and statuses.
#[derive(Debug, Default)]
pub(in crate::http) struct Metrics {
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

    /// Answers by method, route and status.
    pub(in crate::http) fn requests(&self) -> BTreeMap<(&'static str, String, u16), u64> {
        self.requests.lock().clone()
    }

    pub(in crate::http) fn open_connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(in crate::http) fn refused_connections(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn answered(&self, method: &Method, route: &str, status: u16) {
        let mut requests = self.requests.lock();
        *requests.entry((known_method(method), route.to_owned(), status)).or_default() += 1;
    }
}

/// Counts answers.
pub(super) async fn count(State(shell): State<Shell>, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    shell.metrics().answered(&method, route, response.status().as_u16());
    response
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
