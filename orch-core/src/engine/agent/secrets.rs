//! [`SecretSource`]: values of secrets for an agent.

use std::{fmt, io::Read as _, path::PathBuf};

use crate::runtime::Secret;

/// Looks secrets up by name. The contract is between a host program and the agent; the name was checked to be
/// a plain word.
pub trait SecretSource: Send + Sync + fmt::Debug + 'static {
    /// The value of the secret called `name`. Quick; may read a small file.
    ///
    /// # Errors
    /// [`SecretError`], never with a value in it.
    fn get(&self, name: &str) -> Result<Secret, SecretError>;
}

/// Why a secret has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("secret {name:?} is not available on this node: {problem}")]
pub struct SecretError {
    /// Its name.
    pub name: String,
    /// The error, in words for people.
    pub problem: String,
}

/// Knows no secrets.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSecrets;

impl SecretSource for NoSecrets {
    fn get(&self, name: &str) -> Result<Secret, SecretError> {
        Err(SecretError { name: name.into(), problem: "the agent was given no secrets".into() })
    }
}

/// One file a secret, in a directory that nobody else may read.
#[derive(Clone, Debug)]
pub struct DirSecrets {
    dir: PathBuf,
}

impl DirSecrets {
    /// Reads secrets from the files of `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }
}

impl SecretSource for DirSecrets {
    fn get(&self, name: &str) -> Result<Secret, SecretError> {
        const MAX: u64 = 1 << 20;
        let error = |problem: String| SecretError { name: name.into(), problem };
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
            return Err(error("its name is no plain word".into()));
        }
        let path = self.dir.join(name);
        let file = std::fs::File::open(&path).map_err(|e| error(format!("{}: {e}", path.display())))?;
        let metadata = file.metadata().map_err(|e| error(format!("{}: {e}", path.display())))?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            if metadata.permissions().mode() & 0o077 != 0 {
                return Err(error(format!("{} may be read by others; chmod 600 it", path.display())));
            }
        }
        if metadata.len() > MAX {
            return Err(error(format!("{} is larger than {MAX} bytes", path.display())));
        }
        let mut value = Vec::new();
        file.take(MAX).read_to_end(&mut value).map_err(|e| error(format!("{}: {e}", path.display())))?;
        if value.last() == Some(&b'\n') {
            value.pop();
        }
        Ok(Secret::new(value))
    }
}
