//! Retention of output.

use std::{fs, path::Path};

use futures_util::StreamExt;
use orch_core::{
    model::Exit,
    runtime::{FoundState, OutputStream, Runtime, RuntimeErrorKind},
};

use super::{output, run, runtime, shell, stdout, work};

#[tokio::test]
async fn an_output_that_is_opened_anew_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let task =
        work(shell("echo one; echo two >/dev/stdout; echo three; echo four >/dev/stderr; echo five >&2"));
    assert!(run(&runtime, &task).await.is_success());
    let all = output(&runtime, task.attempt, false).await;
    assert_eq!(all[&OutputStream::Stdout], (0, b"one\ntwo\nthree\n".to_vec()));
    assert_eq!(all[&OutputStream::Stderr], (0, b"four\nfive\n".to_vec()));
}

#[tokio::test]
async fn output_is_bounded_and_offsets_stay_right() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let mut spec = shell("seq -w 0 299999; echo problem >&2");
    spec.output_limit_bytes = 100_000;
    let task = work(spec);
    assert!(run(&runtime, &task).await.is_success());
    let files = fs::read_dir(dir.path().join(task.attempt.to_string())).unwrap();
    let blocks = files.map(|file| file.unwrap().metadata().unwrap().blocks()).sum::<u64>();
    assert!(blocks * 512 <= 100_000 + 20 * 4096, "the disk must be given back, {blocks} blocks are used");
    let all = output(&runtime, task.attempt, true).await;
    assert_eq!(all[&OutputStream::Stderr], (0, b"problem\n".to_vec()), "the small stream keeps everything");
    let (start, kept) = &all[&OutputStream::Stdout];
    assert_eq!(start + kept.len() as u64, 300_000 * 7, "the newest output must be kept");
    assert!(kept.len() <= 100_000, "{} bytes are kept", kept.len());
    let first_whole = (7 - start % 7) % 7;
    let number = (start + first_whole) / 7;
    let text = std::str::from_utf8(kept).unwrap();
    assert!(
        text[usize::try_from(first_whole).unwrap()..].starts_with(&format!("{number:06}\n")),
        "offset {start}"
    );
}

#[tokio::test]
async fn who_goes_on_writing_does_not_keep_an_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let mut spec = shell("echo first; yes & yes >&2 & exit 3");
    spec.output_limit_bytes = 50_000;
    let task = work(spec);
    assert_eq!(run(&runtime, &task).await, Exit::from_code(3));
    let before = output(&runtime, task.attempt, true).await;
    let kept = before.values().map(|(_, bytes)| bytes.len()).sum::<usize>();
    assert!(kept <= 50_000, "{kept} bytes are kept");
    assert_eq!(before, output(&runtime, task.attempt, false).await, "nothing is added after the end");
}

const FULL_DISK: &str = "ORCH_TEST_FULL_DISK";

/// Not a test by itself: the next one runs it where a small disk is mounted.
#[tokio::test]
async fn agent_on_a_small_disk() {
    let Some(disk) = std::env::var_os(FULL_DISK) else { return };
    let disk = Path::new(&disk);
    let before = runtime(&disk.join("attempts"));
    let elsewhere = tempfile::tempdir().unwrap();
    let go = elsewhere.path().join("go");
    let task = work(shell(&format!(
        "echo before; until [ -e {} ]; do sleep 0.01; done; cat /dev/zero >{}/fill 2>/dev/null
         seq 0 99999; seq 0 99999 >&2; exit 0",
        go.display(),
        disk.display()
    )));
    before.start(&task).await.unwrap();
    let first = before.logs(task.attempt, true).await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(&first.data[..], b"before\n");
    fs::write(go, "").unwrap();
    assert!(before.wait(task.attempt).await.unwrap().is_success());
    assert!(stdout(&before, task.attempt).await.starts_with("before\n"));
    drop(before);

    let after = runtime(&disk.join("attempts"));
    assert_eq!(after.list().await.unwrap()[0].state, FoundState::Ended(Exit::from_code(0)));
    let next = work(shell(&format!("echo ran >>{}/ran", disk.display())));
    let error = after.start(&next).await.unwrap_err();
    assert_eq!(error.kind, RuntimeErrorKind::NoSpace, "{error}");
    assert_eq!(after.list().await.unwrap().len(), 1, "nothing is left of it");
    fs::remove_file(disk.join("fill")).unwrap();
    assert!(run(&after, &next).await.is_success());
    assert_eq!(fs::read_to_string(disk.join("ran")).unwrap(), "ran\n");
}

#[tokio::test]
async fn a_full_disk_does_not_change_how_a_task_ended() {
    let dir = tempfile::tempdir().unwrap();
    let on_small_disk = |command: &str| {
        let mut unshare = tokio::process::Command::new("unshare");
        let script = format!("mount -t tmpfs -o size=256k none \"${FULL_DISK}\" && {command}");
        unshare.args(["--map-root-user", "--mount", "sh", "-c", &script, "sh"]).env(FULL_DISK, dir.path());
        unshare
    };
    if !on_small_disk("true").status().await.is_ok_and(|status| status.success()) {
        println!("left out: this system gives its users no mount namespaces");
        return;
    }
    let mut agent = on_small_disk("exec \"$@\"");
    agent.arg(std::env::current_exe().unwrap()).args(["--exact", "output::agent_on_a_small_disk"]);
    let output = agent.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}
