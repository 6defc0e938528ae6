//! [`with_causes`]: text of an error with its causes.

use std::{error::Error, fmt};

/// Shows an error with its causes, as in `the store failed: writing failed in the redb store: no space
/// left on device`. The `Display` of an error of this crate describes only the failure itself;
/// [`Error::source`] has the cause.
pub fn with_causes<'a>(error: &'a (dyn Error + 'a)) -> impl fmt::Display + 'a {
    Chain(error)
}

struct Chain<'a>(&'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0, f)?;
        // A transparent error shows its cause as itself.
        let mut shown = self.0.to_string();
        let mut next = self.0.source();
        while let Some(error) = next {
            let cause = error.to_string();
            if cause != shown {
                write!(f, ": {cause}")?;
                shown = cause;
            }
            next = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{consensus::ConsensusError, store::StoreError};

    #[test]
    fn causes_follow_once_each() {
        let source = Arc::new(std::io::Error::other("no space left on device"));
        let store = StoreError::Backend {
            store: "redb",
            operation: "writing",
            retryable: false,
            outcome_unknown: false,
            source,
        };
        let error = crate::Error::from(ConsensusError::from(store));
        assert_eq!(error.to_string(), "the command could not be agreed on");
        let shown = with_causes(&error).to_string();
        assert!(shown.starts_with("the command could not be agreed on: "), "{shown}");
        assert!(shown.ends_with("writing failed in the redb store: no space left on device"), "{shown}");
        assert_eq!(shown.matches("redb").count(), 1, "{shown}");
    }
}
