//! The one interface between an agent and the control side: assignments in, reports out. Implemented in the
//! process by [`Orchestrator`](super::Orchestrator), over HTTP by `orch-net`.

mod error;
mod messages;
mod observation;

use std::fmt;

use async_trait::async_trait;

pub(super) use self::observation::text_bytes;
pub use self::{
    error::LinkError,
    messages::{
        Assignment, Assignments, AssignmentsQuery, Cursor, Registered, Registration, ReportAnswer, Reported,
    },
    observation::{Observation, ObservationKind},
};
use crate::model::{Report, Session};

/// The control side, as an agent needs it. The contract is between an implementation and the agent.
///
/// Every call but `register` carries the [`Session`] that the last registration gave. An implementation MUST:
/// - give a call whose session is not the node's current one no effect, and answer
///   [`LinkError::NotRegistered`], or [`LinkError::Fenced`] where a newer process of the agent has
///   registered;
/// - answer a report only when it is decided and durable;
/// - compute an answer to `assignments` from a state at or after the revision that the query names, and one
///   that is [`complete`](Assignments::complete) from a state that has every decision made anywhere before
///   the query;
/// - bound an answer: specs that have no room in it come with the answers to the queries after it.
///
/// An answer may arrive late all the same. So an agent remembers what has ended and never starts an attempt a
/// second time, whatever it is told.
///
/// Every call may be repeated after an error, whose effect is then the same as once. Any future may be
/// dropped.
#[async_trait]
pub trait ControlLink: Send + Sync + fmt::Debug + 'static {
    /// Registers the node, for the first time or again.
    ///
    /// # Errors
    /// [`LinkError::NameTaken`] when another agent has the name, [`LinkError::Fenced`] when a newer process
    /// of this one has registered.
    async fn register(&self, registration: Registration) -> Result<Registered, LinkError>;

    /// Keeps the node alive.
    ///
    /// # Errors
    /// [`LinkError::NotRegistered`] when it has to register again.
    async fn heartbeat(&self, session: &Session) -> Result<(), LinkError>;

    /// Assignments of the node, as soon as something changed after the query's cursor (at once without one),
    /// at the latest after some seconds with nothing new.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn assignments(&self, session: &Session, query: AssignmentsQuery)
    -> Result<Assignments, LinkError>;

    /// Reports what happened to attempts.
    ///
    /// # Errors
    /// [`LinkError`]; some of the reports may have been applied.
    async fn report(&self, session: &Session, reports: Vec<Report>) -> Result<Reported, LinkError>;

    /// Sends observations, on which nobody has to agree. Repeating an observation is harmless.
    ///
    /// # Errors
    /// [`LinkError`].
    async fn observe(&self, session: &Session, observations: Vec<Observation>) -> Result<(), LinkError>;
}
