//! Nodes that die, come back, and are emptied.

use std::{collections::BTreeSet, time::Duration};

use orch_core::{
    model::{Constraint, NodeId},
    state::TaskStatus,
};

use super::Case;

pub async fn the_work_of_a_killed_node_goes_elsewhere_and_no_attempt_starts_twice(case: &mut Case) {
    // The first attempt never ends: the task is over only where another one was made.
    let script = "case $ORCH_ATTEMPT in *.1) passes never;; *) echo moved;; esac";
    let task = case.submit(case.script("moves", script)).await;
    case.running(task).await;
    let node = case.node_of(task).await;
    case.kill(&node).await;
    let done = case.ends(task, TaskStatus::Succeeded).await;
    let nodes: Vec<String> =
        done.view.record.attempts.iter().map(|attempt| attempt.node.to_string()).collect();
    assert!(nodes.len() == 2 && nodes[0] == node && nodes[1] != node, "{nodes:?}");
    assert_eq!(case.starts("moves"), [1, 2].map(|number| format!("{task}.{number}")));
    assert_eq!(case.output(task).await, "moved\n");

    // Back again, the node ends what it had left and takes new work.
    case.heal(&node).await;
    let mut next = case.script("next", "true");
    next.constraints.push(Constraint::Node { node: NodeId::new(&node).unwrap() });
    let next = case.submit(next).await;
    case.ends(next, TaskStatus::Succeeded).await;
    case.is_still("moves");
    assert_eq!(case.starts("moves").len(), 2);
}

pub async fn a_drained_node_gives_up_its_work_and_takes_none_until_it_is_uncordoned(case: &mut Case) {
    // Only the first attempt waits at a gate, so that it can be seen to be gone.
    let script = "case $ORCH_ATTEMPT in *.1) passes never;; esac; echo done";
    let task = case.submit(case.script("moves", script)).await;
    case.running(task).await;
    let node = NodeId::new(case.node_of(task).await).unwrap();
    case.api.drain(&node, Duration::ZERO).await.unwrap();
    let done = case.ends(task, TaskStatus::Succeeded).await;
    assert_eq!((case.starts("moves").len(), done.view.record.attempts_made), (2, 2));
    let nodes = &done.view.record.attempts;
    assert!(nodes[0].node == node && nodes[1].node != node, "{nodes:?}");
    case.is_still("moves");
    assert_eq!(case.api.node(&node).await.unwrap().tasks, 0);
    let others: BTreeSet<String> = case.deployment.parts().nodes.into_iter().collect();
    for other in others.iter().filter(|other| **other != node.to_string()) {
        case.api.cordon(&NodeId::new(other).unwrap()).await.unwrap();
    }
    let waits = case.submit(case.script("waits", "true")).await;
    let why = case.api.explain(waits).await.unwrap().unwrap().text;
    assert!(why.contains("drain") && why.contains("cordon"), "{why}");
    case.api.uncordon(&node).await.unwrap();
    case.ends(waits, TaskStatus::Succeeded).await;
}

pub async fn work_that_outlived_its_node_agent_is_adopted(case: &mut Case) {
    let task = case.submit(case.script("stays", "echo one; passes end; echo two; exit 3")).await;
    case.running(task).await;
    let node = case.node_of(task).await;
    case.kill(&node).await;
    case.heal(&node).await;
    case.open("end");
    let done = case.ends(task, TaskStatus::Failed).await;
    assert_eq!(done.view.record.attempts_made, 1, "{done:?}");
    assert!(done.view.record.last_end().unwrap().to_string().contains("exit code 3"));
    assert_eq!((case.starts("stays").len(), case.output(task).await.as_str()), (1, "one\ntwo\n"));
}
