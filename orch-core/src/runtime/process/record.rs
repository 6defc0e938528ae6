//! Record of an attempt: identity of its launcher, and exit status. The launcher's `record.rs` writes it.

use std::{fs, io};

use rustix::process::{Pid, Signal};

use super::{
    host::{ClockReading, Host},
    processes::{Process, Stat, parse_pid},
};
use crate::model::{Exit, Timestamp};

/// Record written by a launcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) launcher: Identity,
    pub(super) started: Option<ClockReading>,
    /// Inodes of the output pipes.
    pub(super) pipes: Option<[u64; 2]>,
    /// The program, which leads its own process group.
    pub(super) program: Option<Pid>,
    pub(super) exit: Option<Exit>,
}

impl Record {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut fields =
            |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ').map(str::split_whitespace);
        let _version = fields("orch-attempt")?.next().filter(|version| *version == "1")?;
        let launcher = Identity::parse(fields("launcher")?)?;
        let mut started = fields("started")?.map(str::parse);
        let (wall, uptime_centis) = (started.next()?.ok()?, started.next()?.ok()?);
        let mut pipes = fields("pipes")?.map(str::parse);
        let pipes = [pipes.next()?.ok()?, pipes.next()?.ok()?];
        let program = parse_pid(fields("program")?.next()?);
        let exit = parse_exit(fields("exit")?.next()?);
        let started = ClockReading { wall: Timestamp::from_millis(wall), uptime_centis };
        Some(Self { launcher, started: Some(started), pipes: Some(pipes), program, exit })
    }

    /// Parses the files that the shell of earlier versions wrote: `<pid> <start ticks> <boot id>` and an exit
    /// code.
    pub(super) fn parse_shell(identity: &str, exit: Option<&str>) -> Option<Self> {
        let launcher = Identity::parse(identity.split_whitespace())?;
        let exit = exit.and_then(|code| code.trim().parse().ok()).map(Exit::from_code);
        Some(Self { launcher, started: None, pipes: None, program: None, exit })
    }

    /// Time of the start by the current wall clock.
    pub(super) fn started_at(&self, host: &Host) -> Option<Timestamp> {
        let now = ClockReading::now().ok()?;
        match self.started {
            Some(started) if self.launcher.is_of(host) => Some(started.by_clock_of(now)),
            Some(started) => Some(started.wall),
            None => {
                // Ticks are hundredths of a second.
                let age = now.uptime_centis.checked_sub(self.launcher.start_ticks)?.saturating_mul(10);
                Some(Timestamp::from_millis(now.wall.as_millis().saturating_sub(age)))
            }
        }
    }
}

/// Parses an exit code that is written twice: a single copy means that the write is not complete.
fn parse_exit(text: &str) -> Option<Exit> {
    let (once, again) = text.split_at_checked(3)?;
    let code = once.parse().ok()?;
    (once == again).then(|| Exit::from_code(code))
}

/// Identity of a process within one boot and one PID namespace: a process id alone is reused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pid: Pid,
    start_ticks: u64,
    boot: String,
    /// Unknown in records of a shell of an earlier version.
    pid_namespace: Option<String>,
}

impl Identity {
    fn parse<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<Self> {
        let pid = parse_pid(words.next()?)?;
        let start_ticks = words.next()?.parse().ok()?;
        Some(Self {
            pid,
            start_ticks,
            boot: words.next()?.into(),
            pid_namespace: words.next().map(String::from),
        })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    pub(super) fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// Whether process ids of this boot and namespace are those of `host`.
    pub(super) fn is_of(&self, host: &Host) -> bool {
        self.boot == host.boot
            && self.pid_namespace.as_ref().is_none_or(|namespace| *namespace == host.pid_namespace)
    }

    /// Whether this very process is alive. A zombie is not.
    pub(super) fn is_alive(&self, host: &Host) -> bool {
        self.is_of(host)
            && Stat::of(self.pid).is_some_and(|stat| stat.start_ticks == self.start_ticks && stat.is_alive())
    }

    /// Sends a signal. A process that has exited is no error.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        Process { pid: self.pid, start_ticks: self.start_ticks }.signal(signal).map(drop)
    }
}

/// Content of a file of one line, once the line is complete.
pub(super) fn whole_line(path: &std::path::Path) -> Option<String> {
    fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "orch-attempt 1\nlauncher 7 123 1b4e28ba-2fa1-41d2-883f-0016d3cca427 4026531836\n\
                        started 1700000000000 4711\npipes 8 9\nprogram 0000000012\nexit ......\n";

    #[test]
    fn an_exit_counts_once_it_is_whole() {
        let record = Record::parse(TEXT).unwrap();
        assert_eq!((record.launcher.pid().as_raw_nonzero().get(), record.exit), (7, None));
        assert_eq!((record.pipes, record.program), (Some([8, 9]), Pid::from_raw(12)));
        for (slot, exit) in [("0030..", None), ("003003", Some(3)), ("137137", Some(137)), ("137003", None)] {
            let record = Record::parse(&TEXT.replace("......", slot)).unwrap();
            assert_eq!(record.exit, exit.map(Exit::from_code), "{slot}");
        }
    }

    #[test]
    fn half_a_record_is_none() {
        for end in 0..TEXT.len() - "exit ......\n".len() {
            assert!(Record::parse(&TEXT[..end]).is_none(), "{end}");
        }
    }

    #[test]
    fn a_reused_process_id_is_not_ours() {
        let (pid, host) = (rustix::process::getpid(), Host::this().unwrap());
        let start = Stat::of(pid).unwrap().start_ticks;
        let identity = |start: u64, boot: &str, namespace: &str| {
            Identity::parse(format!("{pid} {start} {boot} {namespace}").split_whitespace()).unwrap()
        };
        let (boot, namespace) = (&host.boot, &host.pid_namespace);
        assert!(identity(start, boot, namespace).is_alive(&host));
        assert!(identity(start, boot, "").is_alive(&host), "of an earlier version");
        assert!(!identity(start + 1, boot, namespace).is_alive(&host), "another process with our number");
        assert!(!identity(start, "1b4e28ba-2fa1-41d2-883f-0016d3cca427", namespace).is_alive(&host));
        assert!(!identity(start, boot, "1").is_alive(&host), "of another container");
    }
}
