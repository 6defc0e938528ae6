//! Prints a Markdown table of Byzantine groups of four: `orch-bft-benches [SECONDS [SYSTEM]]`. SYSTEM is a
//! substring of the name.

#![expect(clippy::print_stdout, reason = "it is what this program is for")]

mod instances;
mod simplex;
mod systems;

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use orch_peer_benches::Failure;

use self::{instances::Instances, systems::Bft};

const WARM: Duration = Duration::from_millis(500);

/// In a process of its own, so that nothing of one group is left when the next one is measured.
fn apart(system: Bft, seconds: &str) -> Result<String, Failure> {
    let program = std::env::current_exe()?;
    let name = system.to_string();
    let output = Command::new(program).args(["one", &name, seconds]).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(if text.is_empty() { "failed | | | |".to_owned() } else { text.trim().to_owned() })
}

fn line(Instances { count, wall, cpu }: Instances) -> String {
    let (count, wall, cpu) = (count as f64, wall.as_secs_f64(), cpu.as_secs_f64());
    format!("{:.0} | {:.1} | {:.0} | {:.2} |", count / wall, cpu * 1e6 / count, count / cpu, cpu / wall)
}

fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [one, name, seconds] = arguments.as_slice()
        && one == "one"
    {
        let system =
            Bft::ALL.into_iter().find(|system| system.to_string() == *name).ok_or("no such system")?;
        println!("{}", line(system.measure(WARM, Duration::try_from_secs_f64(seconds.parse()?)?)?));
        return Ok(());
    }
    let mut arguments = arguments.iter().map(String::as_str);
    let (seconds, part) = (arguments.next().unwrap_or("2"), arguments.next().unwrap_or_default());
    println!("load average before: {}\n", load_average());
    println!("| system | instances/s | CPU µs/instance | instances/CPU s | cores |");
    println!("|---|---|---|---|---|");
    for system in Bft::ALL.into_iter().filter(|system| system.to_string().contains(part)) {
        println!("| {system} | {}", apart(system, seconds)?);
    }
    println!("\nload average after: {}", load_average());
    Ok(())
}
