//! The control side dies and comes back.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use orch_core::{
    engine::{EventKind, TaskFilter},
    model::{CommandId, TaskId},
    state::TaskStatus,
};
use orch_net::http::{EventStart, wire::TaskInfo};

use super::Case;

fn ids(tasks: &[TaskInfo]) -> Vec<TaskId> {
    tasks.iter().map(|task| task.view.record.id).collect()
}

pub async fn what_was_acknowledged_survives_the_death_of_the_control_side(case: &mut Case) {
    let command = CommandId::generate();
    let specs = || ["a", "b", "c"].map(|name| case.script(name, "echo out").into()).into();
    let tasks = ids(&case.api.submit(command, specs()).await.unwrap());
    let specs_again = specs();
    for part in case.deployment.parts().control {
        case.kill(&part).await;
        case.heal(&part).await;
    }
    let again = case.api.submit(command, specs_again).await.unwrap();
    assert_eq!(ids(&again), tasks, "a repeated submission is one submission, also after a restart");
    for (task, name) in tasks.iter().zip(["a", "b", "c"]) {
        case.ends(*task, TaskStatus::Succeeded).await;
        assert_eq!(case.starts(name).len(), 1);
        assert_eq!(case.output(*task).await, "out\n");
    }
    for part in case.deployment.parts().control {
        case.kill(&part).await;
        case.heal(&part).await;
    }
    let all = case.api.tasks(&TaskFilter { limit: 10, ..TaskFilter::default() }).await.unwrap();
    assert_eq!(ids(&all.tasks), tasks);
    for task in tasks {
        assert_eq!(case.api.task(task).await.unwrap().status, TaskStatus::Succeeded);
        assert_eq!(case.output(task).await, "out\n", "output is kept as well");
    }
}

pub async fn work_goes_on_while_the_control_side_is_away(case: &mut Case) {
    let mark = case.deployment.scratch().join("went-on").display().to_string();
    let ends = case.submit(case.script("ends", &format!("passes one; echo late; : > {mark}; exit 5"))).await;
    let goes_on = case.submit(case.script("goes-on", "passes two; echo done")).await;
    for task in [ends, goes_on] {
        case.running(task).await;
    }
    let control = case.deployment.parts().control;
    for part in &control {
        case.kill(part).await;
    }
    case.open("one");
    case.written("went-on");
    for part in &control {
        case.heal(part).await;
    }
    let done = case.ends(ends, TaskStatus::Failed).await;
    assert!(done.view.record.last_end().unwrap().to_string().contains("exit code 5"));
    case.open("two");
    case.ends(goes_on, TaskStatus::Succeeded).await;
    for (task, name, output) in [(ends, "ends", "late\n"), (goes_on, "goes-on", "done\n")] {
        assert_eq!((case.starts(name).len(), case.output(task).await.as_str()), (1, output));
    }
}

pub async fn events_come_in_order_and_have_no_silent_gap(case: &mut Case) {
    let mut events = case.api.events(EventStart::Now).await.unwrap();
    // Without a restart every state is told.
    let first = case.submit(case.script("first", "true")).await;
    case.ends(first, TaskStatus::Succeeded).await;
    let mut told = Vec::new();
    while told.last() != Some(&TaskStatus::Succeeded) {
        if let EventKind::Task(record) = events.next().await.unwrap().unwrap().event.kind {
            assert_eq!(record.id, first);
            told.push(record.status());
        }
    }
    assert!(told.is_sorted_by_key(|status| status.is_finished()) && told.len() >= 2, "{told:?}");

    let (mut seen, mut expected) = (Vec::new(), Vec::new());
    let control = case.deployment.parts().control;
    for round in 0..3 {
        let task = case.submit(case.script(&format!("t{round}"), "true")).await;
        expected.push(task);
        case.ends(task, TaskStatus::Succeeded).await;
        let part = &control[round % control.len()];
        case.kill(part).await;
        case.heal(part).await;
    }
    // A reader that catches up where it is told to misses nothing.
    while seen.len() < expected.len() {
        let over = match events.next().await {
            Some(Ok(event)) => match event.event.kind {
                EventKind::Task(record) if record.status() == TaskStatus::Succeeded => vec![record.id],
                _ => Vec::new(),
            },
            Some(Err(error)) => {
                assert_eq!(error.code(), Some("events_compacted"), "{error}");
                events = case.api.events(EventStart::Now).await.unwrap();
                let listed =
                    case.api.tasks(&TaskFilter { limit: 10, ..TaskFilter::default() }).await.unwrap();
                let over = listed.tasks.into_iter().filter(|task| task.status == TaskStatus::Succeeded);
                over.map(|task| task.view.record.id).collect()
            }
            None => panic!("the events ended without an error"),
        };
        let new = over.into_iter().filter(|task| *task != first && !seen.contains(task));
        seen.extend(new.collect::<Vec<_>>());
    }
    assert_eq!(seen, expected);
}

pub async fn everything_dies_at_once_and_nothing_is_lost(case: &mut Case) {
    let mut tasks = Vec::new();
    for number in 0..6 {
        let name = format!("t{number}");
        let task = case.submit(case.script(&name, "passes end; echo done").max_attempts(3)).await;
        tasks.push((task, name));
    }
    for (task, _) in &tasks {
        case.running(*task).await;
    }
    let all = case.deployment.parts().all();
    for part in &all {
        case.kill(part).await;
    }
    for part in &all {
        case.heal(part).await;
    }
    case.open("end");
    for (task, name) in tasks {
        let done = case.ends(task, TaskStatus::Succeeded).await;
        let starts = case.starts(&name);
        assert_eq!(starts.len(), usize::try_from(done.view.record.attempts_made).unwrap(), "{starts:?}");
        let distinct: BTreeSet<&String> = starts.iter().collect();
        assert_eq!(distinct.len(), starts.len(), "an attempt was started twice: {starts:?}");
        assert!(case.output(task).await.contains("done\n"));
    }
}
