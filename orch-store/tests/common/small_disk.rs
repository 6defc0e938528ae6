//! A disk of 48 MiB, most of which somebody else can take.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

const FILLER: &str = "filler";

/// A file system in memory. It is unmounted with its handle.
pub(crate) struct SmallDisk(TempDir);

impl SmallDisk {
    pub(crate) fn mount() -> Self {
        let dir = TempDir::new().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=48m,mode=700", "tmpfs"]).arg(dir.path());
        let output = mount.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "a disk of its own takes the rights of root: {said}");
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves some megabytes.
    pub(crate) fn fill(&self) {
        fs::write(self.path().join(FILLER), vec![7; 24 << 20]).unwrap();
    }

    pub(crate) fn make_room(&self) {
        fs::remove_file(self.path().join(FILLER)).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a store that failed may still be closing.
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(std::thread::panicking() || unmounted.unwrap().success());
    }
}
