//! Whole tasks, from their list to their end, with a real agent.

use manager_worker::rust_orch::{Config, routes};
use orch_core::{
    Orchestrator,
    model::{Exit, NodeId, TaskId},
    state::TaskStatus,
};
use orch_net::http::testkit::{TestServer, engine_config, server_config, soon, until};
use serde_json::json;

use super::{
    Machine, attempt,
    fake_manager::{Manager, Manners},
};

#[tokio::test]
async fn what_is_scheduled_here_is_run_once_and_told_to_its_end() {
    let (manager, machine) = (Manager::new().await, Machine::new());
    let (ours, other) = (manager.schedule("hang", "worker-1"), manager.schedule("hang", "worker-2"));
    let _worker = machine.worker(manager.address).await;
    let told = manager.told(ours, &["Running"]).await;
    assert_eq!(told[0]["container_id"], format!("{ours}.1"));
    manager.lists(2).await;
    machine.images.0.finish(attempt(ours, 1), Exit::from_code(0));
    manager.told(ours, &["Running", "Complete"]).await;
    manager.lists(2).await;
    assert_eq!(machine.starts(), [format!("{ours}.1")]);
    assert_eq!((manager.updates(ours).len(), manager.updates(other).len()), (2, 0));
}

#[tokio::test]
async fn failures_are_told_apart_from_what_could_not_start() {
    let (manager, machine) = (Manager::new().await, Machine::new());
    let (fails, absent) = (manager.schedule("false", "worker-1"), manager.schedule("absent", "worker-1"));
    let quick = manager.schedule("true", "worker-1");
    let _worker = machine.worker(manager.address).await;
    let told = manager.told(fails, &["Running", "Failed"]).await;
    assert!(told.iter().all(|update| update["container_id"].as_str().unwrap().len() >= 8), "{told:?}");
    manager.told(quick, &["Running", "Complete"]).await;
    let told = manager.told(absent, &["Failed"]).await;
    assert_eq!(told[0]["container_id"], json!(null));
}

#[tokio::test]
async fn a_running_task_that_is_no_longer_listed_survives_a_restart_of_the_worker() {
    let (mut manager, machine) = (Manager::new().await, Machine::new());
    let task = manager.schedule("hang", "worker-1");
    let worker = machine.worker(manager.address).await;
    manager.told(task, &["Running"]).await;
    soon(worker.leave()).await;

    // It is taken over even while the manager is away.
    manager.stop().await;
    let worker = machine.worker(manager.address).await;
    machine.images.0.finish(attempt(task, 1), Exit::from_code(0));
    manager.start().await;
    manager.told(task, &["Running", "Running", "Complete"]).await;
    assert_eq!(machine.starts().len(), 1);
    soon(worker.leave()).await;

    let _worker = machine.worker(manager.address).await;
    manager.lists(2).await;
    assert_eq!((machine.starts().len(), manager.updates(task).len()), (1, 3), "it stays over");
}

#[tokio::test]
async fn what_vanished_while_the_worker_was_away_has_failed_and_is_not_started_again() {
    let (manager, mut machine) = (Manager::new().await, Machine::new());
    let task = manager.schedule("hang", "worker-1");
    let worker = machine.worker(manager.address).await;
    manager.told(task, &["Running"]).await;
    soon(worker.leave()).await;
    machine.images = super::Images::default();
    let _worker = machine.worker(manager.address).await;
    let said = manager.told(task, &["Running", "Running", "Failed"]).await;
    assert_eq!(said[2]["container_id"], format!("{task}.1"));
    assert!(machine.starts().is_empty());
}

#[tokio::test]
async fn a_manager_that_lists_a_task_for_ever_does_not_have_it_started_twice() {
    let (manager, machine) = (Manager::new().await, Machine::new());
    manager.behave(Manners::Forgetful);
    let task = manager.schedule("hang", "worker-1");
    let worker = machine.worker(manager.address).await;
    manager.told(task, &["Running"; 3]).await;
    soon(worker.leave()).await;
    let worker = machine.worker(manager.address).await;
    let before = manager.updates(task).len();
    manager.told(task, &vec!["Running"; before + 2]).await;
    machine.images.0.finish(attempt(task, 1), Exit::from_code(0));
    manager.lists(3).await;
    soon(worker.leave()).await;

    let worker = machine.worker(manager.address).await;
    manager.lists(3).await;
    soon(worker.leave()).await;
    let updates = manager.updates(task);
    let from = updates.iter().position(|update| update["status"] == "Complete").unwrap();
    assert!(updates.len() > from + 2 && updates[from..].iter().all(|update| update["status"] == "Complete"));
    assert_eq!(machine.starts(), [format!("{task}.1")]);
}

#[tokio::test]
async fn a_manager_that_was_away_hears_everything_when_it_is_back() {
    let (mut manager, machine) = (Manager::new().await, Machine::new());
    let task = manager.schedule("hang", "worker-1");
    manager.stop().await;
    let _worker = machine.worker(manager.address).await;
    manager.start().await;
    manager.told(task, &["Running"]).await;
    manager.stop().await;
    machine.images.0.finish(attempt(task, 1), Exit::from_code(0));
    manager.behave(Manners::Silent);
    manager.start().await;
    manager.lists(2).await;
    assert_eq!(manager.updates(task).len(), 1);
    manager.behave(Manners::Honest);
    manager.told(task, &["Running", "Complete"]).await;
    assert_eq!(machine.starts().len(), 1);
}

#[tokio::test]
async fn an_end_that_is_refused_is_said_until_it_is_taken_and_holds_up_no_other() {
    let (manager, machine) = (Manager::new().await, Machine::new());
    let (refused, other) = (manager.schedule("hang", "worker-1"), manager.schedule("hang", "worker-1"));
    let worker = machine.worker(manager.address).await;
    for task in [refused, other] {
        manager.told(task, &["Running"]).await;
    }
    manager.behave(Manners::Deaf(refused));
    machine.images.0.finish(attempt(refused, 1), Exit::from_code(0));
    manager.lists(3).await;
    machine.images.0.finish(attempt(other, 1), Exit::from_code(0));
    manager.told(other, &["Running", "Complete"]).await;
    let next = manager.schedule("true", "worker-1");
    manager.told(next, &["Running", "Complete"]).await;
    soon(worker.leave()).await;

    // The end outlives the worker.
    let _worker = machine.worker(manager.address).await;
    manager.told(refused, &["Running", "Running"]).await;
    manager.lists(3).await;
    manager.behave(Manners::Honest);
    let told = manager.told(refused, &["Running", "Running", "Complete"]).await;
    assert_eq!(told[2]["container_id"], format!("{refused}.1"));
    manager.lists(3).await;
    assert_eq!((manager.updates(refused).len(), machine.starts().len()), (3, 3), "it is told once");
}

#[tokio::test]
async fn answers_that_make_no_sense_are_survived() {
    let (manager, machine) = (Manager::new().await, Machine::new());
    let task = manager.schedule("hang", "worker-1");
    let _worker = machine.worker(manager.address).await;
    manager.told(task, &["Running"]).await;
    let oversized = format!("[{}1]", "1,".repeat(64 << 10));
    for odd in ["", "<html>", "[1, null, \"x\", {}]", "{}", &oversized] {
        manager.behave(Manners::Odd(odd.into(), 500));
        manager.lists(1).await;
    }
    machine.images.0.finish(attempt(task, 1), Exit::from_code(0));
    manager.lists(1).await;
    manager.behave(Manners::Honest);
    manager.told(task, &["Running", "Complete"]).await;
    let next = manager.schedule("true", "worker-1");
    manager.told(next, &["Running", "Complete"]).await;
}

#[tokio::test]
async fn bad_tasks_do_not_keep_good_ones_from_running() {
    let (manager, machine) = (Manager::new().await, Machine::new());
    let bad = |field: &str, value: serde_json::Value| {
        let id = TaskId::generate();
        let mut task =
            json!({ "id": id, "name": "t", "image": "hang", "status": "Scheduled", "node_id": "worker-1" });
        task[field] = value;
        manager.add(task);
        id
    };
    bad("id", json!("7"));
    bad("id", json!(null));
    let unknown = bad("status", json!("Lost"));
    let nobodys = bad("node_id", json!(null));
    let failed = [
        bad("image", json!("")),
        bad("image", json!("busy box")),
        bad("memory", json!(-1)),
        bad("cpu", json!("much")),
        bad("cpu", json!(-0.5)),
        bad("memory", json!(1 << 30)),
        // More than this node has.
        bad("memory", json!(8 << 10)),
        bad("env", json!({ "A=B": "c" })),
    ];
    let unnamed = bad("name", json!(null));
    let _worker = machine.worker(manager.address).await;
    manager.told(unnamed, &["Running"]).await;
    for task in failed {
        manager.told(task, &["Failed"]).await;
    }
    assert!(manager.updates(unknown).is_empty() && manager.updates(nobodys).is_empty());
    assert_eq!(machine.starts(), [format!("{unnamed}.1")]);
}

#[tokio::test]
async fn our_own_manager_serves_it() {
    let config = Config::with_workers([NodeId::new("worker-1").unwrap()]);
    let orch = Orchestrator::builder().engine(engine_config()).build().await.unwrap();
    let server = TestServer::mounted(orch, server_config(), |server| server.mount(routes(config))).await;
    until(&server.orchestrator, || !server.orchestrator.nodes().is_empty()).await;
    let machine = Machine::new();
    let worker = machine.worker(server.address).await;
    let submit = async |image: &str| {
        let body = json!({ "name": "web", "image": image }).to_string();
        let answer = server.request("POST", "/tasks", "content-type: application/json\r\n", &body).await;
        answer.json()["id"].as_str().unwrap().parse::<TaskId>().unwrap()
    };
    let (long, fails) = (submit("hang").await, submit("false").await);
    let status = || server.orchestrator.get(long).unwrap().status();
    until(&server.orchestrator, || status() == TaskStatus::Running).await;
    let failed = soon(server.orchestrator.wait(fails)).await.unwrap();
    assert_eq!(failed.record.last_end().unwrap().to_string(), "exit code 1");
    soon(worker.leave()).await;

    let _worker = machine.worker(server.address).await;
    machine.images.0.finish(attempt(long, 1), Exit::from_code(0));
    let done = soon(server.orchestrator.wait(long)).await.unwrap();
    assert_eq!((done.status(), done.record.attempts_made), (TaskStatus::Succeeded, 1));
    assert_eq!(machine.starts().len(), 2);
}
