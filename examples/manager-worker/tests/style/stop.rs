//! Stopping tasks, one or many.

use crate::lab::{Done, Lab};

#[test]
fn tasks_are_stopped_by_what_they_have_in_common() {
    let lab = Lab::new();
    let blue = [&["--label", "team=blue"][..]; 2].map(|label| lab.submit("b", "true", label));
    let red = lab.submit("r", "true", &["--label", "team=red"]);
    let stopped = lab.orch(&["stop", "--label", "team=blue"]);
    assert_eq!(stopped.code, 0, "{}", stopped.err);
    assert!(blue.iter().all(|id| stopped.out.contains(id)) && !stopped.out.contains(&red), "{}", stopped.out);
    let listed = lab.json(&["list", "--status", "pending"]);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["record"]["id"]), (1, &red.as_str().into()));
    let nothing = lab.orch(&["stop", "--label", "team=blue"]);
    assert_eq!((nothing.code, nothing.out.as_str()), (0, ""), "{}", nothing.err);
    assert!(nothing.err.contains("no task"), "{}", nothing.err);
    let json = lab.json(&["stop", "--status", "pending"]);
    assert_eq!((&json[0]["id"], &json[0]["result"]), (&red.as_str().into(), &"done".into()));
    assert_eq!(lab.orch(&["stop"]).code, 2, "of which?");
    assert_eq!(lab.orch(&["stop", "--status", "failed"]).code, 2, "those are over");
}

#[test]
fn all_are_stopped_only_when_that_is_confirmed() {
    let lab = Lab::new();
    for _ in 0..40 {
        lab.submit("t", "true", &[]);
    }
    let asked = lab.orch(&["stop", "--all"]);
    assert_eq!(asked.code, 2);
    assert!(asked.err.contains("40 tasks") && asked.err.contains("--yes"), "{}", asked.err);
    assert_eq!(lab.json(&["list", "--status", "pending"]).as_array().unwrap().len(), 40);
    let stopped = lab.orch(&["stop", "--all", "--yes", "--reason", "clean up"]);
    assert_eq!((stopped.code, stopped.out.lines().count()), (0, 40), "{}", stopped.err);
    assert_eq!(lab.json(&["list", "--status", "cancelled"]).as_array().unwrap().len(), 40);
    let none = lab.orch(&["stop", "--all"]);
    assert_eq!(none.code, 0, "there is nothing to ask about: {}", none.err);
}

#[test]
fn what_cannot_be_stopped_keeps_nothing_else_from_it() {
    let lab = Lab::new();
    let (over, there) = (lab.submit("over", "true", &[]), lab.submit("there", "true", &[]));
    assert_eq!(lab.orch(&["stop", &over]).code, 0);
    let mixed: Done = lab.orch(&["stop", &over, "nobody", &there]);
    assert_eq!(mixed.code, 1, "{}", mixed.err);
    assert!(mixed.out.contains(&there), "{}", mixed.out);
    assert!(mixed.err.contains(&over) && mixed.err.contains("nobody"), "{}", mixed.err);
    assert_eq!(lab.json(&["show", &there])["status"], "cancelled");
}
