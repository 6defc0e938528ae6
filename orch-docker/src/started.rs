//! Start time of a container, by the node's clock as it is set now.
//!
//! The engine records the time once, and the clock may be set later: the run time of the container could then
//! not be computed from the two. The kernel counts from the boot instead, and converts that to the current
//! clock.

use std::{fs, time::Duration};

use orch_core::model::Timestamp;

/// Unit of the kernel's ticks as programs see them, on every machine that Linux and Rust run on.
const TICKS_PER_SECOND: u64 = 100;

/// Maximum difference that is not treated as a step of the clock: the engine records the start after the
/// process has begun, on a busy node some time after. Its time is then the more exact.
const TOLERANCE: Duration = Duration::from_secs(5);

/// Start of the container `id`, for which the engine reports the start time `told` and the main process
/// `pid`. For a remote engine, and where processes have other numbers than here, the reported time is
/// returned.
pub(crate) fn at(told: Timestamp, id: &str, pid: Option<i64>) -> Timestamp {
    let by_kernel = pid.filter(|pid| *pid > 0).and_then(|pid| {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
        // The process id alone could be another process's.
        read("cgroup").filter(|groups| !id.is_empty() && groups.contains(id))?;
        start(&read("stat")?, &fs::read_to_string("/proc/stat").ok()?)
    });
    by_kernel.map_or(told, |by_kernel| settled(told, by_kernel))
}

fn settled(told: Timestamp, by_kernel: Timestamp) -> Timestamp {
    let difference = told.since(by_kernel).max(by_kernel.since(told));
    if difference <= TOLERANCE { told } else { by_kernel }
}

/// Start computed from the texts of `/proc/<pid>/stat` and `/proc/stat`.
fn start(process: &str, machine: &str) -> Option<Timestamp> {
    // The second field is the program's name in parentheses, which may contain blanks and parentheses.
    let ticks: u64 = process.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let boot: u64 = machine.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let millis = ticks.checked_mul(1000 / TICKS_PER_SECOND)?;
    Some(Timestamp::from_millis(boot.checked_mul(1000)?.checked_add(millis)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESS: &str =
        "9478 (a ) b) S 9458 9478 9478 0 -1 4194560 970 0 0 0 1 0 0 0 25 5 1 0 309965 2322432 316";

    #[test]
    fn the_kernel_s_texts_are_read() {
        let at = start(PROCESS, "cpu 1 2\nbtime 1796024440\nprocesses 3\n");
        assert_eq!(at, Some(Timestamp::from_millis(1_796_024_440_000 + 3_099_650)));
        for (process, machine) in [(PROCESS, "cpu 1\n"), ("9478 (a) S 1", "btime 1\n"), ("", "btime 1\n")] {
            assert_eq!(start(process, machine), None);
        }
    }

    #[test]
    fn only_a_step_of_the_clock_counts() {
        let told = Timestamp::from_millis(1_000_000);
        for millis in [995_000, 999_000, 1_005_000] {
            assert_eq!(settled(told, Timestamp::from_millis(millis)), told);
        }
        for millis in [994_999, 1_005_001, 5_000_000] {
            assert_eq!(settled(told, Timestamp::from_millis(millis)), Timestamp::from_millis(millis));
        }
    }

    #[test]
    fn processes_that_are_not_the_container_s_say_nothing() {
        let told = Timestamp::from_millis(1);
        let ours = Some(i64::from(std::process::id()));
        for (id, pid) in
            [("no-such-container", ours), ("", ours), ("x", None), ("x", Some(0)), ("x", Some(-1))]
        {
            assert_eq!(at(told, id, pid), told);
        }
    }
}
