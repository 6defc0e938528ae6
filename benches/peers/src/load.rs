//! Clients, and what they saw.

use std::{
    collections::VecDeque,
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;

use crate::Failure;

/// Load of clients.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Number of clients. Each has one command under way.
    pub clients: usize,
    /// The size of a command in bytes.
    pub payload: usize,
    /// When they stop.
    pub until: Until,
}

/// When clients stop.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// Each has had this many outcomes.
    Each(u64),
    /// After this time, when what is under way has ended.
    Over(Duration),
}

impl Until {
    fn more(self, done: u64, since: Instant, now: Instant) -> bool {
        match self {
            Self::Each(count) => done < count,
            Self::Over(time) => now.duration_since(since) < time,
        }
    }
}

/// Result of a measurement.
#[derive(Clone, Debug)]
pub struct Figures {
    /// From the first command to the last outcome.
    pub wall: Duration,
    /// CPU time that all threads of the process used meanwhile, clients included.
    pub cpu: Duration,
    /// Of each operation, from the shortest to the longest.
    pub latencies: Vec<Duration>,
}

impl Figures {
    /// Operations a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.wall.as_secs_f64()
    }

    /// Processor time of an operation in microseconds.
    #[must_use]
    pub fn cpu_micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.latencies.len().max(1) as f64
    }

    /// The latency that so many percent do not exceed.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let at = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).copied().unwrap_or_default()
    }
}

/// Report of a process to another on a run in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Number of operations that ended.
    pub operations: u64,
    /// From the first one to the last outcome.
    pub wall: Duration,
    /// The latency that half of them do not exceed.
    pub p50: Duration,
    /// The latency that 99 percent do not exceed.
    pub p99: Duration,
}

impl From<&Figures> for Summary {
    fn from(figures: &Figures) -> Self {
        Self {
            operations: figures.latencies.len() as u64,
            wall: figures.wall,
            p50: figures.percentile(50),
            p99: figures.percentile(99),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations, wall, p50, p99 } = self;
        write!(f, "{operations} {} {} {}", wall.as_micros(), p50.as_micros(), p99.as_micros())
    }
}

impl FromStr for Summary {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let numbers = text.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>();
        let Ok([operations, wall, p50, p99]) = numbers.as_deref() else {
            return Err(format!("no summary of a run: {text}").into());
        };
        let micros = |number: &u64| Duration::from_micros(*number);
        Ok(Self { operations: *operations, wall: micros(wall), p50: micros(p50), p99: micros(p99) })
    }
}

/// Measures time, and the processor time of this process.
#[derive(Debug)]
pub struct Meter {
    begun: Instant,
    cpu: Duration,
}

impl Meter {
    /// Measures from now on.
    #[must_use]
    pub fn begin() -> Self {
        Self { begun: Instant::now(), cpu: cpu() }
    }

    /// Result of a measurement, with the time that each operation took.
    #[must_use]
    pub fn end(self, mut latencies: Vec<Duration>) -> Figures {
        let (wall, cpu) = (self.begun.elapsed(), cpu().saturating_sub(self.cpu));
        latencies.sort_unstable();
        Figures { wall, cpu, latencies }
    }
}

fn cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Clients that are tasks.
pub(crate) async fn closed_loop<P, F>(load: &Load, propose: P) -> Result<Figures, Failure>
where
    P: Fn(Bytes) -> F + Clone + Send + 'static,
    F: Future<Output = Result<(), Failure>> + Send,
{
    let meter = Meter::begin();
    let mut clients = JoinSet::new();
    for _ in 0..load.clients {
        let (propose, until, since) = (propose.clone(), load.until, meter.begun);
        let command = Bytes::from(vec![7; load.payload]);
        clients.spawn(async move {
            let (mut latencies, mut now) = (Vec::new(), Instant::now());
            while until.more(latencies.len() as u64, since, now) {
                propose(command.clone()).await?;
                let begun = std::mem::replace(&mut now, Instant::now());
                latencies.push(now - begun);
            }
            Ok::<_, Failure>(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(client) = clients.join_next().await {
        latencies.extend(client??);
    }
    Ok(meter.end(latencies))
}

/// Clients of a group that one thread drives.
pub(crate) struct Clients {
    meter: Meter,
    until: Until,
    begun: Vec<Instant>,
    done: Vec<u64>,
    ready: VecDeque<usize>,
    under_way: usize,
    latencies: Vec<Duration>,
    command: Bytes,
}

impl Clients {
    pub(crate) fn new(load: &Load) -> Self {
        let meter = Meter::begin();
        Self {
            begun: vec![meter.begun; load.clients],
            done: vec![0; load.clients],
            ready: (0..load.clients).collect(),
            under_way: 0,
            latencies: Vec::new(),
            command: Bytes::from(vec![7; load.payload]),
            until: load.until,
            meter,
        }
    }

    /// The next command, and whose it is.
    pub(crate) fn next(&mut self) -> Option<(u64, Bytes)> {
        let client = self.ready.pop_front()?;
        self.under_way += 1;
        self.begun[client] = Instant::now();
        Some((client as u64, self.command.clone()))
    }

    /// A client has its outcome.
    pub(crate) fn outcome(&mut self, client: u64) {
        let now = Instant::now();
        let Some(at) = usize::try_from(client).ok().filter(|at| *at < self.begun.len()) else { return };
        self.under_way -= 1;
        self.done[at] += 1;
        self.latencies.push(now - self.begun[at]);
        if self.until.more(self.done[at], self.meter.begun, now) {
            self.ready.push_back(at);
        }
    }

    /// Somebody waits, or has more to ask.
    pub(crate) fn busy(&self) -> bool {
        self.under_way > 0 || !self.ready.is_empty()
    }

    pub(crate) fn end(self) -> Figures {
        self.meter.end(self.latencies)
    }
}
