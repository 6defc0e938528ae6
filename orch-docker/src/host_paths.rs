//! Check of the host paths that a task may mount.

use std::path::{Path, PathBuf};

/// Canonical path of `path`, if it lies in one of the `allowed` directories. Symbolic links are resolved on
/// both sides first: a task that may write in an allowed directory could otherwise plant a link there that
/// leads out of it, for the next task to mount.
pub(crate) fn resolve(path: &str, allowed: &[PathBuf]) -> Result<PathBuf, String> {
    let refused = || format!("host path {path} is not among the paths that this agent allows");
    if allowed.is_empty() {
        return Err(refused()); // does not reveal whether it exists
    }
    let real = Path::new(path).canonicalize().map_err(|_| refused())?;
    let inside = |directory: &PathBuf| directory.canonicalize().is_ok_and(|root| real.starts_with(root));
    match allowed.iter().any(inside) {
        true => Ok(real),
        false => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_do_not_lead_out() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().canonicalize().unwrap();
        for directory in ["open/inner", "closed", "open-too"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        std::os::unix::fs::symlink(root.join("closed"), root.join("open/link")).unwrap();
        let allowed = [root.join("open")];
        let ask = |path: &str| resolve(root.join(path).to_str().unwrap(), &allowed);
        assert_eq!(ask("open"), Ok(root.join("open")));
        assert_eq!(ask("open/../open/inner"), Ok(root.join("open/inner")));
        for path in ["open/link", "closed", "open/../closed", "open-too", "open/missing", ""] {
            assert!(ask(path).is_err(), "{path}");
        }
        assert!(resolve("/etc", &[]).is_err());
    }
}
