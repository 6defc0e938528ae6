//! Files that must be there as a whole or not at all, after a power cut too, and that nobody but their owner
//! may read.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// Options that make files which only their owner may read (mode 600 on Unix). They open for nothing yet.
#[must_use]
pub fn private() -> OpenOptions {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "other systems have no modes"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a directory, and those above it, that only their owner may enter (mode 700 on Unix). One that is
/// there keeps its mode.
///
/// # Errors
/// Those of the file system.
pub fn create_private_dir(dir: &Path) -> io::Result<()> {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "other systems have no modes"))]
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(dir)
}

/// Replaces the file by one with this content: readers see the old one or the new one, also after a power
/// cut. Only its owner may read it. The content is staged in a file of the same directory, so two processes
/// may replace one file.
///
/// # Errors
/// Those of the file system; the old file is untouched then.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    put(path, content, |staged, path| fs::rename(staged, path))
}

/// Makes a file with this content that must not be there yet. Only its owner may read it.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`], with the file untouched, and those of the file system.
pub fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    // A rename would replace a file that somebody made at the same time.
    put(path, content, |staged, path| match fs::hard_link(staged, path) {
        // Left behind, it would be a second copy of a secret.
        Ok(()) => fs::remove_file(staged),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists || path.exists() => {
            Err(io::ErrorKind::AlreadyExists.into())
        }
        // A file system without hard links: here only what is made in this very moment would be replaced.
        Err(_) => fs::rename(staged, path),
    })
}

/// Makes the names in a directory durable: files in it that were made, renamed or removed.
///
/// # Errors
/// Those of the file system.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    // Other systems cannot open a directory as a file, and order these changes themselves.
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

/// The directory that has the name of this file.
#[must_use]
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn put(path: &Path, content: &[u8], name: impl FnOnce(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    let staged = staged(path);
    // A process with this number may have died here before. A link that lies there is removed, not followed.
    let _ = fs::remove_file(&staged);
    let written = private().write(true).create_new(true).open(&staged).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| name(&staged, path)) {
        // It may hold a secret, and may never have been made.
        let _ = fs::remove_file(&staged);
        return Err(error);
    }
    sync_dir(directory_of(path))
}

/// A name beside the file that no other thread or process uses now.
fn staged(path: &Path) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut name = OsString::from(path);
    name.push(format!(".{}-{}.new", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<OsString> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        replace(&path, b"one, longer").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(dir.path()), ["state"], "nothing else is left");
    }

    #[test]
    fn a_new_file_never_takes_the_place_of_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create(&path, b"first").unwrap();
        assert_eq!(create(&path, b"second").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(names(dir.path()), ["key"], "no copy of a secret is left");
    }

    #[test]
    fn a_file_that_cannot_get_its_name_leaves_no_copy() {
        let dir = tempfile::tempdir().unwrap();
        let taken = dir.path().join("taken");
        fs::create_dir(&taken).unwrap();
        replace(&taken, b"secret").unwrap_err();
        assert_eq!(names(dir.path()), ["taken"]);
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_may_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        create_private_dir(&inner).unwrap();
        create_private_dir(&inner).unwrap();
        assert_eq!((mode(&inner), mode(&dir.path().join("a"))), (0o700, 0o700));
        create(&inner.join("new"), b"x").unwrap();
        replace(&inner.join("replaced"), b"x").unwrap();
        assert_eq!((mode(&inner.join("new")), mode(&inner.join("replaced"))), (0o600, 0o600));
    }

    #[test]
    fn a_name_alone_is_in_the_current_directory() {
        assert_eq!(directory_of(Path::new("file")), Path::new("."));
        assert_eq!(directory_of(Path::new("a/file")), Path::new("a"));
    }
}
