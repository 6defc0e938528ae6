//! Cases from the submission of a task to its end.

#![expect(clippy::unwrap_used, reason = "a case of a suite may panic")]

use std::time::Duration;

use super::{EngineHarness, agent_config, attempt, bare, hang, join, one_node, running};
use crate::{
    Error,
    engine::{TaskFilter, Unknown},
    model::{AttemptEnd, CommandId, Exit, TaskId, TaskSpec},
    state::{NewTask, Outcome, Rejection, TaskResult, TaskStatus, TimeoutKind},
    testkit::SimulatedRuntime,
};

pub(super) async fn a_task_is_run_and_its_output_is_kept(harness: &dyn EngineHarness) {
    let (orch, runtime, _agent) = one_node(harness, "a_task_is_run_and_its_output_is_kept").await;
    let task = orch.submit(TaskSpec::program("hello", "say").args(["hello", "there"])).await.unwrap();
    let done = orch.wait(task).await.unwrap();
    assert_eq!(done.status(), TaskStatus::Succeeded);
    assert_eq!(done.record.attempts.len(), 1);
    assert_eq!(orch.logs(task, false).await.unwrap().text().await.unwrap(), "hello there\n");
    assert_eq!(orch.logs(task, true).await.unwrap().text().await.unwrap(), "hello there\n");
    assert_eq!(runtime.starts(), [attempt(task, 1)]);
    orch.shutdown().await.unwrap();
    assert!(matches!(orch.submit(TaskSpec::program("late", "true")).await, Err(Error::ShuttingDown)));
}

pub(super) async fn a_failing_task_is_tried_again_and_then_given_up(harness: &dyn EngineHarness) {
    let (orch, runtime, _agent) = one_node(harness, "a_failing_task_is_tried_again_and_then_given_up").await;
    let spec =
        TaskSpec::program("bad", "exit").args(["7"]).max_attempts(3).backoff(Duration::from_millis(10));
    let task = orch.submit(spec).await.unwrap();
    let done = orch.wait(task).await.unwrap();
    assert_eq!(done.record.result(), Some(&TaskResult::Failed));
    assert_eq!(done.record.attempts_made, 3);
    assert_eq!(done.record.last_end(), Some(&AttemptEnd::Exited { exit: Exit::from_code(7) }));
    assert_eq!(runtime.starts(), [attempt(task, 1), attempt(task, 2), attempt(task, 3)]);
}

pub(super) async fn each_time_limit_ends_a_task_in_its_own_way(harness: &dyn EngineHarness) {
    let (orch, _runtime, _agent) = one_node(harness, "each_time_limit_ends_a_task_in_its_own_way").await;
    let short = Duration::from_millis(60);
    let run = orch.submit(hang("run").run_timeout(short)).await.unwrap();
    let total = orch.submit(hang("total").total_timeout(short)).await.unwrap();
    let queue = orch.submit(hang("queue").cpu_millis(1_000_000).queue_timeout(short)).await.unwrap();
    for (task, limit) in [(run, TimeoutKind::Run), (total, TimeoutKind::Total), (queue, TimeoutKind::Queue)] {
        let done = orch.wait(task).await.unwrap();
        assert_eq!(done.record.result(), Some(&TaskResult::TimedOut { limit }));
    }
}

pub(super) async fn cancelling_ends_pending_and_running_tasks(harness: &dyn EngineHarness) {
    let (orch, runtime, _agent) = one_node(harness, "cancelling_ends_pending_and_running_tasks").await;
    let big = orch.submit(hang("big").cpu_millis(1_000_000)).await.unwrap();
    let task = orch.submit(hang("running")).await.unwrap();
    running(&orch, task).await;
    for id in [big, task] {
        orch.cancel(id, "changed my mind").await.unwrap();
        let done = orch.wait(id).await.unwrap();
        let reason = "changed my mind".to_owned();
        assert_eq!(done.record.result(), Some(&TaskResult::Cancelled { reason }));
    }
    assert_eq!(runtime.starts(), [attempt(task, 1)]);
    let again = orch.cancel(task, "").await;
    assert!(matches!(again, Err(Error::Rejected(Rejection::AlreadyFinished { .. }))), "{again:?}");
}

pub(super) async fn a_task_that_no_node_can_run_says_why(harness: &dyn EngineHarness) {
    let (orch, _runtime, _agent) = one_node(harness, "a_task_that_no_node_can_run_says_why").await;
    let task = orch.submit(hang("huge").cpu_millis(64_000)).await.unwrap();
    let why = orch.explain(task).unwrap().unwrap();
    assert!(why.never);
    assert_eq!(
        why.to_string(),
        "no node can ever run this: 1 of 1: too small in cpu. It would fit on a with 60 cores less"
    );
    assert!(matches!(orch.explain(TaskId::generate()), Err(Error::Unknown(Unknown::Task(_)))));
}

pub(super) async fn a_repeated_submission_is_one_submission(harness: &dyn EngineHarness) {
    let orch = bare(harness, "a_repeated_submission_is_one_submission").await;
    let (command, id) = (CommandId::generate(), TaskId::generate());
    let tasks = || vec![NewTask { id, spec: TaskSpec::program("once", "true").into() }];
    assert_eq!(orch.submit_as(command, tasks()).await.unwrap(), Outcome::Done);
    assert_eq!(orch.submit_as(command, tasks()).await.unwrap(), Outcome::Done, "the answer that was lost");
    assert_eq!(orch.submit_as(CommandId::generate(), tasks()).await.unwrap(), Outcome::Unchanged);
    let other = vec![NewTask { id, spec: TaskSpec::program("other", "true").into() }];
    let taken = orch.submit_as(CommandId::generate(), other).await;
    assert!(matches!(taken, Err(Error::Rejected(Rejection::TaskIdTaken { .. }))), "{taken:?}");
    let twice = orch.submit_as(CommandId::generate(), [tasks(), tasks()].concat()).await;
    assert!(twice.is_ok(), "both are there already");
    assert_eq!(orch.list(&TaskFilter::default()).len(), 1);
}

pub(super) async fn a_bad_spec_is_refused_and_nothing_of_its_submission_happens(harness: &dyn EngineHarness) {
    let orch = bare(harness, "a_bad_spec_is_refused_and_nothing_of_its_submission_happens").await;
    let specs = [TaskSpec::program("good", "true"), TaskSpec::program("", "true")];
    let error = orch.submit_all(specs).await.unwrap_err().to_string();
    assert!(error.contains("name: is empty"), "{error}");
    assert!(orch.list(&TaskFilter::default()).is_empty());
}

pub(super) async fn priority_holds_among_tasks_of_different_needs(harness: &dyn EngineHarness) {
    let orch = bare(harness, "priority_holds_among_tasks_of_different_needs").await;
    let low = orch.submit(hang("low").cpu_millis(1000).memory_mib(1)).await.unwrap();
    let high = hang("high").cpu_millis(1000).priority(10);
    let highs = orch.submit_all(vec![high; 4]).await.unwrap();
    let _agent = join(&orch, &agent_config("a"), &SimulatedRuntime::new()).await;
    for id in highs {
        assert!(orch.get(id).unwrap().record.node().is_some(), "four of high priority fill the node");
    }
    assert_eq!(orch.get(low).unwrap().status(), TaskStatus::Pending);
}
