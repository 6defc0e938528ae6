//! [`Routes`]: a table of operations. Router and description are made from the same entries, so that neither
//! can have one that the other lacks.

use std::panic::AssertUnwindSafe;

use axum::{
    Router,
    extract::{Request, State},
    handler::Handler,
    middleware::{self, Next},
    response::Response,
    routing::{MethodFilter, on},
};
use futures_util::FutureExt as _;

use super::{
    Shell,
    auth::Role,
    problem::{Problem, kinds},
};

/// One operation of the API.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Method.
    pub method: Verb,
    /// Path, with parameters in braces.
    pub path: &'static str,
    /// Callers that may ask for it.
    pub access: Access,
    /// Bound on the time of the answer.
    pub pace: Pace,
    /// Summary, for the description.
    pub summary: &'static str,
    /// Parameters in the query with what they mean.
    pub query: &'static [(&'static str, &'static str)],
    /// Name of the request body's schema.
    pub body: Option<&'static str>,
    /// Status of the answer when all went well, its media type and the name of its schema.
    pub answer: (u16, &'static str, &'static str),
}

/// The methods that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `GET`.
    Get,
    /// `POST`.
    Post,
    /// `PUT`.
    Put,
    /// `DELETE`.
    Delete,
}

/// Callers that may ask for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Anyone,
    /// The admin token, or nothing on loopback; never web pages of others.
    LocalOrAdmin,
    /// Principals that may act in this role.
    Role(Role),
}

/// Bound on the time of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As long as [`Limits::request_timeout`](super::Limits::request_timeout).
    Prompt,
    /// It bounds itself, or goes on for ever.
    Long,
}

/// Media type of JSON.
pub const JSON: &str = "application/json";
/// Answer without a body.
pub const NOTHING: (u16, &str, &str) = (204, "", "");

impl Operation {
    /// An operation that answers with JSON.
    #[must_use]
    pub const fn new(method: Verb, path: &'static str, access: Access, summary: &'static str) -> Self {
        let answer = (200, JSON, "Anything");
        Self { method, path, access, pace: Pace::Prompt, summary, query: &[], body: None, answer }
    }

    /// `GET`, for administrators.
    #[must_use]
    pub const fn get(path: &'static str, summary: &'static str) -> Self {
        Self::new(Verb::Get, path, Access::Role(Role::Admin), summary)
    }

    /// `POST`, for administrators.
    #[must_use]
    pub const fn post(path: &'static str, summary: &'static str) -> Self {
        Self::new(Verb::Post, path, Access::Role(Role::Admin), summary)
    }

    /// The same, for workers too.
    #[must_use]
    pub const fn worker(self) -> Self {
        Self { access: Access::Role(Role::Worker), ..self }
    }

    /// The same, for these callers.
    #[must_use]
    pub const fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// The same, without a bound on its time.
    #[must_use]
    pub const fn long(self) -> Self {
        Self { pace: Pace::Long, ..self }
    }

    /// The same with these parameters.
    #[must_use]
    pub const fn query(self, query: &'static [(&'static str, &'static str)]) -> Self {
        Self { query, ..self }
    }

    /// The same with a body of this schema.
    #[must_use]
    pub const fn body(self, schema: &'static str) -> Self {
        Self { body: Some(schema), ..self }
    }

    /// The same with an answer of this schema.
    #[must_use]
    pub const fn gives(self, schema: &'static str) -> Self {
        Self { answer: (200, JSON, schema), ..self }
    }

    /// The same with this answer.
    #[must_use]
    pub const fn answer(self, status: u16, media: &'static str, schema: &'static str) -> Self {
        Self { answer: (status, media, schema), ..self }
    }
}

/// Routes of one part of a server, whose handlers share a state.
#[derive(Debug)]
pub struct Routes<S> {
    shell: Shell,
    router: Router<S>,
    operations: Vec<Operation>,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// No routes yet, of a server with this shell.
    #[must_use]
    pub fn new(shell: &Shell) -> Self {
        Self { shell: shell.clone(), router: Router::new(), operations: Vec::new() }
    }

    /// Adds an operation with its handler. Access and time are checked before the handler runs.
    #[must_use]
    pub fn add<H, T>(mut self, operation: Operation, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        let verb = match operation.method {
            Verb::Get => MethodFilter::GET,
            Verb::Post => MethodFilter::POST,
            Verb::Put => MethodFilter::PUT,
            Verb::Delete => MethodFilter::DELETE,
        };
        let mut route = on(verb, handler);
        if operation.pace == Pace::Prompt {
            route = route.route_layer(middleware::from_fn_with_state(self.shell.clone(), bounded));
        }
        if operation.access != Access::Anyone {
            let shell = self.shell.clone();
            route = route.route_layer(middleware::from_fn(move |request: Request, next: Next| {
                let allowed = shell.check(operation.access, request.headers());
                async move {
                    match allowed {
                        Ok(()) => Ok(next.run(request).await),
                        Err(problem) => Err(problem),
                    }
                }
            }));
        }
        self.router = self.router.route(operation.path, route);
        self.operations.push(operation);
        self
    }

    /// All operations so far.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The routes with the state of their handlers.
    pub fn with_state(self, state: S) -> Router {
        self.router.with_state(state)
    }
}

/// Middleware that does for any router what [`Routes`] do for each operation: checks access, and ends
/// requests whose answer takes too long.
///
/// # Errors
/// The refusal.
pub async fn guard(
    State((shell, access)): State<(Shell, Access)>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    shell.check(access, request.headers())?;
    bounded(State(shell), request, next).await
}

/// Ends requests whose answer takes too long. What they asked for may happen all the same.
async fn bounded(State(shell): State<Shell>, request: Request, next: Next) -> Result<Response, Problem> {
    let limit = shell.limits().request_timeout;
    tokio::time::timeout(limit, next.run(request)).await.map_err(|_| {
        let detail =
            format!("no answer after {} ms; what was asked for may happen all the same", limit.as_millis());
        Problem::new(kinds::TIMED_OUT, detail)
    })
}

/// Answers requests that panic, where the connection would be cut without a word. What the panic said is for
/// the log only.
pub(super) async fn answer_panics(request: Request, next: Next) -> Result<Response, Problem> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    AssertUnwindSafe(next.run(request)).catch_unwind().await.map_err(|panic| {
        let words = panic.downcast_ref::<&str>().copied();
        let words =
            words.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        tracing::error!(%method, path, panic = words, "a request panicked");
        let detail = "the server's log says more; what was asked for may have happened all the same";
        Problem::new(kinds::INTERNAL, detail)
    })
}
