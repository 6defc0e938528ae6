//! Time of a submission while clients list: `list [tasks]`. Tasks that wait, in memory; first alone, then
//! beside two clients that list without a break: one by the common prefix of all ids, one by a name that no
//! task has, which scans all of them.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use orch_benches::{Failure, cluster::small_task, exit_code};
use orch_core::{Orchestrator, engine::TaskFilter, state::ClusterConfig};

const TASKS: usize = 400_000;
const SUBMISSIONS: usize = 2000;

fn main() -> ExitCode {
    exit_code(orch_core::block_on(measure()))
}

async fn measure() -> Result<(), Failure> {
    let tasks = std::env::args().nth(1).map_or(Ok(TASKS), |tasks| tasks.parse())?;
    let cluster = ClusterConfig { unfinished_max: tasks + 2 * SUBMISSIONS, ..ClusterConfig::default() };
    let orchestrator = Orchestrator::builder().cluster(cluster).build().await?;
    let names: Vec<_> = (0..tasks).map(|number| small_task(format!("task-{number}"))).collect();
    let mut ids = Vec::new();
    for some in names.chunks(10_000) {
        ids.extend(orchestrator.submit_all(some.to_vec()).await?);
    }
    let first = ids.first().ok_or("there must be a task")?.short();
    tell("alone", &submissions(&orchestrator).await?, None);

    let (stop, lists) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let by_id = TaskFilter { id_prefix: Some(first[..2].into()), ..TaskFilter::default() };
    let by_name = TaskFilter { name: Some("nobody".into()), ..TaskFilter::default() };
    let clients = [by_id, by_name].map(|filter| {
        let (orchestrator, stop, lists) = (orchestrator.clone(), stop.clone(), lists.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                drop(orchestrator.list(&filter));
                lists.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let begin = Instant::now();
    let times = submissions(&orchestrator).await?;
    let rate = lists.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().map_err(|_| "a client fell over")?;
    }
    tell("beside two clients that list", &times, Some(rate));
    Ok(orchestrator.shutdown().await?)
}

/// Times of many submissions, the shortest first.
async fn submissions(orchestrator: &Orchestrator) -> Result<Vec<Duration>, Failure> {
    let mut times = Vec::with_capacity(SUBMISSIONS);
    for number in 0..SUBMISSIONS {
        let spec = small_task(format!("measured-{number}"));
        let begin = Instant::now();
        orchestrator.submit(spec).await?;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

#[expect(clippy::print_stdout, reason = "the figures are the output")]
fn tell(what: &str, times: &[Duration], lists: Option<f64>) {
    let at = |share: usize| times[(times.len() * share / 1000).min(times.len() - 1)].as_secs_f64() * 1000.0;
    let lists = lists.map(|rate| format!("; {rate:.0} lists/s")).unwrap_or_default();
    println!("{what}: p50 {:.3} ms, p99 {:.3} ms, longest {:.3} ms{lists}", at(500), at(990), at(1000));
}
