//! The process runtime with real processes.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests too")]

mod input;
mod output;
mod processes;
mod shell;
mod survival;

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroU32,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use orch_core::testkit::runtime::{RuntimeHarness, run_all};
use orch_core::{
    model::{AttemptId, Exit, TaskId, TaskSpec},
    runtime::{OutputStream, ProcessRuntime, ProcessRuntimeConfig, Runtime, Work},
};

const PATIENCE: Duration = Duration::from_secs(30);

fn runtime(dir: &Path) -> ProcessRuntime {
    ProcessRuntime::new(ProcessRuntimeConfig::new(dir)).unwrap()
}

fn work(spec: TaskSpec) -> Work {
    let attempt = AttemptId { task: TaskId::generate(), attempt: NonZeroU32::MIN };
    Work { attempt, spec: spec.into(), secrets: BTreeMap::new() }
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
    let runtime = Arc::new(runtime(dir.path()));
    let task = work(shell(&format!("echo ran >>{}/count; sleep 0.05", dir.path().display())));
    // Callers may be dropped at any point, and the start continues.
    for polls in 0..4 {
        let mut start = std::pin::pin!(runtime.start(&task));
        for _ in 0..polls {
            let _ = futures_util::poll!(&mut start);
            tokio::task::yield_now().await;
        }
    }
    let starts = (0..8).map(|_| {
        let (runtime, task) = (Arc::clone(&runtime), task.clone());
        tokio::spawn(async move { runtime.start(&task).await.unwrap().handle })
    });
    let handles =
        futures_util::future::join_all(starts).await.into_iter().map(Result::unwrap).collect::<Vec<_>>();
    assert!(handles.windows(2).all(|pair| pair[0] == pair[1]), "{handles:?}");
    assert!(runtime.wait(task.attempt).await.unwrap().is_success());
    runtime.start(&task).await.unwrap();
    assert!(runtime.wait(task.attempt).await.unwrap().is_success());
    assert_eq!(fs::read_to_string(dir.path().join("count")).unwrap(), "ran\n");
}

fn kill(signal: &str, process: &str) {
    let kill = format!("kill -{signal} {process}");
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
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
