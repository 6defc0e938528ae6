//! Memory per finished task: `memory core [tasks]` through the functional core, `memory engine [tasks]`
//! through an orchestrator with an agent.

use std::{process::ExitCode, time::Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use orch_benches::{
    Failure,
    cluster::{Core, join, node, run_all, small_task},
    exit_code,
    process::resident_bytes,
};
use orch_core::{Orchestrator, state::ClusterConfig};

const TASKS: usize = 1_000_000;
const BATCH: usize = 100;
const AGENTS: usize = 4;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (part, tasks) = (args.next(), args.next().map_or(Ok(TASKS), |tasks| tasks.parse()));
    let measured = match (part.as_deref(), tasks) {
        (_, Err(error)) => Err(error.into()),
        (Some("core"), Ok(tasks)) => core(tasks),
        (Some("engine"), Ok(tasks)) => orch_core::block_on(engine(tasks)),
        _ => Err("usage: memory core|engine [tasks]".into()),
    };
    exit_code(measured)
}

fn core(tasks: usize) -> Result<(), Failure> {
    let mut core = Core::new(10, tasks);
    let before = resident_bytes()?;
    for number in 0..tasks {
        core.submit(small_task(format!("task-{number}")).into());
        core.end_oldest();
    }
    tell("functional core", tasks, before)?;
    drop(core);
    Ok(())
}

async fn engine(tasks: usize) -> Result<(), Failure> {
    let cluster = ClusterConfig { finished_max: tasks, ..ClusterConfig::default() };
    let orchestrator = Orchestrator::builder().cluster(cluster).build().await?;
    for number in 0..AGENTS {
        join(orchestrator.link(), node(number)).await?;
    }
    // The buffers of recent events and output are full after these, and do not count as cost of a task.
    let (warm, begin) = (tasks / 10, Instant::now());
    submit(&orchestrator, 0..warm).await?;
    let before = resident_bytes()?;
    submit(&orchestrator, warm..tasks).await?;
    tell("orchestrator", tasks - warm, before)?;
    say(&format!("{:.0} tasks/s meanwhile", tasks as f64 / begin.elapsed().as_secs_f64()));
    Ok(orchestrator.shutdown().await?)
}

async fn submit(orchestrator: &Orchestrator, numbers: std::ops::Range<usize>) -> Result<(), Failure> {
    let batches = numbers.step_by(BATCH).map(|first| {
        run_all(orchestrator, (first..first + BATCH).map(|number| small_task(format!("task-{number}"))))
    });
    stream::iter(batches).buffer_unordered(10).try_collect().await
}

fn tell(what: &str, tasks: usize, before: u64) -> Result<(), Failure> {
    let now = resident_bytes()?;
    let each = now.saturating_sub(before) as f64 / tasks as f64;
    say(&format!(
        "{what}: {each:.0} bytes per finished task ({tasks} tasks; {} MiB before, {} MiB after)",
        before >> 20,
        now >> 20
    ));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the numbers are what it is for")]
fn say(text: &str) {
    println!("{text}");
}
