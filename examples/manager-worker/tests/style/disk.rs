//! A manager whose disk is full.

use std::{fs, path::PathBuf, process::Command};

use crate::lab::{Done, Service};

/// A small file system in memory, gone at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(&at).status();
        assert!(mounted.is_ok_and(|status| status.success()), "this test mounts a tmpfs, which needs root");
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_named_and_what_was_answered_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(dir.path().join("disk"));
    let data = disk.0.join("manager");
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orch-manager"));
        command.args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(&data);
        Service::start(command, "listens on")
    };
    let manager = start();
    let orch = |manager: &Service, words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orch"));
        command.args(["--manager", manager.line().rsplit(' ').next().unwrap(), "--token-file"]);
        command.arg(data.join("admin.token")).args(words);
        Done::of(command)
    };
    let before = orch(&manager, &["run", "--program", "before", "/bin/true"]);
    assert_eq!(before.code, 0, "{}", before.err);
    // Whatever is left of the disk is taken by somebody else.
    let filler = disk.0.join("filler");
    let filled =
        Command::new("dd").args(["if=/dev/zero", "bs=4k"]).arg(format!("of={}", filler.display())).output();
    assert!(!filled.unwrap().status.success(), "it is full");
    let mut refused = None;
    for number in 0..2000 {
        let value = format!("A={}", "x".repeat(30_000));
        let done = orch(&manager, &["run", "--program", &format!("t{number}"), "/bin/true", "--env", &value]);
        if done.code != 0 {
            refused = Some(done);
            break;
        }
    }
    let refused = refused.unwrap();
    let again = orch(&manager, &["run", "--program", "again", "/bin/true"]);
    for told in [refused, again] {
        assert!(
            told.code == 5 && told.err.contains("disk is full") && told.err.contains("no space"),
            "{}",
            told.err
        );
        assert!(!told.err.contains("shutting down"), "{}", told.err);
    }
    let status = orch(&manager, &["status"]);
    assert!(status.code == 0 && status.out.contains("trouble"), "{status:?}");
    drop(manager);
    fs::remove_file(&filler).unwrap();
    let manager = start();
    let shown = orch(&manager, &["show", before.out.trim()]);
    assert_eq!(shown.code, 0, "{}", shown.err);
}
