//! Prints a Markdown table: `orch-crdt-benches [PART_OF_A_NAME]`. Each line is a process of its own.

#![expect(clippy::print_stdout, reason = "it is what this program is for")]

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use orch_crdt_benches::{Automerge, Durable, Failure, Loro, Memory, Pair, Yrs};

const KEYS: usize = 100_000;
const REWRITTEN: usize = 1000;
const ROUNDS: usize = 100;
const NAMES: [&str; 5] = ["orch, durable", "orch, in memory", "loro", "automerge", "yrs"];

fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [one, name] = arguments.as_slice()
        && one == "one"
    {
        println!("{}", measure(name)?);
        return Ok(());
    }
    let part = arguments.first().map_or("", String::as_str);
    println!("load average before: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    println!();
    println!(
        "| | 100k puts, k/s | merge 100k with 100k, s | 1% changed: s | bytes sent / changed | memory, bytes/key | on disk, bytes/key | 1,000 keys 100 times: s | on disk, KiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for name in NAMES.iter().filter(|name| name.contains(part)) {
        let output =
            Command::new(std::env::current_exe()?).args(["one", name]).stderr(Stdio::inherit()).output()?;
        println!("| {name} | {}", String::from_utf8(output.stdout)?.trim());
    }
    Ok(())
}

fn measure(name: &str) -> Result<String, Failure> {
    match name {
        "orch, durable" => line::<Durable>(),
        "orch, in memory" => line::<Memory>(),
        "loro" => line::<Loro>(),
        "automerge" => line::<Automerge>(),
        _ => line::<Yrs>(),
    }
}

fn line<P: Pair>() -> Result<String, Failure> {
    let before = resident()?;
    let mut pair = P::new()?;
    let begin = Instant::now();
    pair.put(0, 0, KEYS, 1)?;
    let put = begin.elapsed();
    let memory = resident()?.saturating_sub(before) / KEYS;
    let size = pair.size()? / KEYS as u64;
    pair.put(1, KEYS, KEYS, 1)?;
    let begin = Instant::now();
    pair.merge()?;
    let merge = begin.elapsed();
    assert_eq!((pair.keys(0)?, pair.keys(1)?), (2 * KEYS, 2 * KEYS), "both have everything");
    let changed = KEYS / 100;
    pair.put(0, 0, changed, 2)?;
    let begin = Instant::now();
    let sent = pair.merge()?;
    let sync = begin.elapsed();
    drop(pair);

    let mut pair = P::new()?;
    let begin = Instant::now();
    for round in 0..ROUNDS {
        pair.put(0, 0, REWRITTEN, round as u8)?;
        // So that nobody keeps the others from forgetting.
        pair.merge()?;
    }
    let rewrite = begin.elapsed();
    let rewritten = pair.size()? >> 10;
    let ratio = sent as f64 / (changed * (100 + "nodes/00000000".len())) as f64;
    let ratio = if sent == 0 { "–".to_owned() } else { format!("{ratio:.2}") };
    Ok(format!(
        "{:.0} | {:.2} | {:.3} | {ratio} | {memory} | {size} | {:.2} | {rewritten} |",
        KEYS as f64 / put.as_secs_f64() / 1e3,
        merge.as_secs_f64(),
        sync.as_secs_f64(),
        rewrite.as_secs_f64(),
    ))
}

/// The memory of this process, in bytes.
fn resident() -> Result<usize, Failure> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: usize = statm.split(' ').nth(1).ok_or("statm has two numbers")?.parse()?;
    Ok(pages * 4096)
}
