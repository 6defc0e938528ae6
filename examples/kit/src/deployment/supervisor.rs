//! [`Supervisor`]: processes of a deployment.

use std::{path::PathBuf, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::{service::explain, style::Style};

/// Time within which a process has to say that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Time for a graceful end.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Processes by name, in a directory of their own that is removed at the end. They end with it, however it is
/// dropped; what they run as tasks ends with [`Supervisor::stop`].
#[derive(Debug)]
pub struct Supervisor {
    style: Style,
    program: PathBuf,
    dir: PathBuf,
    /// In the order in which they were started.
    parts: Vec<(String, Child)>,
}

impl Supervisor {
    /// A supervisor of parts that this program carries out, in a new directory for temporary files.
    ///
    /// # Errors
    /// For people: the directory cannot be created.
    pub fn new(style: Style, program: PathBuf) -> Result<Self, String> {
        let name = format!("{}-deployment-{}", style.program, uuid::Uuid::new_v4().simple());
        let dir = std::env::temp_dir().join(name);
        orch_base::files::create_private_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        Ok(Self { style, program, dir, parts: Vec::new() })
    }

    /// Path of a file or directory of a part.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A command of the program, without the options that the environment has for a user's own services. Logs
    /// of errors only, unless the environment asks for more.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let log = self.style.variable("LOG");
        let filter = std::env::var(&log).unwrap_or_else(|_| "error".into());
        let mut command = Command::new(&self.program);
        let prefix = format!("{}_", self.style.variables);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(&prefix) {
                command.env_remove(name);
            }
        }
        command.args(args).env(log, filter).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Starts a part, and waits for the line on its standard output that contains `ready`, which it returns.
    ///
    /// # Errors
    /// For people: it cannot be started, ends at once, or is not ready in time.
    pub async fn start(&mut self, part: &str, mut command: Command, ready: &str) -> Result<String, String> {
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", self.program.display()))?;
        let line = ready_line(part, &mut child, ready).await?;
        match self.parts.iter_mut().find(|(name, _)| name == part) {
            // Keeps its place, so that parts end in the opposite order of their first start.
            Some((_, old)) => *old = child,
            None => self.parts.push((part.into(), child)),
        }
        Ok(line)
    }

    /// Kills a part with SIGKILL: it cannot shut down.
    ///
    /// # Errors
    /// For people: there is no such part.
    pub async fn kill(&mut self, part: &str) -> Result<(), String> {
        match self.parts.iter_mut().find(|(name, _)| name == part) {
            Some((_, child)) => child.kill().await.map_err(explain),
            None => Err(format!("there is no part {part}")),
        }
    }

    /// Ends every part, the last one that was started first, and removes the directory.
    pub async fn stop(mut self) {
        while let Some((_, mut child)) = self.parts.pop() {
            end(&mut child).await;
        }
    }
}

/// Kills what still runs before the directory is removed, or it would write there again.
impl Drop for Supervisor {
    fn drop(&mut self) {
        for (_, child) in &mut self.parts {
            let _ = child.start_kill();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// First line on standard output that contains `words`. Later output is read and dropped.
async fn ready_line(part: &str, child: &mut Child, words: &str) -> Result<String, String> {
    let stdout = child.stdout.take().ok_or("its standard output is not piped")?;
    let mut lines = BufReader::new(stdout).lines();
    let found = async {
        while let Some(line) = lines.next_line().await.map_err(explain)? {
            if line.contains(words) {
                return Ok(line);
            }
        }
        Err(format!("{part} ended at once"))
    };
    let line = tokio::time::timeout(READY_WITHIN, found)
        .await
        .map_err(|_| format!("{part} did not say that it {words} within {READY_WITHIN:?}"))??;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(line)
}

async fn end(child: &mut Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(END_WITHIN, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
