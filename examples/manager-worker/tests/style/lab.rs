//! A manager and workers as processes, each with a directory of its own.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

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
        command.args(["--listen", &address, "--heartbeat-interval", "300ms", "--node-timeout", "2s"]);
        command.args(options).arg("--data-dir").arg(self.path("manager"));
        let service = Service::start(command, "listens on");
        self.url = service.line.rsplit(' ').next().unwrap().to_owned();
        self.manager = Some(service);
    }

    /// Has workers that start from now on run tasks by something else than processes.
    pub(crate) fn set_runtime(&mut self, options: &[&str]) {
        self.runtime = options.iter().map(ToString::to_string).collect();
    }

    /// Starts a worker, on the data of its earlier life if it had one.
    pub(crate) fn start_worker(&mut self, name: &str, options: &[&str]) {
        let service = Service::start(self.worker_command(name, name, options), "is registered");
        self.workers.insert(name.into(), service);
    }

    /// The same with nobody left to read what it prints.
    pub(crate) fn start_unread_worker(&mut self, name: &str) {
        let service = Service::start_unread(self.worker_command(name, name, &[]), "is registered");
        self.workers.insert(name.into(), service);
    }

    /// Whether it has not ended by itself.
    pub(crate) fn worker_is_running(&mut self, name: &str) -> bool {
        self.workers.get_mut(name).unwrap().is_running()
    }

    /// Command that starts a worker on the directory `dir`.
    pub(crate) fn worker_command(&self, name: &str, dir: &str, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orch-worker"));
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
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address())
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Submits a shell script and returns the task's id.
    pub(crate) fn submit(&self, name: &str, script: &str, options: &[&str]) -> String {
        let words = [&["run", "--program"], options, &[name, "/bin/sh", "--", "-c", script]].concat();
        let done = self.orch(&words);
        assert_eq!(done.code, 0, "{}", done.err);
        done.out.trim().to_owned()
    }
}

/// Waits for the end of a process that is not ours, which can only be looked for.
pub(crate) fn wait_until_gone(process: &Path) {
    let is_zombie = || std::fs::read_to_string(process.join("stat")).is_ok_and(|stat| stat.contains(") Z "));
    let deadline = std::time::Instant::now() + PATIENCE;
    while process.exists() && !is_zombie() {
        assert!(std::time::Instant::now() < deadline, "{} is still there", process.display());
        std::thread::yield_now();
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

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    pub(crate) fn of(mut command: Command) -> Self {
        let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
        Self {
            code: status.code().unwrap_or(-1),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }
}

/// A program that runs, and the line with which it said that it is ready.
pub(crate) struct Service {
    child: Child,
    line: String,
}

impl Service {
    /// Starts it and waits for a line with these words on its standard output.
    pub(crate) fn start(mut command: Command, ready: &str) -> Self {
        command.env("ORCH_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = lines_of(&mut child);
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) if line.contains(ready) => return Self { child, line },
                Ok(_) => {}
                Err(_) => {
                    let _ = child.kill();
                    panic!("{command:?} never said that it {ready}");
                }
            }
        }
    }

    /// Starts it with nobody left to read what it prints once it is ready.
    pub(crate) fn start_unread(mut command: Command, ready: &str) -> Self {
        command.env("ORCH_LOG", "debug").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take());
        let line = BufReader::new(stdout).lines().map_while(Result::ok).find(|line| line.contains(ready));
        let line = line.unwrap_or_else(|| panic!("{command:?} never said that it {ready}"));
        drop(stderr);
        Self { child, line }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The line with which it said that it is ready.
    pub(crate) fn line(&self) -> &str {
        &self.line
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn hold(&self, hold: bool) {
        self.signal(if hold { Signal::STOP } else { Signal::CONT });
    }

    fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.child.wait().unwrap()
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a child's standard output, read in a thread of their own so that nobody blocks on a full
/// pipe.
fn lines_of(child: &mut Child) -> mpsc::Receiver<String> {
    let (found, lines) = mpsc::channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            if found.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
