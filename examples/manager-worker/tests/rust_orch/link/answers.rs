//! Answers of the link to an agent.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use manager_worker::rust_orch::{Link, LinkConfig, OpenError};
use orch_core::{
    engine::{
        Assignments, AssignmentsQuery, ControlLink, Cursor, LinkError, Observation, ObservationKind,
        Registration, ReportAnswer,
    },
    model::{
        AttemptEnd, AttemptId, Exit, IncarnationId, NodeSpec, Report, ReportKind, Session, TaskId, Timestamp,
    },
    store::{Key, MemoryStore, Revision, StateStore, Txn, Write},
};
use orch_net::http::testkit::{agent_config, soon};
use serde_json::json;

use super::{
    Machine, attempt,
    fake_manager::{Manager, Manners},
};

fn node() -> NodeSpec {
    agent_config("worker-1").node
}

fn registration(spec: NodeSpec) -> Registration {
    Registration { spec, incarnation: IncarnationId::from_bytes([1; 16]), number: 1, held: Vec::new() }
}

fn session() -> Session {
    Session { node: node().id, incarnation: IncarnationId::from_bytes([1; 16]), number: 1 }
}

/// Changes after the cursor, as soon as there are any.
async fn news(link: &Link, after: Cursor) -> Assignments {
    soon(async {
        loop {
            let told =
                link.assignments(&session(), AssignmentsQuery::after(after, Revision::ZERO)).await.unwrap();
            if !told.run.is_empty() || !told.superseded.is_empty() {
                return told;
            }
        }
    })
    .await
}

async fn ask(link: &Link, after: Option<Cursor>) -> Assignments {
    soon(link.assignments(&session(), AssignmentsQuery { after, ..AssignmentsQuery::default() }))
        .await
        .unwrap()
}

async fn say_running(link: &Link, attempt: AttemptId, handle: &str) {
    let kind = ObservationKind::Running { handle: handle.into(), at: Timestamp::now() };
    soon(link.observe(&session(), vec![Observation { attempt, kind }])).await.unwrap();
}

fn success(attempt: AttemptId) -> Report {
    let kind = ReportKind::Ended(AttemptEnd::Exited { exit: Exit::from_code(0) });
    Report { attempt, node: node().id, kind }
}

async fn say_ended(link: &Link, attempt: AttemptId) -> Result<ReportAnswer, LinkError> {
    soon(link.report(&session(), vec![success(attempt)])).await.map(|reported| reported.answers[0])
}

async fn joined(machine: &Machine, manager: &Manager) -> Link {
    let link = machine.link(manager.address).await;
    link.register(registration(node())).await.unwrap();
    link
}

fn attempts(told: &Assignments) -> Vec<AttemptId> {
    told.run.iter().map(|assignment| assignment.attempt).collect()
}

#[tokio::test]
async fn everything_is_named_once_and_after_that_only_what_is_new() {
    let (manager, machine) = (Manager::new().await, Machine::new());
    let link = joined(&machine, &manager).await;
    let all = ask(&link, None).await;
    assert!(all.complete && all.run.is_empty());
    let task = manager.schedule("hang", "worker-1");
    let told = news(&link, all.cursor).await;
    assert_eq!(attempts(&told), [attempt(task, 1)]);
    assert!(!told.complete && !told.run[0].started);
    let spec = &told.run[0].spec;
    assert_eq!((spec.resources.cpu_millis, spec.resources.memory_bytes), (500, 256 << 20));
    assert_eq!(attempts(&ask(&link, Some(all.cursor)).await), [attempt(task, 1)], "the answer may be lost");
    assert!(ask(&link, Some(told.cursor)).await.run.is_empty());

    say_running(&link, attempt(task, 1), "abc").await;
    let later = joined(&machine, &manager).await;
    let all = ask(&later, Some(told.cursor)).await;
    assert!(all.complete && all.run[0].started, "a cursor of another life is worth nothing");
}

#[tokio::test]
async fn a_short_name_of_a_container_is_made_long_enough_for_their_command_line() {
    let (manager, machine) = (Manager::new().await, Machine::new());
    let task = manager.schedule("hang", "worker-1");
    let link = joined(&machine, &manager).await;
    news(&link, ask(&link, None).await.cursor).await;
    say_running(&link, attempt(task, 1), "4711").await;
    assert_eq!(manager.told(task, &["Running"]).await[0]["container_id"], "00004711");
}

#[tokio::test]
async fn a_report_counts_when_the_manager_acknowledged_it() {
    let (mut manager, machine) = (Manager::new().await, Machine::new());
    let task = manager.schedule("hang", "worker-1");
    let link = joined(&machine, &manager).await;
    let told = news(&link, ask(&link, None).await.cursor).await;
    manager.behave(Manners::Silent);
    assert!(matches!(say_ended(&link, attempt(task, 1)).await, Err(LinkError::Unavailable(_))));
    manager.stop().await;
    assert!(matches!(say_ended(&link, attempt(task, 1)).await, Err(LinkError::Unavailable(_))));
    let refused = link.assignments(&session(), AssignmentsQuery::after(told.cursor, told.revision)).await;
    assert!(matches!(refused, Err(LinkError::Unavailable(_))), "{refused:?}");
    manager.start().await;
    manager.behave(Manners::Honest);
    assert_eq!(say_ended(&link, attempt(task, 1)).await.unwrap(), ReportAnswer::Accepted);
    assert_eq!(say_ended(&link, attempt(task, 1)).await.unwrap(), ReportAnswer::Accepted);
    manager.told(task, &["Running", "Complete"]).await;
    assert_eq!(say_ended(&link, attempt(task, 2)).await.unwrap(), ReportAnswer::Stale);
    let unknown = attempt(TaskId::generate(), 1);
    assert_eq!(say_ended(&link, unknown).await.unwrap(), ReportAnswer::Stale);
}

#[tokio::test]
async fn a_refusal_is_about_one_report_of_a_batch_only() {
    let (manager, machine) = (Manager::new().await, Machine::new());
    let tasks = [(); 2].map(|()| manager.schedule("hang", "worker-1"));
    let link = joined(&machine, &manager).await;
    let told = news(&link, ask(&link, None).await.cursor).await;
    manager.behave(Manners::Deaf(tasks[0]));
    let batch = || tasks.map(|task| success(attempt(task, 1))).to_vec();
    for _ in 0..2 {
        let reported = soon(link.report(&session(), batch())).await.unwrap();
        assert_eq!(reported.answers, [ReportAnswer::Accepted; 2]);
    }
    manager.told(tasks[1], &["Running", "Complete"]).await;

    // A manager that forgot the task is not told for ever.
    manager.behave(Manners::Odd("[]".into(), 404));
    ask(&link, Some(told.cursor)).await;
    manager.behave(Manners::Honest);
    ask(&link, Some(told.cursor)).await;
    assert_eq!(manager.updates(tasks[0]).len(), 1);
}

#[tokio::test]
async fn what_the_manager_does_not_know_any_more_is_void() {
    let (manager, machine) = (Manager::new().await, Machine::new());
    let (running, ended) = (manager.schedule("hang", "worker-1"), manager.schedule("hang", "worker-1"));
    let link = joined(&machine, &manager).await;
    let told = news(&link, ask(&link, None).await.cursor).await;
    assert_eq!(told.run.len(), 2);
    manager.behave(Manners::Odd("[]".into(), 404));
    say_running(&link, attempt(running, 1), "container").await;
    assert_eq!(news(&link, told.cursor).await.superseded, [attempt(running, 1)]);
    assert_eq!(say_ended(&link, attempt(ended, 1)).await.unwrap(), ReportAnswer::Stale);
    let later = joined(&machine, &manager).await;
    assert!(ask(&later, None).await.run.is_empty());
}

#[tokio::test]
async fn no_more_is_taken_than_the_node_offers() {
    let (manager, machine) = (Manager::new().await, Machine::new());
    let (one, two) = (manager.schedule("hang", "worker-1"), manager.schedule("hang", "worker-1"));
    let link = machine.link(manager.address).await;
    link.register(registration(NodeSpec { max_tasks: 1, ..node() })).await.unwrap();
    let told = news(&link, ask(&link, None).await.cursor).await;
    assert_eq!(attempts(&told), [attempt(one, 1)]);
    assert!(ask(&link, Some(told.cursor)).await.run.is_empty());
    say_ended(&link, attempt(one, 1)).await.unwrap();
    assert_eq!(attempts(&news(&link, told.cursor).await), [attempt(two, 1)]);

    // A node that is being emptied takes nothing, and fails nothing either.
    link.register(registration(NodeSpec { max_tasks: 0, ..node() })).await.unwrap();
    let three = manager.schedule("hang", "worker-1");
    let told = ask(&link, None).await;
    assert!(ask(&link, Some(told.cursor)).await.run.is_empty());
    assert!(manager.updates(three).is_empty());
}

#[tokio::test]
async fn a_list_that_is_too_large_is_not_taken_in() {
    let (manager, machine) = (Manager::new().await, Machine::new());
    let link = joined(&machine, &manager).await;
    let all = ask(&link, None).await;
    manager.behave(Manners::Odd(format!("[{}]", " ".repeat(64 << 10)), 200));
    let refused = link.assignments(&session(), AssignmentsQuery::after(all.cursor, all.revision)).await;
    assert!(matches!(&refused, Err(LinkError::Unavailable(why)) if why.contains("larger")), "{refused:?}");
}

#[tokio::test]
async fn a_node_that_never_registered_is_given_nothing() {
    let (manager, machine) = (Manager::new().await, Machine::new());
    manager.schedule("hang", "worker-1");
    let link = machine.link(manager.address).await;
    let all = ask(&link, None).await;
    let told = link.assignments(&session(), AssignmentsQuery::after(all.cursor, all.revision)).await;
    assert!(matches!(told, Err(LinkError::NotRegistered)), "{told:?}");
}

#[tokio::test]
async fn the_manager_is_left_alone_between_two_lists() {
    let (manager, machine) = (Manager::new().await, Machine::new());
    let usual = LinkConfig::new(format!("http://{}", manager.address));
    assert_eq!(usual.poll_interval, Duration::from_secs(5));
    let poll_interval = Duration::from_millis(300);
    let config = LinkConfig { poll_interval, ..usual };
    let link = Link::open(&config, machine.store.clone()).await.unwrap();
    link.register(registration(node())).await.unwrap();
    let mut cursor = ask(&link, None).await.cursor;
    let begin = Instant::now();
    for _ in 0..3 {
        cursor = ask(&link, Some(cursor)).await.cursor;
    }
    assert!(begin.elapsed() >= 2 * poll_interval, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn what_cannot_be_used_is_named() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let refused = Link::open(&LinkConfig::new("ftp://x"), store.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("base_url"), "{refused}");
    let key = Key::new(format!("legacy/tasks/{}", TaskId::generate())).unwrap();
    for record in [json!({}), json!({ "v": 2, "state": "over", "status": "Complete", "at": 1 })] {
        let write = Write::put(key.clone(), record.to_string());
        store.commit(Txn::of(vec![write])).await.unwrap();
        let refused = Link::open(&LinkConfig::new("http://x"), store.clone()).await;
        let Err(OpenError::Journal(why)) = refused else { panic!("{refused:?}") };
        assert!(why.to_string().contains(key.as_str()), "{why}");
    }
}
