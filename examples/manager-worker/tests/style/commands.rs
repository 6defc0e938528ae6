//! Commands as people type them.

use orch_core::model::Timestamp;
use serde_json::Value;

use crate::lab::{Done, Lab, PATIENCE};

#[test]
fn a_task_from_run_to_logs() {
    let mut lab = Lab::new();
    lab.start_worker("w1", &["--label", "zone=a"]);
    let done = lab.orch(&["run", "--program", "--follow", "hello", "/bin/echo", "hello", "there"]);
    assert_eq!((done.code, done.out.as_str()), (0, "hello there\n"), "{}", done.err);

    let failed =
        lab.orch(&["run", "--program", "--wait", "bad", "/bin/sh", "--", "-c", "echo oops >&2; exit 3"]);
    assert_eq!(failed.code, 10);
    assert!(failed.err.contains("failed") && failed.err.contains("exit code 3"), "{}", failed.err);
    let logs = lab.orch(&["logs", "bad"]);
    assert_eq!((logs.out.as_str(), logs.err.as_str()), ("", "oops\n"));

    let table = lab.orch(&["list"]).out;
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("NAME"), "{table}");
    assert!(lines[1].contains("failed") && lines[1].contains("exit code 3"), "{table}");
    assert!(
        lines[2].starts_with("hello") && lines[2].contains("succeeded") && lines[2].contains("w1"),
        "{table}"
    );
    assert_eq!(lab.json(&["list", "--status", "failed"]).as_array().unwrap().len(), 1);

    let shown = lab.orch(&["show", "bad"]).out;
    assert!(shown.contains("ATTEMPT") && shown.contains("exit code 3"), "{shown}");
    let nodes = lab.orch(&["nodes"]).out;
    assert!(nodes.contains("w1") && nodes.contains("ready") && nodes.contains("zone=a"), "{nodes}");
    assert!(lab.orch(&["status"]).out.contains("succeeded"));
    assert!(lab.orch(&["completions", "bash"]).out.contains("_orch"));
}

#[test]
fn options_of_run_reach_the_spec() {
    let lab = Lab::new();
    let options = [
        &["run", "web", "nginx", "--restart", "always", "--stop-signal", "SIGQUIT", "--stop-grace", "3s"][..],
        &[
            "--health",
            "true",
            "--health-interval",
            "2s",
            "--secret",
            "TOKEN=api",
            "--secret-file",
            "/run/k=key",
        ],
        &["--hardened", "--priority", "-3", "--attempts", "4"],
    ];
    let spec = &lab.json(&options.concat())["record"]["spec"];
    assert_eq!(spec["restart"], "always");
    assert_eq!(spec["stop"], serde_json::json!({ "signal": "SIGQUIT", "grace_ms": 3000 }));
    assert_eq!(spec["health"]["command"], serde_json::json!(["sh", "-c", "true"]));
    assert_eq!(spec["health"]["interval_ms"], 2000);
    assert_eq!(spec["secrets"][1]["target"], serde_json::json!({ "kind": "file", "path": "/run/k" }));
    assert_eq!((&spec["isolation"]["read_only_root"], &spec["priority"]), (&true.into(), &(-3).into()));
    let wrong = lab.orch(&["run", "web", "nginx", "--stop-signal", "TERM"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.err.contains("SIGTERM"), "{}", wrong.err);
    assert_eq!(lab.orch(&["run", "web", "nginx", "--health-interval", "2s"]).code, 2);
}

#[test]
fn a_task_from_a_file_takes_the_options_that_are_not_about_it() {
    let mut lab = Lab::new();
    lab.start_worker("w1", &[]);
    let (file, token) = (lab.path("task.json"), lab.path("manager/admin.token"));
    std::fs::write(
        &file,
        r#"{"name":"f","workload":{"kind":"program","program":"/bin/echo"},"args":["hi"]}"#,
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let run = |options: &[&str]| {
        let mut command = lab.bare(&["run", "--file", file]);
        command.env("ORCH_MANAGER", lab.url()).arg("--token-file").arg(&token).args(options);
        Done::of(command)
    };
    let follow = run(&["--follow"]);
    assert_eq!((follow.code, follow.out.as_str()), (0, "hi\n"), "{}", follow.err);
    let wait = run(&["--wait", "--json"]);
    assert_eq!(wait.code, 0, "{}", wait.err);
    let done: serde_json::Value = serde_json::from_str(&wait.out).unwrap();
    assert_eq!(done["status"], "succeeded");
    for other in [&["--cpu", "1"][..], &["--env", "A=b"], &["name"], &["--program"]] {
        let refused = run(other);
        assert_eq!(refused.code, 2, "{other:?}");
        assert!(refused.err.contains("--file"), "{other:?}: {}", refused.err);
    }
}

#[test]
fn words_of_docker_kubectl_and_nomad_are_understood() {
    let mut lab = Lab::new();
    lab.start_worker("w1", &[]);
    let id = lab.submit("web", "sleep 600", &[]);
    lab.until_running(&id, 1);
    for words in [&["ps"][..], &["ls"], &["get"], &["get", "tasks"], &["inspect", "web"], &["get", "web"]] {
        let done = lab.orch(words);
        assert!(done.code == 0 && done.out.contains("web"), "{words:?}: {done:?}");
    }
    assert!(lab.orch(&["status", "web"]).out.contains("running"));
    assert!(lab.orch(&["get", "nodes"]).out.contains("w1"));
    assert_eq!(lab.orch(&["stop", "web"]).code, 0);
    assert_eq!(lab.orch(&["wait", "web"]).code, 12);
    let removed = lab.orch(&["rm", "web"]);
    assert_eq!(removed.code, 4);
    assert!(removed.err.contains("orch stop"), "a task is no node: {}", removed.err);
    let help = lab.orch(&["--help"]).out;
    for alias in ["ps", "rm", "stop", "inspect", "get"] {
        assert!(help.contains(alias), "{alias}: {help}");
    }
    assert!(help.contains("Exit codes: 0 done"), "{help}");
}

#[test]
fn the_last_lines_of_an_attempt() {
    let mut lab = Lab::new();
    lab.start_worker("w1", &[]);
    let script =
        "for n in 1 2 3; do echo $ORCH_ATTEMPT line $n; done; case $ORCH_ATTEMPT in *.1) exit 1;; esac";
    let id = lab.submit("twice", script, &["--attempts", "2", "--backoff", "10ms"]);
    assert_eq!(lab.orch(&["wait", &id]).code, 0);
    let logs = |options: &[&str]| lab.orch(&[&["logs", "twice"], options].concat()).out;
    let (one, two) = (format!("{id}.1"), format!("{id}.2"));
    assert_eq!(logs(&["--tail", "2"]), format!("{two} line 2\n{two} line 3\n"));
    assert_eq!(logs(&["--attempt", "1", "--tail", "1"]), format!("{one} line 3\n"));
    assert_eq!(logs(&["--attempt", "2", "--follow"]).lines().count(), 3);
    assert_eq!((logs(&[]).lines().count(), logs(&["--tail", "0"]).as_str()), (6, ""));
    assert_eq!(lab.orch(&["logs", "twice", "--tail", "1000000"]).code, 2);
    assert_eq!(lab.orch(&["logs", "twice", "--attempt", "0"]).code, 2);
}

#[test]
fn output_says_when_it_was_received() {
    let mut lab = Lab::new();
    lab.start_worker("w1", &[]);
    let id = lab.submit("timed", "echo one; echo two; echo three >&2", &[]);
    assert_eq!(lab.orch(&["wait", &id]).code, 0);
    let logs = |options: &[&str]| lab.orch(&[&["logs", "timed"], options].concat());
    let stamped = logs(&["--timestamps"]);
    let lines: Vec<_> = stamped.out.lines().chain(stamped.err.lines()).collect();
    let time = |line: &str| Timestamp::from_rfc3339(line.split(' ').next().unwrap()).unwrap();
    let text: Vec<_> = lines.iter().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(text, ["one", "two", "three"], "{stamped:?}");
    let (first, now) = (lines.iter().map(|line| time(line)).min().unwrap(), Timestamp::now());
    assert!(first <= now && now.since(first) < 2 * PATIENCE, "{stamped:?}");
    assert_eq!(logs(&["-t", "--since", "1h", "--attempt", "1", "--follow"]).out, stamped.out);
    assert_eq!(logs(&["--since", &first.to_rfc3339()]).out, "one\ntwo\n");
    assert_eq!(logs(&["-t", "--since", "2100-01-01T00:00:00+01:00"]).out, "");
    assert_eq!(logs(&["--tail", "1", "--since", "2100-01-01T00:00:00Z"]).out, "");
    let json = |options: &[&str]| -> Vec<Value> {
        let out = logs(&[&["--json"], options].concat()).out;
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    assert!(json(&["-t"]).iter().all(|piece| piece["time"].as_u64() >= Some(first.as_millis())));
    assert!(json(&[]).iter().all(|piece| piece.get("time").is_none()));
    assert_eq!(logs(&["--since", "yesterday"]).code, 2);
}

#[test]
fn exit_codes_tell_how_a_task_ended() {
    let mut lab = Lab::new();
    lab.start_worker("w1", &[]);
    let slow = ["run", "--program", "--wait", "--timeout", "300ms", "slow", "/bin/sleep", "600"];
    assert_eq!(lab.orch(&slow).code, 11);
    let id = lab.submit("stopped", "sleep 600", &[]);
    lab.until_running(&id, 1);
    assert_eq!(lab.orch(&["wait", &id, "--timeout", "100ms"]).code, 13);
    assert_eq!(lab.orch(&["cancel", &id[..8], "--reason", "no longer needed"]).code, 0);
    let cancelled = lab.orch(&["wait", "stopped"]);
    assert_eq!(cancelled.code, 12, "{}", cancelled.err);
    assert_eq!(lab.orch(&["cancel", &id]).code, 5, "it is over already");
    assert_eq!(lab.orch(&["show", "nobody"]).code, 4);
    assert_eq!(lab.orch(&["frobnicate"]).code, 2);
}

#[test]
fn a_task_that_no_worker_can_run_says_so_at_once() {
    let mut lab = Lab::new();
    lab.start_worker("w1", &[]);
    let done = lab.orch(&["run", "--program", "--cpu", "64", "big", "/bin/true"]);
    assert_eq!(done.code, 0, "it is taken in: another worker may come");
    assert!(
        done.err.contains("no node can ever run this") && done.err.contains("too small in cpu"),
        "{}",
        done.err
    );
    let why = lab.orch(&["explain", "big"]).out;
    assert!(why.contains("It would fit on w1 with 62 cores less"), "{why}");
}

#[test]
fn a_drained_worker_is_emptied_and_its_work_goes_on_elsewhere() {
    let mut lab = Lab::new();
    lab.start_worker("w1", &[]);
    let id = lab.submit("long", "case $ORCH_ATTEMPT in *.1) sleep 600;; *) echo moved;; esac", &[]);
    lab.until_running(&id, 1);
    assert_eq!(lab.orch(&["explain", &id]).out, "it waits for no node: it is running on w1\n");
    lab.start_worker("w2", &[]);
    let drained = lab.orch(&["drain", "w1", "--wait"]);
    assert_eq!((drained.code, drained.out.as_str()), (0, "w1 drained\n"), "{}", drained.err);
    assert_eq!(lab.orch(&["wait", &id]).code, 0);
    assert_eq!(lab.orch(&["logs", &id]).out, "moved\n");
    assert!(lab.orch(&["nodes"]).out.contains("drained"));
    assert_eq!(lab.orch(&["uncordon", "w1"]).code, 0);
}
