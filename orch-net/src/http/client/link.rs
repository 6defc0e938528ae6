//! [`ControlLink`] over HTTP: what joins an agent to a manager elsewhere.

use async_trait::async_trait;
use orch_core::{
    engine::{Assignments, ControlLink, Cursor, LinkError, Observation, Registration, ReportAnswer},
    model::{InstanceId, NodeId, NodeSpec, Report},
};
use serde::de::DeserializeOwned;

use super::{
    config::ClientConfig,
    error::ClientError,
    transport::{Call, Transport},
};
use crate::http::wire::{Heartbeat, Observations, ReportAnswers, Reports};

/// A worker's way to its manager. Sends each call once; the agent repeats what has no answer. Give it the worker token.
#[derive(Clone, Debug)]
pub struct HttpLink {
    transport: Transport,
}

impl HttpLink {
    /// Connects when it is first used.
    ///
    /// # Errors
    /// [`ClientError::Config`] when the configuration cannot work.
    pub fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        Ok(Self { transport: Transport::new(config)? })
    }

    async fn send<T: DeserializeOwned>(&self, call: Call) -> Result<T, LinkError> {
        let answer = self.transport.once(&call, self.transport.timeouts.request).await;
        answer.map(|(_, answer)| answer).map_err(|error| link_error(&error))
    }
}

pub(super) fn link_error(error: &ClientError) -> LinkError {
    match error {
        ClientError::Problem(problem) if problem.code == "not_registered" => LinkError::NotRegistered,
        ClientError::Problem(problem) if problem.code == "refused" => {
            LinkError::Refused(problem.detail.clone())
        }
        ClientError::Problem(_) | ClientError::Config(_) if !error.is_retryable() => {
            LinkError::Refused(error.to_string())
        }
        _ => LinkError::Unavailable(error.to_string()),
    }
}

#[async_trait]
impl ControlLink for HttpLink {
    async fn register(&self, spec: NodeSpec) -> Result<Registration, LinkError> {
        self.send(Call::post(format!("/api/v1/agent/{}/register", spec.id), &spec)).await
    }

    async fn heartbeat(&self, node: &NodeId, instance: InstanceId) -> Result<(), LinkError> {
        self.send(Call::post(format!("/api/v1/agent/{node}/heartbeat"), &Heartbeat { instance })).await
    }

    async fn assignments(&self, node: &NodeId, after: Option<Cursor>) -> Result<Assignments, LinkError> {
        let mut path = format!("/api/v1/agent/{node}/assignments");
        if let Some(Cursor { epoch, position }) = after {
            path = format!("{path}?epoch={epoch}&position={position}");
        }
        let told = self.transport.once(&Call::get(path), self.transport.timeouts.long_poll).await;
        told.map(|(_, told)| told).map_err(|error| link_error(&error))
    }

    async fn report(&self, node: &NodeId, reports: Vec<Report>) -> Result<Vec<ReportAnswer>, LinkError> {
        let call = Call::post(format!("/api/v1/agent/{node}/reports"), &Reports { reports });
        self.send(call).await.map(|ReportAnswers { answers }| answers)
    }

    async fn observe(&self, node: &NodeId, observations: Vec<Observation>) -> Result<(), LinkError> {
        let observations = Observations { observations };
        self.send(Call::post(format!("/api/v1/agent/{node}/observations"), &observations)).await
    }
}
