//! Processes that belong to an attempt and get its signals.

use std::{fs, time::Duration};

use orch_core::{
    model::{Exit, TaskSpec},
    runtime::Runtime,
};

use super::{PATIENCE, appears, is_running, run, runtime, shell, stdout, work};

#[tokio::test]
async fn stop_asks_first_and_kills_after_the_grace() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let at = dir.path().display();
    let polite = work(shell(&format!(
        "trap 'echo bye; exit 7' TERM; echo up >{at}/polite; while :; do sleep 0.01; done"
    )));
    runtime.start(&polite).await.unwrap();
    appears(&dir.path().join("polite")).await;
    runtime.stop(polite.attempt, PATIENCE).await.unwrap();
    assert_eq!(runtime.wait(polite.attempt).await.unwrap(), Exit::from_code(7));
    assert_eq!(stdout(&runtime, polite.attempt).await, "bye\n");

    let stubborn =
        work(shell(&format!("trap '' TERM; echo up >{at}/stubborn; while :; do sleep 0.01; done")));
    runtime.start(&stubborn).await.unwrap();
    appears(&dir.path().join("stubborn")).await;
    runtime.stop(stubborn.attempt, Duration::from_millis(50)).await.unwrap();
    assert_eq!(runtime.wait(stubborn.attempt).await.unwrap().signal, Some(9));
    runtime.stop(stubborn.attempt, PATIENCE).await.expect("already done is a success");
    runtime.kill(stubborn.attempt).await.expect("already done is a success");
}

#[tokio::test]
async fn the_whole_tree_is_killed_even_what_left_the_group() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let at = dir.path().display();
    let script = format!(
        "setsid sh -c 'echo $$ >{at}/escaped; exec sleep 600' & sleep 600 & echo $! >{at}/child; wait"
    );
    for natural in [false, true] {
        let script = if natural { script.replace("wait", "sleep 0.1") } else { script.clone() };
        let task = work(shell(&script));
        runtime.start(&task).await.unwrap();
        let pids = [appears(&dir.path().join("escaped")).await, appears(&dir.path().join("child")).await];
        if natural {
            assert!(runtime.wait(task.attempt).await.unwrap().is_success());
            runtime.remove(task.attempt).await.unwrap();
        } else {
            assert!(pids.iter().all(|pid| is_running(pid)));
            assert!(runtime.stats(task.attempt).await.unwrap().pids >= 3);
            runtime.kill(task.attempt).await.unwrap();
        }
        for pid in pids {
            assert!(!is_running(&pid), "process {pid} is left");
        }
        fs::remove_file(dir.path().join("escaped")).unwrap();
        fs::remove_file(dir.path().join("child")).unwrap();
    }
}

#[tokio::test]
async fn stop_reaches_what_leads_a_group_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    // The signal may come twice, as the leader passes it on: a shell that is about to exit would die of the
    // second.
    let script = format!(
        "trap 'trap \"\" TERM; echo bye; exit 7' TERM; echo up >{}/up; while :; do sleep 0.01; done",
        dir.path().display()
    );
    let task =
        work(TaskSpec::program("t", "timeout").args(["--preserve-status", "600", "sh", "-c", &script]));
    runtime.start(&task).await.unwrap();
    appears(&dir.path().join("up")).await;
    runtime.stop(task.attempt, PATIENCE).await.unwrap();
    assert_eq!(runtime.wait(task.attempt).await.unwrap(), Exit::from_code(7));
    assert_eq!(stdout(&runtime, task.attempt).await, "bye\n");
}

#[tokio::test]
async fn what_a_task_hides_from_its_environment_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let at = dir.path().display();
    // One keeps an output and one the group; their children have a parent that does.
    let script = format!(
        "env -i setsid sh -c 'sleep 600 >/dev/null 2>&1 & echo $! >{at}/grandchild
                              echo $$ >{at}/output; exec sleep 600' &
         env -i sh -c 'echo $$ >{at}/group; exec sleep 600' >/dev/null 2>&1 &
         until [ -s {at}/grandchild ] && [ -s {at}/output ] && [ -s {at}/group ]; do sleep 0.01; done"
    );
    let task = work(shell(&script));
    assert!(run(&runtime, &task).await.is_success());
    for name in ["output", "grandchild", "group"] {
        let pid = appears(&dir.path().join(name)).await;
        assert!(!is_running(&pid), "{name} is left");
    }
}

#[tokio::test]
async fn a_signal_to_its_own_group_is_the_programs_affair() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    for signal in ["ALRM", "TERM", "PIPE"] {
        let task = work(shell(&format!("trap '' {signal}; kill -{signal} 0; exit 3")));
        assert_eq!(run(&runtime, &task).await, Exit::from_code(3), "{signal}");
    }
    let task = work(shell("kill -KILL 0"));
    assert_eq!(run(&runtime, &task).await, Exit::from_code(137));
}
