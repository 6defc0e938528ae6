//! Tasks from their submission to their end.

use std::time::Duration;

use orch_core::{
    model::{CommandId, TaskId, TaskSpec},
    state::TaskStatus,
};

use super::Case;

pub async fn a_task_runs_once_and_its_output_is_kept(case: &mut Case) {
    let task = case.submit(case.script("hello", "echo out; echo err >&2")).await;
    let done = case.ends(task, TaskStatus::Succeeded).await;
    assert_eq!(done.view.record.attempts_made, 1);
    assert_eq!(case.starts("hello"), [format!("{task}.1")]);
    let output = case.output(task).await;
    assert!(output.contains("out\n") && output.contains("err\n"), "{output}");
}

pub async fn a_failing_task_is_tried_again_and_then_given_up(case: &mut Case) {
    let spec = case.script("fails", "echo again; exit 7").max_attempts(3).backoff(Duration::from_millis(50));
    let task = case.submit(spec).await;
    let done = case.ends(task, TaskStatus::Failed).await;
    let why = done.view.record.last_end().unwrap().to_string();
    assert!(why.contains("exit code 7"), "{why}");
    assert_eq!(case.starts("fails"), [1, 2, 3].map(|number| format!("{task}.{number}")));
    assert_eq!(case.output(task).await, "again\nagain\nagain\n", "of every attempt");
}

pub async fn a_task_over_its_time_limit_is_ended(case: &mut Case) {
    let spec = case.script("slow", "passes never").run_timeout(Duration::from_millis(500));
    let task = case.submit(spec).await;
    case.ends(task, TaskStatus::TimedOut).await;
    case.is_still("slow");
    assert_eq!(case.starts("slow").len(), 1);
}

pub async fn a_cancelled_task_stops_and_the_others_go_on(case: &mut Case) {
    let stays = case.submit(case.script("stays", "passes end")).await;
    let stops = case.submit(case.script("stops", "passes never")).await;
    for task in [stays, stops] {
        case.running(task).await;
    }
    case.api.cancel(stops, "not wanted any more").await.unwrap();
    let done = case.ends(stops, TaskStatus::Cancelled).await;
    assert!(format!("{:?}", done.view.record.result()).contains("not wanted any more"));
    case.is_still("stops");
    assert_eq!(case.api.cancel(stops, "").await.unwrap_err().code(), Some("already_finished"));
    case.open("end");
    case.ends(stays, TaskStatus::Succeeded).await;
}

pub async fn what_cannot_be_accepted_is_refused_by_name_and_loses_nothing(case: &mut Case) {
    let task = case.submit(case.script("fine", "passes end")).await;
    let (fine, bad) = (case.script("fine-too", "true"), TaskSpec::image("  ", "image"));
    let refused = case.api.submit(CommandId::generate(), vec![fine.into(), bad.into()]).await.unwrap_err();
    assert_eq!(refused.code(), Some("invalid_spec"), "{refused}");
    assert!(refused.to_string().contains("name: "), "{refused}");
    let empty = case.api.submit_one(TaskSpec::image("name", "")).await.unwrap_err();
    assert!(empty.code() == Some("invalid_spec") && empty.to_string().contains("image"), "{empty}");
    assert_eq!(case.api.task(TaskId::generate()).await.unwrap_err().code(), Some("unknown_task"));
    let all =
        case.api.tasks(&orch_core::engine::TaskFilter { limit: 10, ..Default::default() }).await.unwrap();
    let ids: Vec<TaskId> = all.tasks.iter().map(|task| task.view.record.id).collect();
    assert_eq!(ids, [task], "all of a submission or nothing");
    case.open("end");
    case.ends(task, TaskStatus::Succeeded).await;
}
