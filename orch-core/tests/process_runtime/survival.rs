//! State of an attempt after crashes of agents, launchers and machines.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use orch_core::{
    model::{AttemptId, Exit, SecretRef, SecretTarget},
    runtime::{
        FoundState, OutputStream, ProcessRuntime, ProcessRuntimeConfig, Runtime, RuntimeErrorKind,
        RuntimeEvent, Secret,
    },
};

use super::{
    PATIENCE, Processes, RuntimeHarness, appears, is_running, kill, output, run, runtime, shell, stdout, work,
};

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

/// Kills the launcher and the program at once.
fn kill_both(attempt_dir: &Path) {
    let record = fs::read_to_string(attempt_dir.join("record")).unwrap();
    for line in ["launcher ", "program "] {
        let pid = record.lines().find_map(|found| found.strip_prefix(line)?.split(' ').next()).unwrap();
        kill("KILL", pid.trim_start_matches('0'));
    }
}

const EARLIER_BOOT: &str = "1b4e28ba-2fa1-41d2-883f-0016d3cca427";

fn this_boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

/// Changes the files so that the machine seems to have crashed during the attempt.
fn go_down_under(attempt_dir: &Path) {
    kill_both(attempt_dir);
    let record = fs::read_to_string(attempt_dir.join("record")).unwrap();
    fs::write(attempt_dir.join("record"), record.replace(&this_boot(), EARLIER_BOOT)).unwrap();
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
    let first = died.logs(task.attempt, true).await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(&first.data[..], b"kept\n");
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
    fs::write(attempt_dir.join("attempt.json"), "").unwrap();

    let after = runtime(dir.path());
    assert_eq!(after.list().await.unwrap()[0].state, FoundState::Lost);
    after.remove(task.attempt).await.unwrap();
    assert!(after.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_end_that_nobody_saw_is_lost_and_no_evidence_of_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let task = work(shell("sleep 600"));
    let died = runtime(dir.path());
    died.start(&task).await.unwrap();
    drop(died);
    kill_both(&dir.path().join(task.attempt.to_string()));

    let after = runtime(dir.path());
    assert_eq!(after.wait(task.attempt).await.unwrap_err().kind, RuntimeErrorKind::NotFound);
    assert_eq!(after.list().await.unwrap()[0].state, FoundState::Lost);
    assert_eq!(after.start(&task).await.unwrap_err().kind, RuntimeErrorKind::NotFound, "not started again");
}

#[tokio::test]
async fn what_has_lost_its_launcher_is_ended_and_lost() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let at = dir.path().display();
    let task = work(shell(&format!("env -i sh -c 'echo $$ >{at}/child; exec sleep 600' & exec sleep 600")));
    let started = runtime.start(&task).await.unwrap();
    let child = appears(&dir.path().join("child")).await;
    kill("KILL", &started.handle);
    let ended = tokio::time::timeout(PATIENCE, runtime.wait(task.attempt)).await.expect("it must be noticed");
    assert_eq!(ended.unwrap_err().kind, RuntimeErrorKind::NotFound);
    assert_eq!(runtime.list().await.unwrap()[0].state, FoundState::Lost);
    assert!(!is_running(&child), "a program that nobody watches must not go on");
}

/// Half-finished attempts of another boot, or of the container before this one.
#[tokio::test]
async fn what_an_earlier_boot_made_may_have_run() {
    let dir = tempfile::tempdir().unwrap();
    let task = work(shell(&format!("echo ran >>{}/count", dir.path().display())));
    let first = runtime(dir.path());
    assert!(run(&first, &task).await.is_success());
    drop(first);
    // The record did not reach the disk.
    let attempt_dir = dir.path().join(task.attempt.to_string());
    fs::remove_file(attempt_dir.join("record")).unwrap();
    let made = fs::read_to_string(attempt_dir.join("attempt.json")).unwrap();
    fs::write(attempt_dir.join("attempt.json"), made.replace(&this_boot(), EARLIER_BOOT)).unwrap();
    let after = runtime(dir.path());
    assert_eq!(after.list().await.unwrap()[0].state, FoundState::Lost);
    assert_eq!(after.start(&task).await.unwrap_err().kind, RuntimeErrorKind::NotFound);
    assert_eq!(fs::read_to_string(dir.path().join("count")).unwrap(), "ran\n");
    drop(after);

    // In this boot nothing is lost: an attempt without a record has not run.
    fs::write(attempt_dir.join("attempt.json"), made).unwrap();
    let after = runtime(dir.path());
    assert_eq!(after.list().await.unwrap()[0].state, FoundState::Created);
    assert!(run(&after, &task).await.is_success());
    assert_eq!(fs::read_to_string(dir.path().join("count")).unwrap(), "ran\nran\n");
}

#[tokio::test]
async fn readers_of_a_runtime_that_was_dropped_are_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let first = runtime(dir.path());
    let go = dir.path().join("go");
    let task =
        work(shell(&format!("echo ready; until [ -e {} ]; do sleep 0.01; done; echo end", go.display())));
    first.start(&task).await.unwrap();
    drop(first);
    let adopting = runtime(dir.path());
    let mut logs = adopting.logs(task.attempt, true).await.unwrap();
    assert_eq!(&logs.next().await.unwrap().unwrap().data[..], b"ready\n");
    drop(adopting);
    fs::write(go, "").unwrap();
    let rest = tokio::time::timeout(PATIENCE, logs.collect::<Vec<_>>()).await.expect("they must end");
    let error = rest.into_iter().find_map(Result::err).expect("what they miss must not look like the end");
    assert_eq!(error.kind, RuntimeErrorKind::Unavailable);
    runtime(dir.path()).remove(task.attempt).await.unwrap();
}

#[tokio::test]
async fn a_directory_is_one_runtimes_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = runtime(dir.path());
    let task = work(shell("sleep 600"));
    first.start(&task).await.unwrap();
    let error = ProcessRuntime::new(ProcessRuntimeConfig::new(dir.path())).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
    drop(first);
    // Running attempts do not keep the lock.
    let next = runtime(dir.path());
    assert_eq!(next.list().await.unwrap()[0].state, FoundState::Running);
    next.remove(task.attempt).await.unwrap();
}

#[tokio::test]
async fn a_directory_that_was_removed_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("attempts");
    let runtime = runtime(&base);
    let go = dir.path().join("go");
    let waits = work(shell(&format!("until [ -e {} ]; do sleep 0.01; done; exit 4", go.display())));
    runtime.start(&waits).await.unwrap();
    fs::remove_dir_all(&base).unwrap();

    let task = work(shell("echo here"));
    assert!(run(&runtime, &task).await.is_success());
    assert_eq!(stdout(&runtime, task.attempt).await, "here\n");
    fs::write(go, "").unwrap();
    assert_eq!(
        runtime.wait(waits.attempt).await.unwrap(),
        Exit::from_code(4),
        "its launcher is there and says so"
    );
    for attempt in [waits.attempt, task.attempt] {
        runtime.remove(attempt).await.unwrap();
    }

    // Where the directory cannot be created, nothing has run, and the error must not say that it may have.
    fs::remove_dir_all(&base).unwrap();
    fs::write(&base, "in the way").unwrap();
    let error = runtime.start(&work(shell("exit 0"))).await.unwrap_err();
    assert_eq!(error.kind, RuntimeErrorKind::Internal, "{error}");
}

#[tokio::test]
async fn when_it_started_does_not_come_from_times_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let task = work(shell("sleep 600"));
    let before = runtime(dir.path());
    let started = before.start(&task).await.unwrap();
    drop(before);
    let record =
        fs::File::options().write(true).open(dir.path().join(task.attempt.to_string()).join("record"));
    record.unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let after = runtime(dir.path());
    assert_eq!(after.adopt(task.attempt).await.unwrap(), started);
    after.remove(task.attempt).await.unwrap();
}

const AGENT_DIR: &str = "ORCH_TEST_AGENT_DIR";

/// Not a test by itself: the agent that the next test kills.
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
        .args(["--exact", "survival::agent_that_starts_and_is_killed"])
        .env(AGENT_DIR, dir.path())
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let attempt: AttemptId = appears(&dir.path().join("started")).await.parse().unwrap();
    agent.kill().await.unwrap();
    // The program ends while there is no agent at all.
    fs::write(dir.path().join("go"), "").unwrap();
    let record = dir.path().join("attempts").join(attempt.to_string()).join("record");
    let begin = Instant::now();
    while fs::read_to_string(&record).unwrap().contains("exit .") {
        assert!(begin.elapsed() < PATIENCE, "it does not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let adopting = runtime(&dir.path().join("attempts"));
    let found = adopting.list().await.unwrap();
    assert_eq!((found[0].attempt, found[0].state), (attempt, FoundState::Ended(Exit::from_code(6))));
    assert_eq!(adopting.wait(attempt).await.unwrap(), Exit::from_code(6));
    assert_eq!(stdout(&adopting, attempt).await, "survived\n");
}
