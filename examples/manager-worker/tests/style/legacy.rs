//! Clients and workers of rust-orch, as they are.

use orch_kit::testing;
use serde_json::Value;

use crate::lab::Lab;

/// One request on one connection, as their programs send it.
fn request(lab: &Lab, method: &str, path: &str, body: &str) -> (u16, String) {
    let answer = testing::request(lab.address(), method, path, "Content-Type: application/json\r\n", body);
    assert!(answer.head.contains("content-length:"), "{answer:?}");
    (answer.status, answer.body)
}

fn scheduled(lab: &Lab) -> Vec<Value> {
    let (status, body) = request(lab, "GET", "/tasks", "");
    assert_eq!(status, 200);
    serde_json::from_str(&body).unwrap()
}

#[test]
fn their_command_line_and_their_worker_work_unchanged_across_a_restart() {
    let options = ["--legacy-worker", "worker-1"];
    let mut lab = Lab::with(&options);
    lab.until("worker-1 in the cluster", |event| event["node"]["spec"]["id"] == "worker-1");
    let (status, body) = request(&lab, "POST", "/tasks", r#"{"name":"web","image":"nginx"}"#);
    assert_eq!(status, 201);
    let task: Value = serde_json::from_str(&body).unwrap();
    let id = task["id"].as_str().unwrap();
    assert_eq!((&task["memory"], &task["cpu"]), (&256.into(), &0.5.into()));

    let listed = scheduled(&lab);
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0]["node_id"], &listed[0]["status"]), (&"worker-1".into(), &"Scheduled".into()));

    let running = r#"{"status":"Running","container_id":"0123456789abcdef"}"#;
    assert_eq!(request(&lab, "PUT", &format!("/tasks/{id}/status"), running), (200, String::new()));
    assert!(scheduled(&lab).is_empty(), "a running task that is listed would be started twice");
    lab.kill_manager();
    lab.start_manager(&options);
    assert!(scheduled(&lab).is_empty(), "not after a restart either");

    let complete = r#"{"status":"Complete","container_id":"0123456789abcdef"}"#;
    assert_eq!(request(&lab, "PUT", &format!("/tasks/{id}/status"), complete).0, 200);
    assert_eq!(lab.orch(&["wait", id]).code, 0);
    let (_, all) = request(&lab, "GET", "/tasks?all=1", "");
    assert_eq!(serde_json::from_str::<Value>(&all).unwrap()[0]["status"], "Complete");
}

#[test]
fn what_an_old_worker_would_pass_over_is_not_given_to_it() {
    let mut lab = Lab::with(&["--legacy-worker", "worker-1"]);
    lab.until("worker-1 in the cluster", |event| event["node"]["spec"]["id"] == "worker-1");
    let done = lab.orch(&["run", "needs-args", "busybox", "--", "echo", "hi"]);
    assert!(done.err.contains("does not run work of kind"), "{}", done.err);
    assert!(scheduled(&lab).is_empty());
    assert_eq!(request(&lab, "POST", "/tasks", r#"{"name":"x"}"#).0, 400);
    assert_eq!(request(&lab, "GET", "/nothing", "").0, 404);
    lab.stop_manager();
}
