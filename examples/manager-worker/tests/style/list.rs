//! The list: which tasks it shows, and why they are as they are.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use serde_json::{Value, json};

use crate::lab::{Lab, PATIENCE, Service};

/// Submits this many tasks at once.
fn submit_many(lab: &Lab, count: usize) {
    let spec = |number| json!({ "name": format!("t{number}"), "workload": { "kind": "program", "program": "true" } });
    let tasks: Vec<Value> = (0..count).map(|number| json!({ "spec": spec(number) })).collect();
    let body = json!({ "tasks": tasks }).to_string();
    let token = fs::read_to_string(lab.path("manager/admin.token")).unwrap();
    let mut stream = TcpStream::connect(lab.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "POST /api/v1/tasks HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        lab.address(),
        token.trim(),
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{}", &answer[..answer.len().min(500)]);
}

#[test]
fn a_list_of_several_pages_is_cut_and_says_so_or_is_whole() {
    const COUNT: usize = 2105;
    let lab = Lab::new();
    submit_many(&lab, COUNT);
    let cut = lab.orch(&["list"]);
    assert_eq!(cut.out.lines().count(), 1 + 1000);
    assert!(cut.err.contains("1,000 of 2,105 tasks shown"), "{}", cut.err);
    let distinct = |tasks: &Value, field: &[&str]| -> usize {
        let id =
            |task: &Value| field.iter().fold(task.clone(), |value, name| value[*name].clone()).to_string();
        tasks.as_array().unwrap().iter().map(id).collect::<BTreeSet<_>>().len()
    };
    assert_eq!(distinct(&lab.json(&["list", "--all"]), &["record", "id"]), COUNT);
    assert_eq!(distinct(&lab.json(&["list", "--limit", "1500"]), &["record", "id"]), 1500);
    // Those that are stopped leave the pages that are still to come.
    assert_eq!(distinct(&lab.json(&["stop", "--all", "--yes"]), &["id"]), COUNT);
    assert_eq!(lab.json(&["list", "--status", "pending"]), json!([]));
}

#[test]
fn the_newest_are_shown_with_how_many_there_are() {
    let lab = Lab::new();
    for number in 0..3 {
        lab.submit(&format!("t{number}"), "true", &[]);
    }
    let names = |words: &[&str]| -> Vec<String> {
        let listed = lab.json(words);
        listed
            .as_array()
            .unwrap()
            .iter()
            .map(|task| task["record"]["spec"]["name"].as_str().unwrap().into())
            .collect()
    };
    assert_eq!(names(&["list"]), ["t2", "t1", "t0"]);
    assert_eq!(names(&["list", "--limit", "2"]), ["t2", "t1"]);
    assert_eq!(names(&["list", "--limit", "2", "--oldest-first"]), ["t0", "t1"]);
    let cut = lab.orch(&["list", "--limit", "2"]);
    assert_eq!(cut.err, "orch: 2 of 3 tasks shown; --all shows all, --limit N more\n");
    let whole = lab.orch(&["list", "--all"]);
    assert_eq!((whole.err.as_str(), whole.out.lines().count()), ("", 4));
    assert_eq!(lab.orch(&["list", "--all", "--limit", "2"]).code, 2);
}

#[test]
fn an_unknown_status_is_refused_with_the_known_ones() {
    let lab = Lab::new();
    let refused = lab.orch(&["list", "--status", "done"]);
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("succeeded") && refused.err.contains("disconnected"), "{}", refused.err);
    assert_eq!(lab.orch(&["list", "--status", "running,failed", "--status", "pending"]).code, 0);
}

#[test]
fn why_says_what_holds_now() {
    let mut lab = Lab::new();
    let line = |lab: &Lab, name: &str| -> String {
        let table = lab.orch(&["list"]).out;
        table.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{table}")).to_owned()
    };
    let waits = lab.submit("waits", "echo ran", &[]);
    assert!(line(&lab, "waits").contains("there are no nodes yet"), "{}", line(&lab, "waits"));
    let late = lab.submit("late", "true", &["--queue-timeout", "100ms"]);
    assert_eq!(lab.orch(&["wait", &late]).code, 11);
    assert!(line(&lab, "late").contains("in the queue for longer than 100ms"), "{}", line(&lab, "late"));
    let waited = lab.orch(&["wait", &late]);
    assert!(waited.err.contains("in the queue for longer than 100ms"), "{}", waited.err);
    let pending = lab.submit("large", "true", &["--cpu", "64"]);
    assert!(lab.orch(&["show", &pending]).out.contains("there are no nodes yet"));

    lab.start_worker("w1", &[]);
    assert_eq!(lab.orch(&["wait", &waits]).code, 0);
    assert!(line(&lab, "waits").trim_end().ends_with(|c: char| "smh".contains(c)), "{}", line(&lab, "waits"));
    assert!(line(&lab, "large").contains("too small in cpu"), "{}", line(&lab, "large"));

    // What ended before is told by `show`; what goes on now is not explained by it.
    let moves = lab.submit("moves", "sleep 600", &[]);
    lab.until_running(&moves, 1);
    lab.start_worker("w2", &[]);
    assert_eq!(lab.orch(&["drain", "w1", "--wait"]).code, 0);
    lab.until_running(&moves, 2);
    assert!(!line(&lab, "moves").contains("stopped"), "{}", line(&lab, "moves"));
    assert!(lab.orch(&["show", "moves"]).out.contains("stopped on request"));
    assert_eq!(lab.orch(&["cancel", "moves", "--reason", "no longer needed"]).code, 0);
    assert_eq!(lab.orch(&["wait", "moves"]).code, 12);
    assert!(line(&lab, "moves").contains("no longer needed"), "{}", line(&lab, "moves"));
}

#[test]
fn what_a_task_is_made_of_does_not_reach_the_terminal_raw() {
    let mut lab = Lab::new();
    lab.start_worker("w1", &[]);
    let (program, argument) = ("/no\u{1b}[31m\nFORGED  line", "one\r\ntwo\u{9b}2J");
    let run = ["run", "--program", "evil", "--label", "a=b", program, "--", argument];
    let id = lab.orch(&run).out.trim().to_owned();
    let waited = lab.orch(&["wait", &id]);
    assert_eq!(waited.code, 10, "{waited:?}");
    let (list, show, explain) = (lab.orch(&["list"]), lab.orch(&["show", &id]), lab.orch(&["explain", &id]));
    for text in [&waited.out, &waited.err, &list.out, &show.out, &explain.out] {
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("FORGED") || line.starts_with("two")), "{text:?}");
    }
    assert_eq!(list.out.lines().count(), 2, "{}", list.out);
    assert!(show.out.contains("/no [31m FORGED  line") && show.out.contains("one  two 2J"), "{}", show.out);
    assert_eq!(
        lab.json(&["show", &id])["record"]["spec"]["args"],
        json!([argument]),
        "programs get it as it is"
    );
    let mut events = lab.bare(&["events", "--from", "0", "--manager", lab.url(), "--token-file"]);
    events.arg(lab.path("manager/admin.token"));
    let failure = Service::start(events, "No such file");
    assert!(failure.line().contains("task evil") && !failure.line().contains('\u{1b}'), "{}", failure.line());
}
