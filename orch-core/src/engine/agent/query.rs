//! [`ask`]: a query for assignments.

use std::{sync::Arc, time::Duration};

use orch_base::backoff::Backoff;
use tracing::{debug, warn};

use super::outbox::Sessions;
use crate::engine::link::{Assignments, AssignmentsQuery, ControlLink, LinkError};

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Asks for assignments; a control side that does not answer for a moment is asked again.
pub(super) async fn ask(
    link: Arc<dyn ControlLink>,
    sessions: Sessions,
    query: AssignmentsQuery,
) -> Result<Assignments, LinkError> {
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    loop {
        let session = sessions.borrow().clone().ok_or(LinkError::NotRegistered)?;
        match link.assignments(&session, query).await {
            Err(LinkError::Unavailable(why)) => {
                let delay = backoff.next_delay();
                // The node looks well by its heartbeats, and gets nothing.
                match (RETRY_MAX / 2..RETRY_MAX).contains(&delay) {
                    true => warn!(%why, "still no answer about what this node should do; asking again"),
                    false => debug!(%why, "no answer; asking again"),
                }
                tokio::time::sleep(delay).await;
            }
            other => return other,
        }
    }
}
