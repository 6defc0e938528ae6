//! Connection to the engine. Every request has a timeout, so that an engine that hangs is noticed.

use std::{env, future::Future, time::Duration};

use bollard::{API_DEFAULT_VERSION, Docker, errors::Error};
use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use orch_core::runtime::RuntimeError;

use crate::{DockerConfig, errors::EngineError};

const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

/// The client's own timeout for the head of a response. Ours are shorter; this one must not expire first for
/// pulls, which are silent until the registry has responded.
const CLIENT_TIMEOUT_S: u64 = 3600;

/// Client of an engine. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(crate) docker: Docker,
    request_timeout: Duration,
    start_timeout: Duration,
    probe_interval: Duration,
}

impl Engine {
    /// Finds the engine and checks that it responds.
    pub(crate) async fn connect(config: &DockerConfig) -> Result<Self, RuntimeError> {
        let host = match &config.host {
            Some(host) => host.clone(),
            None => env::var("DOCKER_HOST")
                .ok()
                .filter(|host| !host.is_empty())
                .unwrap_or_else(|| DEFAULT_HOST.into()),
        };
        let operation = format!("reach the engine at {host}");
        let docker = open(&host).map_err(|error| EngineError::from(error).into_runtime(&operation))?;
        let engine = Self {
            docker,
            request_timeout: config.request_timeout,
            start_timeout: config.start_timeout,
            probe_interval: config.probe_interval,
        };
        engine.ask(engine.docker.ping()).await.map_err(|error| error.into_runtime(&operation))?;
        Ok(engine)
    }

    /// Sends a request that the engine serves at once.
    pub(crate) async fn ask<T>(
        &self,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, EngineError> {
        within(self.request_timeout, answer).await
    }

    /// Sends a request that takes the engine some time.
    pub(crate) async fn order<T>(
        &self,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, EngineError> {
        within(self.start_timeout, answer).await
    }

    /// Stream that may be silent for any time while the engine responds to probes. After an error it ends.
    pub(crate) fn watched<T: Send + 'static>(
        &self,
        items: impl Stream<Item = Result<T, Error>> + Send + 'static,
    ) -> BoxStream<'static, Result<T, EngineError>> {
        let start = Some((items.boxed(), self.clone()));
        stream::unfold(start, |state| async {
            let (mut items, engine) = state?;
            let item = tokio::select! {
                item = items.next() => item?.map_err(EngineError::from),
                gone = engine.until_gone() => Err(gone),
            };
            let next = item.is_ok().then_some((items, engine));
            Some((item, next))
        })
        .boxed()
    }

    /// Returns when the engine no longer responds.
    async fn until_gone(&self) -> EngineError {
        loop {
            tokio::time::sleep(self.probe_interval).await;
            if let Err(error) = within(self.probe_interval, self.docker.ping()).await {
                return error;
            }
        }
    }
}

fn open(host: &str) -> Result<Docker, Error> {
    if let Some(path) = host.strip_prefix("unix://") {
        return Docker::connect_with_unix(path, CLIENT_TIMEOUT_S, API_DEFAULT_VERSION);
    }
    #[cfg(feature = "tcp")]
    if host.starts_with("tcp://") || host.starts_with("http://") {
        return Docker::connect_with_http(host, CLIENT_TIMEOUT_S, API_DEFAULT_VERSION);
    }
    Err(Error::UnsupportedURISchemeError { uri: host.into() })
}

async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, EngineError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(EngineError::BrokenOff(format!("no answer within {limit:?}"))),
    }
}
