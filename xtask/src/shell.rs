//! Execution of other programs, and output for people.

use std::{
    fmt,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Failure of a command of ours, as text for people.
#[derive(Debug)]
pub(crate) struct Error(String);

pub(crate) type Result<T = ()> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Adds the subject of an I/O error to its message.
pub(crate) trait Context<T> {
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error::new(format!("{what}: {error}")))
    }
}

pub(crate) fn say(message: impl fmt::Display) {
    // A closed output is no failure of the command.
    let _ = writeln!(std::io::stdout(), "{message}");
}

pub(crate) fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "error: {message}");
}

/// Root of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("xtask"), PathBuf::from);
    manifest.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Directory for Cargo's build output.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Command of the Cargo that runs us, at the workspace's root.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Shows the command, runs it with our own output, and fails when it does.
pub(crate) fn run(command: &mut Command) -> Result {
    let shown = show(command);
    say(format!("$ {shown}"));
    let status = command.status().context(&shown)?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(format!("{shown}: {status}"))),
    }
}

/// Runs the command silently and returns its output; fails with its error output.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    feed(command, b"")
}

/// The same with an input.
pub(crate) fn feed(command: &mut Command, input: &[u8]) -> Result<String> {
    let shown = show(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context(&shown)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input).context(&shown)?;
    }
    let output = child.wait_with_output().context(&shown)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().into()),
        false => {
            let complaint = String::from_utf8_lossy(&output.stderr);
            Err(Error::new(format!("{shown}: {}: {}", output.status, complaint.trim())))
        }
    }
}

/// Whether a program is installed.
pub(crate) fn has(program: &str) -> bool {
    path_of(program).is_some()
}

/// Path of an installed program.
pub(crate) fn path_of(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// Polls another program that has no better way of reporting that it is ready.
pub(crate) fn wait_until(limit: Duration, what: &str, mut ready: impl FnMut() -> bool) -> Result {
    let end = Instant::now() + limit;
    while !ready() {
        if Instant::now() > end {
            return Err(Error::new(format!("{what}: not within {limit:?}")));
        }
        thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}

/// Command line as people would type it.
fn show(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    let words = std::iter::once(name).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
