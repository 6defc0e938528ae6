//! Processes of an attempt, found through `/proc`.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

use crate::{model::AttemptId, runtime::Usage};

/// Environment variable that marks the processes of an attempt.
pub(super) const MARKER: &str = "ORCH_ATTEMPT";

/// Ticks of processor time in `/proc/<pid>/stat`: `USER_HZ`, the same on all of Linux.
const TICKS_PER_SECOND: u64 = 100;

/// Criteria by which a process belongs to an attempt. Any one is enough, and so is a parent that meets one.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) attempt: AttemptId,
    /// The launcher itself is never counted, its children are.
    pub(super) launcher: Option<Pid>,
    /// Process group of the program.
    pub(super) group: Option<Pid>,
    /// Inodes of the attempt's output pipes: a process that can write to them belongs to the attempt.
    pub(super) pipes: Option<[u64; 2]>,
    /// Start of the attempt, in ticks: none of its processes is older.
    pub(super) since_ticks: u64,
}

impl Mark {
    /// Process group, while the launcher ensures that its number is not reused.
    pub(super) fn sure_group(&self) -> Option<Pid> {
        self.group.filter(|_| self.launcher.is_some())
    }
}

/// Process that is identified beyond a reuse of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) start_ticks: u64,
}

impl Process {
    /// Sends a signal; returns whether the process still existed.
    pub(super) fn signal(self, signal: Signal) -> io::Result<bool> {
        // The descriptor pins the process: the one that is checked is the one that gets the signal.
        let Ok(pinned) = pidfd_open(self.pid, PidfdFlags::empty()) else { return Ok(false) };
        if Stat::of(self.pid).is_none_or(|stat| stat.start_ticks != self.start_ticks) {
            return Ok(false);
        }
        match pidfd_send_signal(pinned, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Sends `signal` to all of them, to those in `group` in one step so that none escapes by a fork.
pub(super) fn signal_all(processes: &[Process], group: Option<Pid>, signal: Signal) -> io::Result<()> {
    let mut reached = false;
    if let Some(group) = group {
        reached = match kill_process_group(group, signal) {
            Ok(()) => true,
            Err(rustix::io::Errno::SRCH) => false,
            Err(error) => return Err(error.into()),
        };
    }
    for process in processes {
        let in_group = reached && Stat::of(process.pid).is_some_and(|stat| Some(stat.group) == group);
        if !in_group {
            process.signal(signal)?;
        }
    }
    Ok(())
}

/// Processes of the system that are not older than a given start, at one time.
#[derive(Debug)]
pub(super) struct Snapshot(Vec<Seen>);

#[derive(Debug)]
struct Seen {
    stat: Stat,
    marker: Option<AttemptId>,
    /// Inodes of the pipes that it holds; not read where there is a marker.
    pipes: Vec<u64>,
}

impl Snapshot {
    pub(super) fn take(since_ticks: u64) -> io::Result<Self> {
        let own = rustix::process::getpid();
        let mut all = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(parse_pid) else {
                continue;
            };
            let Some(stat) = Stat::of(pid) else { continue };
            if pid == own || stat.start_ticks < since_ticks || !stat.is_alive() {
                continue;
            }
            let marker = marker_of(pid);
            let pipes = if marker.is_none() { pipes_of(pid) } else { Vec::new() };
            all.push(Seen { stat, marker, pipes });
        }
        Ok(Self(all))
    }

    pub(super) fn of(&self, mark: &Mark) -> Vec<Process> {
        let candidates = self
            .0
            .iter()
            .filter(|seen| Some(seen.stat.pid) != mark.launcher && seen.stat.start_ticks >= mark.since_ticks);
        let (mut found, mut others): (Vec<_>, Vec<_>) = candidates.partition(|seen| seen.carries(mark));
        let mut parents: HashSet<Pid> = mark.launcher.into_iter().collect();
        parents.extend(found.iter().map(|seen| seen.stat.pid));
        loop {
            let (children, rest): (Vec<_>, Vec<_>) = others
                .into_iter()
                .partition(|seen| seen.stat.parent.is_some_and(|parent| parents.contains(&parent)));
            if children.is_empty() {
                break;
            }
            parents.extend(children.iter().map(|seen| seen.stat.pid));
            found.extend(children);
            others = rest;
        }
        found.iter().map(|seen| Process { pid: seen.stat.pid, start_ticks: seen.stat.start_ticks }).collect()
    }
}

impl Seen {
    fn carries(&self, mark: &Mark) -> bool {
        self.marker == Some(mark.attempt)
            || mark.group.is_some_and(|group| self.stat.group == group)
            || mark.pipes.is_some_and(|pipes| pipes.iter().any(|pipe| self.pipes.contains(pipe)))
    }
}

/// Marker of a process. A zombie, and a process of another user, cannot be read.
fn marker_of(pid: Pid) -> Option<AttemptId> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    environment.split(|byte| *byte == 0).find_map(|variable| {
        let value = variable.strip_prefix(MARKER.as_bytes())?.strip_prefix(b"=")?;
        std::str::from_utf8(value).ok()?.parse().ok()
    })
}

fn pipes_of(pid: Pid) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter_map(|link| link.to_str()?.strip_prefix("pipe:[")?.strip_suffix(']')?.parse().ok()).collect()
}

/// All processes below `ancestor` in the process tree. Orphans are not in it.
pub(super) fn descendants(ancestor: Pid) -> io::Result<Vec<Pid>> {
    let (mut found, mut next) = (Vec::new(), vec![ancestor]);
    while let Some(pid) = next.pop() {
        for thread in entries(Path::new(&format!("/proc/{pid}/task")))? {
            let children = match fs::read_to_string(thread.join("children")) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && thread.exists() => {
                    return Err(error);
                }
                children => children.unwrap_or_default(),
            };
            let children = children.split_whitespace().filter_map(parse_pid);
            next.extend(children);
        }
        if pid != ancestor {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Entries of a directory; none if it does not exist any more.
fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Total usage of these processes.
pub(super) fn usage(pids: impl IntoIterator<Item = Pid>) -> Usage {
    let stats = pids.into_iter().filter_map(|pid| Some((Stat::of(pid)?, resident_bytes(pid))));
    stats.fold(Usage::default(), |sum, (stat, resident)| Usage {
        cpu_ms: sum.cpu_ms + stat.cpu_ticks * 1000 / TICKS_PER_SECOND,
        memory_bytes: sum.memory_bytes + resident,
        pids: sum.pids + stat.threads,
    })
}

fn resident_bytes(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"));
    resident.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Parses a process id; for a process that is exiting the kernel also writes -1.
pub(super) fn parse_pid(text: &str) -> Option<Pid> {
    text.parse().ok().filter(|pid| *pid > 0).and_then(Pid::from_raw)
}

/// Fields of `/proc/<pid>/stat`, see proc_pid_stat(5).
#[derive(Debug)]
pub(super) struct Stat {
    pid: Pid,
    state: char,
    parent: Option<Pid>,
    group: Pid,
    cpu_ticks: u64,
    threads: u64,
    pub(super) start_ticks: u64,
}

impl Stat {
    pub(super) fn of(pid: Pid) -> Option<Self> {
        Self::parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Whether the process is alive; a zombie is not.
    pub(super) fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }

    /// The name in parentheses may contain any character, so the fields are counted from its end; the first
    /// is number 3.
    fn parse(pid: Pid, text: &str) -> Option<Self> {
        let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let process = |number: usize| parse_pid(fields.get(number - 3)?);
        Some(Self {
            pid,
            state: fields.first()?.chars().next()?,
            parent: process(4),
            // Kernel threads have none.
            group: process(5).unwrap_or(pid),
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_process_name_does_not_shift_the_fields() {
        let text =
            "7 (a) Z (b) S 1 9 7 0 -1 4194560 1 2 3 4 50 60 0 0 20 0 3 0 12345 999 88 18446744073709551615 1";
        let stat = Stat::parse(Pid::from_raw(7).unwrap(), text).unwrap();
        assert_eq!((stat.state, stat.cpu_ticks, stat.threads, stat.start_ticks), ('S', 110, 3, 12345));
        assert_eq!((stat.parent, Some(stat.group)), (Pid::from_raw(1), Pid::from_raw(9)));
    }

    #[test]
    fn a_process_that_goes_away_has_no_group() {
        let text = "7 (a) X 0 -1 -1 0 -1 4194560 1 2 3 4 50 60 0 0 20 0 3 0 12345 999 88 1 1";
        let stat = Stat::parse(Pid::from_raw(7).unwrap(), text).unwrap();
        assert_eq!((stat.parent, stat.group, stat.is_alive()), (None, stat.pid, false));
    }

    #[test]
    fn children_are_of_an_attempt_when_their_parent_is() {
        let attempt: AttemptId = format!("{}.1", crate::model::TaskId::generate()).parse().unwrap();
        let pid = |number| Pid::from_raw(number).unwrap();
        let seen = |number: i32, parent: i32, group: i32, pipes: &[u64]| Seen {
            stat: Stat {
                pid: pid(number),
                state: 'S',
                parent: Pid::from_raw(parent),
                group: pid(group),
                cpu_ticks: 0,
                threads: 1,
                start_ticks: 100,
            },
            marker: None,
            pipes: pipes.to_vec(),
        };
        let snapshot = Snapshot(vec![
            seen(13, 12, 13, &[]),
            seen(10, 1, 10, &[77, 78]),
            seen(12, 1, 12, &[78]),
            seen(20, 10, 20, &[]),
            seen(30, 1, 20, &[]),
            seen(40, 1, 40, &[79]),
        ]);
        let mark = Mark {
            attempt,
            launcher: Some(pid(10)),
            group: Some(pid(20)),
            pipes: Some([77, 78]),
            since_ticks: 100,
        };
        let mut found: Vec<_> =
            snapshot.of(&mark).iter().map(|found| found.pid.as_raw_nonzero().get()).collect();
        found.sort_unstable();
        assert_eq!(found, [12, 13, 20, 30]);
        assert!(snapshot.of(&Mark { since_ticks: 101, ..mark }).is_empty(), "all of them are older");
    }
}
