//! Capacity of this machine.

use crate::model::Resources;

/// All cores and all memory of this machine, as far as the system says. Half a gibibyte where it does not say
/// how much memory there is.
#[must_use]
pub fn local_capacity() -> Resources {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Resources::new(cores as u64 * 1000, total_memory().unwrap_or(512 << 20))
}

fn total_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
