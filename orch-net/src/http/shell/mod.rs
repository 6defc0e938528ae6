//! Shell of a server: connections, TLS, bounds, authentication, requests read and refused. It knows nothing
//! of tasks; the engine's API and routes of styles are mounted in it.

mod accept;
mod access;
mod auth;
mod error;
mod extract;
mod limits;
mod metrics;
mod problem;
mod routes;
mod tls;

use std::sync::Arc;

use axum::{Router, http::HeaderMap, middleware};
use tokio::sync::watch;

pub(super) use self::{accept::Connections, metrics::Metrics, problem::define_kinds};
pub use self::{
    auth::{Authenticator, Principal, Role, TokenError, Tokens},
    error::ServerError,
    extract::{Id, Json, JsonBody, OptionalJson, Params, WorkerJson, parse, value},
    limits::Limits,
    problem::{Kind, Problem, kinds},
    routes::{Access, JSON, NOTHING, Operation, Pace, Routes, Verb, guard},
    tls::TlsFiles,
};

/// Parts of a server that all of its routes share. Cheap to clone; clones are one.
#[derive(Clone, Debug)]
pub struct Shell(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    authenticator: Arc<dyn Authenticator>,
    limits: Limits,
    metrics: Arc<Metrics>,
    loopback: bool,
    closing: watch::Receiver<bool>,
}

impl Shell {
    pub(super) fn new(
        authenticator: Arc<dyn Authenticator>,
        limits: Limits,
        loopback: bool,
        closing: watch::Receiver<bool>,
    ) -> Self {
        Self(Arc::new(Inner { authenticator, limits, metrics: Arc::default(), loopback, closing }))
    }

    /// Bounds on what callers may ask for.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Whether only this machine reaches the server.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.0.loopback
    }

    /// Establishes who sent a request with these headers.
    ///
    /// # Errors
    /// The refusal.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, Problem> {
        self.0.authenticator.authenticate(headers)
    }

    /// Checks that a request with these headers may ask for an operation with this access.
    ///
    /// # Errors
    /// The refusal.
    pub fn check(&self, access: Access, headers: &HeaderMap) -> Result<(), Problem> {
        match access {
            Access::Anyone => Ok(()),
            Access::LocalOrAdmin => access::local_or_admin(self, headers),
            Access::Role(role) => self.authenticate(headers)?.check(role),
        }
    }

    /// Resolves when streams and long polls should end.
    pub async fn closed(&self) {
        // An error means that the server is gone.
        let _ = self.0.closing.clone().wait_for(|closing| *closing).await;
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// Completes a router: refusals for what it has no route for, answers to panics, and counters.
    pub(super) fn complete(&self, router: Router) -> Router {
        router
            .fallback(async || Problem::new(kinds::UNKNOWN_ROUTE, "see GET /openapi.json for what there is"))
            .method_not_allowed_fallback(async || {
                Problem::new(kinds::METHOD_NOT_ALLOWED, "see the header Allow for the methods there are")
            })
            .layer(middleware::from_fn(routes::answer_panics))
            .layer(middleware::from_fn_with_state(self.clone(), metrics::count))
    }
}
