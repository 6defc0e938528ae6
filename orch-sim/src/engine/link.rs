//! [`NetworkLink`]: an agent's way to the members over a network that delays, loses and repeats calls.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use orch_core::{
    engine::{
        Assignments, AssignmentsQuery, ControlLink, LinkError, Observation, Registered, Registration,
        Reported,
    },
    model::{Report, Session},
};

use super::world::World;

#[derive(Clone, Debug)]
pub(super) struct NetworkLink {
    world: Arc<World>,
    /// Index of the agent in the world.
    agent: usize,
}

/// Fate of one call.
#[derive(Debug)]
pub(super) struct Passage {
    pub(super) member: Option<Arc<dyn ControlLink>>,
    pub(super) there: Duration,
    pub(super) back: Duration,
    pub(super) request_lost: bool,
    pub(super) answer_lost: bool,
    /// The call is made again so much later, as by a message that was held up.
    pub(super) repeated_after: Option<Duration>,
}

type Called<T> = BoxFuture<'static, Result<T, LinkError>>;

impl NetworkLink {
    pub(super) fn new(world: Arc<World>, agent: usize) -> Self {
        Self { world, agent }
    }

    async fn call<T: Send + 'static>(
        &self,
        call: impl Fn(Arc<dyn ControlLink>) -> Called<T> + Send,
    ) -> Result<T, LinkError> {
        let lost = |what: &str| LinkError::Unavailable(format!("the {what} was lost"));
        let passage = self.world.passage(self.agent);
        tokio::time::sleep(passage.there).await;
        let Some(member) = passage.member else {
            return Err(LinkError::Unavailable("the member is down".into()));
        };
        if passage.request_lost || self.world.is_cut_off(self.agent) {
            tokio::time::sleep(Duration::from_millis(500)).await;
            return Err(lost("request"));
        }
        if let Some(later) = passage.repeated_after {
            let again = call(member.clone());
            tokio::spawn(async move {
                tokio::time::sleep(later).await;
                // The receiver of the answer is down.
                let _ = tokio::time::timeout(Duration::from_secs(1), again).await;
            });
        }
        // The member is another machine: an agent cannot see that it has ended.
        let answer = call(member).await.map_err(|error| match error {
            LinkError::Closed => LinkError::Unavailable("the member went down".into()),
            error => error,
        });
        tokio::time::sleep(passage.back).await;
        if passage.answer_lost || self.world.is_cut_off(self.agent) {
            return Err(lost("answer"));
        }
        answer
    }
}

#[async_trait]
impl ControlLink for NetworkLink {
    async fn register(&self, registration: Registration) -> Result<Registered, LinkError> {
        self.call(|member| {
            let registration = registration.clone();
            Box::pin(async move { member.register(registration).await })
        })
        .await
    }

    async fn heartbeat(&self, session: &Session) -> Result<(), LinkError> {
        self.call(|member| {
            let session = session.clone();
            Box::pin(async move { member.heartbeat(&session).await })
        })
        .await
    }

    async fn assignments(
        &self,
        session: &Session,
        query: AssignmentsQuery,
    ) -> Result<Assignments, LinkError> {
        self.call(|member| {
            let session = session.clone();
            Box::pin(async move { member.assignments(&session, query).await })
        })
        .await
    }

    async fn report(&self, session: &Session, reports: Vec<Report>) -> Result<Reported, LinkError> {
        self.call(|member| {
            let (session, reports) = (session.clone(), reports.clone());
            Box::pin(async move { member.report(&session, reports).await })
        })
        .await
    }

    async fn observe(&self, session: &Session, observations: Vec<Observation>) -> Result<(), LinkError> {
        self.call(|member| {
            let (session, observations) = (session.clone(), observations.clone());
            Box::pin(async move { member.observe(&session, observations).await })
        })
        .await
    }
}
