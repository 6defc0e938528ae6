//! [`ControlLink`] over HTTP: what joins an agent to a manager elsewhere.

use std::time::Duration;

use async_trait::async_trait;
use orch_core::{
    engine::{
        Assignments, AssignmentsQuery, ControlLink, LinkError, Observation, Registered, Registration,
        Reported,
    },
    model::{Report, Session},
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::{
    config::ClientConfig,
    error::ClientError,
    json_client::{Call, JsonClient},
};
use crate::http::wire::{Heartbeat, Observations, Question, Reports};

/// A worker's way to its manager. Sends each call once; the agent repeats what has no answer. Give it the
/// worker token.
#[derive(Clone, Debug)]
pub struct HttpLink {
    client: JsonClient,
    token: watch::Sender<TokenState>,
}

/// State of a link's token at the server, by its last answer that tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// It has not said anything yet.
    Untried,
    /// It takes the token.
    Accepted,
    /// It does not know the token, or wants another one, in its words.
    Refused(String),
}

impl HttpLink {
    /// Connects when it is first used.
    ///
    /// # Errors
    /// [`ClientError::Config`] when the configuration cannot work.
    pub fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        Ok(Self { client: JsonClient::of_api(config)?, token: watch::Sender::new(TokenState::Untried) })
    }

    /// State of the token at the server, now and whenever it changes.
    #[must_use]
    pub fn token_state(&self) -> watch::Receiver<TokenState> {
        self.token.subscribe()
    }

    async fn send<T: DeserializeOwned>(&self, call: Call) -> Result<T, LinkError> {
        self.send_within(call, self.client.timeouts.request).await
    }

    async fn send_within<T: DeserializeOwned>(&self, call: Call, timeout: Duration) -> Result<T, LinkError> {
        let answer = self.client.once(&call, timeout).await;
        let told = match &answer {
            Ok(_) => Some(TokenState::Accepted),
            Err(ClientError::Problem(problem)) => match problem.status {
                401 => Some(TokenState::Refused(problem.detail.clone())),
                403 if problem.code == "forbidden" => Some(TokenState::Refused(problem.detail.clone())),
                // Whoever may not call hears nothing of what is asked for.
                409 | 422 => Some(TokenState::Accepted),
                _ => None,
            },
            Err(_) => None,
        };
        if let Some(told) = told {
            self.token.send_if_modified(|known| {
                *known != told && {
                    *known = told;
                    true
                }
            });
        }
        answer.map(|(_, answer)| answer).map_err(|error| LinkError::from(&error))
    }
}

#[async_trait]
impl ControlLink for HttpLink {
    async fn register(&self, registration: Registration) -> Result<Registered, LinkError> {
        let path = format!("/api/v1/agent/{}/register", registration.spec.id);
        self.send(Call::post(path, &registration)).await
    }

    async fn heartbeat(&self, session: &Session) -> Result<(), LinkError> {
        let path = format!("/api/v1/agent/{}/heartbeat", session.node);
        self.send(Call::post(path, &Heartbeat { session: session.clone() })).await
    }

    async fn assignments(
        &self,
        session: &Session,
        query: AssignmentsQuery,
    ) -> Result<Assignments, LinkError> {
        let path = format!("/api/v1/agent/{}/assignments", session.node);
        let call = Call::post(path, &Question::new(session.clone(), query));
        self.send_within(call, self.client.timeouts.assignments).await
    }

    async fn report(&self, session: &Session, reports: Vec<Report>) -> Result<Reported, LinkError> {
        let path = format!("/api/v1/agent/{}/reports", session.node);
        self.send(Call::post(path, &Reports { session: session.clone(), reports })).await
    }

    async fn observe(&self, session: &Session, observations: Vec<Observation>) -> Result<(), LinkError> {
        let path = format!("/api/v1/agent/{}/observations", session.node);
        self.send(Call::post(path, &Observations { session: session.clone(), observations })).await
    }
}
