//! [`beat`]: heartbeats of an agent.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::debug;

use super::outbox::Sessions;
use crate::{
    engine::link::{ControlLink, LinkError},
    model::Session,
};

/// Says that the node is there until the control side does not know it any more; returns why.
pub(super) async fn beat(link: Arc<dyn ControlLink>, sessions: Sessions, every: Duration) -> LinkError {
    let every = every.max(Duration::from_millis(10));
    loop {
        let Some(session) = sessions.borrow().clone() else { return LinkError::NotRegistered };
        let said = Instant::now();
        let pause = match tokio::time::timeout(every, say(&*link, &session, every / 2)).await {
            Ok(Err(error @ (LinkError::NotRegistered | LinkError::Fenced(_) | LinkError::Closed))) => {
                return error;
            }
            Ok(Err(error)) => {
                debug!(%error, "a heartbeat was not heard");
                every / 2
            }
            Err(_) => {
                debug!("a heartbeat was not answered in time");
                every
            }
            Ok(Ok(())) => every,
        };
        tokio::time::sleep_until(said + pause).await;
    }
}

/// One heartbeat, and a second beside it when no answer came for `grace`: a lost one is made up for well
/// before the next is due, so that they need not be frequent.
async fn say(link: &dyn ControlLink, session: &Session, grace: Duration) -> Result<(), LinkError> {
    let first = link.heartbeat(session);
    tokio::pin!(first);
    match tokio::time::timeout(grace, &mut first).await {
        Ok(answer) => answer,
        Err(_) => tokio::select! {
            answer = first => answer,
            answer = link.heartbeat(session) => answer,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use tokio::sync::watch;

    use super::*;
    use crate::{
        engine::{Assignments, AssignmentsQuery, Observation, Registered, Registration, Reported},
        model::{IncarnationId, NodeId, Report},
    };

    /// Fate of a heartbeat.
    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Heard,
        Refused,
        Unanswered,
        Ended,
    }

    /// Time of each heartbeat since the first, in milliseconds; their fates in order.
    #[derive(Debug)]
    struct Road {
        fates: Vec<Fate>,
        first: Instant,
        said: Mutex<Vec<u128>>,
    }

    #[async_trait]
    impl ControlLink for Road {
        async fn heartbeat(&self, _: &Session) -> Result<(), LinkError> {
            let number = {
                let mut said = self.said.lock().unwrap();
                said.push(self.first.elapsed().as_millis());
                said.len() - 1
            };
            match self.fates.get(number).copied().unwrap_or(Fate::Ended) {
                Fate::Heard => Ok(()),
                Fate::Refused => Err(LinkError::Unavailable("busy".into())),
                Fate::Unanswered => std::future::pending().await,
                Fate::Ended => Err(LinkError::Closed),
            }
        }

        async fn register(&self, _: Registration) -> Result<Registered, LinkError> {
            unreachable!("only heartbeats are sent")
        }

        async fn assignments(&self, _: &Session, _: AssignmentsQuery) -> Result<Assignments, LinkError> {
            unreachable!("only heartbeats are sent")
        }

        async fn report(&self, _: &Session, _: Vec<Report>) -> Result<Reported, LinkError> {
            unreachable!("only heartbeats are sent")
        }

        async fn observe(&self, _: &Session, _: Vec<Observation>) -> Result<(), LinkError> {
            unreachable!("only heartbeats are sent")
        }
    }

    /// When heartbeats with these fates are said, at an interval of a second.
    async fn said(fates: &[Fate]) -> Vec<u128> {
        let session = Session {
            node: NodeId::new("n").unwrap(),
            incarnation: IncarnationId::from_bytes([1; 16]),
            number: 1,
        };
        let (_sender, sessions) = watch::channel(Some(session));
        let road = Arc::new(Road { fates: fates.to_vec(), first: Instant::now(), said: Mutex::default() });
        let error = beat(road.clone(), sessions, Duration::from_secs(1)).await;
        assert!(matches!(error, LinkError::Closed), "{error}");
        Arc::into_inner(road).unwrap().said.into_inner().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_is_said_once_in_an_interval() {
        assert_eq!(said(&[Fate::Heard, Fate::Heard]).await, [0, 1000, 2000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_that_is_refused_is_said_again_after_half_the_interval() {
        assert_eq!(said(&[Fate::Refused, Fate::Refused, Fate::Heard]).await, [0, 500, 1000, 2000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_without_an_answer_gets_a_second_beside_it() {
        assert_eq!(said(&[Fate::Unanswered, Fate::Heard]).await, [0, 500, 1000]);
        assert_eq!(said(&[Fate::Unanswered; 4]).await, [0, 500, 1000, 1500, 2000]);
    }
}
