//! Resource usage of processes, from `/proc`.

use std::{fmt::Display, fs, time::Duration};

use crate::Failure;

/// Unit of processor time on every architecture that Linux runs on today.
const TICK: Duration = Duration::from_millis(10);

/// Size of a page in `/proc/self/statm`, in bytes, where pages are of the usual size.
const PAGE: u64 = 4096;

/// Resident memory of this process, in bytes.
///
/// # Errors
/// When the system has no `/proc`.
pub fn resident_bytes() -> Result<u64, Failure> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text.split(' ').nth(1).ok_or("statm has too few fields")?.parse()?;
    Ok(pages * PAGE)
}

/// Processor time that the process, by its number or `self`, has used in all its threads.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(process: impl Display) -> Result<Duration, Failure> {
    ticks(&process.to_string(), 2)
}

/// The same, including children that have ended, and their children.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time_with_children(process: impl Display) -> Result<Duration, Failure> {
    ticks(&process.to_string(), 4)
}

/// The sum of the first `count` of: user, system, user of children, system of children.
fn ticks(process: &str, count: usize) -> Result<Duration, Failure> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The second field, the program's name in parentheses, may contain any character.
    let (_, fields) = text.rsplit_once(") ").ok_or("stat has no name")?;
    let fields: Vec<&str> = fields.split(' ').skip(11).take(count).collect();
    if fields.len() < count {
        return Err("stat is cut off".into());
    }
    let ticks = fields.into_iter().map(str::parse::<u32>).sum::<Result<u32, _>>()?;
    Ok(TICK * ticks)
}
