//! A worker for a legacy manager, on the fixtures' engine.

use std::process::Command;

use crate::{
    lab::{Lab, Service},
    site::fixture,
};

#[test]
fn a_container_of_a_legacy_task_survives_the_worker_and_is_told_to_its_end() {
    let host = fixture("ORCH_TEST_DOCKER_HOST");
    let docker = |words: &[&str]| {
        let done = Command::new("docker").args(words).env("DOCKER_HOST", &host).output().unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    };
    // Their tasks are an image and no command, so the image has to say what is run.
    let patient = format!("orch-test:patient-{}", std::process::id());
    let made = docker(&["create", &fixture("ORCH_TEST_IMAGE"), "true"]);
    let cmd = r#"CMD ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]"#;
    docker(&["commit", "--change", cmd, &made, &patient]);
    docker(&["rm", &made]);

    let lab = Lab::with(&["--legacy-worker", "worker-1"]);
    lab.until("worker-1 in the cluster", |event| event["node"]["spec"]["id"] == "worker-1");
    let submitted = lab.orch(&["run", "patient", &patient, "--memory", "32m", "--cpu", "0.1"]);
    assert_eq!(submitted.code, 0, "{}", submitted.err);
    let id = submitted.out.trim();
    let worker = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orch-worker"));
        command.env_remove("ORCH_MANAGER").arg("--legacy").arg(format!("http://{}", lab.address()));
        command.args(["--legacy-poll", "100ms", "--id", "worker-1", "--docker-host", &host]);
        command.arg("--data-dir").arg(lab.path("worker-1"));
        Service::start(command, "is registered")
    };
    let first = worker();
    lab.until_running(id, 1);
    let containers = ["ps", "--quiet", "--no-trunc", "--filter", &format!("label=orch.task={id}")];
    let container = docker(&containers);
    assert_eq!(lab.json(&["show", id])["observed"]["handle"], container, "their command line cuts it at 8");
    drop(first);
    assert_eq!(docker(&containers), container, "it goes on");

    let _second = worker();
    docker(&["kill", "--signal", "TERM", &container]);
    assert_eq!(lab.orch(&["wait", id]).code, 0);
    assert_eq!(lab.json(&["show", id])["record"]["attempts_made"], 1);
    docker(&["image", "rm", "--force", &patient]);
}
