//! Assignments of a node whose specs exceed the size of one response.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use orch_core::{
    Orchestrator,
    engine::{Agent, AgentConfig, Assignments, AssignmentsQuery, ControlLink, Registration},
    model::{AttemptId, Exit, IncarnationId, Resources, Session, TaskId, TaskSpec, WorkKind},
    state::TaskStatus,
    testkit::SimulatedRuntime,
};

/// Large tasks: some 12 MiB of specs together.
const LARGE: usize = 60;
const SPEC_BYTES: usize = 200 << 10;
/// Bound of one response, including the one spec by which it may exceed the limit.
const ANSWER_BYTES_MAX: usize = (4 << 20) + (256 << 10);

fn config() -> AgentConfig {
    let mut config = AgentConfig::local("a", [WorkKind::Program]).unwrap();
    config.node.capacity = Resources::new(1_000_000, 1 << 40);
    config.observe_every = Duration::from_millis(5);
    config
}

fn large(number: usize) -> TaskSpec {
    TaskSpec::program(format!("t{number}"), "hang").args(["x".repeat(SPEC_BYTES)])
}

async fn submit(orch: &Orchestrator) -> BTreeSet<TaskId> {
    let mut tasks = BTreeSet::new();
    for number in 0..LARGE {
        tasks.insert(orch.submit(large(number)).await.unwrap());
    }
    tasks
}

async fn register(link: &dyn ControlLink) -> Session {
    let incarnation = IncarnationId::from_bytes([1; 16]);
    let registration = Registration { spec: config().node, incarnation, number: 1, held: Vec::new() };
    link.register(registration).await.unwrap().session
}

fn runs(answer: &Assignments) -> impl Iterator<Item = AttemptId> {
    let bytes = serde_json::to_vec(answer).unwrap().len();
    assert!(bytes < ANSWER_BYTES_MAX, "an answer has {bytes} bytes");
    answer.run.iter().map(|assignment| assignment.attempt)
}

#[tokio::test]
async fn a_complete_answer_names_everything_and_brings_specs_in_parts() {
    let orch = Orchestrator::builder().build().await.unwrap();
    let link = orch.link();
    let session = register(&*link).await;
    let tasks = submit(&orch).await;
    let (mut query, mut with_specs) = (AssignmentsQuery::default(), Vec::new());
    loop {
        let answer = link.assignments(&session, query).await.unwrap();
        with_specs.extend(runs(&answer));
        let named = runs(&answer).chain(answer.named.iter().copied()).map(|attempt| attempt.task);
        assert!(answer.complete);
        assert_eq!(named.collect::<BTreeSet<_>>(), tasks, "what is not named would be removed");
        if !answer.more {
            break;
        }
        query.specs_after = with_specs.last().copied();
    }
    let (count, once): (usize, BTreeSet<TaskId>) =
        (with_specs.len(), with_specs.iter().map(|attempt| attempt.task).collect());
    assert_eq!((count, once), (LARGE, tasks), "each spec comes once");
}

#[tokio::test]
async fn changes_come_in_parts_and_each_goes_on_where_the_one_before_ended() {
    let orch = Orchestrator::builder().build().await.unwrap();
    let link = orch.link();
    let session = register(&*link).await;
    let mut cursor = link.assignments(&session, AssignmentsQuery::default()).await.unwrap().cursor;
    let tasks = submit(&orch).await;
    let cancelled = *tasks.first().unwrap();
    orch.cancel(cancelled, "not needed").await.unwrap();
    let (mut run, mut stop) = (BTreeSet::new(), BTreeSet::new());
    while run.len() + stop.len() < LARGE {
        let query = AssignmentsQuery { after: Some(cursor), ..AssignmentsQuery::default() };
        let answer = link.assignments(&session, query).await.unwrap();
        assert!(!answer.complete && answer.cursor.position > cursor.position, "{answer:?}");
        assert!(answer.superseded.is_empty());
        run.extend(runs(&answer).map(|attempt| attempt.task));
        stop.extend(answer.stop.iter().map(|attempt| attempt.task));
        cursor = answer.cursor;
    }
    assert_eq!(stop, BTreeSet::from([cancelled]));
    run.append(&mut stop);
    assert_eq!(run, tasks);
}

#[tokio::test]
async fn an_agent_takes_over_more_than_one_answer_has_room_for() {
    let (orch, runtime, config) =
        (Orchestrator::builder().build().await.unwrap(), SimulatedRuntime::new(), config());
    let agent = Agent::start(config.clone(), Arc::new(runtime.clone()), orch.link());
    let tasks = submit(&orch).await;
    let mut events = orch.events();
    let all_run = |orch: &Orchestrator| {
        tasks.iter().all(|task| orch.get(*task).unwrap().status() == TaskStatus::Running)
    };
    while !all_run(&orch) {
        events.next().await.unwrap().unwrap();
    }
    agent.leave().await;
    let _again = Agent::start(config, Arc::new(runtime.clone()), orch.link());
    for attempt in runtime.starts() {
        runtime.finish(attempt, Exit::from_code(0));
    }
    for task in &tasks {
        let done = orch.wait(*task).await.unwrap();
        assert_eq!((done.status(), done.record.attempts_made), (TaskStatus::Succeeded, 1));
    }
    assert_eq!(runtime.starts().len(), LARGE, "nothing was started twice");
}
