//! The process runtime with real processes.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests too")]

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroU32,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use orch_core::{
    model::{
        AttemptId, Exit, Isolation, Mount, MountSource, NetworkMode, SecretRef, SecretTarget, TaskId,
        TaskSpec,
    },
    runtime::{
        FoundState, OutputStream, ProcessRuntime, ProcessRuntimeConfig, Runtime, RuntimeErrorKind,
        RuntimeEvent, Secret, Work,
    },
};

use orch_core::testkit::runtime::{RuntimeHarness, run_all};

const PATIENCE: Duration = Duration::from_secs(30);

fn runtime(dir: &Path) -> ProcessRuntime {
    ProcessRuntime::new(ProcessRuntimeConfig::new(dir)).unwrap()
}

fn work(spec: TaskSpec) -> Work {
    let attempt = AttemptId { task: TaskId::generate(), attempt: NonZeroU32::MIN };
    Work { attempt, spec: Arc::new(spec), secrets: BTreeMap::new() }
}

fn shell(script: &str) -> TaskSpec {
    TaskSpec::program("test", "sh").args(["-c", script])
}

async fn run(runtime: &ProcessRuntime, work: &Work) -> Exit {
    runtime.start(work).await.unwrap();
    tokio::time::timeout(PATIENCE, runtime.wait(work.attempt)).await.expect("it must end").unwrap()
}

async fn output(
    runtime: &ProcessRuntime,
    attempt: AttemptId,
    follow: bool,
) -> BTreeMap<OutputStream, (u64, Vec<u8>)> {
    let mut all = BTreeMap::<_, (u64, Vec<u8>)>::new();
    let mut logs = runtime.logs(attempt, follow).await.unwrap();
    while let Some(chunk) = tokio::time::timeout(PATIENCE, logs.next()).await.expect("logs must end") {
        let chunk = chunk.unwrap();
        let (start, bytes) = all.entry(chunk.stream).or_insert((chunk.offset, Vec::new()));
        assert_eq!(chunk.offset, *start + bytes.len() as u64, "a gap or an overlap");
        bytes.extend(&chunk.data);
    }
    all
}

async fn stdout(runtime: &ProcessRuntime, attempt: AttemptId) -> String {
    let all = output(runtime, attempt, true).await;
    String::from_utf8(all.get(&OutputStream::Stdout).map(|(_, bytes)| bytes.clone()).unwrap_or_default())
        .unwrap()
}

/// Waits for a file that a test's process writes: there is no event to wait for.
async fn appears(file: &Path) -> String {
    let begin = Instant::now();
    loop {
        match fs::read_to_string(file) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            _ => assert!(begin.elapsed() < PATIENCE, "{} does not appear", file.display()),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_running(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn exit_codes_signals_and_output_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let task = work(shell("echo out; echo err >&2; exit 3"));
    assert_eq!(run(&runtime, &task).await, Exit::from_code(3));
    let all = output(&runtime, task.attempt, false).await;
    assert_eq!(all[&OutputStream::Stdout], (0, b"out\n".to_vec()));
    assert_eq!(all[&OutputStream::Stderr], (0, b"err\n".to_vec()));

    let killed = run(&runtime, &work(shell("kill -USR1 $$"))).await;
    assert_eq!((killed.code, killed.signal), (138, Some(10)));
    let spaces = work(TaskSpec::program("args", "printf").args(["[%s]", "a b", "$HOME", "*", "", "'\"\\"]));
    assert!(run(&runtime, &spaces).await.is_success());
    assert_eq!(
        stdout(&runtime, spaces.attempt).await,
        "[a b][$HOME][*][]['\"\\]",
        "arguments must not be interpreted"
    );
}

#[tokio::test]
async fn starting_twice_runs_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = Arc::new(runtime(dir.path()));
    let second = Arc::new(runtime(dir.path()));
    let task = work(shell(&format!("echo ran >>{}/count; sleep 0.05", dir.path().display())));
    let starts = (0..8).map(|n| {
        let (runtime, task) = (Arc::clone(if n % 2 == 0 { &first } else { &second }), task.clone());
        tokio::spawn(async move { runtime.start(&task).await.unwrap().handle })
    });
    let handles =
        futures_util::future::join_all(starts).await.into_iter().map(Result::unwrap).collect::<Vec<_>>();
    assert!(handles.windows(2).all(|pair| pair[0] == pair[1]), "{handles:?}");
    assert!(first.wait(task.attempt).await.unwrap().is_success());
    first.start(&task).await.unwrap();
    assert!(second.wait(task.attempt).await.unwrap().is_success());
    assert_eq!(fs::read_to_string(dir.path().join("count")).unwrap(), "ran\n");
}

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
    for name in ["spec.json", "pid", "exit"] {
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
async fn stop_asks_first_and_kills_after_the_grace() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let at = dir.path().display();
    let polite = work(shell(&format!(
        "trap 'echo bye; exit 7' TERM; echo up >{at}/polite; while :; do sleep 0.01; done"
    )));
    runtime.start(&polite).await.unwrap();
    appears(&dir.path().join("polite")).await;
    runtime.stop(polite.attempt, PATIENCE).await.unwrap();
    assert_eq!(runtime.wait(polite.attempt).await.unwrap(), Exit::from_code(7));
    assert_eq!(stdout(&runtime, polite.attempt).await, "bye\n");

    let stubborn =
        work(shell(&format!("trap '' TERM; echo up >{at}/stubborn; while :; do sleep 0.01; done")));
    runtime.start(&stubborn).await.unwrap();
    appears(&dir.path().join("stubborn")).await;
    runtime.stop(stubborn.attempt, Duration::from_millis(50)).await.unwrap();
    assert_eq!(runtime.wait(stubborn.attempt).await.unwrap().signal, Some(9));
    runtime.stop(stubborn.attempt, PATIENCE).await.expect("already done is a success");
    runtime.kill(stubborn.attempt).await.expect("already done is a success");
}

#[tokio::test]
async fn the_whole_tree_is_killed_even_what_left_the_group() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let at = dir.path().display();
    let script = format!(
        "setsid sh -c 'echo $$ >{at}/escaped; exec sleep 600' & sleep 600 & echo $! >{at}/child; wait"
    );
    for natural in [false, true] {
        let script = if natural { script.replace("wait", "sleep 0.1") } else { script.clone() };
        let task = work(shell(&script));
        runtime.start(&task).await.unwrap();
        let pids = [appears(&dir.path().join("escaped")).await, appears(&dir.path().join("child")).await];
        if natural {
            assert!(runtime.wait(task.attempt).await.unwrap().is_success());
            runtime.remove(task.attempt).await.unwrap();
        } else {
            assert!(pids.iter().all(|pid| is_running(pid)));
            assert!(runtime.stats(task.attempt).await.unwrap().pids >= 3);
            runtime.kill(task.attempt).await.unwrap();
        }
        for pid in pids {
            assert!(!is_running(&pid), "process {pid} is left");
        }
        fs::remove_file(dir.path().join("escaped")).unwrap();
        fs::remove_file(dir.path().join("child")).unwrap();
    }
}

#[tokio::test]
async fn another_life_of_the_agent_adopts_what_runs() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let task =
        work(shell(&format!("echo before; until [ -e {at}/go ]; do sleep 0.01; done; echo after; exit 5")));
    let died = runtime(dir.path());
    let started = died.start(&task).await.unwrap();
    drop(died);

    let adopting = runtime(dir.path());
    let mut events = adopting.events().await.unwrap();
    let found = adopting.list().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].attempt, found[0].state), (task.attempt, FoundState::Running));
    assert_eq!((&found[0].handle, found[0].started_at), (&started.handle, Some(started.at)));
    assert_eq!(adopting.start(&task).await.unwrap(), started, "adopted, not started again");
    fs::write(dir.path().join("go"), "").unwrap();
    assert_eq!(adopting.wait(task.attempt).await.unwrap(), Exit::from_code(5));
    assert_eq!(stdout(&adopting, task.attempt).await, "before\nafter\n");
    let event = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(event, RuntimeEvent::Ended { attempt: task.attempt });

    drop(adopting);
    let later = runtime(dir.path());
    assert_eq!(later.list().await.unwrap()[0].state, FoundState::Ended(Exit::from_code(5)));
    later.remove(task.attempt).await.unwrap();
    later.remove(task.attempt).await.expect("removing what is not there is a success");
    assert!(later.list().await.unwrap().is_empty());
}

/// Ends the attempt's processes at once, as `kill -9` of all of them does.
fn kill_group(attempt_dir: &Path) {
    let identity = fs::read_to_string(attempt_dir.join("pid")).unwrap();
    let kill = format!("kill -KILL -{}", identity.split_whitespace().next().unwrap());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// Makes it look as if the machine had gone down under the attempt.
fn go_down_under(attempt_dir: &Path) {
    let identity = fs::read_to_string(attempt_dir.join("pid")).unwrap();
    let (process, _boot) = identity.trim().rsplit_once(' ').unwrap();
    let earlier = format!("{process} 1b4e28ba-2fa1-41d2-883f-0016d3cca427\n");
    kill_group(attempt_dir);
    fs::write(attempt_dir.join("pid"), earlier).unwrap();
}

#[tokio::test]
async fn what_the_machine_went_down_under_is_lost_and_never_run_again() {
    let harness = Processes { base: tempfile::tempdir().unwrap() };
    let at = harness.base.path();
    let mut spec = shell(&format!("echo kept; echo ran >>{0}/count; sleep 600", at.display()));
    spec.secrets
        .push(SecretRef { name: "s".into(), target: SecretTarget::File { path: harness.secret_path() } });
    let mut task = work(spec);
    task.secrets.insert("s".into(), Secret::new("x"));
    let died = harness.runtime().await;
    let started = died.start(&task).await.unwrap();
    appears(&at.join("count")).await;
    drop(died);
    go_down_under(&at.join("attempts").join(task.attempt.to_string()));

    let config = ProcessRuntimeConfig {
        secret_dir: Some(at.into()),
        ..ProcessRuntimeConfig::new(at.join("attempts"))
    };
    let after = ProcessRuntime::new(config).unwrap();
    assert!(!fs::exists(harness.secret_path()).unwrap(), "secrets must not be left on the disk");
    let found = after.list().await.unwrap();
    assert_eq!((found[0].attempt, found[0].state), (task.attempt, FoundState::Lost));
    assert_eq!(found[0].handle, started.handle);
    let attempt = task.attempt;
    for (what, answer) in [
        ("start", after.start(&task).await.err()),
        ("wait", after.wait(attempt).await.err()),
        ("stop", after.stop(attempt, PATIENCE).await.err()),
        ("kill", after.kill(attempt).await.err()),
        ("stats", after.stats(attempt).await.err()),
    ] {
        let kind = answer.map(|error| error.kind);
        assert_eq!(kind, Some(RuntimeErrorKind::NotFound), "{what}");
    }
    for follow in [false, true] {
        let all = output(&after, attempt, follow).await;
        assert_eq!(all[&OutputStream::Stdout], (0, b"kept\n".to_vec()));
    }
    assert_eq!(fs::read_to_string(at.join("count")).unwrap(), "ran\n");
    after.remove(attempt).await.unwrap();
    assert!(after.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn half_a_file_of_a_lost_attempt_keeps_nobody_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let task = work(shell("sleep 600"));
    let died = runtime(dir.path());
    died.start(&task).await.unwrap();
    drop(died);
    let attempt_dir = dir.path().join(task.attempt.to_string());
    go_down_under(&attempt_dir);
    fs::write(attempt_dir.join("spec.json"), "").unwrap();

    let after = runtime(dir.path());
    assert_eq!(after.list().await.unwrap()[0].state, FoundState::Lost);
    after.remove(task.attempt).await.unwrap();
    assert!(after.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_was_killed_while_the_machine_was_up_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let task = work(shell("sleep 600"));
    let died = runtime(dir.path());
    died.start(&task).await.unwrap();
    drop(died);
    kill_group(&dir.path().join(task.attempt.to_string()));

    let after = runtime(dir.path());
    assert_eq!(after.wait(task.attempt).await.unwrap(), Exit::from_code(137));
    assert_eq!(after.list().await.unwrap()[0].state, FoundState::Ended(Exit::from_code(137)));
    let started = after.start(&task).await.unwrap();
    assert_eq!(started.handle, after.list().await.unwrap()[0].handle, "not started again");
}

#[tokio::test]
async fn output_is_bounded_and_offsets_stay_right() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let mut spec = shell("seq -w 0 299999; echo problem >&2");
    spec.output_limit_bytes = 100_000;
    let task = work(spec);
    assert!(run(&runtime, &task).await.is_success());
    let file = dir.path().join(task.attempt.to_string()).join("stdout");
    assert!(fs::metadata(&file).unwrap().blocks() * 512 <= 120_000, "the disk must be given back");
    let all = output(&runtime, task.attempt, true).await;
    assert_eq!(all[&OutputStream::Stderr], (0, b"problem\n".to_vec()), "the small stream keeps everything");
    let (start, kept) = &all[&OutputStream::Stdout];
    assert_eq!(start + kept.len() as u64, 300_000 * 7, "the newest output must be kept");
    assert!(kept.len() <= 100_000, "{} bytes are kept", kept.len());
    let first_whole = (7 - start % 7) % 7;
    let number = (start + first_whole) / 7;
    let text = std::str::from_utf8(kept).unwrap();
    assert!(
        text[usize::try_from(first_whole).unwrap()..].starts_with(&format!("{number:06}\n")),
        "offset {start}"
    );
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

struct Processes {
    base: tempfile::TempDir,
}

#[async_trait::async_trait]
impl RuntimeHarness for Processes {
    async fn runtime(&self) -> Arc<dyn Runtime> {
        let secret_dir = Some(self.base.path().into());
        let config = ProcessRuntimeConfig {
            secret_dir,
            ..ProcessRuntimeConfig::new(self.base.path().join("attempts"))
        };
        Arc::new(ProcessRuntime::new(config).unwrap())
    }

    fn sh(&self, script: &str) -> TaskSpec {
        shell(script)
    }

    fn secret_path(&self) -> String {
        self.base.path().join("token").to_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn process_runtime_conforms() {
    let harness = Processes { base: tempfile::tempdir().unwrap() };
    run_all(&harness).await;
    assert!(!fs::exists(harness.secret_path()).unwrap(), "secrets must not be left on the disk");
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

const AGENT_DIR: &str = "ORCH_TEST_AGENT_DIR";

/// No test by itself: the agent that the next test kills.
#[tokio::test]
async fn agent_that_starts_and_is_killed() {
    let Some(dir) = std::env::var_os(AGENT_DIR) else { return };
    let dir = Path::new(&dir);
    let script = format!("until [ -e {0}/go ]; do sleep 0.01; done; echo survived; exit 6", dir.display());
    let task = work(shell(&script));
    runtime(&dir.join("attempts")).start(&task).await.unwrap();
    fs::write(dir.join("started"), format!("{}\n", task.attempt)).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn work_survives_kill_9_of_its_agent_and_its_exit_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "agent_that_starts_and_is_killed"])
        .env(AGENT_DIR, dir.path())
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let attempt: AttemptId = appears(&dir.path().join("started")).await.parse().unwrap();
    agent.kill().await.unwrap();
    // It ends while there is no agent at all.
    fs::write(dir.path().join("go"), "").unwrap();
    appears(&dir.path().join("attempts").join(attempt.to_string()).join("exit")).await;

    let adopting = runtime(&dir.path().join("attempts"));
    let found = adopting.list().await.unwrap();
    assert_eq!((found[0].attempt, found[0].state), (attempt, FoundState::Ended(Exit::from_code(6))));
    assert_eq!(adopting.wait(attempt).await.unwrap(), Exit::from_code(6));
    assert_eq!(stdout(&adopting, attempt).await, "survived\n");
}
