//! Conformance suite of orchestrators with their agents, over any consensus and store. Only the runtime is
//! simulated.
//!
//! Call [`run_all`] from a test of a composition, on a multi-threaded runtime.

#![expect(clippy::unwrap_used, reason = "a case of a suite may panic")]

mod members;
mod nodes;
mod tasks;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::SimulatedRuntime;
use crate::{
    Orchestrator,
    consensus::Consensus,
    engine::{Agent, AgentConfig, AgentHandle, EngineConfig, TaskView},
    model::{AttemptId, Resources, TaskId, TaskSpec, WorkKind},
    output::OutputStore,
    state::TaskStatus,
    store::StateStore,
};

/// Factory of the compositions that the suite works on.
#[async_trait]
pub trait EngineHarness: Send + Sync {
    /// Returns the parts of the member with this number in the group called `group`: new and empty the first
    /// time. The suite shuts its orchestrator down before it asks for the same member again, and does that
    /// only where [`EngineHarness::reopens`].
    async fn member(&self, group: &str, number: usize) -> Parts;

    /// Number of members that decide together; the suite asks for one or two of them.
    fn members(&self) -> usize;

    /// Whether a member can be made again with its state.
    fn reopens(&self) -> bool;

    /// New output store for one orchestrator, unless the builder's default is to be used.
    async fn output(&self) -> Option<Arc<dyn OutputStore>> {
        None
    }

    /// Maximum time without a heartbeat of a node. Longer than the worst pause of the consensus.
    fn node_timeout(&self) -> Duration {
        Duration::from_millis(400)
    }
}

/// Parts of an orchestrator.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Store of the records.
    pub store: Arc<dyn StateStore>,
    /// Consensus that orders the decisions.
    pub consensus: Arc<dyn Consensus>,
}

/// Longer than any case takes on a slow machine, so that a hang is reported with the name of its case.
const CASE_TIMEOUT: Duration = Duration::from_secs(120);

macro_rules! run {
    ($harness:expr, $($module:ident::$case:ident,)+) => {$(
        let done = tokio::time::timeout(CASE_TIMEOUT, $module::$case($harness)).await;
        assert!(done.is_ok(), "{} hangs", stringify!($case));
    )+};
}

/// Runs every case that applies to the composition.
///
/// # Panics
/// When the composition breaks the contract.
pub async fn run_all(harness: &dyn EngineHarness) {
    run!(
        harness,
        tasks::a_task_is_run_and_its_output_is_kept,
        tasks::a_failing_task_is_tried_again_and_then_given_up,
        tasks::each_time_limit_ends_a_task_in_its_own_way,
        tasks::cancelling_ends_pending_and_running_tasks,
        tasks::a_task_that_no_node_can_run_says_why,
        tasks::a_repeated_submission_is_one_submission,
        tasks::a_bad_spec_is_refused_and_nothing_of_its_submission_happens,
        tasks::priority_holds_among_tasks_of_different_needs,
        nodes::the_work_of_a_silent_node_goes_elsewhere_and_is_void_when_the_node_comes_back,
        nodes::an_agent_that_restarts_takes_over_what_runs,
        nodes::a_secret_that_is_gone_ends_nothing_that_was_started_with_it,
        nodes::an_agent_that_lost_its_work_does_not_start_it_again_under_the_same_attempt,
        nodes::an_engine_that_is_gone_for_a_while_loses_nothing,
        nodes::a_drained_node_gives_up_its_work_and_an_open_one_gets_it,
        nodes::a_second_agent_with_the_same_name_is_refused,
        nodes::an_agent_goes_on_when_nobody_holds_its_handle,
        nodes::an_agent_that_drains_waits_then_stops_and_reports,
        members::who_waits_or_follows_ends_with_the_orchestrator,
        members::events_can_be_followed_and_resumed,
        members::events_can_be_resumed_within_a_revision,
    );
    if harness.members() > 1 {
        run!(harness, members::members_share_the_work, members::two_processes_decide_over_one_store,);
    }
    if harness.reopens() {
        run!(harness, members::records_outlive_the_orchestrator,);
    }
}

async fn bare(harness: &dyn EngineHarness, group: &str) -> Orchestrator {
    build(harness, group, 0).await
}

async fn build(harness: &dyn EngineHarness, group: &str, number: usize) -> Orchestrator {
    compose(harness, harness.member(group, number).await).await
}

async fn compose(harness: &dyn EngineHarness, parts: Parts) -> Orchestrator {
    let engine = EngineConfig {
        heartbeat_interval: harness.node_timeout() / 8,
        node_timeout: harness.node_timeout(),
        assignments_wait: Duration::from_millis(200),
        shutdown_grace: Duration::from_millis(200),
        ..EngineConfig::default()
    };
    let Parts { store, consensus } = parts;
    let builder = Orchestrator::builder().store(store).consensus(consensus).engine(engine);
    let builder = match harness.output().await {
        Some(output) => builder.output(output),
        None => builder,
    };
    builder.build().await.unwrap()
}

/// Orchestrator with one node.
async fn one_node(harness: &dyn EngineHarness, group: &str) -> (Orchestrator, SimulatedRuntime, AgentHandle) {
    let (orch, runtime) = (bare(harness, group).await, SimulatedRuntime::new());
    let agent = join(&orch, &agent_config("a"), &runtime).await;
    (orch, runtime, agent)
}

fn agent_config(node: &str) -> AgentConfig {
    let mut config = AgentConfig::local(node, [WorkKind::Program]).unwrap();
    config.node.capacity = Resources::new(4000, 4 << 30);
    config.observe_every = Duration::from_millis(5);
    config
}

async fn join(orch: &Orchestrator, config: &AgentConfig, runtime: &SimulatedRuntime) -> AgentHandle {
    let agent = Agent::start(config.clone(), Arc::new(runtime.clone()), orch.link());
    agent.registered().await.unwrap();
    agent
}

fn hang(name: &str) -> TaskSpec {
    TaskSpec::program(name, "hang")
}

fn attempt(task: TaskId, number: u32) -> AttemptId {
    AttemptId { task, attempt: NonZeroU32::new(number).unwrap() }
}

/// Waits until the view of the task satisfies `what`.
async fn until(orch: &Orchestrator, task: TaskId, what: impl Fn(&TaskView) -> bool) -> TaskView {
    let mut events = orch.events();
    let looked = async {
        loop {
            let view = orch.get(task).expect("the task is known");
            if what(&view) {
                return view;
            }
            events.next().await.unwrap().unwrap();
        }
    };
    match tokio::time::timeout(Duration::from_secs(20), looked).await {
        Ok(view) => view,
        Err(_) => panic!("it never came to be; now: {:?}", orch.get(task)),
    }
}

async fn running(orch: &Orchestrator, task: TaskId) -> TaskView {
    until(orch, task, |view| view.status() == TaskStatus::Running).await
}
