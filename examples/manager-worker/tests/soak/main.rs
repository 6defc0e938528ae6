//! Minutes of random kills with the real programs: `--minutes N [--seed N] [--workers N]`.
//!
//! Each task appends a line to a file of its own when it starts. In the end every task has to be over, and
//! the lines say how often each was started. A failure keeps the directories.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

#[path = "../style/lab.rs"]
mod lab;

mod chaos;
mod load;
mod verdict;

use self::{chaos::Chaos, lab::Lab, verdict::Verdict};

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the totals are what it is for")]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(options) = Options::read(&args) else {
        eprintln!("usage: --minutes N [--seed N] [--workers N]");
        return ExitCode::from(2);
    };
    let mut lab = Lab::new();
    lab.keep(true);
    println!("seed {}, directories in {}", options.seed, lab.path("").display());
    let verdict = soak(&mut lab, &options);
    println!("{verdict}");
    match verdict.violations.as_slice() {
        [] => {
            lab.keep(false);
            ExitCode::SUCCESS
        }
        violations => {
            eprintln!("{}\nthe directories are kept: {}", violations.join("\n"), lab.path("").display());
            ExitCode::FAILURE
        }
    }
}

struct Options {
    time: Duration,
    seed: u64,
    workers: usize,
}

impl Options {
    fn read(args: &[String]) -> Option<Self> {
        let mut options = Self { time: Duration::ZERO, seed: u64::from(std::process::id()), workers: 4 };
        for pair in args.chunks(2) {
            match pair {
                [name, value] if name == "--minutes" => {
                    options.time = Duration::from_secs(value.parse::<u64>().ok()? * 60);
                }
                [name, value] if name == "--seed" => options.seed = value.parse().ok()?,
                [name, value] if name == "--workers" => options.workers = value.parse().ok()?,
                _ => return None,
            }
        }
        (!options.time.is_zero() && options.workers > 0).then_some(options)
    }
}

fn soak(lab: &mut Lab, options: &Options) -> Verdict {
    std::fs::create_dir(lab.path("effects")).unwrap();
    let names: Vec<String> = (1..=options.workers).map(|number| format!("w{number}")).collect();
    names.iter().for_each(|name| lab.start_worker(name, &[]));
    let (caller, effects) = (lab.caller(), lab.path("effects"));
    let over = AtomicBool::new(false);
    let mut chaos = Chaos::new(lab, names, Random(options.seed));
    let acknowledged = thread::scope(|scope| {
        let load = scope.spawn(|| load::submit_until(&over, &caller, &effects, Random(!options.seed)));
        chaos.run_until(Instant::now() + options.time);
        over.store(true, Ordering::Relaxed);
        load.join().unwrap()
    });
    let faults = chaos.faults;
    verdict::of(lab, &acknowledged, faults)
}

/// Numbers that look random and follow from the seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// A time between two bounds in milliseconds.
    fn time(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}
