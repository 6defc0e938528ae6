//! Processes die; nothing that was acknowledged is lost, and nothing runs twice.

use std::{collections::BTreeSet, fs};

use orch_kit::testing::wait_until_gone;

use crate::lab::Lab;

#[test]
fn the_work_of_a_killed_worker_moves_and_its_leftovers_are_removed() {
    let mut lab = Lab::new();
    lab.start_worker("w1", &[]);
    let mark = lab.path("mark");
    let script =
        format!("echo $ORCH_ATTEMPT $$ >> {}; case $ORCH_ATTEMPT in *.1) sleep 600;; esac", mark.display());
    let id = lab.submit("moves", &script, &[]);
    lab.until_running(&id, 1);
    lab.kill_worker("w1");
    lab.start_worker("w2", &[]);
    assert_eq!(lab.orch(&["wait", &id]).code, 0);
    let text = fs::read_to_string(&mark).unwrap();
    let starts: Vec<&str> = text.lines().collect();
    assert_eq!(starts.len(), 2, "each attempt started once: {text}");
    let left_behind = starts[0].split(' ').nth(1).unwrap();
    let process = std::path::PathBuf::from("/proc").join(left_behind);
    assert!(process.exists(), "a killed worker leaves its work running");
    lab.start_worker("w1", &[]);
    wait_until_gone(&process);
}

#[test]
fn a_worker_goes_on_when_nobody_reads_what_it_prints() {
    let mut lab = Lab::new();
    lab.start_unread_worker("w1");
    // It says something each time that it registers, and logs what it cannot reach.
    for name in ["one", "two"] {
        lab.kill_manager();
        lab.start_manager(&[]);
        let id = lab.submit(name, "true", &[]);
        let waited = lab.orch(&["wait", "--timeout", "20s", &id]);
        assert!(lab.worker_is_running("w1"), "it ended by itself");
        assert_eq!(waited.code, 0, "{waited:?}");
    }
}

#[test]
fn a_restarted_worker_takes_over_what_runs() {
    let mut lab = Lab::new();
    lab.start_worker("w1", &[]);
    let (gate, mark) = (lab.path("gate"), lab.path("mark"));
    let script = format!(
        "echo start >> {mark}; while [ ! -e {gate} ]; do sleep 0.05; done; echo end >> {mark}",
        mark = mark.display(),
        gate = gate.display()
    );
    let id = lab.submit("adopted", &script, &[]);
    lab.until_running(&id, 1);
    lab.kill_worker("w1");
    lab.start_worker("w1", &[]);
    fs::write(&gate, "").unwrap();
    assert_eq!(lab.orch(&["wait", &id]).code, 0);
    assert_eq!(fs::read_to_string(&mark).unwrap(), "start\nend\n");
    assert_eq!(lab.json(&["show", &id])["record"]["attempts_made"], 1);
}

#[test]
fn a_manager_killed_under_load_has_everything_that_it_acknowledged() {
    let mut lab = Lab::with(&[]);
    lab.start_worker("w1", &[]);
    let running = lab.submit("running", "sleep 2; echo done", &[]);
    lab.until_running(&running, 1);
    let mut acknowledged = BTreeSet::from([running.clone()]);
    for round in 0..3 {
        let submitters: Vec<_> = std::thread::scope(|scope| {
            let lab = &lab;
            let submit =
                |number: u32| scope.spawn(move || lab.submit(&format!("r{round}-{number}"), "echo ran", &[]));
            let threads: Vec<_> = (0..4).map(submit).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        acknowledged.extend(submitters);
        lab.kill_manager();
        lab.start_manager(&[]);
    }
    for id in &acknowledged {
        let done = lab.orch(&["wait", id]);
        assert_eq!(done.code, 0, "{id}: {}", done.err);
        assert_eq!(lab.json(&["show", id])["record"]["attempts_made"], 1, "the worker never noticed");
    }
    assert_eq!(lab.orch(&["logs", &running]).out, "done\n");
    assert_eq!(lab.json(&["list"]).as_array().unwrap().len(), acknowledged.len());
}

#[test]
fn a_manager_that_is_asked_to_end_ends_well() {
    let mut lab = Lab::new();
    lab.start_worker("w1", &[]);
    let id = lab.submit("before", "true", &[]);
    assert_eq!(lab.orch(&["wait", &id]).code, 0);
    assert!(lab.stop_manager().success());
    assert_eq!(lab.orch(&["list"]).code, 3, "nobody is there");
    lab.start_manager(&[]);
    assert_eq!(lab.json(&["show", &id])["status"], "succeeded");
}

#[test]
fn a_drain_that_waits_survives_a_restart_of_the_manager() {
    let mut lab = Lab::new();
    lab.start_worker("w1", &[]);
    let id = lab.submit("long", "sleep 600", &[]);
    lab.until_running(&id, 1);
    let caller = lab.caller();
    let drain = std::thread::spawn(move || caller.orch(&["drain", "w1", "--wait", "--grace", "1h"]));
    // It looks at the node once it follows what happens.
    lab.until_asked("/api/v1/nodes");
    lab.kill_manager();
    lab.start_manager(&[]);
    assert_eq!(lab.orch(&["stop", &id]).code, 0);
    let drained = drain.join().unwrap();
    assert_eq!((drained.code, drained.out.as_str()), (0, "w1 drained\n"), "{}", drained.err);
}
