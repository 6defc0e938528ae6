//! The engine is killed under a running worker, and comes back.

use std::collections::BTreeSet;

use orch_kit::testing::wait_until_gone;
use serde_json::json;

use orch_docker::testkit::Containers;

use crate::site::Site;

const GONE: &str = "the engine does not answer";

#[test]
fn an_outage_of_the_engine_loses_no_task_and_runs_none_twice() {
    let mut site = Site::new(Containers::Outlive);
    site.start_worker("w1");
    let goes_on = site.submit("goes-on", "begins; echo one; passes go; echo two", &["--cpu", "1"]);
    let ends = site.submit("ends", "begins; echo out; passes end; exit 7", &["--cpu", "0.5"]);
    let queued = site.submit("queued", "begins", &["--cpu", "1.5"]);
    for task in [&goes_on, &ends] {
        site.lab.until_running(task, 1);
    }
    let container = site.container_of(&goes_on);
    let ending = site.process_of(&site.container_of(&ends));

    site.engine.crash();
    let late = site.submit("late", "begins; echo late", &["--cpu", "0.1"]);
    for task in [&goes_on, &ends, &late] {
        site.lab.until_told(task, GONE);
    }
    assert!(site.lab.orch(&["show", &late]).out.contains(GONE), "people are told as well");
    site.open("end");
    wait_until_gone(&ending);
    assert_eq!(site.lab.json(&["nodes"])[0]["record"]["state"], "ready", "the worker itself is well");

    site.engine.restart();
    let ended = site.wait(&ends);
    assert_eq!(ended.code, 10, "{}", ended.err);
    assert!(ended.err.contains("exit code 7"), "it ended while nobody looked: {}", ended.err);
    assert_eq!(site.wait(&late).code, 0);
    assert_eq!(site.container_of(&goes_on), container, "the same one, still there");
    assert_eq!(
        (site.began(&queued).len(), site.lab.json(&["show", &queued])["status"].as_str()),
        (0, Some("pending"))
    );
    site.open("go");
    for task in [&goes_on, &queued] {
        let done = site.wait(task);
        assert_eq!(done.code, 0, "{}", done.err);
    }
    for (task, output) in [(&goes_on, "one\ntwo\n"), (&ends, "out\n"), (&queued, ""), (&late, "late\n")] {
        assert_eq!(site.began(task).len(), 1);
        assert_eq!(site.lab.json(&["show", task])["record"]["attempts_made"], 1);
        assert_eq!(site.lab.orch(&["logs", task]).out, output);
    }
}

#[test]
fn work_that_ends_with_its_engine_is_decided_by_its_policy() {
    let mut site = Site::new(Containers::EndWithIt);
    site.start_worker("w1");
    // The first attempt hangs until the engine takes it along.
    let script = "begins; case $ORCH_ATTEMPT in *.1) passes never;; esac; echo done";
    let light = ["--cpu", "0.1"];
    let retried = site.submit("retried", script, &[&light[..], &["--attempts", "2"]].concat());
    let given_up = site.submit("given-up", script, &light);
    let again = json!({ "max_attempts": 2 });
    let never = site.submit_with("never", script, &[("restart", json!("never")), ("retry", again)]);
    for task in [&retried, &given_up, &never] {
        site.lab.until_running(task, 1);
    }
    site.engine.crash();
    for task in [&retried, &given_up, &never] {
        site.lab.until_told(task, GONE);
    }
    site.engine.restart();
    for task in [&given_up, &never] {
        let failed = site.wait(task);
        assert_eq!((failed.code, site.began(task).len()), (10, 1), "{}", failed.err);
    }
    let done = site.wait(&retried);
    assert_eq!((done.code, site.began(&retried).len()), (0, 2), "{}", done.err);
    assert_eq!(site.lab.orch(&["logs", &retried]).out, "done\n");
}

#[test]
fn an_engine_that_dies_over_a_burst_of_starts_begins_no_attempt_twice() {
    let mut site = Site::new(Containers::Outlive);
    site.start_worker("w1");
    // Whether a start happened that the engine died over, nobody can know. It counts as lost, and another
    // attempt follows.
    let options = ["--cpu", "0.1"];
    let submit = |number| site.submit(&format!("t{number}"), "begins; passes go", &options);
    let tasks: Vec<String> = (0..16).map(submit).collect();
    site.lab.until_running(&tasks[4], 1);
    site.engine.crash();
    site.lab.until_told(&tasks[15], GONE);
    site.open("go");
    site.engine.restart();
    for task in &tasks {
        let done = site.wait(task);
        assert_eq!(done.code, 0, "{}", done.err);
        let begun = site.began(task);
        assert_eq!(begun.len(), begun.iter().collect::<BTreeSet<_>>().len(), "{begun:?}");
    }
}
