//! Members of a group as child processes that take commands and answer with lines.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    sync::watch,
};

/// Longer than anything takes on a slow machine, so that a hang has a name.
const DEADLINE: Duration = Duration::from_secs(60);

/// Path of an example of this workspace, which `cargo test` builds along with the tests. Where only one test
/// was asked for, it is built now.
///
/// # Panics
/// When it cannot be built.
#[must_use]
pub fn example_program(package: &str, features: &str, name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let profile = test.parent().and_then(Path::parent).expect("it is in the folder of its profile");
    let program = profile.join("examples").join(name);
    if !program.exists() {
        let target = profile.parent().expect("a profile is in the target folder");
        let mut cargo = std::process::Command::new(env!("CARGO"));
        cargo.args(["build", "-p", package, "--features", features, "--example", name]);
        let built = cargo.arg("--target-dir").arg(target).status().expect("cargo starts");
        assert!(built.success(), "the example {name} does not build");
    }
    program
}

/// Free addresses of loopback, all different.
///
/// # Panics
/// When the system has none.
#[must_use]
pub fn free_addresses(count: usize) -> Vec<SocketAddr> {
    // Held together, so that they differ.
    let held: io::Result<Vec<_>> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let held = held.expect("loopback has free ports");
    held.iter().map(|listener| listener.local_addr().expect("a listener has an address")).collect()
}

/// Child process that takes commands by its standard input and writes lines. It is killed when it is dropped.
#[derive(Debug)]
pub struct LineProcess {
    child: Child,
    input: ChildStdin,
    lines: watch::Receiver<Vec<String>>,
}

impl LineProcess {
    /// Starts `program` with these arguments.
    ///
    /// # Panics
    /// When the system refuses.
    #[must_use]
    pub fn start(program: &Path, arguments: impl IntoIterator<Item = String>) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the program starts");
        let output = child.stdout.take().expect("its output is a pipe");
        let input = child.stdin.take().expect("its input is a pipe");
        let (sender, lines) = watch::channel(Vec::new());
        tokio::spawn(async move {
            let mut output = BufReader::new(output).lines();
            while let Ok(Some(line)) = output.next_line().await {
                sender.send_modify(|lines| lines.push(line));
            }
        });
        Self { child, input, lines }
    }

    /// Sends a command.
    ///
    /// # Panics
    /// When the process has ended.
    pub async fn send(&mut self, command: &str) {
        self.input.write_all(format!("{command}\n").as_bytes()).await.expect("it takes commands");
    }

    /// All lines since the start.
    pub fn lines(&self) -> watch::Ref<'_, Vec<String>> {
        self.lines.borrow()
    }

    /// Waits until the lines after the first `from` are as `wanted`.
    ///
    /// # Panics
    /// When they never are; with `what` was waited for.
    pub async fn wait_for(&mut self, from: usize, what: &str, mut wanted: impl FnMut(&[String]) -> bool) {
        let received = self.lines.wait_for(|lines| wanted(&lines[from..]));
        let received = tokio::time::timeout(DEADLINE, received).await;
        let arrived = received.is_ok_and(|received| received.is_ok());
        assert!(arrived, "{what} was not received after line {from}: {:?}", self.lines.borrow());
    }

    /// Kills it and waits for its end.
    ///
    /// # Panics
    /// When the system refuses.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("a child can be killed");
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }
}
