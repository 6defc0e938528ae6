//! Bad input gets a clear error, and nothing is lost.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
};

use crate::lab::{Done, Lab};

fn manager(dir: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orch-manager"));
    command.args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(dir);
    command
}

#[test]
fn a_second_manager_on_the_same_directory_is_refused() {
    let lab = Lab::new();
    let second = Done::of(manager(&lab.path("manager")));
    assert_eq!(second.code, 1);
    assert!(
        second.err.contains("/manager is in use by another process"),
        "it names the place: {}",
        second.err
    );
    assert_eq!(lab.orch(&["status"]).code, 0, "the first one goes on");
}

#[test]
fn a_damaged_data_directory_is_named_and_left_as_it_is() {
    let mut lab = Lab::new();
    let id = lab.submit("kept", "true", &[]);
    lab.stop_manager();
    let state = lab.path("manager/state");
    let files = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
    // Beside it is space that is kept for a full disk.
    let of_store = files.filter(|path| path.extension().is_some_and(|extension| extension != "reserve"));
    let file = of_store.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let good = fs::read(&file).unwrap();
    fs::write(&file, b"this is no database at all").unwrap();
    let failed = Done::of(manager(&lab.path("manager")));
    assert_eq!(failed.code, 1);
    assert!(failed.err.contains(&*file.file_name().unwrap().to_string_lossy()), "{}", failed.err);
    assert_eq!(fs::read(&file).unwrap(), b"this is no database at all", "nothing was overwritten");
    fs::write(&file, good).unwrap();
    lab.start_manager(&[]);
    assert_eq!(lab.json(&["show", &id])["status"], "pending");
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let failed = Done::of(manager(&file.path().join("below")));
    assert_eq!(failed.code, 1);
    assert!(failed.err.contains("--data-dir"), "{}", failed.err);
}

#[test]
fn wrong_and_exposed_tokens_are_refused() {
    let mut lab = Lab::new();
    let wrong = lab.path("wrong");
    fs::write(&wrong, "not-the-token").unwrap();
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o600)).unwrap();
    let refused = lab.orch_with(&["list"], &wrong);
    assert_eq!(refused.code, 5);
    assert!(refused.err.contains("token") && !refused.err.contains("not-the-token"), "{}", refused.err);
    let worker = lab.orch_with(&["list"], &lab.path("manager/worker.token"));
    assert_eq!(worker.code, 5, "a worker's token opens the workers' protocol only");
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(lab.orch_with(&["list"], &wrong).err.contains("chmod 600"));
    lab.start_worker("w1", &[]);
}

#[test]
fn a_second_worker_with_the_same_name_is_refused_while_the_first_is_there() {
    let mut lab = Lab::new();
    lab.start_worker("w1", &[]);
    let mut second = lab.worker_command("w1", "elsewhere", &[]);
    let mut second = second.env("ORCH_LOG", "warn").stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(second.stderr.take().unwrap()).lines();
    let told =
        lines.find_map(|line| line.ok().filter(|line| line.contains("another agent that is still there")));
    second.kill().unwrap();
    second.wait().unwrap();
    assert!(told.is_some(), "it says why it is not let in");
    assert_eq!(lab.json(&["nodes"]).as_array().unwrap().len(), 1);
}

#[test]
fn impossible_requests_are_refused_with_the_field() {
    let lab = Lab::new();
    for (words, expected) in [
        (vec!["run", "", "busybox"], "name"),
        (vec!["run", "x", "busy box"], "workload.image"),
        (vec!["run", "x", "busybox", "--cpu", "99999999"], "asks for 99999999 cores; at most"),
        (vec!["run", "x", "busybox", "--memory", "100000Ti"], "TiB"),
        (vec!["run", "x", "busybox", "--mount", "/a/../b:/c"], "mounts.source.path"),
    ] {
        let refused = lab.orch(&words);
        assert_eq!(refused.code, 5, "{words:?}");
        assert!(refused.err.contains(expected), "{words:?}: {}", refused.err);
    }
    for (count, expected) in [("99999999999999999999", "too large"), ("many", "is not a number")] {
        let refused = lab.orch(&["run", "x", "busybox", "--device", &format!("gpu={count}")]);
        assert!(refused.code == 2 && refused.err.contains(expected), "{}", refused.err);
    }
    let file = lab.path("task.json");
    fs::write(&file, r#"{"name":"x","workload":{"kind":"program","program":"true"},"priorty":1}"#).unwrap();
    let refused = lab.orch(&["run", "--file", file.to_str().unwrap()]);
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("priorty"), "{}", refused.err);
    assert_eq!(lab.json(&["list"]).as_array().unwrap().len(), 0, "nothing of it happened");
}
