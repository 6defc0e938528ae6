//! Input of a program, and specs that are rejected.

use std::{collections::BTreeMap, fs, num::NonZeroU32};

use orch_core::{
    model::{
        AttemptId, Isolation, Mount, MountSource, NetworkMode, SecretRef, SecretTarget, TaskId, TaskSpec,
    },
    runtime::{Runtime, RuntimeErrorKind, Secret, Work},
};

use super::{Processes, RuntimeHarness, run, runtime, shell, stdout, work};

#[tokio::test]
async fn the_environment_is_clean_and_secrets_stay_out_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let mut spec = TaskSpec::program("env", "env").env("MINE", "yes");
    spec.secrets.push(SecretRef { name: "db".into(), target: SecretTarget::Env { variable: "DB".into() } });
    let mut task = work(spec);
    let missing = runtime.start(&task).await.unwrap_err();
    assert_eq!(missing.kind, RuntimeErrorKind::InvalidSpec);
    task.secrets.insert("db".into(), Secret::new("hunter2"));
    assert!(run(&runtime, &task).await.is_success());
    let text = stdout(&runtime, task.attempt).await;
    for line in ["MINE=yes".to_owned(), "DB=hunter2".into(), format!("ORCH_ATTEMPT={}", task.attempt)] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
    }
    assert!(!text.contains("CARGO"), "the agent's environment must not leak:\n{text}");
    for name in ["attempt.json", "record"] {
        let kept = fs::read_to_string(dir.path().join(task.attempt.to_string()).join(name)).unwrap();
        assert!(!kept.contains("hunter2"), "{name}");
    }
}

#[tokio::test]
async fn what_cannot_work_is_refused_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let plain = || TaskSpec::program("bad", "true");
    let with = |change: &dyn Fn(&mut TaskSpec)| {
        let mut spec = plain();
        change(&mut spec);
        spec
    };
    let mount =
        Mount { target: "/x".into(), source: MountSource::Volume { name: "v".into() }, read_only: false };
    let file = SecretRef { name: "s".into(), target: SecretTarget::File { path: "/s".into() } };
    for (spec, kind, says) in [
        (TaskSpec::program("a", "no-such-program"), RuntimeErrorKind::InvalidSpec, "no-such-program"),
        (TaskSpec::program("a", "/etc/passwd"), RuntimeErrorKind::InvalidSpec, "not an executable"),
        (TaskSpec::program("a", "/no/such"), RuntimeErrorKind::InvalidSpec, "/no/such"),
        (
            with(&|spec| spec.working_dir = Some("/no/such".into())),
            RuntimeErrorKind::InvalidSpec,
            "working_dir",
        ),
        (TaskSpec::image("a", "busybox"), RuntimeErrorKind::Unsupported, "images"),
        (with(&|spec| spec.mounts = vec![mount.clone()]), RuntimeErrorKind::Unsupported, "mounts"),
        (with(&|spec| spec.secrets = vec![file.clone()]), RuntimeErrorKind::Unsupported, "secrets.target"),
        (with(&|spec| *spec.isolation = Isolation::hardened()), RuntimeErrorKind::Unsupported, "isolation."),
        (with(&|spec| spec.isolation.network = NetworkMode::None), RuntimeErrorKind::Unsupported, "network"),
        (with(&|spec| spec.isolation.read_only_root = true), RuntimeErrorKind::Unsupported, "read_only_root"),
    ] {
        let error = runtime.start(&work(spec)).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(says), "{error}");
    }
    assert!(runtime.list().await.unwrap().is_empty(), "nothing may be left behind");
    let nobody = work(plain()).attempt;
    assert_eq!(runtime.wait(nobody).await.unwrap_err().kind, RuntimeErrorKind::NotFound);
    assert_eq!(runtime.kill(nobody).await.unwrap_err().kind, RuntimeErrorKind::NotFound);
    assert_eq!(runtime.logs(nobody, true).await.err().unwrap().kind, RuntimeErrorKind::NotFound);
    runtime.remove(nobody).await.unwrap();
}

#[tokio::test]
async fn the_environment_is_the_specs_and_nothing_of_it_reaches_the_launcher() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let names = [
        "d",
        "files",
        "memory",
        "start",
        "boot",
        "stat",
        "IFS",
        "PPID",
        "PWD",
        "OPTIND",
        "a.b",
        "a-b",
        "\u{fc}",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "_",
    ];
    let mut spec = TaskSpec::program("env", "cat").args(["/proc/self/environ", "-"]);
    for name in names {
        spec = spec.env(name, format!("/no/such {name}\n"));
    }
    spec.secrets
        .push(SecretRef { name: "s".into(), target: SecretTarget::Env { variable: "SECRET".into() } });
    let mut task = work(spec);
    task.secrets.insert("s".into(), Secret::new("hunter2"));
    assert!(run(&runtime, &task).await.is_success());
    let text = stdout(&runtime, task.attempt).await;
    let mut found: BTreeMap<_, _> =
        text.split_terminator('\0').map(|line| line.split_once('=').unwrap()).collect();
    for name in names {
        assert_eq!(found.remove(name), Some(format!("/no/such {name}\n").as_str()), "{name}");
    }
    let expected = ["HOME", "LANG", "ORCH_ATTEMPT", "ORCH_TASK", "PATH", "SECRET"];
    assert!(found.keys().all(|name| expected.contains(name)), "{found:?}");
    assert_eq!(found["SECRET"], "hunter2");

    let mut asleep = TaskSpec::program("sleep", "sleep").args(["600"]).env("LD_PRELOAD", "/no/such");
    asleep.secrets = task.spec.secrets.clone();
    let task = Work { spec: asleep.into(), ..work_with(&task) };
    let started = runtime.start(&task).await.unwrap();
    assert_eq!(fs::read(format!("/proc/{}/environ", started.handle)).unwrap(), b"");
    let line = fs::read(format!("/proc/{}/cmdline", started.handle)).unwrap();
    assert_eq!(line, b"orch-launcher\0");
    runtime.kill(task.attempt).await.unwrap();
}

/// Another attempt with the same secrets.
fn work_with(other: &Work) -> Work {
    let attempt = AttemptId { task: TaskId::generate(), attempt: NonZeroU32::MIN };
    Work { attempt, ..other.clone() }
}

#[tokio::test]
async fn a_program_that_the_system_refuses_is_an_error_and_leaves_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(&dir.path().join("attempts"));
    for (content, name) in [("#!/no/such/interpreter\n", "script"), ("no program at all", "text")] {
        let file = dir.path().join(name);
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let error = runtime.start(&work(TaskSpec::program("t", file.to_str().unwrap()))).await.unwrap_err();
        assert_eq!(error.kind, RuntimeErrorKind::InvalidSpec, "{error}");
        assert!(error.message.contains("workload.program"), "{error}");
    }
    let long = work(TaskSpec::program("t", "true").args(vec!["x".repeat(100_000); 40]));
    assert_eq!(runtime.start(&long).await.unwrap_err().kind, RuntimeErrorKind::InvalidSpec);
    assert!(runtime.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn limits_reach_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let mut spec = shell("ulimit -n; ulimit -d").memory_mib(64);
    spec.isolation.open_files_limit = NonZeroU32::new(77);
    let task = work(spec);
    assert!(run(&runtime, &task).await.is_success());
    assert_eq!(stdout(&runtime, task.attempt).await, "77\n65536\n");
}

#[tokio::test]
async fn a_secret_never_takes_the_place_of_another_file() {
    let harness = Processes { base: tempfile::tempdir().unwrap() };
    let runtime = harness.runtime().await;
    fs::write(harness.secret_path(), "somebody else's").unwrap();
    let mut spec = shell("exit 0");
    spec.secrets
        .push(SecretRef { name: "s".into(), target: SecretTarget::File { path: harness.secret_path() } });
    let mut task = work(spec);
    task.secrets.insert("s".into(), Secret::new("x"));
    assert_eq!(runtime.start(&task).await.unwrap_err().kind, RuntimeErrorKind::InvalidSpec);
    runtime.remove(task.attempt).await.unwrap();
    assert_eq!(fs::read_to_string(harness.secret_path()).unwrap(), "somebody else's");
}
