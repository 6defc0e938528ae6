//! Secrets as files: a private directory of the node per attempt, each file bound into the container
//! read-only.
//!
//! They are not written inside the container: before it runs, the engine can only copy into its layer, which
//! is on disk and which a read-only root forbids; a tmpfs exists only from the start on, when the program may
//! already be reading.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use orch_core::{
    model::SecretTarget,
    runtime::{RuntimeError, RuntimeErrorKind as Kind, Secret, Work},
};
use tokio::{fs, io::AsyncWriteExt};

/// Secret file on the node, and its path in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretFile {
    pub(crate) source: PathBuf,
    pub(crate) target: String,
}

/// Value of a secret that the spec refers to.
pub(crate) fn value<'a>(work: &'a Work, name: &str) -> Result<&'a Secret, RuntimeError> {
    work.secrets.get(name).ok_or_else(|| {
        RuntimeError::new(Kind::InvalidSpec, format!("secret {name:?} is not known to this agent"))
    })
}

/// Whether the spec has any secret as a file.
pub(crate) fn wants_files(work: &Work) -> bool {
    work.spec.secrets.iter().any(|secret| matches!(secret.target, SecretTarget::File { .. }))
}

/// Writes the files into `directory`, which is the attempt's own. `user` is the user of the container; when
/// that is a name, which only the image can resolve, every process of the container may read them. The
/// directory keeps the node's other users out either way.
pub(crate) async fn write(
    work: &Work,
    directory: &Path,
    user: &str,
) -> Result<Vec<SecretFile>, RuntimeError> {
    let failed = |error: io::Error| {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull => Kind::NoSpace,
            _ => Kind::Internal,
        };
        RuntimeError::new(kind, format!("cannot keep secrets in {}: {error}", directory.display()))
    };
    let owner = numeric_user(user);
    let mut files = Vec::new();
    make_private(directory).await.map_err(failed)?;
    for (index, secret) in work.spec.secrets.iter().enumerate() {
        let SecretTarget::File { path } = &secret.target else { continue };
        let source = directory.join(index.to_string());
        write_one(&source, value(work, &secret.name)?, owner).await.map_err(failed)?;
        files.push(SecretFile { source, target: path.clone() });
    }
    Ok(files)
}

/// Removes the attempt's directory. A missing one is a success.
pub(crate) async fn remove(directory: &Path) -> Result<(), RuntimeError> {
    match fs::remove_dir_all(directory).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RuntimeError::new(
            Kind::Internal,
            format!("cannot remove secrets in {}: {error}", directory.display()),
        )),
        _ => Ok(()),
    }
}

async fn make_private(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).await
}

async fn write_one(path: &Path, secret: &Secret, owner: Option<(u32, u32)>) -> io::Result<()> {
    // An earlier incarnation may have left the file, read-only.
    match fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mode = if owner.is_some() { 0o400 } else { 0o444 };
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).await?;
    file.write_all(secret.expose()).await?;
    file.flush().await?;
    let Some((user, group)) = owner else { return Ok(()) };
    match give_to(path.to_owned(), user, group).await {
        // An agent that is not root cannot change the owner of files.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            fs::set_permissions(path, Permissions::from_mode(0o444)).await
        }
        given => given,
    }
}

async fn give_to(path: PathBuf, user: u32, group: u32) -> io::Result<()> {
    let chown = move || std::os::unix::fs::chown(path, Some(user), Some(group));
    tokio::task::spawn_blocking(chown).await.map_err(io::Error::other)?
}

/// Parses `uid` or `uid:gid` in numbers; an empty user means root.
fn numeric_user(user: &str) -> Option<(u32, u32)> {
    let (user, group) = user.split_once(':').unwrap_or((user, "0"));
    let number = |text: &str| match text {
        "" | "root" => Some(0),
        text => text.parse().ok(),
    };
    Some((number(user)?, number(group)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_owners_and_names_are_not() {
        assert_eq!(numeric_user(""), Some((0, 0)));
        assert_eq!(numeric_user("root"), Some((0, 0)));
        assert_eq!(numeric_user("1000"), Some((1000, 0)));
        assert_eq!(numeric_user("1000:100"), Some((1000, 100)));
        assert_eq!(numeric_user("postgres"), None);
        assert_eq!(numeric_user("1000:staff"), None);
    }
}
