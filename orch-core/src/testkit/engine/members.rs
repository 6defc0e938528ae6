//! Cases of orchestrators that end, restart, share their records and publish events.

#![expect(clippy::unwrap_used, reason = "a case of a suite may panic")]

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, future::join_all};

use super::{EngineHarness, agent_config, attempt, bare, build, compose, hang, join, one_node, running};
use crate::{
    Error, Orchestrator,
    engine::{EventKind, EventStream, TaskView},
    model::{Exit, TaskId, TaskSpec},
    state::TaskStatus,
    store::{Position, Revision},
    testkit::SimulatedRuntime,
};

pub(super) async fn who_waits_or_follows_ends_with_the_orchestrator(harness: &dyn EngineHarness) {
    let (orch, _runtime, _agent) = one_node(harness, "who_waits_or_follows_ends_with_the_orchestrator").await;
    let task = orch.submit(hang("for ever")).await.unwrap();
    running(&orch, task).await;
    let (waiting, mut events) = (orch.clone(), orch.events());
    let mut logs = orch.logs(task, true).await.unwrap();
    let waits = tokio::spawn(async move { waiting.wait(task).await });
    let follows = tokio::spawn(async move { while events.next().await.is_some() {} });
    let reads = tokio::spawn(async move { while logs.next().await.is_some() {} });
    orch.shutdown().await.unwrap();
    assert!(matches!(waits.await.unwrap(), Err(Error::ShuttingDown)));
    follows.await.unwrap();
    reads.await.unwrap();
    assert!(matches!(orch.wait(task).await, Err(Error::ShuttingDown)), "and later ones do not begin to wait");
}

async fn next_task_status(events: &mut EventStream) -> (Revision, TaskId, TaskStatus) {
    loop {
        let event = events.next().await.unwrap().unwrap();
        if let EventKind::Task(record) = event.kind {
            return (event.revision, record.id, record.status());
        }
    }
}

pub(super) async fn events_can_be_followed_and_resumed(harness: &dyn EngineHarness) {
    let (orch, runtime, _agent) = one_node(harness, "events_can_be_followed_and_resumed").await;
    let mut events = orch.events();
    let task = orch.submit(hang("watched")).await.unwrap();
    let (first, id, status) = next_task_status(&mut events).await;
    assert_eq!((id, status), (task, TaskStatus::Placed));
    running(&orch, task).await;
    runtime.finish(attempt(task, 1), Exit::from_code(0));
    let (second, _, status) = next_task_status(&mut events).await;
    assert_eq!(status, TaskStatus::Succeeded);
    let mut resumed = orch.events_from(first).unwrap();
    assert_eq!(next_task_status(&mut resumed).await, (second, task, TaskStatus::Succeeded));
    let mut from_start = orch.events_from(Revision::ZERO).unwrap();
    assert_eq!(next_task_status(&mut from_start).await, (first, task, TaskStatus::Placed));
}

pub(super) async fn events_can_be_resumed_within_a_revision(harness: &dyn EngineHarness) {
    let orch = bare(harness, "events_can_be_resumed_within_a_revision").await;
    orch.submit_all((0..3).map(|n| hang(&format!("t{n}")))).await.unwrap();
    let mut events = orch.events_from(Revision::ZERO).unwrap();
    let first = events.next().await.unwrap().unwrap();
    let mut resumed = orch.events_at(events.position()).unwrap();
    for _ in 0..2 {
        let event = events.next().await.unwrap().unwrap();
        assert_eq!(event.revision, first.revision);
        assert_eq!(resumed.next().await.unwrap().unwrap(), event);
    }
    assert_eq!(resumed.position(), events.position());
    let never = orch.events_at(events.position() + 1);
    assert!(matches!(never, Err(Error::EventsCompacted { .. })), "a position of another life");
}

/// A member learns of another one's tasks a moment later.
async fn done(orch: &Orchestrator, task: TaskId) -> TaskView {
    let mut events = orch.events();
    while orch.get(task).is_none() {
        events.next().await.unwrap().unwrap();
    }
    orch.wait(task).await.unwrap()
}

/// Two members race for every decision, and each task runs once.
pub(super) async fn members_share_the_work(harness: &dyn EngineHarness) {
    const EACH: usize = 60;
    let group = "members_share_the_work";
    let members = [build(harness, group, 0).await, build(harness, group, 1).await];
    let runtimes = [SimulatedRuntime::new(), SimulatedRuntime::new()];
    let _agents = (
        join(&members[0], &agent_config("a"), &runtimes[0]).await,
        join(&members[1], &agent_config("b"), &runtimes[1]).await,
    );
    let submitted = members
        .iter()
        .flat_map(|orch| (0..EACH).map(move |n| orch.submit(TaskSpec::program(format!("task-{n}"), "true"))));
    let tasks: Vec<TaskId> = join_all(submitted).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(tasks.iter().collect::<BTreeSet<_>>().len(), 2 * EACH, "no id is given twice");
    for task in &tasks {
        for orch in &members {
            assert_eq!(done(orch, *task).await.status(), TaskStatus::Succeeded);
        }
    }
    let starts: Vec<_> = runtimes.iter().flat_map(SimulatedRuntime::starts).collect();
    assert_eq!(starts.len(), 2 * EACH, "each task is started once");
    assert_eq!(starts.iter().map(|attempt| attempt.task).collect::<BTreeSet<_>>().len(), 2 * EACH);
}

pub(super) async fn two_processes_decide_over_one_store(harness: &dyn EngineHarness) {
    let group = "two_processes_decide_over_one_store";
    let (one, two) = (build(harness, group, 0).await, build(harness, group, 1).await);
    let submissions = (0..40).map(|number| {
        let orch = if number % 2 == 0 { one.clone() } else { two.clone() };
        tokio::spawn(
            async move { orch.submit(TaskSpec::program(format!("t{number}"), "true")).await.unwrap() },
        )
    });
    let mut ids = Vec::new();
    for submission in submissions.collect::<Vec<_>>() {
        ids.push(submission.await.unwrap());
    }
    let runtime = SimulatedRuntime::new();
    let _agent = join(&one, &agent_config("a"), &runtime).await;
    for id in ids {
        two.read_barrier().await.unwrap();
        assert_eq!(two.wait(id).await.unwrap().status(), TaskStatus::Succeeded);
    }
    assert_eq!(runtime.starts().len(), 40);
}

pub(super) async fn records_outlive_the_orchestrator(harness: &dyn EngineHarness) {
    let group = "records_outlive_the_orchestrator";
    let (runtime, config) = (SimulatedRuntime::new(), agent_config("a"));
    let parts = harness.member(group, 0).await;
    let before = compose(harness, parts.clone()).await;
    let agent = join(&before, &config, &runtime).await;
    let task = before.submit(hang("survives")).await.unwrap();
    let said = before.submit(TaskSpec::program("said", "say").args(["words"])).await.unwrap();
    before.wait(said).await.unwrap();
    running(&before, task).await;
    // An observation of an agent is visible at once; the agent must stay until it is written.
    let written = format!("observed/attempts/{}", attempt(task, 1));
    parts.store.watch(&written, Position::ZERO).await.unwrap().next().await.unwrap().unwrap();
    agent.leave().await;
    before.shutdown().await.unwrap();

    let after = bare(harness, group).await;
    // Observations are kept, too, and no agent is there to make them again.
    running(&after, task).await;
    assert_eq!(after.logs(said, false).await.unwrap().text().await.unwrap(), "words\n");
    let _agent = join(&after, &config, &runtime).await;
    runtime.finish(attempt(task, 1), Exit::from_code(0));
    assert_eq!(after.wait(task).await.unwrap().record.attempts_made, 1);
    assert_eq!(runtime.starts().len(), 2);
}
