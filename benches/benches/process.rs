//! Cost of processes on a worker: short tasks a second through [`ProcessRuntime`] and straight through `fork`
//! and `exec`, and the processor time and memory of many tasks that sleep. Takes the number of sleeping
//! tasks, 1,000 by default.

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroU32,
    path::Path,
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use orch_benches::{
    Failure, exit_code,
    process::{cpu_time, cpu_time_with_children},
};
use orch_core::{
    model::{AttemptId, TaskId, TaskSpec},
    runtime::{ProcessRuntime, ProcessRuntimeConfig, Progress, Runtime, Work},
};
use tempfile::TempDir;

const IN_FLIGHT: usize = 64;
const SHORT_TASKS: usize = 2000;
const SLEEPERS: usize = 1000;
const STARTS_AT_A_TIME: usize = 8;
const IDLE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    exit_code(orch_core::block_on(measure()))
}

async fn measure() -> Result<(), Failure> {
    let sleepers = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(SLEEPERS);
    let dir = TempDir::new()?;
    straight().await?;
    short(dir.path()).await?;
    idle(dir.path(), sleepers).await
}

/// Lower bound: the same program without a runtime.
#[expect(clippy::print_stdout, reason = "prints its figures")]
async fn straight() -> Result<(), Failure> {
    let (cpu, began) = (cpu_time_with_children("self")?, Instant::now());
    let runs = stream::iter(0..SHORT_TASKS).map(|_| async {
        let mut command = tokio::process::Command::new("/bin/true");
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().await.map(drop)
    });
    runs.buffer_unordered(IN_FLIGHT).try_collect::<()>().await?;
    println!("fork and exec:     {}", figures(began.elapsed(), cpu_time_with_children("self")? - cpu));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "prints its figures")]
async fn short(dir: &Path) -> Result<(), Failure> {
    let runtime = ProcessRuntime::new(ProcessRuntimeConfig::new(dir.join("short")))?;
    let runtime = &runtime;
    let (cpu, began) = (cpu_time_with_children("self")?, Instant::now());
    let runs = stream::iter(0..SHORT_TASKS).map(|_| async move {
        let work = work("/bin/true", &[]);
        runtime.prepare(&work, &Progress::none()).await?;
        runtime.start(&work).await?;
        runtime.wait(work.attempt).await?;
        runtime.remove(work.attempt).await
    });
    runs.buffer_unordered(IN_FLIGHT).try_collect::<()>().await?;
    println!("short tasks:       {}", figures(began.elapsed(), cpu_time_with_children("self")? - cpu));
    Ok(())
}

fn figures(wall: Duration, cpu: Duration) -> String {
    let tasks = u32::try_from(SHORT_TASKS).unwrap_or(u32::MAX);
    let rate = f64::from(tasks) / wall.as_secs_f64();
    format!("{rate:.0} a second, {:.0} us of processor time each", (cpu / tasks).as_secs_f64() * 1e6)
}

#[expect(clippy::print_stdout, reason = "prints its figures")]
async fn idle(dir: &Path, sleepers: usize) -> Result<(), Failure> {
    let runtime = ProcessRuntime::new(ProcessRuntimeConfig::new(dir.join("sleepers")))?;
    let runtime = &runtime;
    let starts = stream::iter(0..sleepers).map(|_| async move {
        let work = work("/bin/sleep", &["1000"]);
        let started = runtime.start(&work).await?;
        Ok::<_, Failure>((work.attempt, started.handle))
    });
    let running: Vec<_> = starts.buffer_unordered(STARTS_AT_A_TIME).try_collect().await?;
    // As an agent does, the output is read at the same time.
    let readers = stream::iter(&running).then(|(attempt, _)| async move {
        let mut logs = runtime.logs(*attempt, true).await?;
        Ok::<_, Failure>(tokio::spawn(async move { while logs.next().await.is_some() {} }))
    });
    let readers: Vec<_> = readers.try_collect().await?;

    let helpers = || running.iter().map(|(_, pid)| cpu_time(pid)).sum::<Result<Duration, Failure>>();
    let (own, others, began) = (cpu_time("self")?, helpers()?, Instant::now());
    tokio::time::sleep(IDLE).await;
    let (own, others, wall) = (cpu_time("self")? - own, helpers()? - others, began.elapsed());
    let percent = |time: Duration| 100.0 * time.as_secs_f64() / wall.as_secs_f64();
    let (own, others) = (percent(own), percent(others));
    println!("{sleepers} that sleep:   {own:.2} % of a core here, {others:.2} % in what watches over them");

    let began = Instant::now();
    let asked = running.iter().step_by(sleepers.div_ceil(20).max(1));
    let count = u32::try_from(asked.len())?;
    for (attempt, _) in asked {
        runtime.stats(*attempt).await?;
    }
    println!("stats of one:      {:.0} us", (began.elapsed() / count).as_secs_f64() * 1e6);

    let memory = running.iter().filter_map(|(_, pid)| proportional_bytes(pid)).sum::<u64>();
    println!(
        "memory for each:   {} KiB of what watches over it",
        memory / 1024 / u64::try_from(sleepers.max(1))?
    );

    let began = Instant::now();
    let attempts: Vec<_> = running.iter().map(|(attempt, _)| *attempt).collect();
    stream::iter(attempts)
        .map(|attempt| runtime.remove(attempt))
        .buffer_unordered(IN_FLIGHT)
        .try_collect::<()>()
        .await?;
    println!("removing them:     {:.1} s", began.elapsed().as_secs_f64());
    for reader in readers {
        reader.await?;
    }
    Ok(())
}

fn work(program: &str, args: &[&str]) -> Work {
    let attempt = AttemptId { task: TaskId::generate(), attempt: NonZeroU32::MIN };
    let spec = TaskSpec::program("bench", program).args(args.iter().copied());
    Work { attempt, spec: spec.into(), secrets: BTreeMap::new() }
}

/// Memory of a process in which pages shared with others count in part.
fn proportional_bytes(pid: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
