//! The processes of an attempt, found through `/proc`.

use std::{fs, io};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

use crate::{model::AttemptId, runtime::Usage};

/// The environment variable that marks everything an attempt started, wherever it went.
pub(super) const MARKER: &str = "ORCH_ATTEMPT";

/// Ticks of processor time in `/proc/<pid>/stat`: `USER_HZ`, the same on all of Linux.
const TICKS_PER_SECOND: u64 = 100;

/// A process of one boot: a process id alone is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pid: Pid,
    start_ticks: u64,
    boot: u128,
}

impl Identity {
    /// Reads `<pid> <start ticks> <boot id>`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let pid = Pid::from_raw(words.next()?.parse().ok()?)?;
        let start_ticks = words.next()?.parse().ok()?;
        Some(Self { pid, start_ticks, boot: parse_boot(words.next()?)? })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether this very process is still there. One that only waits to be reaped is not.
    pub(super) fn is_alive(&self) -> bool {
        this_boot() == Some(self.boot)
            && Stat::of(self.pid)
                .is_some_and(|stat| stat.start_ticks == self.start_ticks && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Whether the machine has gone down since.
    pub(super) fn is_of_another_boot(&self) -> bool {
        this_boot().is_some_and(|boot| boot != self.boot)
    }

    /// Sends `signal` to the process group that this process leads. A group that is gone is no error.
    pub(super) fn signal_group(&self, signal: Signal) -> io::Result<()> {
        if !self.is_alive() {
            // Its number may belong to somebody else by now.
            return Ok(());
        }
        match kill_process_group(self.pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Everything alive that carries the attempt's marker.
pub(super) fn marked(attempt: AttemptId) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?));
    pids.filter(|pid| is_marked(*pid, attempt)).collect()
}

/// Kills what carries the marker; says how many there were.
pub(super) fn kill_marked(attempt: AttemptId) -> io::Result<usize> {
    let mut killed = 0;
    for pid in marked(attempt) {
        // The descriptor pins the process: whoever is looked at again is who gets the signal.
        let Ok(pinned) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if is_marked(pid, attempt) {
            match pidfd_send_signal(pinned, Signal::KILL) {
                Ok(()) => killed += 1,
                Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(killed)
}

/// What these processes use together.
pub(super) fn usage(pids: &[Pid]) -> Usage {
    pids.iter().filter_map(|pid| Stat::of(*pid)).fold(Usage::default(), |sum, stat| Usage {
        cpu_ms: sum.cpu_ms + stat.cpu_ticks * 1000 / TICKS_PER_SECOND,
        memory_bytes: sum.memory_bytes + stat.resident_bytes,
        pids: sum.pids + stat.threads,
    })
}

fn is_marked(pid: Pid, attempt: AttemptId) -> bool {
    let marker = format!("{MARKER}={attempt}");
    // Of a zombie, and of another user's process, nothing can be read.
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == marker.as_bytes())
}

fn this_boot() -> Option<u128> {
    parse_boot(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim())
}

fn parse_boot(text: &str) -> Option<u128> {
    u128::from_str_radix(&text.replace('-', ""), 16).ok()
}

struct Stat {
    state: char,
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    resident_bytes: u64,
}

impl Stat {
    fn of(pid: Pid) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"));
        let kib = resident.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
        let stat = Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        Some(Self { resident_bytes: kib * 1024, ..stat })
    }

    /// proc_pid_stat(5). The name in parentheses may hold anything, so the fields are counted from its end; the first
    /// of them is number 3.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            resident_bytes: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_process_name_does_not_shift_the_fields() {
        let text =
            "7 (a) Z (b) S 1 7 7 0 -1 4194560 1 2 3 4 50 60 0 0 20 0 3 0 12345 999 88 18446744073709551615 1";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.cpu_ticks, stat.threads, stat.start_ticks), ('S', 110, 3, 12345));
    }

    #[test]
    fn a_reused_process_id_is_not_ours() {
        let pid = rustix::process::getpid();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let start = Stat::of(pid).unwrap().start_ticks;
        let identity = |start: u64, boot: &str| Identity::parse(&format!("{pid} {start} {boot}\n")).unwrap();
        assert!(identity(start, boot.trim()).is_alive());
        assert!(!identity(start, boot.trim()).is_of_another_boot());
        assert!(!identity(start + 1, boot.trim()).is_alive(), "another process with our number");
        let earlier = identity(start, "1b4e28ba-2fa1-41d2-883f-0016d3cca427");
        assert!(!earlier.is_alive(), "of an earlier boot");
        assert!(earlier.is_of_another_boot());
    }
}
