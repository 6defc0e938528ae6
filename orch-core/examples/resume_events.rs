//! A reader of events that goes away and resumes where it was, without a gap or a repetition.
//!
//! `cargo run -p orch-core --example resume_events`

use orch_core::{
    Orchestrator,
    engine::{EventKind, EventStream},
    model::{TaskId, TaskSpec},
    state::TaskStatus,
    store::Revision,
};

/// Reads until the task is over; says up to where.
async fn read_until_over(
    events: &mut EventStream,
    task: TaskId,
) -> orch_core::Result<(Vec<TaskStatus>, Revision)> {
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        let event = event?;
        let EventKind::Task(record) = event.kind else { continue };
        if record.id == task {
            seen.push(record.status());
            if record.is_finished() {
                return Ok((seen, event.revision));
            }
        }
    }
    Err(orch_core::Error::ShuttingDown)
}

pub fn main() -> orch_core::Result<()> {
    orch_core::block_on(async {
        let orch = Orchestrator::local().await?;
        let mut events = orch.events();
        let first = orch.submit(TaskSpec::program("first", "true")).await?;
        let (seen, revision) = read_until_over(&mut events, first).await?;
        assert_eq!(seen, [TaskStatus::Placed, TaskStatus::Succeeded]);
        drop(events);

        // Meanwhile things happen that the reader does not hear of.
        let second = orch.submit(TaskSpec::program("second", "true")).await?;
        orch.wait(second).await?;

        let mut resumed = orch.events_from(revision)?;
        let (seen, _) = read_until_over(&mut resumed, second).await?;
        assert_eq!(seen, [TaskStatus::Placed, TaskStatus::Succeeded], "nothing is missed");
        orch.shutdown().await
    })
}
