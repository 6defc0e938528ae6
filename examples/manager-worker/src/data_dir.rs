//! Data directory of a manager or worker, for everything that must survive it: tokens, its instance id, its
//! state.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use orch_base::files;
use uuid::Uuid;

/// Directory that only its owner may read, and that one process at a time uses.
#[derive(Clone, Debug)]
pub(crate) struct DataDir {
    dir: PathBuf,
    /// Locked until the last clone is dropped.
    _lock: Arc<File>,
}

impl DataDir {
    /// Opens `dir`, creating it when missing.
    pub(crate) fn open(dir: PathBuf) -> Result<Self, String> {
        let failed = |error: io::Error| {
            format!(
                "the data directory {} cannot be used: {error}; choose another with --data-dir",
                dir.display()
            )
        };
        files::create_private_dir(&dir).map_err(failed)?;
        let probe = dir.join(".writable");
        fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe)).map_err(failed)?;
        let lock = files::private().write(true).create(true).truncate(false).open(dir.join("lock"));
        let lock = lock.map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(format!(
                    "the data directory {} is in use by another process; end that one, or give this one a directory of \
                     its own with --data-dir",
                    dir.display()
                ));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        Ok(Self { dir, _lock: Arc::new(lock) })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Secret kept in the file `name`, generated at the first call.
    pub(crate) fn token(&self, name: &str) -> Result<String, String> {
        let path = self.path(name);
        match read_secret(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let token = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
                files::create(&path, token.as_bytes())
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                Ok(token)
            }
            Err(error) => Err(format!("{}: {error}", path.display())),
            Ok(token) => Ok(token),
        }
    }

    /// Id kept in the file `name`, generated at the first call.
    pub(crate) fn id<T: std::str::FromStr>(&self, name: &str) -> Result<T, String>
    where
        T::Err: std::fmt::Display,
    {
        self.kept(name, || Ok(Uuid::new_v4().to_string()))
    }

    /// Value kept in the file `name`, which is that of the first call.
    pub(crate) fn kept<T: std::str::FromStr>(
        &self,
        name: &str,
        first: impl FnOnce() -> Result<String, String>,
    ) -> Result<T, String>
    where
        T::Err: std::fmt::Display,
    {
        let path = self.path(name);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let id = first()?;
                files::create(&path, id.as_bytes())
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                id
            }
            Err(error) => return Err(format!("{}: {error}", path.display())),
            Ok(text) => text,
        };
        text.trim().parse().map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Default data directory: below `XDG_DATA_HOME` or `~/.local/share`.
pub(crate) fn default_dir(name: &str) -> PathBuf {
    let base = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    base.or_else(home).unwrap_or_else(|| PathBuf::from(".")).join("orch").join(name)
}

/// Reads a token from a file that nobody else may read.
pub(crate) fn read_secret(path: &Path) -> io::Result<String> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(io::Error::other("it may be read by others; chmod 600 it"));
    }
    let text = fs::read_to_string(path)?.trim().to_owned();
    match text.is_empty() {
        true => Err(io::Error::other("it is empty")),
        false => Ok(text),
    }
}

/// Reads certificates to trust.
pub(crate) fn read_ca(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_made_once_and_kept_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path().join("deep/er")).unwrap();
        let token = data.token("t").unwrap();
        assert_eq!(token.len(), 64);
        assert_eq!(data.token("t").unwrap(), token);
        fs::set_permissions(data.path("t"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(data.token("t").unwrap_err().contains("chmod 600"));
    }

    #[test]
    fn a_directory_is_for_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path().into()).unwrap();
        let refused = DataDir::open(dir.path().into()).unwrap_err();
        assert!(refused.contains("is in use by another process"), "{refused}");
        drop(data);
        DataDir::open(dir.path().into()).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = DataDir::open(file.path().join("below")).unwrap_err();
        assert!(error.contains("--data-dir"), "{error}");
    }
}
