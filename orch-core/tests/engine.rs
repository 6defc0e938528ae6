//! The engine end to end, on the simulated runtime: orchestrator, agents and everything between them are real.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use orch_core::{
    Error, Orchestrator,
    consensus::{LocalConsensus, StoreConsensus},
    engine::{
        Agent, AgentConfig, AgentHandle, EngineConfig, EventKind, EventStream, SecretError, SecretSource,
        TaskFilter, TaskView, Unknown,
    },
    model::{
        AttemptEnd, AttemptId, CommandId, Exit, NodeId, NodeState, Resources, RestartPolicy, SecretRef,
        SecretTarget, TaskId, TaskSpec, WorkKind,
    },
    runtime::{Runtime, Secret},
    state::{ClusterConfig, NewTask, Outcome, Rejection, TaskResult, TimeoutKind},
    store::{MemoryStore, Revision, StateStore},
    testkit::SimulatedRuntime,
};

fn agent_config(node: &str) -> AgentConfig {
    let mut config = AgentConfig::local(node, [WorkKind::Program]).unwrap();
    config.node.capacity = Resources::new(4000, 4 << 30);
    config.observe_every = Duration::from_millis(5);
    config
}

fn quick() -> EngineConfig {
    EngineConfig {
        heartbeat_interval: Duration::from_millis(50),
        node_timeout: Duration::from_millis(400),
        assignments_wait: Duration::from_millis(200),
        shutdown_grace: Duration::from_millis(200),
        ..EngineConfig::default()
    }
}

async fn bare() -> Orchestrator {
    Orchestrator::builder().engine(quick()).build().await.unwrap()
}

async fn join(orch: &Orchestrator, config: &AgentConfig, runtime: &SimulatedRuntime) -> AgentHandle {
    let agent = Agent::start(config.clone(), Arc::new(runtime.clone()), orch.link());
    agent.registered().await.unwrap();
    agent
}

/// An orchestrator with one node.
async fn one_node() -> (Orchestrator, SimulatedRuntime, AgentHandle) {
    let (orch, runtime) = (bare().await, SimulatedRuntime::new());
    let agent = join(&orch, &agent_config("a"), &runtime).await;
    (orch, runtime, agent)
}

fn hang(name: &str) -> TaskSpec {
    TaskSpec::program(name, "hang")
}

fn attempt(task: TaskId, number: u32) -> AttemptId {
    AttemptId { task, attempt: NonZeroU32::new(number).unwrap() }
}

/// Waits until the task looks like this.
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
    until(orch, task, |view| view.status() == "running").await
}

#[tokio::test]
async fn a_task_is_run_and_its_output_is_kept() {
    let (orch, runtime, _agent) = one_node().await;
    let task = orch.submit(TaskSpec::program("hello", "say").args(["hello", "there"])).await.unwrap();
    let done = orch.wait(task).await.unwrap();
    assert_eq!(done.status(), "succeeded");
    assert_eq!(done.record.attempts.len(), 1);
    assert_eq!(orch.logs(task, false).await.unwrap().text().await.unwrap(), "hello there\n");
    assert_eq!(orch.logs(task, true).await.unwrap().text().await.unwrap(), "hello there\n");
    assert_eq!(runtime.starts(), [attempt(task, 1)]);
    orch.shutdown().await.unwrap();
    assert!(matches!(orch.submit(TaskSpec::program("late", "true")).await, Err(Error::ShuttingDown)));
}

#[tokio::test]
async fn a_failing_task_is_tried_again_and_then_given_up() {
    let (orch, runtime, _agent) = one_node().await;
    let spec =
        TaskSpec::program("bad", "exit").args(["7"]).max_attempts(3).backoff(Duration::from_millis(10));
    let task = orch.submit(spec).await.unwrap();
    let done = orch.wait(task).await.unwrap();
    assert_eq!(done.record.result(), Some(&TaskResult::Failed));
    assert_eq!(done.record.attempts_made, 3);
    assert_eq!(done.record.last_end(), Some(&AttemptEnd::Exited { exit: Exit::from_code(7) }));
    assert_eq!(runtime.starts(), [attempt(task, 1), attempt(task, 2), attempt(task, 3)]);
}

#[tokio::test]
async fn each_time_limit_ends_a_task_in_its_own_way() {
    let (orch, _runtime, _agent) = one_node().await;
    let short = Duration::from_millis(60);
    let run = orch.submit(hang("run").run_timeout(short)).await.unwrap();
    let total = orch.submit(hang("total").total_timeout(short)).await.unwrap();
    let queue = orch.submit(hang("queue").cpu_millis(1_000_000).queue_timeout(short)).await.unwrap();
    for (task, limit) in [(run, TimeoutKind::Run), (total, TimeoutKind::Total), (queue, TimeoutKind::Queue)] {
        let done = orch.wait(task).await.unwrap();
        assert_eq!(done.record.result(), Some(&TaskResult::TimedOut { limit }));
    }
}

#[tokio::test]
async fn cancelling_ends_pending_and_running_tasks() {
    let (orch, runtime, _agent) = one_node().await;
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

#[tokio::test]
async fn a_task_that_no_node_can_run_says_why() {
    let (orch, _runtime, _agent) = one_node().await;
    let task = orch.submit(hang("huge").cpu_millis(64_000)).await.unwrap();
    let why = orch.explain(task).unwrap().unwrap();
    assert!(why.never);
    assert_eq!(
        why.to_string(),
        "no node can ever run this: 1 of 1: too small in cpu. It would fit on a with 60000 thousandths of a core less"
    );
    assert!(matches!(orch.explain(TaskId::generate()), Err(Error::Unknown(Unknown::Task(_)))));
}

#[tokio::test]
async fn the_work_of_a_silent_node_goes_elsewhere_and_is_void_when_the_node_comes_back() {
    let (orch, first) = (bare().await, SimulatedRuntime::new());
    let config = agent_config("a");
    let agent = join(&orch, &config, &first).await;
    let task = orch.submit(hang("moves")).await.unwrap();
    running(&orch, task).await;
    let second = SimulatedRuntime::new();
    let _b = join(&orch, &agent_config("b"), &second).await;

    agent.leave().await;
    until(&orch, task, |view| view.status() == "running" && view.record.attempts_made == 2).await;
    assert_eq!(orch.get(task).unwrap().record.attempts[0].end, Some(AttemptEnd::NodeLost));
    assert_eq!(orch.nodes()[0].record.state, NodeState::Lost);

    let watched = first.clone();
    let left_behind = tokio::spawn(async move { watched.wait(attempt(task, 1)).await });
    tokio::task::yield_now().await;
    assert!(!left_behind.is_finished(), "what was left behind goes on until the node is back");
    let _back = join(&orch, &config, &first).await;
    assert_eq!(left_behind.await.unwrap().unwrap(), Exit::from_code(137));
    second.finish(attempt(task, 2), Exit::from_code(0));
    assert_eq!(orch.wait(task).await.unwrap().status(), "succeeded");
    assert_eq!((first.starts(), second.starts()), (vec![attempt(task, 1)], vec![attempt(task, 2)]));
}

#[tokio::test]
async fn an_agent_that_restarts_takes_over_what_runs() {
    let (orch, runtime) = (bare().await, SimulatedRuntime::new());
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
    assert_eq!((done.status(), done.record.attempts_made), ("succeeded", 1));
    assert_eq!(runtime.starts().len(), 2, "nothing was started twice");
}

#[derive(Debug)]
struct OneSecret;

impl SecretSource for OneSecret {
    fn get(&self, _: &str) -> Result<Secret, SecretError> {
        Ok(Secret::new(b"value".to_vec()))
    }
}

#[tokio::test]
async fn a_secret_that_is_gone_ends_nothing_that_was_started_with_it() {
    let (orch, runtime) = (bare().await, SimulatedRuntime::new());
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
    assert_eq!(orch.wait(task).await.unwrap().status(), "succeeded");
}

#[tokio::test]
async fn who_waits_or_follows_ends_with_the_orchestrator() {
    let (orch, _runtime, _agent) = one_node().await;
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

#[tokio::test]
async fn an_agent_that_lost_its_work_does_not_start_it_again_under_the_same_attempt() {
    let (orch, runtime) = (bare().await, SimulatedRuntime::new());
    let config = agent_config("a");
    let agent = join(&orch, &config, &runtime).await;
    let task = orch.submit(hang("gone")).await.unwrap();
    running(&orch, task).await;
    agent.leave().await;
    let emptied = SimulatedRuntime::new();
    let _again = join(&orch, &config, &emptied).await;
    let view = until(&orch, task, |view| view.status() == "running" && view.record.attempts_made == 2).await;
    assert_eq!(view.record.attempts[0].end, Some(AttemptEnd::NodeLost));
    assert_eq!(emptied.starts(), [attempt(task, 2)]);
}

#[tokio::test]
async fn an_engine_that_is_gone_for_a_while_loses_nothing() {
    let (orch, runtime, _agent) = one_node().await;
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
        assert_eq!((done.status(), done.record.attempts_made), ("succeeded", 1));
    }
}

#[tokio::test]
async fn a_drained_node_gives_up_its_work_and_an_open_one_gets_it() {
    let (orch, a) = (bare().await, SimulatedRuntime::new());
    let _a = join(&orch, &agent_config("a"), &a).await;
    let task = orch.submit(hang("evicted")).await.unwrap();
    running(&orch, task).await;
    let b = SimulatedRuntime::new();
    let _b = join(&orch, &agent_config("b"), &b).await;
    let node = NodeId::new("a").unwrap();
    orch.drain(&node, Duration::ZERO).await.unwrap();
    orch.drained(&node).await.unwrap();
    let view = until(&orch, task, |view| view.status() == "running" && view.record.attempts_made == 2).await;
    assert_eq!(view.record.node().map(NodeId::as_str), Some("b"));
    assert_eq!(view.record.failures, 0, "an eviction is no failure");
    assert!(matches!(
        orch.remove(&NodeId::new("b").unwrap()).await,
        Err(Error::Rejected(Rejection::NodeInUse { .. }))
    ));
    assert_eq!(orch.remove(&node).await.unwrap(), Outcome::Done);
    assert!(matches!(orch.drained(&node).await, Err(Error::Unknown(Unknown::Node(_)))));
}

#[tokio::test]
async fn a_second_agent_with_the_same_name_is_refused() {
    let (orch, _runtime, _agent) = one_node().await;
    let other = Agent::start(agent_config("a"), Arc::new(SimulatedRuntime::new()), orch.link());
    let error = other.registered().await.unwrap_err().to_string();
    assert!(error.contains("another agent that is still there"), "{error}");
}

async fn next_task_status(events: &mut EventStream) -> (Revision, TaskId, &'static str) {
    loop {
        let event = events.next().await.unwrap().unwrap();
        if let EventKind::Task(record) = event.kind {
            return (event.revision, record.id, record.status());
        }
    }
}

#[tokio::test]
async fn events_can_be_followed_and_resumed() {
    let (orch, runtime, _agent) = one_node().await;
    let mut events = orch.events();
    let task = orch.submit(hang("watched")).await.unwrap();
    let (first, id, status) = next_task_status(&mut events).await;
    assert_eq!((id, status), (task, "placed"));
    running(&orch, task).await;
    runtime.finish(attempt(task, 1), Exit::from_code(0));
    let (second, _, status) = next_task_status(&mut events).await;
    assert_eq!(status, "succeeded");
    let mut resumed = orch.events_from(first).unwrap();
    assert_eq!(next_task_status(&mut resumed).await, (second, task, "succeeded"));
    let mut from_start = orch.events_from(Revision::ZERO).unwrap();
    assert_eq!(next_task_status(&mut from_start).await, (first, task, "placed"));
}

#[tokio::test]
async fn events_can_be_resumed_within_a_revision() {
    let orch = bare().await;
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

#[tokio::test]
async fn a_repeated_submission_is_one_submission() {
    let orch = bare().await;
    let (command, id) = (CommandId::generate(), TaskId::generate());
    let tasks = || vec![NewTask { id, spec: Arc::new(TaskSpec::program("once", "true")) }];
    assert_eq!(orch.submit_as(command, tasks()).await.unwrap(), Outcome::Done);
    assert_eq!(orch.submit_as(command, tasks()).await.unwrap(), Outcome::Done, "the answer that was lost");
    assert_eq!(orch.submit_as(CommandId::generate(), tasks()).await.unwrap(), Outcome::Unchanged);
    let other = vec![NewTask { id, spec: Arc::new(TaskSpec::program("other", "true")) }];
    let taken = orch.submit_as(CommandId::generate(), other).await;
    assert!(matches!(taken, Err(Error::Rejected(Rejection::TaskIdTaken { .. }))), "{taken:?}");
    let twice = orch.submit_as(CommandId::generate(), [tasks(), tasks()].concat()).await;
    assert!(twice.is_ok(), "both are there already");
    assert_eq!(orch.list(&TaskFilter::default()).len(), 1);
}

#[tokio::test]
async fn a_bad_spec_is_refused_and_nothing_of_its_submission_happens() {
    let orch = bare().await;
    let specs = [TaskSpec::program("good", "true"), TaskSpec::program("", "true")];
    let error = orch.submit_all(specs).await.unwrap_err().to_string();
    assert!(error.contains("name: is empty"), "{error}");
    assert!(orch.list(&TaskFilter::default()).is_empty());
}

#[tokio::test]
async fn two_processes_decide_over_one_store() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let member = async |name: &str| {
        Orchestrator::builder()
            .store(store.clone())
            .consensus(Arc::new(StoreConsensus::new(store.clone())))
            .engine(EngineConfig { member: name.into(), ..quick() })
            .build()
            .await
            .unwrap()
    };
    let (one, two) = (member("one").await, member("two").await);
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
        assert_eq!(two.wait(id).await.unwrap().status(), "succeeded");
    }
    assert_eq!(runtime.starts().len(), 40);
}

#[tokio::test]
async fn records_outlive_the_orchestrator() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let build = async || {
        let consensus = Arc::new(LocalConsensus::durable(store.clone()));
        Orchestrator::builder()
            .store(store.clone())
            .consensus(consensus)
            .engine(quick())
            .build()
            .await
            .unwrap()
    };
    let (runtime, config) = (SimulatedRuntime::new(), agent_config("a"));
    let before = build().await;
    let agent = join(&before, &config, &runtime).await;
    let task = before.submit(hang("survives")).await.unwrap();
    let said = before.submit(TaskSpec::program("said", "say").args(["words"])).await.unwrap();
    before.wait(said).await.unwrap();
    running(&before, task).await;
    agent.leave().await;
    drop(before);

    let after = build().await;
    assert_eq!(after.get(task).unwrap().status(), "running", "observations are kept too");
    assert_eq!(after.logs(said, false).await.unwrap().text().await.unwrap(), "words\n");
    let _agent = join(&after, &config, &runtime).await;
    runtime.finish(attempt(task, 1), Exit::from_code(0));
    assert_eq!(after.wait(task).await.unwrap().record.attempts_made, 1);
    assert_eq!(runtime.starts().len(), 2);
}

#[tokio::test]
async fn parts_that_cannot_work_together_are_refused_with_the_way_out() {
    let engine = EngineConfig { node_timeout: Duration::from_millis(1), ..EngineConfig::default() };
    let error = Orchestrator::builder().engine(engine).build().await.unwrap_err().to_string();
    assert!(error.contains("at least twice heartbeat_interval"), "{error}");
}

#[tokio::test]
async fn a_full_cluster_refuses_more_and_takes_it_later() {
    let cluster = ClusterConfig { unfinished_max: 1, ..ClusterConfig::default() };
    let orch = Orchestrator::builder().cluster(cluster).build().await.unwrap();
    let first = orch.submit(hang("first")).await.unwrap();
    let full = orch.submit(hang("second")).await;
    assert!(matches!(full, Err(Error::Rejected(Rejection::QueueFull { limit: 1 }))), "{full:?}");
    orch.cancel(first, "").await.unwrap();
    orch.submit(hang("second")).await.unwrap();
}

#[tokio::test]
async fn ten_thousand_tasks_at_once_are_taken_in_timed_out_and_lost_without_trouble() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let orch = Orchestrator::builder().store(store).engine(quick()).build().await.unwrap();
    let waiting = hang("w").queue_timeout(Duration::from_millis(300));
    let ids = orch.submit_all(vec![waiting; 10_000]).await.unwrap();
    let limit = TimeoutKind::Queue;
    for id in ids {
        assert_eq!(orch.wait(id).await.unwrap().record.result(), Some(&TaskResult::TimedOut { limit }));
    }
}

#[tokio::test]
async fn an_agent_goes_on_when_nobody_holds_its_handle() {
    let (orch, runtime, agent) = one_node().await;
    drop(agent);
    let task = orch.submit(TaskSpec::program("later", "true")).await.unwrap();
    assert_eq!(orch.wait(task).await.unwrap().status(), "succeeded");
    assert_eq!(runtime.starts(), [attempt(task, 1)]);
}

#[tokio::test]
async fn an_agent_that_drains_waits_then_stops_and_reports() {
    let (orch, runtime, agent) = one_node().await;
    let task = orch.submit(hang("stopped").restart(RestartPolicy::Never)).await.unwrap();
    running(&orch, task).await;
    agent.drain(Duration::from_millis(50)).await;
    let done = orch.wait(task).await.unwrap();
    assert_eq!(done.record.last_end(), Some(&AttemptEnd::Stopped));
    assert_eq!(runtime.starts(), [attempt(task, 1)]);
}

#[tokio::test]
async fn priority_holds_among_tasks_of_different_needs() {
    let orch = bare().await;
    let low = orch.submit(hang("low").cpu_millis(1000).memory_mib(1)).await.unwrap();
    let high = hang("high").cpu_millis(1000).priority(10);
    let highs = orch.submit_all(vec![high; 4]).await.unwrap();
    let _agent = join(&orch, &agent_config("a"), &SimulatedRuntime::new()).await;
    for id in highs {
        assert!(orch.get(id).unwrap().record.node().is_some(), "four of high priority fill the node");
    }
    assert_eq!(orch.get(low).unwrap().status(), "pending");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_host_that_is_its_own_node_starts_again_on_its_records() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let build = async || {
        let consensus = Arc::new(LocalConsensus::durable(store.clone()));
        let builder = Orchestrator::builder().store(store.clone()).consensus(consensus).engine(quick());
        builder.local_node().unwrap().build().await.unwrap()
    };
    let first = build().await;
    let task = first.submit(TaskSpec::program("one", "true")).await.unwrap();
    first.wait(task).await.unwrap();
    drop(first);
    let second = build().await;
    let task = second.submit(TaskSpec::program("two", "true")).await.unwrap();
    assert_eq!(second.wait(task).await.unwrap().status(), "succeeded");
}
