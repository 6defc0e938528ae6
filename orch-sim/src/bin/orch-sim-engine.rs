//! Runs of whole clusters in virtual time: many, one again, and proof that they would find seeded faults.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a program for a terminal")]

use std::{
    collections::VecDeque,
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Instant,
};

use orch_core::fault::EngineFault;
use orch_sim::engine::{Scenario, Violation, run};
use parking_lot::Mutex;

const HELP: &str = "\
orch-sim-engine soak --seeds N [--first SEED]
orch-sim-engine replay --seed SEED [--fault NAME]
orch-sim-engine faults [--seeds N] [--fault NAME]    (needs a build with --cfg orch_seeded_faults)";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.first().map(String::as_str) {
        Some("soak") => Options::read(&words[1..]).and_then(|options| soak(&options)),
        Some("replay") => Options::read(&words[1..]).and_then(|options| replay(&options)),
        Some("faults") => Options::read(&words[1..]).and_then(|options| faults(&options)),
        _ => Err(HELP.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    seeds: u64,
    first: u64,
    fault: Option<EngineFault>,
}

impl Options {
    fn read(words: &[String]) -> Result<Self, String> {
        let mut options = Self { seeds: 200, first: 0, fault: None };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a value\n{HELP}"))?;
            let number = || value.parse().map_err(|_| format!("{word} {value}: not a number"));
            match word.as_str() {
                "--seeds" => options.seeds = number()?,
                "--first" | "--seed" => options.first = number()?,
                "--fault" => options.fault = Some(fault(value)?),
                _ => return Err(format!("{word} is not known\n{HELP}")),
            }
        }
        Ok(options)
    }
}

fn fault(name: &str) -> Result<EngineFault, String> {
    if !cfg!(orch_seeded_faults) {
        return Err("seeded faults need another build: cargo xtask seeded-faults makes and runs it".into());
    }
    let known = EngineFault::ALL.iter().find(|(known, _)| *known == name);
    known.map(|(_, fault)| *fault).ok_or_else(|| {
        let names: Vec<&str> = EngineFault::ALL.iter().map(|(name, _)| *name).collect();
        format!("{name:?} is no seeded fault; they are {}", names.join(", "))
    })
}

/// Runs seeds on all processors until one fails, or all of them.
fn run_seeds(
    seeds: std::ops::Range<u64>,
    fault: Option<EngineFault>,
    all: bool,
) -> (u64, VecDeque<(u64, Violation)>) {
    let (next, failed) = (AtomicU64::new(seeds.start), Mutex::new(VecDeque::new()));
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let result = run(Scenario { fault, ..Scenario::new(seed) });
                    done.fetch_add(1, Ordering::Relaxed);
                    if let Err(violation) = result {
                        failed.lock().push_back((seed, violation));
                        stop.store(!all, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    (done.into_inner(), failed.into_inner())
}

fn soak(options: &Options) -> Result<(), String> {
    let began = Instant::now();
    let (runs, failed) = run_seeds(options.first..options.first + options.seeds, options.fault, true);
    for (seed, violation) in &failed {
        println!("seed {seed}: {violation}");
    }
    let (failures, seconds) = (failed.len(), began.elapsed().as_secs_f64());
    println!("{runs} runs of clusters, {failures} failed, in {seconds:.0} s");
    if failures == 0 { Ok(()) } else { Err("a promise was broken".into()) }
}

fn replay(options: &Options) -> Result<(), String> {
    let scenario = Scenario { fault: options.fault, ..Scenario::new(options.first) };
    let summary = run(scenario).map_err(|violation| violation.to_string())?;
    println!("{summary:?}");
    Ok(())
}

/// Makes each known mistake until the simulation notices it. Fails when it does not notice one.
fn faults(options: &Options) -> Result<(), String> {
    let (mut caught, mut all) = (0, 0);
    for (name, fault) in EngineFault::ALL {
        if options.fault.is_some_and(|only| only != *fault) {
            continue;
        }
        all += 1;
        let (runs, failed) = run_seeds(0..options.seeds, Some(*fault), false);
        match failed.front() {
            Some((seed, violation)) => {
                caught += 1;
                println!("caught   {name}: seed {seed}, after {runs} runs: {violation}");
            }
            None => println!("ESCAPED  {name}: {runs} runs noticed nothing"),
        }
    }
    println!("{caught} of {all} seeded faults of the engine caught");
    if caught == all { Ok(()) } else { Err("a seeded fault escaped".into()) }
}
