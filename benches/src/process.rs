//! What the system says about a process.

use std::{fs, time::Duration};

use crate::Failure;

/// Linux counts the time of processes in these units on every architecture that it runs on today.
const TICK: Duration = Duration::from_millis(10);

/// Bytes of a page in `/proc/self/statm`, where pages are of the usual size.
const PAGE: u64 = 4096;

/// Memory of this process that is resident now, in bytes.
///
/// # Errors
/// When the system has no `/proc`.
pub fn resident_bytes() -> Result<u64, Failure> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text.split(' ').nth(1).ok_or("statm has too few fields")?.parse()?;
    Ok(pages * PAGE)
}

/// Processor time that the process has used in all its threads.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(process: u32) -> Result<Duration, Failure> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The second field, the program's name in parentheses, may hold anything.
    let (_, fields) = text.rsplit_once(") ").ok_or("stat has no name")?;
    let mut fields = fields.split(' ').skip(11);
    let mut next = || -> Result<u32, Failure> { Ok(fields.next().ok_or("stat is cut off")?.parse()?) };
    Ok(TICK * (next()? + next()?))
}
