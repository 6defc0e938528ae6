//! [`JsonClient`]: requests to one server and their answers, within bounds; [`Client`](super::Client) and
//! links are made of it.

use std::{fmt, sync::Arc, time::Duration};

use axum::http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    InvalidMessage, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    config::{ClientConfig, Timeouts},
    error::ClientError,
};
use crate::http::wire::ProblemInfo;

/// Server that answers in JSON, and bounds on its answers.
#[derive(Clone)]
pub struct JsonClientConfig {
    /// `http://HOST:PORT` or `https://HOST:PORT`, perhaps with a path behind it.
    pub base_url: String,
    /// Headers of each request. Mark values that must not be printed as sensitive.
    pub headers: HeaderMap,
    /// Certificates in PEM form to trust instead of the public ones.
    pub ca_pem: Option<Vec<u8>>,
    /// Bounds on time: `connect`, and for [`JsonClient::call`] `request` and those on tries.
    pub timeouts: Timeouts,
    /// Size of the largest answer that is taken, in bytes.
    pub answer_bytes_max: usize,
    /// Keep connections for further requests. Otherwise each request has one of its own, and says so
    /// (`Connection: close`).
    pub keep_alive: bool,
    /// Write names of headers `Like-This`, for servers whose parsers know no other case.
    pub title_case_headers: bool,
}

impl JsonClientConfig {
    /// The server at this address, with kept connections, public certificates, and defaults for the rest.
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            headers: HeaderMap::new(),
            ca_pem: None,
            timeouts: Timeouts::default(),
            answer_bytes_max: 256 << 20,
            keep_alive: true,
            title_case_headers: false,
        }
    }

    /// The same with a bearer token in each request.
    ///
    /// # Errors
    /// [`ClientError::Config`] when a header cannot hold the token.
    pub fn bearer(mut self, token: &str) -> Result<Self, ClientError> {
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| ClientError::Config("the token has characters that a header cannot hold".into()))?;
        authorization.set_sensitive(true);
        self.headers.insert(AUTHORIZATION, authorization);
        Ok(self)
    }
}

impl fmt::Debug for JsonClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonClientConfig")
            .field("base_url", &self.base_url)
            .field("headers", &self.headers)
            .field("timeouts", &self.timeouts)
            .field("answer_bytes_max", &self.answer_bytes_max)
            .field("keep_alive", &self.keep_alive)
            .field("title_case_headers", &self.title_case_headers)
            .finish_non_exhaustive()
    }
}

/// Client of one server that takes and gives JSON over HTTP/1.1, ours or any other: TLS, bounds on time and
/// size, refusals as [`ClientError::Problem`]. Cheap to clone; clones share connections.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use orch_net::http::{Call, JsonClient, JsonClientConfig};
///
/// let client = JsonClient::new(&JsonClientConfig::new("https://scheduler.example"))?;
/// let queued: Vec<String> = client.call(Call::get("/jobs?state=queued")).await?;
/// for job in queued {
///     client.call::<()>(Call::put(format!("/jobs/{job}/state"), &"running")).await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct JsonClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: Arc<str>,
    /// Sent with each request.
    headers: HeaderMap,
    answer_bytes_max: usize,
    pub(super) timeouts: Timeouts,
}

impl fmt::Debug for JsonClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonClient").field("base", &self.base).finish_non_exhaustive()
    }
}

/// One request of a [`JsonClient`]. It can be sent more than once.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    path: String,
    body: Option<Bytes>,
    headers: Vec<(&'static str, String)>,
    /// Sending it twice has the effect of sending it once.
    repeatable: bool,
}

impl Call {
    /// `GET` of a path, which begins with a slash and may have a query. Repeatable.
    pub fn get(path: impl Into<String>) -> Self {
        let path = path.into();
        Self { method: Method::GET, path, body: None, headers: Vec::new(), repeatable: true }
    }

    /// `DELETE` of a path.
    pub fn delete(path: impl Into<String>) -> Self {
        Self { method: Method::DELETE, repeatable: false, ..Self::get(path) }
    }

    /// `POST` of the body's JSON form.
    ///
    /// # Panics
    /// When the body has no JSON form.
    pub fn post(path: impl Into<String>, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("plain data has a JSON form");
        Self { method: Method::POST, body: Some(body.into()), repeatable: false, ..Self::get(path) }
    }

    /// `PUT` of the body's JSON form. Repeatable.
    ///
    /// # Panics
    /// When the body has no JSON form.
    pub fn put(path: impl Into<String>, body: &impl Serialize) -> Self {
        Self { method: Method::PUT, repeatable: true, ..Self::post(path, body) }
    }

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The same, marked as harmless to send twice: [`JsonClient::call`] tries it again.
    #[must_use]
    pub fn repeatable(self) -> Self {
        Self { repeatable: true, ..self }
    }
}

impl JsonClient {
    /// Connects when it is first used.
    ///
    /// # Errors
    /// [`ClientError::Config`] when the configuration cannot work.
    pub fn new(config: &JsonClientConfig) -> Result<Self, ClientError> {
        let mut client = Client::builder(TokioExecutor::new());
        let mut headers = config.headers.clone();
        client.http1_title_case_headers(config.title_case_headers);
        if config.keep_alive {
            // Shorter than servers keep idle connections, so that a request seldom meets one that is closing.
            client.pool_idle_timeout(Duration::from_secs(10)).pool_timer(TokioTimer::new());
        } else {
            client.pool_max_idle_per_host(0);
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(Self {
            client: client.build(connector(config.ca_pem.as_deref(), &config.timeouts)?),
            base: base(&config.base_url)?,
            headers,
            answer_bytes_max: config.answer_bytes_max,
            timeouts: config.timeouts,
        })
    }

    /// A client of the API.
    pub(super) fn of_api(config: &ClientConfig) -> Result<Self, ClientError> {
        let ClientConfig { base_url, token, ca_pem, timeouts } = config.clone();
        let config = JsonClientConfig { ca_pem, timeouts, ..JsonClientConfig::new(base_url) };
        Self::new(&config.bearer(&token)?)
    }

    /// Sends once and gives the answer's head; a refusal is an error.
    pub(super) async fn open(
        &self,
        call: &Call,
        timeout: Duration,
    ) -> Result<Response<Incoming>, ClientError> {
        let request = self.request(call)?;
        let answered = tokio::time::timeout(timeout, self.client.request(request)).await;
        let response =
            answered.map_err(|_| ClientError::Timeout(timeout))?.map_err(|error| unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = collect(response, 64 << 10, timeout).await.unwrap_or_default();
        Err(ClientError::Problem(Box::new(serde_json::from_slice(&body).unwrap_or_else(|_| foreign(status)))))
    }

    /// Sends once and gives the answer's status. Its body is not read.
    ///
    /// # Errors
    /// [`ClientError`]; after `timeout` without an answer [`ClientError::Timeout`].
    pub async fn status(&self, call: &Call, timeout: Duration) -> Result<StatusCode, ClientError> {
        self.open(call, timeout).await.map(|response| response.status())
    }

    /// Sends once and gives the answer's status and body. An empty body is the unit type's. Head and body may
    /// take `timeout` each.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Protocol`] when the body is too large or has another form.
    pub async fn once<T: DeserializeOwned>(
        &self,
        call: &Call,
        timeout: Duration,
    ) -> Result<(StatusCode, T), ClientError> {
        let response = self.open(call, timeout).await?;
        let status = response.status();
        let body = collect(response, self.answer_bytes_max, timeout).await?;
        // Nothing is the JSON form of the unit type.
        let json: &[u8] = if body.is_empty() { b"null" } else { &body };
        let parsed =
            serde_json::from_slice(json).map_err(|error| ClientError::Protocol(error.to_string()))?;
        Ok((status, parsed))
    }

    /// Sends within [`Timeouts::request`], again where that is harmless, and gives the answer's body.
    ///
    /// # Errors
    /// [`ClientError`] of the last try.
    pub async fn call<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let mut backoff = self.timeouts.backoff();
        for attempt in 1.. {
            match self.once(&call, self.timeouts.request).await {
                Ok((_, answer)) => return Ok(answer),
                Err(error) => {
                    let again = call.repeatable && error.is_retryable() && attempt < self.timeouts.tries;
                    if !again {
                        return Err(error);
                    }
                    tracing::debug!(%error, path = call.path, "trying again");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
        unreachable!("the loop returns")
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(&call.method)
            .uri(format!("{}{}", self.base, call.path))
            .header(ACCEPT, "application/json, application/problem+json, */*;q=0.5");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if call.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        let body = Full::new(call.body.clone().unwrap_or_default());
        request.body(body).map_err(|error| ClientError::Config(error.to_string()))
    }
}

/// Words of `error` and its causes, and what to do where they tell.
pub(super) fn unreachable(error: &(dyn std::error::Error + 'static)) -> ClientError {
    let causes: Vec<_> = std::iter::successors(Some(error), |error| cause(*error)).collect();
    let speaks_no_tls = |error: &&(dyn std::error::Error + 'static)| {
        let error = error.downcast_ref::<rustls::Error>();
        matches!(error, Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)))
    };
    if causes.iter().any(speaks_no_tls) {
        return ClientError::Unreachable("it does not speak TLS; call it by http://".into());
    }
    let speaks_no_http = |error: &&(dyn std::error::Error + 'static)| {
        error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse)
    };
    let mut texts: Vec<String> = causes.iter().map(ToString::to_string).collect();
    // An error that is wrapped says the same as the one in it.
    texts.dedup();
    let connecting = error
        .downcast_ref::<hyper_util::client::legacy::Error>()
        .is_some_and(hyper_util::client::legacy::Error::is_connect);
    if connecting && texts.len() > 1 {
        // That a connection was tried is known.
        texts.remove(0);
    }
    let mut text = texts.join(": ");
    if causes.iter().any(speaks_no_http) {
        text += "; what answers there speaks no HTTP: if it speaks TLS, call it by https://";
    }
    ClientError::Unreachable(text)
}

/// The cause of an error. A system's error that wraps another one hides it from `source`.
fn cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a (dyn std::error::Error + 'static)> {
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

async fn collect(response: Response<Incoming>, max: usize, timeout: Duration) -> Result<Bytes, ClientError> {
    let body = Limited::new(response.into_body(), max).collect();
    match tokio::time::timeout(timeout, body).await {
        Err(_) => Err(ClientError::Timeout(timeout)),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(ClientError::Protocol(format!("it is larger than {} KiB", max >> 10)))
        }
        Ok(Err(error)) => Err(unreachable(&*error)),
    }
}

/// The problem of an answer that is not of our server: a proxy's, say.
fn foreign(status: StatusCode) -> ProblemInfo {
    ProblemInfo {
        type_uri: "about:blank".into(),
        code: "foreign".into(),
        title: status.canonical_reason().unwrap_or("Refused").into(),
        status: status.as_u16(),
        detail: "the answer is not that of an orch server; check base_url".into(),
        field: None,
    }
}

fn base(url: &str) -> Result<Arc<str>, ClientError> {
    let refuse = |why: String| ClientError::Config(why);
    let base = url.trim_end_matches('/');
    let uri: Uri = base.parse().map_err(|error| refuse(format!("base_url: {error}")))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.query().is_some() {
        return Err(refuse("base_url must look like https://host:port".into()));
    }
    Ok(base.into())
}

fn connector(
    ca_pem: Option<&[u8]>,
    timeouts: &Timeouts,
) -> Result<HttpsConnector<HttpConnector>, ClientError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Config(error.to_string()))?
        .with_root_certificates(roots(ca_pem)?)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(timeouts.connect));
    Ok(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp))
}

fn roots(ca_pem: Option<&[u8]>) -> Result<RootCertStore, ClientError> {
    let Some(pem) = ca_pem else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let refuse = |error: &dyn fmt::Display| ClientError::Config(format!("ca_pem: {error}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(|error| refuse(&error))?).map_err(|error| refuse(&error))?;
    }
    match roots.is_empty() {
        true => Err(refuse(&"it holds no certificate")),
        false => Ok(roots),
    }
}
