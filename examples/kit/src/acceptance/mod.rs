//! Promises of every style to its users, as cases on a deployment of its real programs. A style's tests call
//! [`acceptance!`](crate::acceptance!) with an expression that starts a deployment of two nodes or more; each
//! case has a deployment of its own and is a test of its own.

#![expect(clippy::unwrap_used, reason = "a case of a suite may panic")]

pub mod control;
pub mod nodes;
pub mod tasks;

use std::{
    future::Future,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use orch_core::{
    engine::OutputRange,
    model::{Mount, MountSource, TaskId, TaskSpec},
    state::TaskStatus,
};
use orch_net::http::{Api, EventStart, wire::TaskInfo};

use crate::{
    deployment::{Deployment, Ground},
    retry::until_answered,
};

/// Makes a test of each case, on deployments that the expression starts: a future of
/// `Result<impl Deployment, String>`.
#[macro_export]
macro_rules! acceptance {
    ($start:expr) => {
        $crate::acceptance! { @cases $start =>
            tasks::a_task_runs_once_and_its_output_is_kept,
            tasks::a_failing_task_is_tried_again_and_then_given_up,
            tasks::a_task_over_its_time_limit_is_ended,
            tasks::a_cancelled_task_stops_and_the_others_go_on,
            tasks::what_cannot_be_accepted_is_refused_by_name_and_loses_nothing,
            nodes::the_work_of_a_killed_node_goes_elsewhere_and_no_attempt_starts_twice,
            nodes::a_drained_node_gives_up_its_work_and_takes_none_until_it_is_uncordoned,
            nodes::work_that_outlived_its_node_agent_is_adopted,
            control::what_was_acknowledged_survives_the_death_of_the_control_side,
            control::work_goes_on_while_the_control_side_is_away,
            control::events_come_in_order_and_have_no_silent_gap,
            control::everything_dies_at_once_and_nothing_is_lost,
        }
    };
    (@cases $start:expr => $($module:ident::$case:ident,)+) => {
        $(
            #[test]
            fn $case() {
                let deployment = async { Ok(Box::new($start.await?) as Box<dyn $crate::deployment::Deployment>) };
                $crate::acceptance::run(deployment, async |case| $crate::acceptance::$module::$case(case).await);
            }
        )+
    };
}

/// Longer than a case takes on a slow machine.
const CASE_TIMEOUT: Duration = Duration::from_secs(120);

/// Starts a deployment, runs a case on it, and stops it.
///
/// # Panics
/// When the case fails or hangs.
pub fn run<S, C>(deployment: S, case: C)
where
    S: Future<Output = Result<Box<dyn Deployment>, String>>,
    C: AsyncFnOnce(&mut Case),
{
    orch_core::block_on(async {
        let deployment = deployment.await.unwrap();
        let mut on = Case { api: deployment.api(), deployment };
        // Also after a failure: what runs as a task does not end with its node's agent.
        let work = AssertUnwindSafe(tokio::time::timeout(CASE_TIMEOUT, case(&mut on)));
        let done = work.catch_unwind().await;
        on.deployment.stop().await;
        match done {
            Ok(done) => assert!(done.is_ok(), "it hangs"),
            Err(panic) => resume_unwind(panic),
        }
    });
}

/// A deployment to work on.
#[expect(missing_debug_implementations, reason = "a deployment is what it wants to be")]
pub struct Case {
    deployment: Box<dyn Deployment>,
    api: Arc<dyn Api>,
}

impl Case {
    /// A shell script as a task that asks for little. Before it begins, the attempt's name is noted, which
    /// [`Case::starts`] tells. `passes NAME` waits until [`Case::open`] opens that gate; [`Case::is_still`]
    /// tells whether anything waits there.
    fn script(&self, name: &str, script: &str) -> TaskSpec {
        let scratch = self.deployment.scratch();
        let dir = scratch.display();
        let prelude = format!(
            "echo $ORCH_ATTEMPT >> {dir}/{name}.starts; passes() {{ while [ ! -e {dir}/$1.open ]; do \
             [ -d {dir} ] || exit 1; echo >> {dir}/{name}.beats; sleep 0.05; done; }}; "
        );
        let mut spec =
            self.deployment.ground().shell(name, &(prelude + script)).cpu_millis(100).memory_mib(32);
        if let Ground::Docker(_) = self.deployment.ground() {
            let source = MountSource::Host { path: scratch.display().to_string() };
            spec.mounts.push(Mount { target: scratch.display().to_string(), source, read_only: false });
        }
        spec.stop_grace(Duration::from_millis(500))
    }

    /// Attempts of the script of this name that were started, as often as they were.
    fn starts(&self, name: &str) -> Vec<String> {
        let noted = std::fs::read_to_string(self.deployment.scratch().join(format!("{name}.starts")));
        noted.unwrap_or_default().lines().map(Into::into).collect()
    }

    /// Waits until nothing of the script of this name waits at a gate any more, in any attempt.
    fn is_still(&self, name: &str) {
        /// Several rounds of the wait.
        const QUIET: Duration = Duration::from_millis(500);
        let path = self.deployment.scratch().join(format!("{name}.beats"));
        let beats = || std::fs::metadata(&path).map_or(0, |file| file.len());
        let deadline = Instant::now() + Duration::from_secs(20);
        let (mut last, mut since) = (beats(), Instant::now());
        assert!(last > 0, "{name} never waited at a gate, so that nothing can be seen to be gone");
        while since.elapsed() < QUIET {
            assert!(Instant::now() < deadline, "{name} still runs");
            std::thread::park_timeout(Duration::from_millis(20));
            if beats() != last {
                (last, since) = (beats(), Instant::now());
            }
        }
    }

    /// Waits for a file that a script writes.
    fn written(&self, name: &str) {
        let path = self.deployment.scratch().join(name);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !path.exists() {
            assert!(Instant::now() < deadline, "{name} was never written");
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn open(&self, gate: &str) {
        std::fs::write(self.deployment.scratch().join(format!("{gate}.open")), "").unwrap();
    }

    async fn submit(&self, spec: TaskSpec) -> TaskId {
        self.api.submit_one(spec).await.unwrap().view.record.id
    }

    /// Waits for the end of the task and checks how it ended.
    async fn ends(&self, task: TaskId, status: TaskStatus) -> TaskInfo {
        let done = self.api.wait(task).await.unwrap();
        assert_eq!(done.status, status, "{done:?}");
        done
    }

    async fn running(&self, task: TaskId) {
        self.until(task, |task| task.status == TaskStatus::Running && task.view.observed.is_some()).await;
    }

    /// Waits until the task is like this, looking after each event.
    async fn until(&self, task: TaskId, is_so: impl Fn(&TaskInfo) -> bool) {
        loop {
            let mut events = until_answered(|| self.api.events(EventStart::Now)).await.unwrap();
            loop {
                if is_so(&until_answered(|| self.api.task(task)).await.unwrap()) {
                    return;
                }
                if !matches!(events.next().await, Some(Ok(_))) {
                    break;
                }
            }
        }
    }

    /// Output of the task until now, both streams together.
    async fn output(&self, task: TaskId) -> String {
        let chunks = self.api.output(task, OutputRange::default()).await.unwrap();
        let all: Vec<_> = chunks.try_collect().await.unwrap();
        let bytes: Vec<u8> = all.iter().flat_map(|chunk| chunk.data.iter().copied()).collect();
        String::from_utf8(bytes).unwrap()
    }

    /// Node of the attempt that runs now.
    async fn node_of(&self, task: TaskId) -> String {
        self.api.task(task).await.unwrap().view.record.node().unwrap().to_string()
    }

    async fn kill(&mut self, part: &str) {
        self.deployment.kill(part).await.unwrap();
    }

    async fn heal(&mut self, part: &str) {
        self.deployment.heal(part).await.unwrap();
    }
}
