//! Errors of the signed store.

use std::sync::Arc;

use orch_core::store::StoreError;

use crate::crdt::replica::Refusal;

/// Name of the backend in messages.
pub(super) const NAME: &str = "crdt";

/// Error of a write that the replica refuses.
pub(super) fn refused(refusal: Refusal) -> StoreError {
    match refusal {
        Refusal::TooLarge { what, size, max } => {
            StoreError::TooLarge { store: NAME, what: format!("the number of {what}"), size, max }
        }
        refusal => StoreError::Backend {
            store: NAME,
            operation: "writing",
            retryable: matches!(refusal, Refusal::NoStartupQuorum { .. }),
            outcome_unknown: false,
            source: Arc::new(refusal),
        },
    }
}
