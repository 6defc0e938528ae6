//! What is on disk of one attempt. The directory is the only memory of a [`ProcessRuntime`](super::ProcessRuntime): a
//! new life of the agent reads the same states from it.
//!
//! | file | written by | says |
//! |---|---|---|
//! | `spec.json` | agent | it was made; holds no secrets |
//! | `pid` | wrapper, once, before the program | it was started: process id, start time in ticks, boot id |
//! | `stdout`, `stderr` | program | its output; a dropped beginning is a hole, so that offsets stay right |
//! | `stdout.start`, `stderr.start` | agent | where the kept output begins |
//! | `secret-<n>` | agent | a secret that the task gets as a file, until it has ended |
//! | `exit` | wrapper, after the program | its exit code |

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use super::tree::Identity;
use crate::{
    model::{AttemptId, CommandId, Exit, SecretTarget, TaskSpec, Timestamp},
    runtime::OutputStream,
};

/// Directories that are being deleted begin with this, so that half of one is never read as an attempt.
const REMOVED: &str = ".removed-";

/// The exit of a wrapper that ended without a word: somebody killed it.
const KILLED: i32 = 128 + 9;

#[derive(Clone, Debug)]
pub(super) struct AttemptDir {
    base: PathBuf,
    attempt: AttemptId,
}

/// What the files and the process table say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Absent,
    Created,
    Running(Identity),
    Ended(Identity, Exit),
    /// The machine went down under it, and nobody wrote how it ended.
    Lost(Identity),
}

impl AttemptDir {
    pub(super) fn new(base: &Path, attempt: AttemptId) -> Self {
        Self { base: base.into(), attempt }
    }

    /// All attempts below `base`, in order. Deletes what an earlier life had begun to remove.
    pub(super) fn all(base: &Path) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(base)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(REMOVED) {
                let _ = fs::remove_dir_all(base.join(name));
            } else if let Ok(attempt) = name.parse() {
                found.push(Self::new(base, attempt));
            }
        }
        found.sort_by_key(|dir| dir.attempt);
        Ok(found)
    }

    pub(super) fn attempt(&self) -> AttemptId {
        self.attempt
    }

    pub(super) fn path(&self) -> PathBuf {
        self.base.join(self.attempt.to_string())
    }

    /// Makes the directory with its spec; doing it again changes nothing.
    pub(super) fn create(&self, spec: &TaskSpec) -> io::Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(self.path()) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let file = self.file("spec.json");
        if !file.exists() {
            // A name of its own, because two starts may be here at a time.
            let new = self.file(&format!("spec.json.{}", CommandId::generate()));
            fs::write(&new, serde_json::to_vec_pretty(spec)?)?;
            fs::rename(new, file)?;
        }
        Ok(())
    }

    pub(super) fn spec(&self) -> io::Result<TaskSpec> {
        Ok(serde_json::from_slice(&fs::read(self.file("spec.json"))?)?)
    }

    /// Puts a secret's value where the task looks for it. The file is a second name of one in this directory, which
    /// tells whose it is.
    pub(super) fn place_secret(&self, number: usize, target: &Path, value: &[u8]) -> io::Result<()> {
        let own = self.secret(number);
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&own)?;
        file.write_all(value)?;
        match fs::hard_link(&own, target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_same(&own, target)? => Ok(()),
            linked => linked,
        }
    }

    /// Takes the secrets away again, and no file of anybody else.
    pub(super) fn clear_secrets(&self, spec: &TaskSpec) -> io::Result<()> {
        for (number, secret) in spec.secrets.iter().enumerate() {
            let (SecretTarget::File { path }, own) = (&secret.target, self.secret(number)) else { continue };
            // Another look at the same end may be doing this at the same time.
            if is_same(&own, Path::new(path)).or_else(none_is_not)? {
                fs::remove_file(path).map(|()| true).or_else(none_is_not)?;
            }
            fs::remove_file(own).map(|()| true).or_else(none_is_not)?;
        }
        Ok(())
    }

    fn secret(&self, number: usize) -> PathBuf {
        self.file(&format!("secret-{number}"))
    }

    pub(super) fn state(&self) -> State {
        if !self.path().exists() {
            return State::Absent;
        }
        let Some(identity) = self.identity() else { return State::Created };
        if let Some(exit) = self.exit() {
            return State::Ended(identity, exit);
        }
        match identity.is_alive() {
            true => State::Running(identity),
            false if identity.is_of_another_boot() => State::Lost(identity),
            // It may have ended between the two looks.
            false => State::Ended(identity, self.exit().unwrap_or_else(|| Exit::from_code(KILLED))),
        }
    }

    /// When the wrapper wrote who it is.
    pub(super) fn started_at(&self) -> Option<Timestamp> {
        let modified = fs::metadata(self.file("pid")).ok()?.modified().ok()?;
        let since = modified.duration_since(UNIX_EPOCH).ok()?;
        Some(Timestamp::from_millis(u64::try_from(since.as_millis()).ok()?))
    }

    pub(super) fn output(&self, stream: OutputStream) -> PathBuf {
        self.file(name_of(stream))
    }

    /// Where the kept output begins.
    pub(super) fn output_start(&self, stream: OutputStream) -> u64 {
        let text = fs::read_to_string(self.file(&format!("{}.start", name_of(stream))));
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    pub(super) fn set_output_start(&self, stream: OutputStream, start: u64) -> io::Result<()> {
        let file = self.file(&format!("{}.start", name_of(stream)));
        let new = self.file(&format!("{}.start.new", name_of(stream)));
        fs::write(&new, start.to_string())?;
        fs::rename(new, file)
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        if let Ok(spec) = self.spec() {
            self.clear_secrets(&spec)?;
        }
        let removed = self.base.join(format!("{REMOVED}{}", self.attempt));
        for step in
            [fs::remove_dir_all(&removed), fs::rename(self.path(), &removed), fs::remove_dir_all(&removed)]
        {
            match step {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn identity(&self) -> Option<Identity> {
        Identity::parse(&self.line("pid")?)
    }

    fn exit(&self) -> Option<Exit> {
        self.line("exit")?.trim().parse().ok().map(Exit::from_code)
    }

    /// A file of one line, once the line is whole.
    fn line(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.file(name)).ok().filter(|text| text.ends_with('\n'))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

/// What is not there is not ours.
fn none_is_not(error: io::Error) -> io::Result<bool> {
    if error.kind() == io::ErrorKind::NotFound { Ok(false) } else { Err(error) }
}

fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (one, other) = (fs::symlink_metadata(one)?, fs::symlink_metadata(other)?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

fn name_of(stream: OutputStream) -> &'static str {
    match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    }
}
