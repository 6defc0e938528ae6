//! Data directory of a service, for everything that must survive it: tokens, its instance id, its state.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::PathBuf,
    sync::Arc,
};

use orch_base::files;
use uuid::Uuid;

use super::secret;

/// Directory that only its owner may read, and that one process at a time uses.
#[derive(Clone, Debug)]
pub struct DataDir {
    dir: PathBuf,
    /// Locked until the last clone is dropped.
    _lock: Arc<File>,
}

impl DataDir {
    /// Opens `dir`, creating it when missing.
    ///
    /// # Errors
    /// For people: the directory cannot be used, or another process uses it.
    pub fn open(dir: PathBuf) -> Result<Self, String> {
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

    /// Path of a file or directory in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Secret kept in the file `name`, generated at the first call.
    ///
    /// # Errors
    /// For people: the file cannot be read or written, or holds something else.
    pub fn token(&self, name: &str) -> Result<String, String> {
        let path = self.path(name);
        match secret::read(&path) {
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
    ///
    /// # Errors
    /// For people: the file cannot be read or written, or holds something else.
    pub fn id<T: std::str::FromStr>(&self, name: &str) -> Result<T, String>
    where
        T::Err: std::fmt::Display,
    {
        self.kept(name, || Ok(Uuid::new_v4().to_string()))
    }

    /// Value kept in the file `name`, which is that of the first call.
    ///
    /// # Errors
    /// For people: the file cannot be read or written, or holds something else.
    pub fn kept<T: std::str::FromStr>(
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

/// Directory that a variable names, or below the home directory.
pub(crate) fn base_dir(variable: &str, below_home: &str) -> PathBuf {
    let base = std::env::var_os(variable).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = || std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    base.or_else(|| home().map(|home| home.join(below_home))).unwrap_or_else(|| PathBuf::from("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

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
