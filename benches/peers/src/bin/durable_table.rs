//! Prints a Markdown table of groups whose writes are durable, under every load: `durable_table [SECONDS
//! [SYSTEM [CLIENTS...]]]`. SYSTEM is a part of the name.

#![expect(clippy::print_stdout, reason = "it is what this program is for")]

use std::time::Duration;

use orch_peer_benches::{Durable, Failure, Summary, member};

const WARM: Duration = Duration::from_secs(1);

fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

fn line((summary, cpu): (Summary, Duration)) -> String {
    let Summary { operations, wall, p50, p99 } = summary;
    format!(
        "{:.0} | {:.1} | {} | {} | {:.2} |",
        operations as f64 / wall.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / operations.max(1) as f64,
        p50.as_micros(),
        p99.as_micros(),
        cpu.as_secs_f64() / wall.as_secs_f64(),
    )
}

async fn table(time: Duration, part: &str, clients: &[usize]) -> Result<(), Failure> {
    println!("load average before: {}\n", load_average());
    println!("| system | clients | ops/s | CPU µs/op | p50 µs | p99 µs | cores |");
    println!("|---|---|---|---|---|---|---|");
    for &clients in clients {
        for system in Durable::ALL.into_iter().filter(|system| system.to_string().contains(part)) {
            println!("| {system} | {clients} | {}", line(system.measure(clients, WARM, time).await?));
        }
    }
    println!("\nload average after: {}", load_average());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let Some(("member", rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return member(rest).await;
    }
    let mut arguments = arguments.into_iter();
    let time = Duration::try_from_secs_f64(arguments.next().map_or(Ok(4.0), |text| text.parse())?)?;
    let part = arguments.next().unwrap_or_default();
    let mut clients = arguments.map(|text| text.parse()).collect::<Result<Vec<usize>, _>>()?;
    if clients.is_empty() {
        clients = vec![1, 64, 256];
    }
    tokio::select! {
        printed = table(time, &part, &clients) => printed,
        // The members end with this process only when it ends in order.
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    }
}
