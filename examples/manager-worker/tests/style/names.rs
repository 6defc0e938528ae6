//! Names and ids: which task somebody means.

use crate::lab::Lab;

#[test]
fn a_name_of_several_tasks_is_answered_with_what_they_are() {
    let lab = Lab::new();
    let (one, two) = (lab.submit("twin", "true", &[]), lab.submit("twin", "true", &[]));
    let refused = lab.orch(&["show", "twin"]);
    assert_eq!(refused.code, 2);
    let lines: Vec<&str> = refused.err.lines().collect();
    let (first, second) =
        (lines.iter().position(|l| l.contains(&two)), lines.iter().position(|l| l.contains(&one)));
    assert!(first.unwrap() < second.unwrap(), "the newest first: {}", refused.err);
    assert!(lines[first.unwrap()].contains("pending"), "{}", refused.err);
    assert!(lines[0].contains("STATUS") || lines[1].contains("AGE"), "{}", refused.err);
    assert!(
        refused.err.contains("orch show 2") || refused.err.contains(&format!("orch show {two}")),
        "{}",
        refused.err
    );
}

#[test]
fn stop_and_logs_take_the_only_one_that_goes_on() {
    let mut lab = Lab::new();
    lab.start_worker("w1", &[]);
    let old = lab.submit("web", "echo old", &[]);
    assert_eq!(lab.orch(&["wait", &old]).code, 0);
    let new = lab.submit("web", "echo new; sleep 600", &[]);
    lab.until_running(&new, 1);
    let logs = lab.orch(&["logs", "web"]);
    assert_eq!(logs.code, 0, "{}", logs.err);
    assert!(logs.err.contains(&new[..8]) && logs.err.contains("web"), "it says which: {}", logs.err);
    assert!(!logs.out.contains("old"), "{}", logs.out);
    assert_eq!(lab.orch(&["show", "web"]).code, 2, "both can be looked at");
    let stopped = lab.orch(&["stop", "web"]);
    assert_eq!(stopped.code, 0, "{}", stopped.err);
    assert!(stopped.out.contains(&new), "{}", stopped.out);
    assert_eq!(lab.orch(&["wait", &new]).code, 12);
    let refused = lab.orch(&["stop", "web"]);
    assert_eq!(refused.code, 2, "none goes on: {}", refused.err);
}

#[test]
fn a_namespace_tells_tasks_of_one_name_apart() {
    let lab = Lab::new();
    let ours = lab.submit("web", "true", &["--namespace", "ours"]);
    let theirs = lab.submit("web", "true", &["--namespace", "theirs"]);
    let usual = lab.submit("other", "true", &[]);
    assert_eq!(lab.json(&["show", "web", "--namespace", "ours"])["record"]["id"], *ours);
    assert_eq!(lab.json(&["show", "--namespace", "theirs", "web"])["record"]["id"], *theirs);
    assert_eq!(lab.orch(&["show", "web", "-n", "default"]).code, 4);
    for words in [["-n", "ours", "list"], ["--namespace", "ours", "list"], ["list", "-n", "ours"]] {
        assert_eq!(lab.json(&words)[0]["record"]["id"], *ours, "{words:?}");
    }
    let put = lab.json(&["-n", "ours", "run", "another", "busybox"]);
    assert_eq!(put["record"]["spec"]["namespace"], "ours");
    let mut command = lab.bare(&["show", "web", "--json", "--manager", lab.url(), "--token-file"]);
    command.arg(lab.path("manager/admin.token")).env("ORCH_NAMESPACE", "theirs");
    let shown: serde_json::Value = serde_json::from_str(&crate::lab::Done::of(command).out).unwrap();
    assert_eq!(shown["record"]["id"], *theirs);
    let listed = lab.json(&["list", "--namespace", "default"]);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["record"]["id"]), (1, &usual.as_str().into()));
    let table = lab.orch(&["list"]).out;
    assert!(table.contains("NAMESPACE") && table.contains("ours"), "{table}");
    assert_eq!(lab.orch(&["stop", "web", "--namespace", "ours"]).code, 0);
    assert_eq!(lab.json(&["show", &theirs])["status"], "pending");
    let mut events = lab.bare(&["events", "--from", "0", "--namespace", "theirs", "--manager", lab.url()]);
    events.arg("--token-file").arg(lab.path("manager/admin.token"));
    let first = crate::lab::Service::start(events, "task");
    assert!(first.line().contains(&theirs[..8]), "{}", first.line());
    let wrong = lab.orch(&["list", "--namespace", "a/b"]);
    assert_eq!(wrong.code, 2);
}
