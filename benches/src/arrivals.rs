//! Arrivals of tasks to pack: from the public Azure trace of 2017, or drawn from its marginals.
//!
//! The trace is "AzurePublicDatasetV1" (CC-BY-4.0) in the form that Bergsma et al. ("Generating complex,
//! realistic cloud workloads using recurrent neural networks", SOSP 2021) published. The environment variable
//! `ORCH_TRACE_DIR` names its directory, with `azure-2017/v1.train.txt` and so on below.

use std::{collections::BTreeMap, env, fs, path::PathBuf, time::Duration};

use orch_core::model::Resources;

use crate::Failure;

/// Arrival of one task: its request, and its run time.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Requested cpu and memory.
    pub request: Resources,
    /// Run time; zero where the source has none.
    pub duration: Duration,
}

/// Source of arrivals: `Fill` has many and no durations, `Churn` has durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `v1.train`.
    Fill,
    /// `v1.dev`, with the durations of `v1.dev.c2100000`.
    Churn,
}

/// Part of the arrivals: policies are chosen on the first, and the choice is confirmed on the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first two thirds.
    First,
    /// The last third.
    Last,
}

impl Part {
    fn of<T>(self, all: Vec<T>) -> Vec<T> {
        let first = all.len() * 2 / 3;
        match self {
            Self::First => all.into_iter().take(first).collect(),
            Self::Last => all.into_iter().skip(first).collect(),
        }
    }
}

/// Arrivals, and the name of their source.
///
/// # Errors
/// When `ORCH_TRACE_DIR` is set and the trace cannot be read there.
pub fn load(kind: Kind, part: Part) -> Result<(Vec<Arrival>, String), Failure> {
    let Some(dir) = env::var_os("ORCH_TRACE_DIR") else {
        let seed = if part == Part::First { 1 } else { 2 };
        return Ok((generate(seed), "generated from marginals, as ORCH_TRACE_DIR is not set".into()));
    };
    let dir = PathBuf::from(dir).join("azure-2017");
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
    };
    let flavours_text = read("flav_map.txt")?;
    let flavours = flavours(&flavours_text)?;
    let file = if kind == Kind::Fill { "v1.train.txt" } else { "v1.dev.txt" };
    let text = read(file)?;
    let lines = part.of(text.lines().collect());
    let requests = lines.iter().flat_map(|line| words(line)).map(|word| {
        let request = flavours.get(word).cloned();
        request.ok_or_else(|| {
            Failure::from(format!("{file} has the flavour {word:?}, which is not in flav_map.txt"))
        })
    });
    let requests: Vec<Resources> = requests.collect::<Result<_, Failure>>()?;
    let durations = match kind {
        Kind::Fill => vec![Duration::ZERO; requests.len()],
        Kind::Churn => {
            let text = read("v1.dev.c2100000.txt")?;
            let lines = part.of(text.lines().collect());
            durations(&lines, &read("interval_map.txt")?)?
        }
    };
    if durations.len() != requests.len() {
        return Err(format!("{} durations for {} arrivals", durations.len(), requests.len()).into());
    }
    let arrivals =
        requests.into_iter().zip(durations).map(|(request, duration)| Arrival { request, duration });
    Ok((
        arrivals.collect(),
        format!("{file}, {} of it", if part == Part::First { "first two thirds" } else { "last third" }),
    ))
}

/// Words of a line after its time, without the separators of tenants.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let rest = line.split_once(' ').map_or("", |(_, rest)| rest);
    rest.split(',').filter(|word| !word.is_empty() && *word != "|")
}

fn flavours(text: &str) -> Result<BTreeMap<&str, Resources>, Failure> {
    let flavour = |line| {
        let (amounts, name) = str::split_once(line, ' ').ok_or("a flavour without a name")?;
        let (cores, gib) = amounts.split_once(',').ok_or("a flavour without memory")?;
        Ok((name, request(cores.parse()?, gib.parse()?)))
    };
    text.lines().map(flavour).collect()
}

/// Request of whole cores, and of memory in steps of a quarter GiB.
fn request(cores: u64, gib: f64) -> Resources {
    Resources::new(cores * 1000, Duration::from_secs_f64(gib * 4.0).as_secs() << 28)
}

/// Random durations within each bin; tasks that still ran at the end of the trace end between then and the
/// last bin.
fn durations(lines: &[&str], bins: &str) -> Result<Vec<Duration>, Failure> {
    let mut bounds: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
    for line in bins.lines() {
        let (seconds, bin) = line.split_once(' ').ok_or("an interval without a bin")?;
        let (seconds, bin) = (seconds.parse()?, bin.parse()?);
        bounds.entry(bin).or_insert((seconds, seconds)).1 = seconds + 300;
    }
    let longest = bounds.last_key_value().map_or(0, |(_, (_, end))| *end);
    let mut random = Random(0);
    let duration = |word: &str| {
        let (state, bin) = word.split_at(1);
        let (begin, end) = *bounds.get(&bin.parse()?).ok_or("a duration in no known bin")?;
        let end = if state == "C" { longest } else { end };
        Ok(Duration::from_secs(begin + random.below(end - begin)))
    };
    lines.iter().flat_map(|line| words(line)).map(duration).collect()
}

/// Batches of tenants, mostly of one flavour each, with the frequencies of the trace.
fn generate(seed: u64) -> Vec<Arrival> {
    /// Cores, GiB, and frequency of batches that begin with it, in a thousand.
    const FLAVOURS: [(u64, f64, u64); 6] =
        [(1, 1.75, 540), (2, 3.5, 244), (4, 7.0, 66), (8, 14.0, 66), (1, 0.75, 62), (8, 56.0, 22)];
    /// Sizes of batches: cumulative frequency in a thousand, and maximum number of tasks.
    const SIZES: [(u64, u64); 6] = [(578, 1), (750, 2), (800, 3), (900, 6), (990, 36), (1000, 140)];
    /// 5-percent quantiles of the durations, in seconds.
    const DURATIONS: [u64; 21] = [
        0, 377, 549, 691, 822, 955, 1093, 1229, 1371, 1516, 1697, 1944, 2358, 2924, 4488, 6824, 12_072,
        24_923, 47_189, 236_023, 1_727_936,
    ];
    let mut random = Random(seed);
    let mut arrivals = Vec::new();
    while arrivals.len() < 300_000 {
        let mut pick = random.below(1000);
        let flavour = FLAVOURS.iter().find(|(_, _, weight)| match pick.checked_sub(*weight) {
            Some(left) => {
                pick = left;
                false
            }
            None => true,
        });
        let (cores, gib, _) = flavour.unwrap_or(&FLAVOURS[0]);
        let pick = random.below(1000);
        let at = SIZES.iter().position(|(up_to, _)| pick < *up_to).unwrap_or_default();
        let (least, most) = (at.checked_sub(1).map_or(1, |before| SIZES[before].1 + 1), SIZES[at].1);
        let batch = least + random.below(most + 1 - least);
        let at = usize::try_from(random.below(20)).unwrap_or_default();
        for _ in 0..batch {
            let seconds = DURATIONS[at] + random.below(DURATIONS[at + 1] - DURATIONS[at]);
            arrivals.push(Arrival { request: request(*cores, *gib), duration: Duration::from_secs(seconds) });
        }
    }
    arrivals
}

/// Pseudo-random numbers that are the same in each run (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Any number of the full range.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, or zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.any() % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_arrivals_are_the_same_each_time_and_have_the_mean_size_of_the_trace() {
        let arrivals = generate(1);
        let again = generate(1);
        assert!(arrivals.iter().zip(&again).all(|(a, b)| a.request == b.request && a.duration == b.duration));
        let cores: u64 = arrivals.iter().map(|arrival| arrival.request.cpu_millis).sum();
        let mean = cores / arrivals.len() as u64;
        assert!((1800..3000).contains(&mean), "{mean} thousandths of a core");
    }

    #[test]
    fn a_line_of_the_trace_is_its_flavours_without_the_marks_between_tenants() -> Result<(), Failure> {
        assert_eq!(words("300 g,|,b,m,|,").collect::<Vec<_>>(), ["g", "b", "m"]);
        let flavours = flavours("1,1.75 b\n8,56.0 o")?;
        assert_eq!(flavours["b"], Resources::new(1000, 7 << 28));
        assert_eq!(flavours["o"], Resources::new(8000, 56 << 30));
        Ok(())
    }

    #[test]
    fn a_duration_lies_in_its_bin_or_beyond_when_the_task_still_ran() -> Result<(), Failure> {
        let bins = "0 0\n300 1\n600 2\n900 2";
        let found = durations(&["300 U1,|,C1,|,"], bins)?;
        assert!((300..600).contains(&found[0].as_secs()), "{found:?}");
        assert!((300..1200).contains(&found[1].as_secs()), "{found:?}");
        assert!(durations(&["300 U9"], bins).is_err());
        Ok(())
    }
}
