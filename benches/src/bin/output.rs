//! Disk usage of output: `output store|files DIR [tasks] [bytes]` runs programs that print, with the state in
//! redb and the output in the same store or in separate files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use orch_benches::{Failure, exit_code};
use orch_core::{
    Orchestrator,
    engine::EngineConfig,
    model::TaskSpec,
    output::{FileOutput, FileOutputConfig},
};
use orch_store::embedded::{RedbStore, RedbStoreConfig};

const TASKS: usize = 180;
const BYTES: usize = 1_200_000;
const AT_A_TIME: usize = 16;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| args.get(at).map_or(Ok(default), |text| text.parse::<usize>());
    let measured = match (args.first().map(String::as_str), args.get(1), number(2, TASKS), number(3, BYTES)) {
        (Some(place @ ("store" | "files")), Some(dir), Ok(tasks), Ok(bytes)) => {
            orch_core::block_on(measure(place, dir.into(), tasks, bytes))
        }
        _ => Err("usage: output store|files DIR [tasks] [bytes]".into()),
    };
    exit_code(measured)
}

async fn measure(place: &str, dir: PathBuf, tasks: usize, bytes: usize) -> Result<(), Failure> {
    let orchestrator = open(place, &dir).await?;
    let print =
        format!("yes 'sixty-four bytes of output, or so it says in the comment on it' | head -c {bytes}");
    let done: Vec<_> = stream::iter(0..tasks)
        .map(|number| {
            let spec = TaskSpec::program(format!("print-{number}"), "sh").args(["-c", &print]);
            let orchestrator = &orchestrator;
            async move {
                let task = orchestrator.submit(spec).await?;
                orchestrator.wait(task).await?;
                Ok::<_, Failure>(task)
            }
        })
        .buffer_unordered(AT_A_TIME)
        .try_collect()
        .await?;
    orchestrator.shutdown().await?;
    drop(orchestrator);
    tell(&dir, "after the tasks")?;
    let orchestrator = open(place, &dir).await?;
    let mut kept = 0;
    for task in done {
        kept += orchestrator.logs(task, false).await?.text().await?.len();
    }
    orchestrator.shutdown().await?;
    say(&format!("{place}: {tasks} tasks of {bytes} bytes, {kept} bytes are kept"));
    tell(&dir, "after a restart")
}

async fn open(place: &str, dir: &Path) -> Result<Orchestrator, Failure> {
    let store = RedbStore::open(RedbStoreConfig::new(dir.join("state"))).await?;
    let builder = Orchestrator::builder().store(Arc::new(store)).engine(EngineConfig::default());
    let builder = match place {
        "files" => {
            let output = FileOutput::open(FileOutputConfig::new(dir.join("output"))).await?;
            builder.output(Arc::new(output))
        }
        _ => builder,
    };
    Ok(builder.local_node()?.build().await?)
}

fn tell(dir: &Path, when: &str) -> Result<(), Failure> {
    let (state, output) = (size(&dir.join("state"))?, size(&dir.join("output"))?);
    say(&format!("{when}: state {state} bytes, output {output} bytes"));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the figures are what it is for")]
fn say(line: &str) {
    println!("{line}");
}

fn size(dir: &Path) -> Result<u64, Failure> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.metadata()?.len())).sum(),
        Err(_) => Ok(0),
    }
}
