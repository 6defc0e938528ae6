//! Requests to a member that is behind, as an agent sends them.

use std::time::Duration;

use super::{oracle::Violation, world::World};
use orch_core::{
    Orchestrator,
    engine::{AssignmentsQuery, Registration, ReportAnswer},
    model::{
        AttemptEnd, AttemptId, CommandId, Constraint, Exit, IncarnationId, InstanceId, NodeId, NodeSpec,
        Report, ReportKind, Resources, Session, TaskId, TaskSpec, WorkKind,
    },
    state::NewTask,
};

/// A node without an agent of its own turns from the member that decided something to one that has
/// not applied it.
pub(super) async fn a_member_that_is_behind_answers_as_the_others(world: &World) -> Result<(), Violation> {
    let member = |number| world.member(number).ok_or_else(|| Violation(format!("member {number} is down")));
    let (ahead, behind) = (member(0)?, member(1)?);
    let session = register(&ahead).await?;
    // No time passes until the report is made, so that a refusal of it would write nothing, not even the
    // clock.
    behind.read_barrier().await.map_err(|error| failed("a barrier", &error))?;
    world.lag(1).set_watch(Duration::from_millis(300));

    let ended = submit(&ahead, &session.node, 0xf1).await?;
    let end = AttemptEnd::Exited { exit: Exit::from_code(0) };
    let report = Report { attempt: ended, node: session.node.clone(), kind: ReportKind::Ended(end) };
    let reported = behind.link().report(&session, vec![report]).await;
    let answers = reported.map_err(|error| failed("a report", &error))?.answers;
    if answers != [ReportAnswer::Accepted] {
        return Err(Violation(format!("a valid end was answered {answers:?} by a member that is behind")));
    }

    // Catching up took the other member a while.
    let heartbeat = ahead.link().heartbeat(&session).await;
    heartbeat.map_err(|error| failed("a heartbeat", &error))?;
    let given = submit(&ahead, &session.node, 0xf2).await?;
    let assignments = behind.link().assignments(&session, AssignmentsQuery::default()).await;
    let assignments = assignments.map_err(|error| failed("a request", &error))?;
    let named: Vec<AttemptId> = assignments.run.iter().map(|assignment| assignment.attempt).collect();
    if !assignments.complete || named != [given] {
        return Err(Violation(format!(
            "a member that is behind named {named:?} as everything (complete: {}), not {given}",
            assignments.complete
        )));
    }
    world.lag(1).set_watch(Duration::ZERO);
    Ok(())
}

async fn register(member: &Orchestrator) -> Result<Session, Violation> {
    let id = NodeId::new("probe").expect("a valid name");
    let capacity = Resources::new(4000, 4 << 30);
    let spec = NodeSpec::new(id, InstanceId::from_bytes([0xf0; 16]), capacity, [WorkKind::Program]);
    let incarnation = IncarnationId::from_bytes([0xf0; 16]);
    let registered =
        member.link().register(Registration { spec, incarnation, number: 1, held: Vec::new() }).await;
    registered.map(|registered| registered.session).map_err(|error| failed("a registration", &error))
}

/// A task for the node; its first attempt.
async fn submit(member: &Orchestrator, node: &NodeId, id: u8) -> Result<AttemptId, Violation> {
    let task = TaskId::from_bytes([id; 16]);
    let mut spec = TaskSpec::program("probe", "hang");
    spec.constraints.push(Constraint::Node { node: node.clone() });
    let new = NewTask { id: task, spec: spec.into() };
    let submitted = member.submit_as(CommandId::from_bytes([id; 16]), vec![new]).await;
    submitted.map_err(|error| failed("a submission", &error))?;
    let attempt = member.get(task).and_then(|view| view.record.current_attempt());
    attempt.ok_or_else(|| Violation(format!("task {task} was not placed on {node}")))
}

fn failed(what: &str, error: &dyn std::error::Error) -> Violation {
    Violation(format!("{what} failed: {error}"))
}
