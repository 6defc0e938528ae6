//! Tests on real engines: a `dockerd` of a test's own, to kill, stop and fill. Failures panic.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Longer than an engine takes to start, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Engine with everything of its own: data, socket, containerd. Needs root and the programs of Docker. Its
/// containers end with it.
#[derive(Debug)]
pub struct OwnEngine {
    home: TempDir,
    containers: Containers,
    daemon: Child,
}

/// Fate of containers whose engine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Containers {
    /// They outlive it, as on nodes that upgrade their engine under running work (`--live-restore`).
    Outlive,
    /// The next start of the engine ends them, as engines do by default.
    EndWithIt,
}

impl OwnEngine {
    /// Starts an engine without any image that keeps everything below `scratch`.
    #[must_use]
    pub fn start(scratch: &Path, containers: Containers) -> Self {
        Self::start_in(make_home(scratch), containers)
    }

    /// Starts an engine whose disk is small.
    #[must_use]
    pub fn start_on_a_small_disk(scratch: &Path) -> Self {
        let home = make_home(scratch);
        let data = home.path().join("data");
        fs::create_dir_all(&data).expect("a directory");
        sh(&format!("mount -t tmpfs -o size=32m tmpfs {}", data.display()));
        Self::start_in(home, Containers::Outlive)
    }

    fn start_in(home: TempDir, containers: Containers) -> Self {
        let daemon = spawn(home.path(), containers).unwrap_or_else(|why| panic!("{why}"));
        Self { home, containers, daemon }
    }

    /// Loads an image that the engine at `host` has.
    pub fn load_image(&self, host: &str, image: &str) {
        sh(&format!("docker --host {host} save {image} | docker --host {} load >/dev/null", self.host()));
    }

    /// Fills its disk to the last byte.
    pub fn fill_disk(&self) {
        let filler = self.home.path().join("data/filler");
        sh(&format!("cat /dev/zero >{} 2>/dev/null || true", filler.display()));
    }

    /// Address for clients.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", socket(self.home.path()).display())
    }

    /// Sends it a signal such as `STOP`.
    pub fn signal(&self, signal: &str) {
        sh(&format!("kill -{signal} {}", self.daemon.id()));
    }

    /// Kills the engine and its containerd without a shutdown.
    pub fn crash(&mut self) {
        let pid_file = self.home.path().join("exec/containerd/containerd.pid");
        let containerd = fs::read_to_string(&pid_file).expect("it runs a containerd of its own");
        self.daemon.kill().and_then(|()| self.daemon.wait()).expect("it is ours to kill");
        // A new engine that finds the old containerd still dying would wait for it in vain.
        let deadline = Instant::now() + PATIENCE;
        while is_alive(&containerd) {
            assert!(Instant::now() < deadline, "containerd {containerd} does not die with its engine");
            pause();
        }
        let _ = fs::remove_file(pid_file);
    }

    /// Shuts the engine down; it ends its containers first unless they outlive it.
    pub fn shut_down(&mut self) {
        self.signal("TERM");
        self.daemon.wait().expect("it ends");
    }

    /// Starts it again.
    pub fn restart(&mut self) {
        self.daemon = spawn(self.home.path(), self.containers).unwrap_or_else(|why| panic!("{why}"));
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        // Containers that a failed test leaves running would outlive their engine, so it is started once
        // more.
        if matches!(self.daemon.try_wait(), Ok(Some(_)))
            && let Ok(daemon) = spawn(self.home.path(), self.containers)
        {
            self.daemon = daemon;
        }
        if matches!(self.daemon.try_wait(), Ok(None)) {
            let docker = format!("docker --host {}", self.host());
            let pid = self.daemon.id();
            let kill = format!("{docker} ps --quiet | xargs --no-run-if-empty {docker} kill >/dev/null");
            try_sh(&format!("kill -CONT {pid}; {kill}; kill -TERM {pid}"));
            let _ = self.daemon.wait();
        }
        end_what_it_forgot(self.home.path());
        // An engine that crashed has left its mount behind.
        try_sh(&format!("while umount {}/data 2>/dev/null; do :; done", self.home.path().display()));
    }
}

fn make_home(scratch: &Path) -> TempDir {
    // Short: a socket's path ends at 107 bytes.
    tempfile::Builder::new().prefix("e").tempdir_in(scratch).expect("a scratch directory")
}

fn socket(home: &Path) -> PathBuf {
    home.join("d.sock")
}

/// Spawns the engine and returns when it responds.
fn spawn(home: &Path, containers: Containers) -> Result<Child, String> {
    let log = home.join("log");
    let log_file = File::options().create(true).append(true).open(&log).map_err(|error| error.to_string())?;
    let mut daemon = Command::new("dockerd")
        .args(["--bridge=none", "--iptables=false", "--shutdown-timeout=1"])
        .args((containers == Containers::Outlive).then_some("--live-restore"))
        .arg(format!("--host=unix://{}", socket(home).display()))
        .arg(format!("--data-root={}", home.join("data").display()))
        .arg(format!("--exec-root={}", home.join("exec").display()))
        .arg(format!("--pidfile={}", home.join("pid").display()))
        .stdout(Stdio::null())
        .stderr(log_file)
        .spawn()
        .map_err(|error| {
            format!("this test starts an engine of its own, but dockerd does not run: {error}")
        })?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if answers(&socket(home)) {
            return Ok(daemon);
        }
        let ended = daemon.try_wait().map_err(|error| error.to_string())?;
        if ended.is_some() || Instant::now() > deadline {
            let _ = daemon.kill().and_then(|()| daemon.wait());
            let told = fs::read_to_string(&log).unwrap_or_default();
            let last = told.lines().rev().take(5).collect::<Vec<_>>().join("\n");
            return Err(format!("the test's own dockerd does not answer; it said, newest first:\n{last}"));
        }
        pause();
    }
}

fn answers(socket: &Path) -> bool {
    let ask = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    ask().is_ok_and(|answer: String| answer.contains(" 200 "))
}

/// Whether the process is alive. Zombies may stay around until they are reaped.
fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

/// Pause between two polls of a condition without events.
#[expect(clippy::disallowed_methods, reason = "a test waits for its engine before it does anything else")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

/// Kills the processes of containers that were being started when the engine crashed: it does not know of
/// them after its restart.
fn end_what_it_forgot(home: &Path) {
    let home = home.display().to_string();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let read = |name: &str| fs::read(process.path().join(name)).unwrap_or_default();
        let words = String::from_utf8_lossy(&read("cmdline")).into_owned();
        if words.contains("containerd-shim") && words.contains(&home) {
            let shim = process.file_name().to_string_lossy().into_owned();
            let children = read(&format!("task/{shim}/children"));
            try_sh(&format!("kill -KILL {} {shim}", String::from_utf8_lossy(&children)));
        }
    }
}

fn sh(script: &str) {
    assert!(try_sh(script), "{script} failed");
}

fn try_sh(script: &str) -> bool {
    Command::new("sh").args(["-c", script]).status().is_ok_and(|status| status.success())
}
