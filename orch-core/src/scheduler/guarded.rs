//! [`Guarded`]: wrapper of a policy whose panics cannot stop the functional core.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parking_lot::Mutex;
use tracing::error;

use super::{Pending, Plan, Scheduler, Snapshot};
use crate::panics::panic_words;

/// Wrapper that catches panics of a policy: such a plan places nothing, and the message is kept for the
/// status.
#[derive(Debug)]
pub(crate) struct Guarded {
    policy: Arc<dyn Scheduler>,
    last_error: Mutex<Option<String>>,
}

impl Guarded {
    pub(crate) fn new(policy: Arc<dyn Scheduler>) -> Self {
        Self { policy, last_error: Mutex::default() }
    }

    /// Message of the panic of the last plan, if it panicked.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }
}

impl Scheduler for Guarded {
    fn name(&self) -> &'static str {
        self.policy.name()
    }

    fn plan(&self, snapshot: Snapshot<'_>, pending: &[Pending<'_>]) -> Plan {
        let plan = catch_unwind(AssertUnwindSafe(|| self.policy.plan(snapshot, pending)));
        let (plan, last_error) = match plan {
            Ok(plan) => (plan, None),
            Err(panic) => {
                let last_error =
                    format!("the scheduler panicked and placed nothing: {}", panic_words(&*panic));
                error!(%last_error, tasks = pending.len(), "a plan was discarded");
                (Plan::default(), Some(last_error))
            }
        };
        let mut known = self.last_error.lock();
        if *known != last_error {
            *known = last_error;
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{TaskId, TaskSpec},
        scheduler::LeastFragmentation,
    };

    #[derive(Debug)]
    struct Moody(Mutex<bool>);

    impl Scheduler for Moody {
        fn name(&self) -> &'static str {
            "moody"
        }

        fn plan(&self, snapshot: Snapshot<'_>, pending: &[Pending<'_>]) -> Plan {
            if std::mem::take(&mut *self.0.lock()) {
                panic!("not in the mood");
            }
            LeastFragmentation.plan(snapshot, pending)
        }
    }

    #[test]
    fn a_panic_places_nothing_and_is_told_until_a_plan_works() {
        let policy = Guarded::new(Arc::new(Moody(Mutex::new(true))));
        let spec = TaskSpec::program("t", "true");
        let pending = [Pending { task: TaskId::generate(), spec: &spec, avoid: None }];
        let snapshot = Snapshot { nodes: &[], explain: false };
        assert_eq!(policy.plan(snapshot, &pending), Plan::default());
        assert!(policy.last_error().unwrap().ends_with("not in the mood"));
        policy.plan(snapshot, &pending);
        assert_eq!(policy.last_error(), None);
    }
}
