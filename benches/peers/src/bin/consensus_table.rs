//! Prints a Markdown table of every system under every load: `consensus_table [SECONDS [SYSTEM]]`. SYSTEM is a part of the name.

#![expect(clippy::print_stdout, reason = "it is what this program is for")]

use std::time::Duration;

use orch_peer_benches::{Failure, Figures, Load, System, Until};

const WARM: Duration = Duration::from_millis(500);

fn measure(system: System, clients: usize, payload: usize, time: Duration) -> Result<Figures, Failure> {
    let mut group = system.start()?;
    group.run(&Load { clients, payload, until: Until::Over(WARM) })?;
    let figures = group.run(&Load { clients, payload, until: Until::Over(time) })?;
    group.stop();
    Ok(figures)
}

fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

fn micros(time: Duration) -> String {
    format!("{:.0}", time.as_secs_f64() * 1e6)
}

fn line(figures: &Figures) -> String {
    let blocks = figures.blocks.map_or_else(String::new, |blocks| {
        let (wall, cpu) = (figures.wall.as_secs_f64(), figures.cpu.as_secs_f64());
        let blocks = f64::from(u32::try_from(blocks).unwrap_or(u32::MAX));
        format!("{:.0} blocks/s, {:.0} per CPU s", blocks / wall, blocks / cpu)
    });
    format!(
        "{:.0} | {:.1} | {} | {} | {:.2} | {blocks} |",
        figures.rate(),
        figures.cpu_micros(),
        micros(figures.percentile(50)),
        micros(figures.percentile(99)),
        figures.cpu.as_secs_f64() / figures.wall.as_secs_f64(),
    )
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(Ok(2.0), |text| text.parse())?;
    let time = Duration::try_from_secs_f64(seconds)?;
    let part = arguments.next().unwrap_or_default();
    println!("load average before: {}\n", load_average());
    println!("| system | bytes | clients | ops/s | CPU µs/op | p50 µs | p99 µs | cores | |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for payload in [64, 1024] {
        for clients in [1, 64, 256, 1024] {
            for system in System::ALL.into_iter().filter(|system| system.to_string().contains(&part)) {
                let what = match measure(system, clients, payload, time) {
                    Ok(figures) => line(&figures),
                    Err(error) => format!("| | | | | {error} |"),
                };
                println!("| {system} | {payload} | {clients} | {what}");
            }
        }
    }
    println!("\nload average after: {}\n", load_average());
    if !"orch-pbft".contains(&part) {
        return Ok(());
    }
    println!("| PBFT members | ops/s | CPU µs/op | p50 µs | p99 µs | cores | |");
    println!("|---|---|---|---|---|---|---|");
    for members in [4, 7, 10, 16, 31] {
        println!("| {members} | {}", line(&measure(System::OrchPbft { members }, 64, 64, time)?));
    }
    println!("\nload average after: {}", load_average());
    Ok(())
}
