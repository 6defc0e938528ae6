//! Examples produce the output that they promise.

#![cfg(target_os = "linux")]
#![expect(unreachable_pub, reason = "each example is a program of its own as well")]

#[path = "../examples/closures.rs"]
mod closures;
#[path = "../examples/own_scheduler.rs"]
mod own_scheduler;
#[path = "../examples/quickstart.rs"]
mod quickstart;
#[path = "../examples/resume_events.rs"]
mod resume_events;

#[test]
fn the_quick_start_works() {
    quickstart::main().unwrap();
}

#[test]
fn a_policy_of_ones_own_works() {
    own_scheduler::main().unwrap();
}

#[test]
fn a_runtime_of_functions_works() {
    closures::main().unwrap();
}

#[test]
fn events_are_resumed() {
    resume_events::main().unwrap();
}
