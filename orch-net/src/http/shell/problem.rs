//! Refusals and failures as RFC 9457 has them, and what each error of the engine becomes.

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::http::wire::ProblemInfo;

/// A kind of problem. The code is part of the API and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Status of the answer.
    pub status: u16,
    /// Stable code, for programs.
    pub code: &'static str,
    /// Short text, the same for all problems of the kind.
    pub title: &'static str,
}

/// Kinds of problems that any server has.
pub mod kinds {
    use super::define_kinds;

    define_kinds! {
        SHELL:
        MALFORMED = 400 "malformed_request" "The request cannot be read";
        TLS_NEEDED = 400 "tls_needed" "The server speaks TLS";
        UNAUTHENTICATED = 401 "unauthenticated" "A token is needed";
        FORBIDDEN = 403 "forbidden" "The caller may not do this";
        UNKNOWN_ROUTE = 404 "unknown_route" "There is nothing at this path";
        METHOD_NOT_ALLOWED = 405 "method_not_allowed" "This path has other methods";
        BODY_TIMEOUT = 408 "body_timeout" "The request's body came too slowly";
        BODY_TOO_LARGE = 413 "body_too_large" "The request's body is too large";
        NOT_JSON = 415 "not_json" "The request's body must be JSON";
        INTERNAL = 500 "internal" "The server made a mistake";
        TOO_MANY_CONNECTIONS = 503 "too_many_connections" "The server has too many connections";
        SHUTTING_DOWN = 503 "shutting_down" "The server is shutting down";
        TIMED_OUT = 503 "timed_out" "The answer took too long";
    }
}

/// Defines constants of kinds, and a list of them.
macro_rules! define_kinds {
    ($all:ident: $($name:ident = $status:literal $code:literal $title:literal;)*) => {
        $(
            #[doc = $title]
            pub const $name: $crate::http::shell::Kind =
                $crate::http::shell::Kind { status: $status, code: $code, title: $title };
        )*
        /// All of them, for descriptions of an API.
        pub const $all: &[$crate::http::shell::Kind] = &[$($name),*];
    };
}
pub(in crate::http) use define_kinds;

/// A refusal or failure, on its way to the caller.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: Kind,
    detail: String,
    field: Option<String>,
}

impl Problem {
    /// A problem of this kind.
    #[must_use]
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), field: None }
    }

    /// The same, about a field of the request.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The same with what to do instead.
    #[must_use]
    pub fn with_hint(mut self, hint: &str) -> Self {
        self.detail = format!("{}; {hint}", self.detail);
        self
    }

    /// Its JSON form.
    #[must_use]
    pub fn info(&self) -> ProblemInfo {
        ProblemInfo {
            type_uri: format!("urn:orch:problem:{}", self.kind.code),
            code: self.kind.code.into(),
            title: self.kind.title.into(),
            status: self.kind.status,
            detail: self.detail.clone(),
            field: self.field.clone(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
        let json = serde_json::to_vec(&self.info()).expect("plain data has a JSON form");
        let status = StatusCode::from_u16(self.kind.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], json).into_response();
        let extra: Option<(HeaderName, &'static str)> = match self.kind.status {
            401 => Some((header::WWW_AUTHENTICATE, "Bearer")),
            429 | 503 => Some((header::RETRY_AFTER, "1")),
            // The rest of the body was not read.
            408 | 413 => Some((header::CONNECTION, "close")),
            _ => None,
        };
        response.headers_mut().extend(extra.map(|(name, value)| (name, HeaderValue::from_static(value))));
        response
    }
}
