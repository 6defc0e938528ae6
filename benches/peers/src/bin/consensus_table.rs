//! Prints a Markdown table of every system under every load: `consensus_table [SECONDS [SYSTEM]]`. SYSTEM is
//! a part of the name.

#![expect(clippy::print_stdout, reason = "it is what this program is for")]

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use orch_peer_benches::{Failure, Figures, Load, System, Until};

const WARM: Duration = Duration::from_millis(500);
/// Time that a group may take to start and to warm up.
const PATIENCE: Duration = Duration::from_secs(6);

fn measure(system: System, clients: usize, payload: usize, time: Duration) -> Result<Figures, Failure> {
    let mut group = system.start()?;
    group.run(&Load { clients, payload, until: Until::Over(WARM) })?;
    group.run(&Load { clients, payload, until: Until::Over(time) })
}

/// In a process of its own, so that nothing of one group is left when the next one is measured.
#[expect(clippy::disallowed_methods, reason = "no worker is blocked: nothing else happens in this process")]
fn apart(system: System, clients: usize, payload: usize, time: Duration) -> Result<String, Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["one", &system.to_string(), &clients.to_string(), &payload.to_string()])
        .arg(time.as_secs_f64().to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let end = Instant::now() + 2 * time + PATIENCE;
    while child.try_wait()?.is_none() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    if child.try_wait()?.is_none() {
        child.kill()?;
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(if text.is_empty() { "nothing in time | | | | |".to_owned() } else { text.trim().to_owned() })
}

fn one(arguments: &[String]) -> Result<(), Failure> {
    let [name, clients, payload, seconds] = arguments else { return Err("four arguments".into()) };
    let sizes = [4, 7, 10, 16, 31].map(|members| System::OrchPbft { members });
    let system = System::ALL.into_iter().chain(sizes).find(|system| system.to_string() == *name);
    let time = Duration::try_from_secs_f64(seconds.parse()?)?;
    let figures = measure(system.ok_or("no such system")?, clients.parse()?, payload.parse()?, time)?;
    println!("{}", line(&figures));
    Ok(())
}

fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

fn micros(time: Duration) -> String {
    format!("{:.0}", time.as_secs_f64() * 1e6)
}

fn line(figures: &Figures) -> String {
    format!(
        "{:.0} | {:.1} | {} | {} | {:.2} |",
        figures.rate(),
        figures.cpu_micros(),
        micros(figures.percentile(50)),
        micros(figures.percentile(99)),
        figures.cpu.as_secs_f64() / figures.wall.as_secs_f64(),
    )
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let Some(("one", rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return one(rest);
    }
    let mut arguments = arguments.into_iter();
    let seconds = arguments.next().map_or(Ok(2.0), |text| text.parse())?;
    let time = Duration::try_from_secs_f64(seconds)?;
    let part = arguments.next().unwrap_or_default();
    println!("load average before: {}\n", load_average());
    println!("| system | bytes | clients | ops/s | CPU µs/op | p50 µs | p99 µs | cores |");
    println!("|---|---|---|---|---|---|---|---|");
    for payload in [64, 1024] {
        for clients in [1, 64, 256, 1024] {
            for system in System::ALL.into_iter().filter(|system| system.to_string().contains(&part)) {
                println!("| {system} | {payload} | {clients} | {}", apart(system, clients, payload, time)?);
            }
        }
    }
    println!("\nload average after: {}\n", load_average());
    if !"orch-pbft".contains(&part) {
        return Ok(());
    }
    println!("| PBFT members | ops/s | CPU µs/op | p50 µs | p99 µs | cores |");
    println!("|---|---|---|---|---|---|");
    for members in [4, 7, 10, 16, 31] {
        println!("| {members} | {}", apart(System::OrchPbft { members }, 64, 64, time)?);
    }
    println!("\nload average after: {}", load_average());
    Ok(())
}
