//! Reading requests: whatever is wrong with one becomes a [`Problem`] that says what.

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{HeaderMap, header::CONTENT_TYPE, request::Parts},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::{
    app::{App, Shared},
    problem::{Problem, kinds},
};

/// The bytes of a body that is said to be JSON.
pub(super) struct JsonBody(pub(super) Bytes);

impl FromRequest<App> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        check_is_json(request.headers())?;
        read(request.into_body(), app, app.limits.body_bytes_max).await.map(Self)
    }
}

/// A body of JSON.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let JsonBody(body) = JsonBody::from_request(request, app).await?;
        parse(&body).map(Self)
    }
}

/// A body of JSON that may be absent, which means the default.
pub(super) struct OptionalJson<T>(pub(super) T);

impl<T: DeserializeOwned + Default> FromRequest<App> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let is_json = check_is_json(request.headers());
        let body = read(request.into_body(), app, app.limits.body_bytes_max).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        is_json?;
        parse(&body).map(Self)
    }
}

/// A body of JSON from a worker, which may be larger: bytes of output that are not text are four characters
/// each.
pub(super) struct WorkerJson<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<App> for WorkerJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        check_is_json(request.headers())?;
        let max = app.limits.body_bytes_max.saturating_mul(4);
        parse(&read(request.into_body(), app, max).await?).map(Self)
    }
}

/// An id in the path.
pub(super) struct Id<T>(pub(super) T);

impl<T: std::str::FromStr<Err: std::fmt::Display>> FromRequestParts<App> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let malformed =
            |error: &dyn std::fmt::Display| Problem::new(kinds::MALFORMED, error.to_string()).at("path");
        let Path(text) =
            Path::<String>::from_request_parts(parts, app).await.map_err(|error| malformed(&error))?;
        text.parse().map(Self).map_err(|error| malformed(&error))
    }
}

/// The parameters behind the question mark, in order; a name may come more than once.
pub(super) struct Params(pub(super) Vec<(String, String)>);

impl FromRequestParts<App> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        serde_urlencoded::from_str(query)
            .map(Self)
            .map_err(|error| Problem::new(kinds::MALFORMED, error.to_string()).at("query"))
    }
}

impl Params {
    /// Reads each parameter with `take`, which says whether it knows the name.
    pub(super) fn each(
        self,
        mut take: impl FnMut(&str, String) -> Result<bool, Problem>,
    ) -> Result<(), Problem> {
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
pub(super) fn value<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &str,
    text: &str,
) -> Result<T, Problem> {
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
pub(super) async fn read(body: Body, app: &Shared, max: usize) -> Result<Bytes, Problem> {
    let limit = app.limits.body_timeout;
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

/// Reads JSON; an error names the field.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        let problem = Problem::new(kinds::MALFORMED, error.into_inner().to_string());
        if field == "." { problem } else { problem.at(field) }
    })?;
    json.end().map_err(|error| Problem::new(kinds::MALFORMED, error.to_string()))?;
    Ok(parsed)
}
