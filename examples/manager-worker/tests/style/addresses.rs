//! A manager and workers on different machines: network namespaces with a cable between them, TLS on the
//! wire.

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::lab::{Done, Service};

/// Two hosts joined by a cable, removed at the end. Addresses are of the range for benchmarks (RFC 2544),
/// never routed.
struct Hosts {
    name: String,
}

const MANAGER: &str = "198.18.91.1";
const WORKER: &str = "198.18.91.2";

impl Hosts {
    fn new() -> Self {
        let hosts = Self { name: format!("orch{}", std::process::id()) };
        let (a, b) = (hosts.host('a'), hosts.host('b'));
        for words in [
            format!("netns add {a}"),
            format!("netns add {b}"),
            format!("-n {a} link add cable type veth peer name cable netns {b}"),
            format!("-n {a} addr add {MANAGER}/24 dev cable"),
            format!("-n {b} addr add {WORKER}/24 dev cable"),
            format!("-n {a} link set lo up"),
            format!("-n {b} link set lo up"),
            format!("-n {a} link set cable up"),
            format!("-n {b} link set cable up"),
        ] {
            ip(&words);
        }
        hosts
    }

    fn host(&self, letter: char) -> String {
        format!("{}{letter}", self.name)
    }

    /// A command that runs on one of the hosts.
    fn command(&self, letter: char, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.host(letter), program]).stdin(Stdio::null());
        command
    }

    /// Pulls the cable, or plugs it in.
    fn set_cable(&self, state: &str) {
        ip(&format!("-n {} link set cable {state}", self.host('b')));
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for letter in ['a', 'b'] {
            let _ = Command::new("ip").args(["netns", "del", &self.host(letter)]).status();
        }
    }
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status();
    let worked = status.is_ok_and(|status| status.success());
    assert!(worked, "`ip {words}` failed: this test makes network namespaces, which needs root and iproute2");
}

#[test]
fn a_worker_on_another_host_works_over_tls_and_survives_a_pulled_cable() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key, data) =
        (dir.path().join("cert.pem"), dir.path().join("key.pem"), dir.path().join("manager"));
    let made = rcgen::generate_simple_self_signed([MANAGER.to_owned()]).unwrap();
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let hosts = Hosts::new();

    let mut manager = hosts.command('a', env!("CARGO_BIN_EXE_orch-manager"));
    manager.args([
        "--listen",
        &format!("{MANAGER}:3000"),
        "--heartbeat-interval",
        "300ms",
        "--node-timeout",
        "2s",
    ]);
    manager.arg("--tls-cert").arg(&cert).arg("--tls-key").arg(&key).arg("--data-dir").arg(&data);
    let manager = Service::start(manager, "listens on");
    let url = format!("https://{MANAGER}:3000");
    assert!(manager.line().ends_with(&url), "{}", manager.line());

    let mut worker = hosts.command('b', env!("CARGO_BIN_EXE_orch-worker"));
    worker.args(["--manager", &url, "--id", "far", "--runtime", "process", "--ca"]).arg(&cert);
    worker
        .arg("--token-file")
        .arg(data.join("worker.token"))
        .arg("--data-dir")
        .arg(dir.path().join("worker"));
    let _worker = Service::start(worker, "is registered");

    let orch = |words: &[&str]| {
        let mut command = hosts.command('a', env!("CARGO_BIN_EXE_orch"));
        command.args(["--manager", &url, "--ca"]).arg(&cert);
        command.arg("--token-file").arg(data.join("admin.token")).args(words);
        Done::of(command)
    };
    let hello = orch(&["run", "--program", "--follow", "hello", "/bin/echo", "from afar"]);
    assert_eq!((hello.code, hello.out.as_str()), (0, "from afar\n"), "{}", hello.err);

    let (gate, mark) = (dir.path().join("gate"), dir.path().join("mark"));
    let script = format!(
        "echo $ORCH_ATTEMPT >> {mark}; while [ ! -e {gate} ]; do sleep 0.05; done",
        mark = mark.display(),
        gate = gate.display()
    );
    let id = orch(&["run", "--program", "cut-off", "/bin/sh", "--", "-c", &script]).out.trim().to_owned();
    let until = |words: &str| {
        let mut events = hosts.command('a', env!("CARGO_BIN_EXE_orch"));
        events.args(["--manager", &url, "--ca"]).arg(&cert).arg("--token-file").arg(data.join("admin.token"));
        events.args(["events", "--from", "0", "--json"]);
        drop(Service::start(events, words));
    };
    until("\"running\"");
    hosts.set_cable("down");
    until("\"state\":\"lost\"");
    hosts.set_cable("up");
    fs::write(&gate, "").unwrap();
    let done = orch(&["wait", &id, "--timeout", "40s"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let attempts = fs::read_to_string(&mark).unwrap();
    assert_eq!(
        attempts.lines().count(),
        1,
        "nothing took its place, so it went on when the cable was back: {attempts}"
    );
}
