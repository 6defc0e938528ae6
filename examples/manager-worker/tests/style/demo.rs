//! The demonstration, without an engine.

use std::process::Command;

use crate::lab::Done;

#[test]
fn it_works_with_processes_and_checks_itself() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
    command.args(["demo", "--process"]);
    let done = Done::of(command);
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    assert!(done.out.contains("plain processes"), "{}", done.out);
    assert!(done.out.contains("Nothing was lost and nothing ran twice."), "{}", done.out);
}
