//! Faults of processes: they die, stand still, and come back.

use std::{
    collections::BTreeMap,
    fmt, thread,
    time::{Duration, Instant},
};

use crate::{Random, lab::Lab};

/// A manager and workers to which something happens all the time, several things at once.
pub(crate) struct Chaos<'a> {
    lab: &'a mut Lab,
    workers: Vec<String>,
    random: Random,
    pub(crate) faults: Faults,
    /// Programs that are away. The manager has the empty name.
    away: BTreeMap<String, Away>,
}

struct Away {
    until: Instant,
    dead: bool,
}

/// Counts of the faults so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Faults {
    worker_kills: u32,
    worker_holds: u32,
    manager_kills: u32,
    manager_holds: u32,
    /// Workers that were away for longer than the node timeout.
    long: u32,
}

const MANAGER: &str = "";
/// Between these many milliseconds: surely shorter, or surely longer, than the node timeout of two seconds.
const SHORT: (u64, u64) = (0, 300);
const LONG: (u64, u64) = (3000, 6000);

impl<'a> Chaos<'a> {
    pub(crate) fn new(lab: &'a mut Lab, workers: Vec<String>, random: Random) -> Self {
        Self { lab, workers, random, faults: Faults::default(), away: BTreeMap::new() }
    }

    /// Does harm until then, and leaves everything up and going.
    pub(crate) fn run_until(&mut self, end: Instant) {
        let mut next = Instant::now();
        while Instant::now() < end {
            if next <= Instant::now() {
                self.harm();
                next = Instant::now() + self.random.time(100, 1500);
            }
            self.bring_back();
            thread::park_timeout(Duration::from_millis(20));
        }
        while !self.away.is_empty() {
            self.bring_back();
            thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn harm(&mut self) {
        let pick = usize::try_from(self.random.below(self.workers.len() as u64 + 1)).unwrap();
        let name = self.workers.get(pick).map_or(MANAGER, String::as_str).to_owned();
        if self.away.contains_key(&name) {
            return;
        }
        let dead = self.random.below(3) > 0;
        let long = self.random.below(2) == 0;
        let (from, to) = if long { LONG } else { SHORT };
        match (name.as_str(), dead) {
            (MANAGER, true) => self.lab.kill_manager(),
            (MANAGER, false) => self.lab.hold_manager(true),
            (worker, true) => self.lab.kill_worker(worker),
            (worker, false) => self.lab.hold_worker(worker, true),
        }
        let count = match (name.as_str(), dead) {
            (MANAGER, true) => &mut self.faults.manager_kills,
            (MANAGER, false) => &mut self.faults.manager_holds,
            (_, true) => &mut self.faults.worker_kills,
            (_, false) => &mut self.faults.worker_holds,
        };
        *count += 1;
        self.faults.long += u32::from(long && name != MANAGER);
        let until = Instant::now() + self.random.time(from, to);
        self.away.insert(name, Away { until, dead });
    }

    /// Brings back what was away for long enough. A worker says that it is ready when the manager has it, so
    /// the manager comes first.
    fn bring_back(&mut self) {
        let due: Vec<String> = self
            .away
            .iter()
            .filter(|(_, away)| away.until <= Instant::now())
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            let dead = self.away[&name].dead;
            match (name.as_str(), dead) {
                (MANAGER, true) => self.lab.start_manager(&[]),
                (MANAGER, false) => self.lab.hold_manager(false),
                (_, true) if self.away.contains_key(MANAGER) => continue,
                (worker, true) => self.lab.start_worker(worker, &[]),
                (worker, false) => self.lab.hold_worker(worker, false),
            }
            self.away.remove(&name);
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "workers killed {} times and stopped {} times, {} of these for longer than the node timeout; \
             the manager killed {} times and stopped {} times",
            self.worker_kills, self.worker_holds, self.long, self.manager_kills, self.manager_holds
        )
    }
}
