//! [`LinkError`].

/// Failure of a call to the control side.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// It cannot be reached, or is busy. Try again.
    #[error("the control side cannot be reached: {0}")]
    Unavailable(String),
    /// It has ended in this process, and nobody will come back under this link. The agent leaves what runs to
    /// its next incarnation.
    #[error("the orchestrator has ended")]
    Closed,
    /// It does not know the node (any more).
    #[error("the node is not registered")]
    NotRegistered,
    /// Another agent has the node's name and is there. What this one runs has been given up by the cluster.
    #[error("{0}")]
    NameTaken(String),
    /// A newer process of this agent has registered. This one must end, with everything that it runs.
    #[error("{0}")]
    Fenced(String),
    /// It will not have the node. Trying again without a change is of no use.
    #[error("{0}")]
    Refused(String),
}
