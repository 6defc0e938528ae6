//! Files of one attempt. The directory is the only state of a [`ProcessRuntime`](super::ProcessRuntime) that
//! outlives it: a new incarnation of the agent reads the same states from it.
//!
//! | file | written by | content |
//! |---|---|---|
//! | `attempt.json` | agent, with the directory | its creation, with the boot and the spec; no secrets |
//! | `record` | launcher, once, before the program | identity of the launcher; afterwards the exit code |
//! | `stdout-<offset>`, `stderr-<offset>` | launcher | a segment of its output; missing ones were dropped |
//! | `secret-<n>` | agent | a secret that the task gets as a file, until its end |
//!
//! Versions of `orch` that started programs through a shell left `spec.json`, `pid`, `exit`, `stdout` and
//! `stderr` instead. These attempts are adopted as well.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    host::Host,
    record::{Record, whole_line},
};
use crate::model::{AttemptId, Exit, SecretTarget, TaskSpec};

/// Prefixes of directories that are being deleted or created, so that an incomplete one is never read as an
/// attempt.
const REMOVED: &str = ".removed-";
const NEW: &str = ".new-";

#[derive(Clone, Debug)]
pub(super) struct AttemptDir {
    base: PathBuf,
    attempt: AttemptId,
}

/// State of an attempt by its directory alone, before processes are searched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OnDisk {
    Absent,
    /// Nothing has run: the directory was created in this boot, and no start is recorded.
    Created,
    Started(Record),
    /// The attempt may have run. The record of a start, if there was one, was lost with the machine.
    Unknown,
}

#[derive(Serialize, Deserialize)]
struct Made {
    version: u32,
    boot: String,
    spec: TaskSpec,
}

impl AttemptDir {
    pub(super) fn new(base: &Path, attempt: AttemptId) -> Self {
        Self { base: base.into(), attempt }
    }

    /// All attempts below `base`, in order. Deletes directories whose creation or removal an earlier
    /// incarnation had begun.
    pub(super) fn all(base: &Path) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(base)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(REMOVED) || name.starts_with(NEW) {
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

    /// Creates the directory with its spec; idempotent. With `sync` it survives a power failure.
    pub(super) fn create(&self, spec: &TaskSpec, host: &Host, sync: bool) -> io::Result<()> {
        if !self.path().exists() {
            let made = Made { version: 1, boot: host.boot.clone(), spec: spec.clone() };
            let new = self.aside(NEW);
            fs::create_dir_all(&self.base)?;
            none_is_not(fs::remove_dir_all(&new))?;
            fs::DirBuilder::new().mode(0o700).create(&new)?;
            let mut file = File::create_new(new.join("attempt.json"))?;
            file.write_all(&serde_json::to_vec(&made)?)?;
            if sync {
                file.sync_all()?;
                File::open(&new)?.sync_all()?;
            }
            fs::rename(new, self.path())?;
        }
        if sync {
            File::open(&self.base)?.sync_all()?;
        }
        Ok(())
    }

    pub(super) fn spec(&self) -> io::Result<TaskSpec> {
        match fs::read(self.file("attempt.json")) {
            Ok(made) => Ok(serde_json::from_slice::<Made>(&made)?.spec),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(serde_json::from_slice(&fs::read(self.file("spec.json"))?)?)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn look(&self, host: &Host) -> OnDisk {
        if !self.path().exists() {
            return OnDisk::Absent;
        }
        if let Some(record) = self.record() {
            return OnDisk::Started(record);
        }
        let made = fs::read(self.file("attempt.json")).ok();
        match made.and_then(|made| serde_json::from_slice::<Made>(&made).ok()) {
            Some(made) if made.boot == host.boot => OnDisk::Created,
            _ => OnDisk::Unknown,
        }
    }

    pub(super) fn record(&self) -> Option<Record> {
        match whole_line(&self.file("record")) {
            Some(text) => Record::parse(&text),
            None => Record::parse_shell(
                &whole_line(&self.file("pid"))?,
                whole_line(&self.file("exit")).as_deref(),
            ),
        }
    }

    pub(super) fn exit(&self) -> Option<Exit> {
        self.record()?.exit
    }

    /// Writes a secret's value to the path that the task reads. The file is a hard link of one in this
    /// directory, which proves its ownership.
    pub(super) fn place_secret(&self, number: usize, target: &Path, value: &[u8]) -> io::Result<()> {
        let own = self.secret(number);
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&own)?;
        file.write_all(value)?;
        match fs::hard_link(&own, target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_same(&own, target)? => Ok(()),
            linked => linked,
        }
    }

    /// Removes the files of secrets, and no file of anybody else.
    pub(super) fn clear_secrets(&self, spec: &TaskSpec) -> io::Result<()> {
        for (number, secret) in spec.secrets.iter().enumerate() {
            let (SecretTarget::File { path }, own) = (&secret.target, self.secret(number)) else { continue };
            // Another clean-up of the same end may run at the same time.
            if is_same(&own, Path::new(path)).or_else(none_is_false)? {
                none_is_not(fs::remove_file(path))?;
            }
            none_is_not(fs::remove_file(own))?;
        }
        Ok(())
    }

    fn secret(&self, number: usize) -> PathBuf {
        self.file(&format!("secret-{number}"))
    }

    /// Removes the attempt; with `files`, also the files outside of the directory.
    pub(super) fn remove(&self, files: bool) -> io::Result<()> {
        if let (true, Ok(spec)) = (files, self.spec()) {
            self.clear_secrets(&spec)?;
        }
        let removed = self.aside(REMOVED);
        none_is_not(fs::remove_dir_all(&removed))?;
        none_is_not(fs::rename(self.path(), &removed))?;
        none_is_not(fs::remove_dir_all(&removed))
    }

    fn aside(&self, prefix: &str) -> PathBuf {
        self.base.join(format!("{prefix}{}", self.attempt))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

/// Treats a missing file as removed.
fn none_is_not(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Treats a missing file as not ours.
fn none_is_false(error: io::Error) -> io::Result<bool> {
    if error.kind() == io::ErrorKind::NotFound { Ok(false) } else { Err(error) }
}

fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (one, other) = (fs::symlink_metadata(one)?, fs::symlink_metadata(other)?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}
