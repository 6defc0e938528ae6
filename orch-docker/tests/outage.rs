//! An engine that goes away while work runs, hangs, and comes back. It is the test's own, at a socket of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::{StreamExt, TryStreamExt};
use orch_core::{
    model::{TaskId, TaskSpec},
    runtime::{FoundState, Progress, RuntimeErrorKind},
};
use tokio::process::{Child, Command};

mod common;

/// A `dockerd` with everything of its own. Containers outlive it, as they do on nodes that upgrade their engine.
struct OwnEngine {
    home: PathBuf,
    daemon: Child,
}

impl OwnEngine {
    async fn start() -> Self {
        let home = make_home();
        let engine = Self { daemon: spawn(&home).await, home };
        engine.load_image().await;
        engine
    }

    /// One whose disk is small, without any image.
    async fn start_on_a_small_disk() -> Self {
        let home = make_home();
        let data = home.join("data");
        std::fs::create_dir_all(&data).unwrap();
        sh(&format!("mount -t tmpfs -o size=32m tmpfs {}", data.display()));
        Self { daemon: spawn(&home).await, home }
    }

    /// Leaves not a byte on the engine's disk.
    fn fill_disk(&self) {
        let filler = self.home.join("data/filler");
        sh(&format!("cat /dev/zero >{} 2>/dev/null || true", filler.display()));
    }

    fn host(&self) -> String {
        format!("unix://{}/d.sock", self.home.display())
    }

    fn signal(&self, signal: &str) {
        signal_process(self.daemon.id().expect("it runs"), signal);
    }

    /// The engine dies without a word, and its containerd with it.
    async fn crash(&mut self) {
        let pid_file = self.home.join("exec/containerd/containerd.pid");
        let containerd = std::fs::read_to_string(&pid_file).unwrap();
        self.daemon.kill().await.unwrap();
        // A new engine that finds the old containerd still dying would wait for it in vain.
        while is_alive(&containerd) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let _ = std::fs::remove_file(pid_file);
    }

    async fn restart(&mut self) {
        self.daemon = spawn(&self.home).await;
    }

    async fn load_image(&self) {
        let archive = common::docker().export_image(&common::image()).map_ok(bytes::Bytes::from);
        let archive: Vec<_> = archive.try_collect().await.unwrap();
        let docker = common::docker_at(&self.host());
        let body = bollard::body_full(archive.concat().into());
        let options = bollard::query_parameters::ImportImageOptionsBuilder::default().build();
        docker.import_image(options, body, None).try_collect::<Vec<_>>().await.unwrap();
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        if let Some(pid) = self.daemon.id() {
            signal_process(pid, "CONT");
            // What a failed test leaves running would outlive its engine.
            let docker = format!("docker --host {}", self.host());
            let script = format!("{docker} ps --quiet | xargs --no-run-if-empty {docker} kill >/dev/null");
            let _ = std::process::Command::new("sh").args(["-c", &script]).status();
            signal_process(pid, "TERM");
            while matches!(self.daemon.try_wait(), Ok(None)) {
                std::thread::yield_now();
            }
        }
        // An engine that crashed has left its mount behind.
        let umount = format!("while umount {}/data 2>/dev/null; do :; done", self.home.display());
        let _ = std::process::Command::new("sh").args(["-c", &umount]).status();
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

/// Dead processes may stay around until somebody asks for their end.
fn is_alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

fn signal_process(pid: u32, signal: &str) {
    sh(&format!("kill -{signal} {pid}"));
}

fn make_home() -> PathBuf {
    let home = Path::new(&common::variable("ORCH_TEST_SCRATCH")).join(TaskId::generate().short());
    std::fs::create_dir_all(&home).unwrap();
    home
}

fn sh(script: &str) {
    let status = std::process::Command::new("sh").args(["-c", script]).status().unwrap();
    assert!(status.success(), "{script}: {status}");
}

/// Starts it and returns when it answers.
async fn spawn(home: &Path) -> Child {
    let socket = home.join("d.sock");
    let log = File::options().create(true).append(true).open(home.join("log")).unwrap();
    let mut daemon = Command::new("dockerd")
        .args(["--bridge=none", "--iptables=false", "--live-restore", "--shutdown-timeout=1"])
        .arg(format!("--host=unix://{}", socket.display()))
        .arg(format!("--data-root={}", home.join("data").display()))
        .arg(format!("--exec-root={}", home.join("exec").display()))
        .arg(format!("--pidfile={}", home.join("pid").display()))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    loop {
        if let Ok(docker) = Docker::connect_with_unix(socket.to_str().unwrap(), 5, API_DEFAULT_VERSION)
            && docker.ping().await.is_ok()
        {
            return daemon;
        }
        assert!(daemon.try_wait().unwrap().is_none(), "dockerd ended; see {}/log", home.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_survives_an_engine_that_crashes_and_comes_back() {
    let mut engine = OwnEngine::start().await;
    let runtime = common::runtime(&common::config_at(engine.host())).await;
    let work = common::work(common::sh("trap 'exit 4' TERM; echo ready; while :; do sleep 0.05; done"));
    common::start(&*runtime, &work).await.unwrap();
    let mut logs = runtime.logs(work.attempt, true).await.unwrap();
    assert_eq!(logs.next().await.unwrap().unwrap().data, "ready\n");
    let mut events = runtime.events().await.unwrap();

    // Everybody who waits is told, and nobody that the work is gone.
    let (waited, event, log, ()) =
        tokio::join!(runtime.wait(work.attempt), events.next(), logs.next(), engine.crash());
    assert_eq!(waited.unwrap_err().kind, RuntimeErrorKind::Unavailable);
    assert_eq!(event.unwrap().unwrap_err().kind, RuntimeErrorKind::Unavailable);
    assert!(events.next().await.is_none());
    assert!(log.is_none_or(|log| log.is_err()));
    for kind in [
        runtime.wait(work.attempt).await.unwrap_err().kind,
        runtime.list().await.unwrap_err().kind,
        runtime.start(&work).await.unwrap_err().kind,
        runtime.remove(work.attempt).await.unwrap_err().kind,
        runtime.stop(work.attempt, Duration::ZERO).await.unwrap_err().kind,
    ] {
        assert_eq!(kind, RuntimeErrorKind::Unavailable);
    }

    // The same runtime goes on when the engine is back, and the work was never interrupted.
    engine.restart().await;
    assert_eq!(runtime.list().await.unwrap()[0].state, FoundState::Running);
    let (exit, stopped) =
        tokio::join!(runtime.wait(work.attempt), runtime.stop(work.attempt, Duration::from_secs(30)));
    stopped.unwrap();
    assert_eq!(exit.unwrap().code, 4);
    runtime.remove(work.attempt).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_hangs_is_noticed() {
    let engine = OwnEngine::start().await;
    let mut config = common::config_at(engine.host());
    config.request_timeout = Duration::from_millis(500);
    config.probe_interval = Duration::from_millis(200);
    let runtime = common::runtime(&config).await;
    let work = common::work(common::sh("echo ready; exec sleep 1000"));
    common::start(&*runtime, &work).await.unwrap();
    let mut logs = runtime.logs(work.attempt, true).await.unwrap();
    logs.next().await.unwrap().unwrap();

    let waiting = tokio::spawn({
        let (runtime, attempt) = (std::sync::Arc::clone(&runtime), work.attempt);
        async move { runtime.wait(attempt).await }
    });
    engine.signal("STOP");
    assert_eq!(waiting.await.unwrap().unwrap_err().kind, RuntimeErrorKind::Unavailable);
    assert_eq!(logs.next().await.unwrap().unwrap_err().kind, RuntimeErrorKind::Unavailable);
    assert_eq!(runtime.list().await.unwrap_err().kind, RuntimeErrorKind::Unavailable);

    engine.signal("CONT");
    runtime.kill(work.attempt).await.unwrap();
    assert_eq!(runtime.wait(work.attempt).await.unwrap().code, 137);
    runtime.remove(work.attempt).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told() {
    let engine = OwnEngine::start_on_a_small_disk().await;
    let runtime = common::runtime(&common::config_at(engine.host())).await;
    let reference = format!("{}/{}", common::variable("ORCH_TEST_REGISTRY"), common::image());
    let work = common::work(TaskSpec::image("job", reference));
    engine.fill_disk();
    let error = runtime.prepare(&work, &Progress::none()).await.unwrap_err();
    assert_eq!(error.kind, RuntimeErrorKind::NoSpace, "{error}");
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_unavailable() {
    let host = "unix:///no/such/socket".to_string();
    let error = orch_docker::DockerRuntime::connect(common::config_at(host)).await.unwrap_err();
    assert_eq!(error.kind, RuntimeErrorKind::Unavailable);
    assert!(error.message.contains("/no/such/socket"), "{error}");
}
