//! Reading requests: whatever is wrong with one becomes a [`Problem`] that says what.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRef, FromRequest, FromRequestParts, Path, Request},
    http::{HeaderMap, header::CONTENT_TYPE, request::Parts},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::{
    Shell,
    problem::{Problem, kinds},
};

/// The bytes of a body that is said to be JSON.
#[derive(Debug)]
pub struct JsonBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonBody
where
    Shell: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        check_is_json(request.headers())?;
        read_shared(request, state).await.map(Self)
    }
}

/// A body of JSON.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T>
where
    Shell: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let JsonBody(body) = JsonBody::from_request(request, state).await?;
        parse(&body).map(Self)
    }
}

/// A body of JSON that may be absent, which means the default.
#[derive(Debug)]
pub struct OptionalJson<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJson<T>
where
    Shell: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let is_json = check_is_json(request.headers());
        let body = read_shared(request, state).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        is_json?;
        parse(&body).map(Self)
    }
}

/// A body of JSON from a worker, which may be larger: bytes of output that are not text are four characters
/// each.
#[derive(Debug)]
pub struct WorkerJson<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for WorkerJson<T>
where
    Shell: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        check_is_json(request.headers())?;
        let shell = Shell::from_ref(state);
        let max = shell.limits().body_bytes_max.saturating_mul(4);
        parse(&shell.read(request.into_body(), max).await?).map(Self)
    }
}

/// An id in the path.
#[derive(Debug)]
pub struct Id<T>(pub T);

impl<S: Send + Sync, T: std::str::FromStr<Err: std::fmt::Display>> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let malformed =
            |error: &dyn std::fmt::Display| Problem::new(kinds::MALFORMED, error.to_string()).at("path");
        let Path(text) =
            Path::<String>::from_request_parts(parts, state).await.map_err(|error| malformed(&error))?;
        text.parse().map(Self).map_err(|error| malformed(&error))
    }
}

/// The parameters behind the question mark, in order; a name may come more than once.
#[derive(Debug)]
pub struct Params(pub Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        serde_urlencoded::from_str(query)
            .map(Self)
            .map_err(|error| Problem::new(kinds::MALFORMED, error.to_string()).at("query"))
    }
}

impl Params {
    /// Reads each parameter with `take`, which says whether it knows the name.
    ///
    /// # Errors
    /// The refusal of an unknown name, and those of `take`.
    pub fn each(self, mut take: impl FnMut(&str, String) -> Result<bool, Problem>) -> Result<(), Problem> {
        for (name, value) in self.0 {
            if !take(&name, value)? {
                let detail = format!("there is no parameter {:?} here", clip(&name));
                return Err(Problem::new(kinds::MALFORMED, detail).at("query"));
            }
        }
        Ok(())
    }
}

/// Reads the value of a parameter.
///
/// # Errors
/// The refusal, which names the parameter.
pub fn value<T: std::str::FromStr<Err: std::fmt::Display>>(name: &str, text: &str) -> Result<T, Problem> {
    text.parse()
        .map_err(|error| Problem::new(kinds::MALFORMED, format!("{name}={}: {error}", clip(text))).at(name))
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

fn check_is_json(headers: &HeaderMap) -> Result<(), Problem> {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media == "application/json" || (media.starts_with("application/") && media.ends_with("+json")) {
        true => Ok(()),
        false => Err(Problem::new(kinds::NOT_JSON, "send the header Content-Type: application/json")),
    }
}

/// Reads a body within the bounds on size and time.
async fn read_within(body: Body, limit: Duration, max: usize) -> Result<Bytes, Problem> {
    let read = tokio::time::timeout(limit, Limited::new(body, max).collect()).await.map_err(|_| {
        Problem::new(kinds::BODY_TIMEOUT, format!("it must be sent within {} ms", limit.as_millis()))
    })?;
    read.map(http_body_util::Collected::to_bytes).map_err(|error| match error.is::<LengthLimitError>() {
        true => {
            let most = if max < 1024 { format!("{max} bytes") } else { format!("{} KiB", max >> 10) };
            Problem::new(kinds::BODY_TOO_LARGE, format!("at most {most} are taken"))
        }
        false => Problem::new(kinds::MALFORMED, "the body ended early"),
    })
}

impl Shell {
    /// Reads a body of at most `max` bytes, within the server's bound on time.
    ///
    /// # Errors
    /// The refusal.
    pub async fn read(&self, body: Body, max: usize) -> Result<Bytes, Problem> {
        read_within(body, self.limits().body_timeout, max).await
    }
}

async fn read_shared<S>(request: Request, state: &S) -> Result<Bytes, Problem>
where
    Shell: FromRef<S>,
{
    let shell = Shell::from_ref(state);
    shell.read(request.into_body(), shell.limits().body_bytes_max).await
}

/// Reads JSON; an error names the field.
///
/// # Errors
/// The refusal.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        let problem = Problem::new(kinds::MALFORMED, error.into_inner().to_string());
        if field == "." { problem } else { problem.at(field) }
    })?;
    json.end().map_err(|error| Problem::new(kinds::MALFORMED, error.to_string()))?;
    Ok(parsed)
}
