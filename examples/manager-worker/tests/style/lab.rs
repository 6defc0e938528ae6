//! A manager and workers as processes, each with a directory of its own.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

pub(crate) use orch_kit::testing::{Done, PATIENCE, Service};
use orch_kit::testing::{lines_of, request};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) struct Lab {
    dir: TempDir,
    url: String,
    manager: Option<Service>,
    workers: BTreeMap<String, Service>,
    runtime: Vec<String>,
}

impl Lab {
    /// A manager without workers.
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// A manager with further options.
    pub(crate) fn with(options: &[&str]) -> Self {
        let mut lab = Self {
            dir: tempfile::tempdir().unwrap(),
            url: "127.0.0.1:0".into(),
            manager: None,
            workers: BTreeMap::new(),
            runtime: ["--runtime", "process"].map(Into::into).into(),
        };
        lab.start_manager(options);
        lab
    }

    /// Starts the manager, at the address that it had before.
    pub(crate) fn start_manager(&mut self, options: &[&str]) {
        let address = self.address().to_owned();
        let mut command = Command::new(env!("CARGO_BIN_EXE_orch-manager"));
        command.env("ORCH_LOG", "warn");
        command.args(["--listen", &address, "--heartbeat-interval", "300ms", "--node-timeout", "2s"]);
        command.args(options).arg("--data-dir").arg(self.path("manager"));
        let service = Service::start(command, "listens on");
        self.url = service.line().rsplit(' ').next().unwrap().to_owned();
        self.manager = Some(service);
    }

    /// Has workers that start from now on run tasks by something else than processes.
    pub(crate) fn set_runtime(&mut self, options: &[&str]) {
        self.runtime = options.iter().map(ToString::to_string).collect();
    }

    /// Starts a worker, on the data of its earlier life if it had one.
    pub(crate) fn start_worker(&mut self, name: &str, options: &[&str]) {
        let command = self.worker_command(name, name, options);
        self.start_worker_by(name, command);
    }

    /// The same by a command of the test's own.
    pub(crate) fn start_worker_by(&mut self, name: &str, command: Command) {
        self.workers.insert(name.into(), Service::start(command, "is registered"));
    }

    /// The same with nobody left to read what it prints.
    pub(crate) fn start_unread_worker(&mut self, name: &str) {
        let mut command = self.worker_command(name, name, &[]);
        command.env("ORCH_LOG", "debug");
        let service = Service::start_unread(command, "is registered");
        self.workers.insert(name.into(), service);
    }

    /// Whether it has not ended by itself.
    pub(crate) fn worker_is_running(&mut self, name: &str) -> bool {
        self.workers.get_mut(name).unwrap().is_running()
    }

    /// Command that starts a worker on the directory `dir`.
    pub(crate) fn worker_command(&self, name: &str, dir: &str, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orch-worker"));
        command.env("ORCH_LOG", "warn");
        command.args(["--manager", &self.url, "--id", name, "--cpus", "2"]);
        command.args(&self.runtime).args(options).arg("--token-file").arg(self.path("manager/worker.token"));
        command.arg("--data-dir").arg(self.path(dir));
        command
    }

    /// Kills the manager as a power cut would.
    pub(crate) fn kill_manager(&mut self) {
        self.manager.take().unwrap().kill();
    }

    /// Has the manager stand still, or go on.
    pub(crate) fn hold_manager(&self, hold: bool) {
        self.manager.as_ref().unwrap().hold(hold);
    }

    /// Has a worker stand still, or go on; what it runs does not notice.
    pub(crate) fn hold_worker(&self, name: &str, hold: bool) {
        self.workers[name].hold(hold);
    }

    /// Leaves the directories on the disk, or not.
    pub(crate) fn keep(&mut self, keep: bool) {
        self.dir.disable_cleanup(keep);
    }

    /// Asks the manager to end.
    pub(crate) fn stop_manager(&mut self) -> ExitStatus {
        self.manager.take().unwrap().terminate()
    }

    /// Kills a worker; what it runs goes on.
    pub(crate) fn kill_worker(&mut self, name: &str) {
        self.workers.remove(name).unwrap().kill();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn address(&self) -> &str {
        self.url.rsplit('/').next().unwrap()
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Runs `orch` with these words.
    pub(crate) fn orch(&self, words: &[&str]) -> Done {
        self.orch_with(words, &self.path("manager/admin.token"))
    }

    pub(crate) fn orch_with(&self, words: &[&str], token_file: &Path) -> Done {
        self.caller_with(token_file).orch(words)
    }

    /// A caller of the manager for another thread.
    pub(crate) fn caller(&self) -> Caller {
        self.caller_with(&self.path("manager/admin.token"))
    }

    fn caller_with(&self, token_file: &Path) -> Caller {
        Caller { url: self.url.clone(), token_file: token_file.into(), home: self.dir.path().into() }
    }

    /// `orch` with these words, of a user who has no files and no variables of it.
    pub(crate) fn bare(&self, words: &[&str]) -> Command {
        bare(self.dir.path(), words)
    }

    /// Runs `orch` with these words and reads the JSON that it prints.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let done = self.orch(&[words, &["--json"]].concat());
        assert_eq!(done.code, 0, "{words:?}: {}", done.err);
        serde_json::from_str(&done.out).unwrap()
    }

    /// Follows the cluster's events until one of them holds what is looked for.
    pub(crate) fn until(&self, what: &str, mut found: impl FnMut(&Value) -> bool) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
        command.args(["--manager", &self.url, "--token-file"]).arg(self.path("manager/admin.token"));
        command.args(["events", "--from", "0", "--json"]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = lines_of(&mut child);
        let deadline = std::time::Instant::now() + PATIENCE;
        let seen = loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let Ok(line) = lines.recv_timeout(left) else { break false };
            if found(&serde_json::from_str(&line).unwrap()) {
                break true;
            }
        };
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(seen, "never seen: {what}; now: {}", self.orch(&["list"]).out);
    }

    /// Waits until the agent saw this attempt run.
    pub(crate) fn until_running(&self, task: &str, attempt: u64) {
        self.until(&format!("attempt {attempt} of {task} running"), |event| {
            let observed = &event["observed"];
            observed["attempt"]["task"] == task
                && observed["attempt"]["attempt"] == attempt
                && observed["seen"].get("running").is_some()
        });
    }

    /// Waits until the agent said of this task what holds it up, in these words.
    pub(crate) fn until_told(&self, task: &str, words: &str) {
        self.until(&format!("progress of {task}: {words}"), |event| {
            let observed = &event["observed"];
            let told = observed["seen"]["progress"].as_str().unwrap_or_default();
            observed["attempt"]["task"] == task && told.contains(words)
        });
    }

    /// Waits until this node was declared lost.
    pub(crate) fn until_lost(&self, node: &str) {
        self.until(&format!("loss of {node}"), |event| {
            event["node"]["spec"]["id"] == node && event["node"]["state"] == "lost"
        });
    }

    /// Waits until the manager has answered a request for this route, which only its numbers tell.
    pub(crate) fn until_asked(&self, route: &str) {
        let line = format!("orch_http_requests_total{{method=\"GET\",route=\"{route}\",status=\"200\"}}");
        let deadline = std::time::Instant::now() + PATIENCE;
        while !self.metrics().contains(&line) {
            assert!(std::time::Instant::now() < deadline, "nobody asked for {route}");
            std::thread::yield_now();
        }
    }

    fn metrics(&self) -> String {
        request(self.address(), "GET", "/metrics", "", "").body
    }

    /// Submits a shell script and returns the task's id.
    pub(crate) fn submit(&self, name: &str, script: &str, options: &[&str]) -> String {
        let words = [&["run", "--program"], options, &[name, "/bin/sh", "--", "-c", script]].concat();
        let done = self.orch(&words);
        assert_eq!(done.code, 0, "{}", done.err);
        done.out.trim().to_owned()
    }
}

/// Address of a manager, and the token that opens it.
pub(crate) struct Caller {
    url: String,
    token_file: PathBuf,
    home: PathBuf,
}

impl Caller {
    /// Runs `orch` with these words.
    pub(crate) fn orch(&self, words: &[&str]) -> Done {
        let mut command = bare(&self.home, &["--manager", &self.url, "--token-file"]);
        command.arg(&self.token_file).args(words);
        Done::of(command)
    }
}

fn bare(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
    for variable in ["ORCH_MANAGER", "ORCH_TOKEN", "ORCH_TOKEN_FILE", "ORCH_CONTEXT", "ORCH_NAMESPACE"] {
        command.env_remove(variable);
    }
    command.env("XDG_CONFIG_HOME", home.join("config")).env("XDG_DATA_HOME", home.join("data"));
    command.args(words);
    command
}
