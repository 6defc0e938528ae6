//! Programs as processes.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

/// Longer than anything in a test takes.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// A variable that `cargo xtask test` sets. Tests that need it never skip themselves.
#[must_use]
pub fn fixture(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests by `cargo xtask test`"))
}

/// Waits for the end of a process that is not ours, which can only be looked for.
pub fn wait_until_gone(process: &Path) {
    let is_zombie = || std::fs::read_to_string(process.join("stat")).is_ok_and(|stat| stat.contains(") Z "));
    let deadline = Instant::now() + PATIENCE;
    while process.exists() && !is_zombie() {
        assert!(Instant::now() < deadline, "{} is still there", process.display());
        std::thread::yield_now();
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Done {
    /// Exit code; -1 where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Done {
    /// Runs it to its end, without standard input.
    #[must_use]
    pub fn of(mut command: Command) -> Self {
        let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
        Self {
            code: status.code().unwrap_or(-1),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }
}

/// A program that runs, and the line with which it said that it is ready. Killed when it is dropped.
#[derive(Debug)]
pub struct Service {
    child: Child,
    line: String,
}

impl Service {
    /// Starts it and waits for a line with these words on its standard output.
    #[must_use]
    pub fn start(mut command: Command, ready: &str) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = lines_of(&mut child);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
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
    #[must_use]
    pub fn start_unread(mut command: Command, ready: &str) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take());
        let line = BufReader::new(stdout).lines().map_while(Result::ok).find(|line| line.contains(ready));
        let line = line.unwrap_or_else(|| panic!("{command:?} never said that it {ready}"));
        drop(stderr);
        Self { child, line }
    }

    /// Whether it has not ended by itself.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The line with which it said that it is ready.
    #[must_use]
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Kills it as a power cut would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Has it stand still, or go on.
    pub fn hold(&self, hold: bool) {
        self.signal(if hold { Signal::STOP } else { Signal::CONT });
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.child.wait().unwrap()
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
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
#[must_use]
pub fn lines_of(child: &mut Child) -> mpsc::Receiver<String> {
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
