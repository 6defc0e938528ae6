//! Runs simulated groups: many seeds at once, or one step by step.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Write as _},
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use orch_consensus::pbft::SeededFault;
use orch_sim::pbft::{
    Failure, Report, Scenario, Twins, run,
    script::{CASES, play},
};
use parking_lot::Mutex;

const USAGE: &str = "\
orch-sim soak --seeds N [--first SEED] [--replicas 4,7] [--fault NAME] [--keep-going]
orch-sim replay --seed SEED [--replicas N] [--fault NAME]
orch-sim twice --seeds N [--replicas 4,7]
orch-sim twins [--seeds N] [--rounds R]
orch-sim faults [--seeds N] [--fault NAME]";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let result = match words.first().map(String::as_str) {
        Some("soak") => Options::read(&words[1..]).and_then(|options| soak(&options)),
        Some("replay") => Options::read(&words[1..]).and_then(|options| replay(&options)),
        Some("twins") => Options::read(&words[1..]).and_then(|options| twins(&options)),
        Some("faults") => Options::read(&words[1..]).and_then(|options| faults(&options)),
        Some("twice") => Options::read(&words[1..]).and_then(|options| twice(&options)),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let _ = writeln!(io::stderr(), "{problem}");
            ExitCode::FAILURE
        }
    }
}

fn say(line: impl fmt::Display) {
    // A closed pipe cannot be reported on.
    let _ = writeln!(io::stdout(), "{line}");
}

struct Options {
    seeds: u64,
    first: u64,
    replicas: Vec<usize>,
    fault: Option<SeededFault>,
    keep_going: bool,
    rounds: u32,
}

impl Options {
    fn read(words: &[String]) -> Result<Self, String> {
        let mut options =
            Self { seeds: 100, first: 0, replicas: vec![4, 7], fault: None, keep_going: false, rounds: 3 };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word == "--keep-going" {
                options.keep_going = true;
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"))?;
            let number = || value.parse::<u64>().map_err(|_| format!("{word} needs a number, not {value:?}"));
            match word.as_str() {
                "--seeds" => options.seeds = number()?,
                "--rounds" => options.rounds = u32::try_from(number()?.min(4)).unwrap_or(4),
                "--first" => options.first = number()?,
                "--seed" => (options.first, options.seeds) = (number()?, 1),
                "--replicas" => {
                    let sizes = value.split(',').map(str::parse).collect::<Result<_, _>>();
                    options.replicas = sizes.map_err(|_| format!("--replicas needs sizes, not {value:?}"))?;
                }
                "--fault" => options.fault = Some(fault(value)?),
                _ => return Err(format!("{word} is not known\n{USAGE}")),
            }
        }
        Ok(options)
    }

    fn scenario(&self, job: u64) -> Scenario {
        let sizes = self.replicas.len() as u64;
        let size = usize::try_from(job % sizes).unwrap_or(0);
        let mut scenario = Scenario::from_seed(self.first + job / sizes, self.replicas[size]);
        if let Some(fault) = self.fault {
            scenario = Scenario::hunting(fault, scenario.seed, scenario.replicas);
        }
        scenario
    }
}

fn fault(name: &str) -> Result<SeededFault, String> {
    let known = SeededFault::ALL.iter().find(|(known, _)| *known == name);
    known.map(|(_, fault)| *fault).ok_or_else(|| {
        let names: Vec<_> = SeededFault::ALL.iter().map(|(name, _)| *name).collect();
        format!("{name:?} is no seeded fault; they are {}", names.join(", "))
    })
}

/// Runs all seeds on all processors, and ends with one line of totals.
fn soak(options: &Options) -> Result<(), String> {
    let jobs = options.seeds * options.replicas.len() as u64;
    let (next, totals, began) = (AtomicU64::new(0), Mutex::new(Totals::default()), Instant::now());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    if job >= jobs {
                        return;
                    }
                    let result = run(&options.scenario(job), false);
                    let mut totals = totals.lock();
                    totals.add(result);
                    if totals.runs.is_multiple_of(500) {
                        say(format_args!("{} of {jobs} runs, {} failed", totals.runs, totals.failures.len()));
                    }
                    if !totals.failures.is_empty() && !options.keep_going {
                        next.store(jobs, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let totals = totals.into_inner();
    for failure in &totals.failures {
        say(failure);
    }
    let mut kinds = BTreeMap::<&str, usize>::new();
    for failure in &totals.failures {
        *kinds.entry(failure.problem.split(':').next().unwrap_or_default()).or_default() += 1;
    }
    if !kinds.is_empty() {
        say(format_args!("{kinds:?}"));
    }
    say(totals.line(began.elapsed()));
    if totals.failures.is_empty() { Ok(()) } else { Err(format!("{} runs failed", totals.failures.len())) }
}

#[derive(Default)]
struct Totals {
    runs: u64,
    sum: Report,
    recovery_max: Duration,
    failures: Vec<Failure>,
}

impl Totals {
    fn add(&mut self, result: Result<Report, Box<Failure>>) {
        self.runs += 1;
        match result {
            Ok(report) => {
                let sum = &mut self.sum;
                sum.statistics.events += report.statistics.events;
                sum.statistics.delivered += report.statistics.delivered;
                sum.statistics.crashes += report.statistics.crashes;
                sum.operations += report.operations;
                sum.completed += report.completed;
                sum.views += report.views;
                sum.fetches += report.fetches;
                sum.epochs += report.epochs;
                sum.exposed += report.exposed;
                self.recovery_max = self.recovery_max.max(report.recovery);
            }
            Err(failure) => self.failures.push(*failure),
        }
    }

    fn line(&self, took: Duration) -> String {
        let Report { statistics, operations, completed, views, fetches, epochs, exposed, .. } = &self.sum;
        format!(
            "{} runs of 60 s in {:.0} s: {} failed; {} events, {} messages, {} crashes, {views} views, {fetches} state \
             transfers, {epochs} epochs, {exposed} Byzantine replicas exposed, {completed} of {operations} operations answered; slowest \
             recovery {:.1} s",
            self.runs,
            took.as_secs_f64(),
            self.failures.len(),
            statistics.events,
            statistics.delivered,
            statistics.crashes,
            self.recovery_max.as_secs_f64(),
        )
    }
}

/// Runs one seed and shows what happened, step by step.
fn replay(options: &Options) -> Result<(), String> {
    match run(&options.scenario(0), true) {
        Ok(report) => {
            say(format_args!("{report:#?}"));
            Ok(())
        }
        Err(failure) => {
            failure.log.iter().for_each(say);
            Err(failure.to_string())
        }
    }
}

/// Runs each seed twice: the same has to happen.
fn twice(options: &Options) -> Result<(), String> {
    let jobs = options.seeds * options.replicas.len() as u64;
    for job in 0..jobs {
        let scenario = options.scenario(job);
        let trace =
            || run(&scenario, false).map(|report| report.trace).map_err(|failure| failure.to_string());
        let (first, second) = (trace()?, trace()?);
        if first != second {
            return Err(format!("seed {} is not repeatable: {first:x} and {second:x}", scenario.seed));
        }
    }
    say(format_args!("{jobs} runs were repeated and went the same way"));
    Ok(())
}

/// Tries each seeded fault until the simulation notices it. Fails when it does not notice one.
fn faults(options: &Options) -> Result<(), String> {
    let wanted = SeededFault::ALL.iter().filter(|(_, fault)| options.fault.is_none_or(|only| only == *fault));
    let (mut caught, mut all) = (0, 0);
    for (name, fault) in wanted {
        all += 1;
        let runs = options.seeds * 2;
        let mut hunt =
            (0..runs).map(|job| Scenario::hunting(*fault, job / 2, if job % 2 == 0 { 4 } else { 7 }));
        match hunt.find_map(|scenario| run(&scenario, false).err()) {
            Some(failure) => {
                caught += 1;
                let (seed, replicas) = (failure.scenario.seed, failure.scenario.replicas);
                // The rest is for `replay`.
                let problem: String = failure.problem.chars().take(150).collect();
                say(format_args!("caught   {name}: seed {seed}, {replicas} replicas: {problem}"));
            }
            None => match CASES.iter().find(|(_, text)| play(text, Some(*fault)).is_err()) {
                Some((case, _)) => {
                    caught += 1;
                    say(format_args!("caught   {name}: the case {case}"));
                }
                None => say(format_args!("ESCAPED  {name}: {runs} runs and all cases noticed nothing")),
            },
        }
    }
    say(format_args!("{caught} of {all} caught"));
    if caught == all { Ok(()) } else { Err("a seeded fault escaped".into()) }
}

/// Runs all scenarios of Twins with few rounds, then many by chance; and shows that with one twin too many
/// the checker finds that safety breaks.
fn twins(options: &Options) -> Result<(), String> {
    let (mut all, began) = (0, Instant::now());
    let sampled = (options.first..options.first + options.seeds).map(|seed| {
        let replicas = if seed % 4 == 3 { 7 } else { 4 };
        Twins::sample(seed, replicas, (replicas - 1) / 3)
    });
    let scenarios: Vec<Twins> = Twins::exhaustive(options.rounds).chain(sampled).collect();
    let (next, failure) = (AtomicU64::new(0), Mutex::new(None));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
                    let Some(scenario) = scenarios.get(at) else { return };
                    if let Err(problem) = scenario.run() {
                        let mut failure = failure.lock();
                        failure.get_or_insert(format!("{problem}\n  {scenario}"));
                        return;
                    }
                }
            });
        }
    });
    if let Some(failure) = failure.into_inner() {
        return Err(failure);
    }
    all += scenarios.len();
    let broken = (0..10_000)
        .map(|seed| Twins::sample(seed, 4, 2))
        .find(|scenario| scenario.run().is_err_and(|problem| problem.starts_with("safety")));
    let Some(broken) = broken else {
        return Err("the checker finds no fault with two twins among four".into());
    };
    say(format_args!("with two twins among four safety breaks, as it must: {broken}"));
    say(format_args!("{all} scenarios in {:.0} s: no fault", began.elapsed().as_secs_f64()));
    Ok(())
}
