//! Attempts that an earlier version of `orch` started.

use std::fs;

use orch_core::{
    model::{Exit, Timestamp},
    runtime::{FoundState, OutputStream, Runtime, Work},
};

use super::{PATIENCE, appears, output, runtime, shell, stdout, work};

/// The script by which programs were started before there was a launcher.
const SHELL: &str = r#"
d=$1; shift
fields() { shift 21; echo "$1"; }
read -r stat </proc/$$/stat && read -r boot </proc/sys/kernel/random/boot_id || exit 125
start=$(fields $stat)
trap : HUP INT QUIT TERM USR1 USR2
echo "$$ $start $boot" >"$d/pid"
"$@"; code=$?
echo "$code" >"$d/exit"
"#;

#[tokio::test]
async fn what_an_earlier_version_started_by_a_shell_is_adopted() {
    use std::os::unix::process::CommandExt;
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let mut children = Vec::new();
    let mut start = |script: &str, limit: u64| {
        let mut spec = shell(script);
        spec.output_limit_bytes = limit;
        let task = work(spec);
        let attempt_dir = dir.path().join(task.attempt.to_string());
        fs::create_dir(&attempt_dir).unwrap();
        fs::write(attempt_dir.join("spec.json"), serde_json::to_vec(&*task.spec).unwrap()).unwrap();
        let output =
            |name: &str| fs::File::options().append(true).create(true).open(attempt_dir.join(name)).unwrap();
        let child = std::process::Command::new("sh")
            .args(["-c", SHELL, "orch-wrapper", attempt_dir.to_str().unwrap(), "sh", "-c", script])
            .env("ORCH_ATTEMPT", task.attempt.to_string())
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .process_group(0)
            .spawn();
        children.push(child.unwrap());
        task
    };
    let waits = start(
        &format!(
            "seq -w 0 9999; echo up >{at}/up; until [ -e {at}/go ]; do sleep 0.01; done; echo end; exit 5"
        ),
        10_000,
    );
    let stops = start(&format!("trap 'exit 6' TERM; echo up >{at}/up2; while :; do sleep 0.01; done"), 1000);
    let killed = start(&format!("echo up >{at}/up3; exec sleep 600"), 1000);
    let ended = start("echo done; exit 7", 1000);
    for name in ["up", "up2", "up3"] {
        appears(&dir.path().join(name)).await;
    }
    appears(&dir.path().join(ended.attempt.to_string()).join("exit")).await;
    children.pop().unwrap().wait().unwrap();

    let runtime = runtime(dir.path());
    let found = runtime.list().await.unwrap();
    let state = |task: &Work| found.iter().find(|found| found.attempt == task.attempt).unwrap().state;
    assert_eq!([&waits, &stops, &killed].map(state), [FoundState::Running; 3]);
    assert_eq!(state(&ended), FoundState::Ended(Exit::from_code(7)));
    assert_eq!(stdout(&runtime, ended.attempt).await, "done\n");
    let age = Timestamp::now().since(runtime.adopt(waits.attempt).await.unwrap().at);
    assert!(age < PATIENCE * 10, "{age:?}");
    runtime.stop(stops.attempt, PATIENCE).await.unwrap();
    assert_eq!(runtime.wait(stops.attempt).await.unwrap(), Exit::from_code(6));
    runtime.kill(killed.attempt).await.unwrap();
    assert_eq!(runtime.wait(killed.attempt).await.unwrap(), Exit::from_code(137));
    fs::write(dir.path().join("go"), "").unwrap();
    assert_eq!(runtime.wait(waits.attempt).await.unwrap(), Exit::from_code(5));
    let (start, kept) = &output(&runtime, waits.attempt, true).await[&OutputStream::Stdout];
    assert_eq!(start + kept.len() as u64, 50_004);
    assert!(kept.len() <= 10_000 && kept.ends_with(b"9999\nend\n"), "{} bytes", kept.len());
    for mut child in children {
        child.wait().unwrap();
    }
}
