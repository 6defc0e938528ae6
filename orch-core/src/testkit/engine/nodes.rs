//! Cases of nodes that register, are lost, return and are drained.

#![expect(clippy::unwrap_used, reason = "a case of a suite may panic")]

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;

use super::{EngineHarness, agent_config, attempt, bare, hang, join, one_node, running, until};
use crate::{
    Error,
    engine::{Agent, AgentConfig, SecretError, SecretSource, Unknown},
    model::{AttemptEnd, Exit, NodeId, NodeState, RestartPolicy, SecretRef, SecretTarget, TaskSpec},
    runtime::{Runtime, Secret},
    state::{Outcome, Rejection, TaskStatus},
    testkit::SimulatedRuntime,
};

pub(super) async fn the_work_of_a_silent_node_goes_elsewhere_and_is_void_when_the_node_comes_back(
    harness: &dyn EngineHarness,
) {
    let (orch, first) = (
        bare(harness, "the_work_of_a_silent_node_goes_elsewhere_and_is_void_when_the_node_comes_back").await,
        SimulatedRuntime::new(),
    );
    let config = agent_config("a");
    let agent = join(&orch, &config, &first).await;
    let task = orch.submit(hang("moves")).await.unwrap();
    running(&orch, task).await;
    let second = SimulatedRuntime::new();
    let _b = join(&orch, &agent_config("b"), &second).await;

    agent.leave().await;
    until(&orch, task, |view| view.status() == TaskStatus::Running && view.record.attempts_made == 2).await;
    assert_eq!(orch.get(task).unwrap().record.attempts[0].end, Some(AttemptEnd::NodeLost));
    assert_eq!(orch.nodes()[0].record.state, NodeState::Lost);

    let mut left_behind = first.wait(attempt(task, 1));
    assert!(
        (&mut left_behind).now_or_never().is_none(),
        "what was left behind goes on until the node is back"
    );
    let _back = join(&orch, &config, &first).await;
    assert_eq!(left_behind.await.unwrap(), Exit::from_code(137));
    second.finish(attempt(task, 2), Exit::from_code(0));
    assert_eq!(orch.wait(task).await.unwrap().status(), TaskStatus::Succeeded);
    assert_eq!((first.starts(), second.starts()), (vec![attempt(task, 1)], vec![attempt(task, 2)]));
}

pub(super) async fn an_agent_that_restarts_takes_over_what_runs(harness: &dyn EngineHarness) {
    let (orch, runtime) =
        (bare(harness, "an_agent_that_restarts_takes_over_what_runs").await, SimulatedRuntime::new());
    let config = agent_config("a");
    let agent = join(&orch, &config, &runtime).await;
    let task = orch.submit(hang("adopted")).await.unwrap();
    let ends_meanwhile = orch.submit(hang("ends meanwhile")).await.unwrap();
    running(&orch, task).await;
    running(&orch, ends_meanwhile).await;
    agent.leave().await;
    runtime.finish(attempt(ends_meanwhile, 1), Exit::from_code(3));
    let _again = join(&orch, &config, &runtime).await;
    assert_eq!(
        orch.wait(ends_meanwhile).await.unwrap().record.last_end(),
        Some(&AttemptEnd::Exited { exit: Exit::from_code(3) })
    );
    runtime.finish(attempt(task, 1), Exit::from_code(0));
    let done = orch.wait(task).await.unwrap();
    assert_eq!((done.status(), done.record.attempts_made), (TaskStatus::Succeeded, 1));
    assert_eq!(runtime.starts().len(), 2, "nothing was started twice");
}

#[derive(Debug)]
struct OneSecret;

impl SecretSource for OneSecret {
    fn get(&self, _: &str) -> Result<Secret, SecretError> {
        Ok(Secret::new(b"value".to_vec()))
    }
}

pub(super) async fn a_secret_that_is_gone_ends_nothing_that_was_started_with_it(harness: &dyn EngineHarness) {
    let (orch, runtime) = (
        bare(harness, "a_secret_that_is_gone_ends_nothing_that_was_started_with_it").await,
        SimulatedRuntime::new(),
    );
    let config = agent_config("a");
    let first = AgentConfig { secrets: Arc::new(OneSecret), ..config.clone() };
    let agent = join(&orch, &first, &runtime).await;
    let mut spec = hang("needs a secret");
    let target = SecretTarget::Env { variable: "KEY".into() };
    spec.secrets.push(SecretRef { name: "key".into(), target });
    let task = orch.submit(spec.clone()).await.unwrap();
    running(&orch, task).await;
    agent.leave().await;
    let _again = join(&orch, &config, &runtime).await;
    let new = orch.submit(spec).await.unwrap();
    let refused = orch.wait(new).await.unwrap();
    assert!(matches!(refused.record.last_end(), Some(AttemptEnd::StartFailed { .. })), "{refused:?}");
    runtime.finish(attempt(task, 1), Exit::from_code(0));
    assert_eq!(orch.wait(task).await.unwrap().status(), TaskStatus::Succeeded);
}

pub(super) async fn an_agent_that_lost_its_work_does_not_start_it_again_under_the_same_attempt(
    harness: &dyn EngineHarness,
) {
    let (orch, runtime) = (
        bare(harness, "an_agent_that_lost_its_work_does_not_start_it_again_under_the_same_attempt").await,
        SimulatedRuntime::new(),
    );
    let config = agent_config("a");
    let agent = join(&orch, &config, &runtime).await;
    let task = orch.submit(hang("gone")).await.unwrap();
    running(&orch, task).await;
    agent.leave().await;
    let emptied = SimulatedRuntime::new();
    let _again = join(&orch, &config, &emptied).await;
    let view =
        until(&orch, task, |view| view.status() == TaskStatus::Running && view.record.attempts_made == 2)
            .await;
    let end = view.record.attempts[0].end.as_ref();
    assert!(matches!(end, Some(AttemptEnd::Lost { .. })), "{end:?}");
    assert_eq!(emptied.starts(), [attempt(task, 2)]);
}

pub(super) async fn an_engine_that_is_gone_for_a_while_loses_nothing(harness: &dyn EngineHarness) {
    let (orch, runtime, _agent) = one_node(harness, "an_engine_that_is_gone_for_a_while_loses_nothing").await;
    let task = orch.submit(hang("waits")).await.unwrap();
    running(&orch, task).await;
    runtime.set_available(false);
    let held_up = orch.submit(TaskSpec::program("later", "true")).await.unwrap();
    let said = until(&orch, held_up, |view| {
        view.observed.as_ref().is_some_and(|observed| observed.progress.is_some())
    });
    let text = said.await.observed.unwrap().progress.unwrap();
    assert!(text.contains("the engine does not answer"), "{text}");
    runtime.finish(attempt(task, 1), Exit::from_code(0));
    runtime.set_available(true);
    for id in [task, held_up] {
        let done = orch.wait(id).await.unwrap();
        assert_eq!((done.status(), done.record.attempts_made), (TaskStatus::Succeeded, 1));
    }
}

pub(super) async fn a_drained_node_gives_up_its_work_and_an_open_one_gets_it(harness: &dyn EngineHarness) {
    let (orch, a) = (
        bare(harness, "a_drained_node_gives_up_its_work_and_an_open_one_gets_it").await,
        SimulatedRuntime::new(),
    );
    let _a = join(&orch, &agent_config("a"), &a).await;
    let task = orch.submit(hang("evicted")).await.unwrap();
    running(&orch, task).await;
    let b = SimulatedRuntime::new();
    let _b = join(&orch, &agent_config("b"), &b).await;
    let node = NodeId::new("a").unwrap();
    orch.drain(&node, Duration::ZERO).await.unwrap();
    orch.drained(&node).await.unwrap();
    let view =
        until(&orch, task, |view| view.status() == TaskStatus::Running && view.record.attempts_made == 2)
            .await;
    assert_eq!(view.record.node().map(NodeId::as_str), Some("b"));
    assert_eq!(view.record.failures, 0, "an eviction is no failure");
    assert!(matches!(
        orch.remove(&NodeId::new("b").unwrap()).await,
        Err(Error::Rejected(Rejection::NodeInUse { .. }))
    ));
    assert_eq!(orch.remove(&node).await.unwrap(), Outcome::Done);
    assert!(matches!(orch.drained(&node).await, Err(Error::Unknown(Unknown::Node(_)))));
}

pub(super) async fn a_second_agent_with_the_same_name_is_refused(harness: &dyn EngineHarness) {
    let (orch, _runtime, _agent) = one_node(harness, "a_second_agent_with_the_same_name_is_refused").await;
    let other = Agent::start(agent_config("a"), Arc::new(SimulatedRuntime::new()), orch.link());
    let error = other.registered().await.unwrap_err().to_string();
    assert!(error.contains("another agent that is still there"), "{error}");
}

pub(super) async fn an_agent_goes_on_when_nobody_holds_its_handle(harness: &dyn EngineHarness) {
    let (orch, runtime, agent) = one_node(harness, "an_agent_goes_on_when_nobody_holds_its_handle").await;
    drop(agent);
    let task = orch.submit(TaskSpec::program("later", "true")).await.unwrap();
    assert_eq!(orch.wait(task).await.unwrap().status(), TaskStatus::Succeeded);
    assert_eq!(runtime.starts(), [attempt(task, 1)]);
}

pub(super) async fn an_agent_that_drains_waits_then_stops_and_reports(harness: &dyn EngineHarness) {
    let (orch, runtime, agent) = one_node(harness, "an_agent_that_drains_waits_then_stops_and_reports").await;
    let task = orch.submit(hang("stopped").restart(RestartPolicy::Never)).await.unwrap();
    running(&orch, task).await;
    agent.drain(Duration::from_millis(50)).await;
    let done = orch.wait(task).await.unwrap();
    assert_eq!(done.record.last_end(), Some(&AttemptEnd::Stopped));
    assert_eq!(runtime.starts(), [attempt(task, 1)]);
}
