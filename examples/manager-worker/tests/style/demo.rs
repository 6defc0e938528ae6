//! The demonstration, without an engine.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixListener,
    path::Path,
    process::Command,
};

use crate::lab::{Done, Service};

#[test]
fn it_works_with_processes_and_checks_itself() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
    command.args(["demo", "--process"]);
    // Options of the user's own services are not for the demonstration's.
    command.envs([("ORCH_MANAGER_CONFIG", "/nowhere"), ("ORCH_WORKER_DEVICE", "nonsense")]);
    let done = Done::of(command);
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    assert!(done.out.contains("plain processes"), "{}", done.out);
    assert!(done.out.contains("Nothing was lost and nothing ran twice."), "{}", done.out);
}

#[test]
fn when_it_is_ended_it_leaves_nothing_behind() {
    let (temporary, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
    command.args(["demo", "--process"]).env("TMPDIR", temporary.path()).current_dir(home.path());
    // A worker is dead by then, and its task goes on without it.
    let demo = Service::start(command, "is killed while it runs");
    let processes = || fs::read_dir("/proc").unwrap().flatten().map(|process| process.path());
    // Whatever it started works where it does.
    let are_its = || processes().filter(|process| is_link_to(&process.join("cwd"), home.path())).count();
    assert!(are_its() > 3, "the parts and the task");
    assert_eq!(demo.terminate().code(), Some(1));
    assert_eq!((are_its(), fs::read_dir(temporary.path()).unwrap().count()), (0, 0));
}

fn is_link_to(link: &Path, target: &Path) -> bool {
    fs::read_link(link).is_ok_and(|found| found == target)
}

/// An engine that answers, has no image and can fetch none.
fn empty_engine(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap_or(0);
            let line = String::from_utf8_lossy(&request[..read]).into_owned();
            let (status, body) = match line.contains("_ping") {
                true => (200, "OK"),
                false => (404, r#"{"message":"nothing is here"}"#),
            };
            let _ = write!(
                stream,
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
}

#[test]
fn an_engine_without_images_is_told_and_processes_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    empty_engine(&socket);
    let engine = format!("unix://{}", socket.display());
    let demo = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
        command.arg("demo").args(words).env("DOCKER_HOST", &engine);
        Done::of(command)
    };
    let done = demo(&[]);
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    assert!(done.out.lines().next().unwrap().contains("has no image busybox:1.36"), "at once: {}", done.out);
    assert!(
        done.out.contains("plain processes") && done.out.contains("docker pull busybox:1.36"),
        "{}",
        done.out
    );
    assert!(!done.out.contains("orch-test"), "an image of the tests: {}", done.out);
    let asked = demo(&["--image", "my/image:1"]);
    assert_eq!(asked.code, 1, "{}", asked.out);
    assert!(asked.err.contains("my/image:1 is not there"), "{}", asked.err);
}
