//! Start of launchers: the embedded executable, run from memory, with a plan over a socket.

use std::{
    fs::File,
    io::{self, Write as _},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    path::PathBuf,
    process::Stdio,
};

use rustix::{
    fs::{MemfdFlags, memfd_create},
    process::{Pid, Resource, Rlimit, prlimit},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::{Child, Command},
};

use super::{attempt_dir::AttemptDir, plan::Plan, record::Record};
use crate::runtime::{RuntimeError, RuntimeErrorKind};

/// Embedded executable of the launcher; see `build.rs`.
const LAUNCHER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/orch-launcher"));

/// Maximum size of a launcher's response, a status and its record, in bytes.
const ANSWER_MAX: usize = 4096;

/// Executable of the launcher, in memory: no file of it can be missing, changed, or on a disk that is mounted
/// without exec.
#[derive(Debug)]
pub(super) struct Executable(OwnedFd);

impl Executable {
    pub(super) fn new() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC;
        // Some systems run nothing from memory unless the flag is set; older ones do not know the flag.
        let memory = memfd_create("orch-launcher", flags | MemfdFlags::EXEC)
            .or_else(|_| memfd_create("orch-launcher", flags))
            .map_err(|error| {
                let error = io::Error::from(error);
                io::Error::new(
                    error.kind(),
                    format!("this node runs no programs from memory (memfd_create): {error}"),
                )
            })?;
        let mut file = File::from(memory);
        file.write_all(LAUNCHER)?;
        // A file that is open for writing cannot be executed.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok(Self(File::open(path)?.into()))
    }

    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

/// A launcher that waits for its plan. When this is dropped it exits without having done anything.
pub(super) struct Launch {
    child: Child,
    socket: StdStream,
}

/// Outcome of a launch.
pub(super) enum Launched {
    /// The program runs.
    Started(Box<Record>, Child),
    /// Another launcher had started the program before.
    Taken,
}

/// Reason for which a launch has not started the program, or may not have.
pub(super) enum NotLaunched {
    /// Nothing has run.
    Refused(RuntimeError),
    /// The launcher vanished: the record on the disk decides.
    Silent(String),
}

impl Launch {
    /// Creates everything that the plan needs, on disk and in the process table.
    pub(super) fn begin(
        executable: &Executable,
        plan: &Plan,
        dir: &AttemptDir,
    ) -> Result<Self, RuntimeError> {
        for (number, target, value) in &plan.files {
            dir.place_secret(*number, target, value.expose()).map_err(|error| {
                let kind = match error.kind() {
                    io::ErrorKind::AlreadyExists => RuntimeErrorKind::InvalidSpec,
                    _ => kind_of(&error),
                };
                RuntimeError::new(kind, format!("secrets.target.path: {}: {error}", target.display()))
            })?;
        }
        let internal =
            |what: &str, error: &io::Error| RuntimeError::new(kind_of(error), format!("{what}: {error}"));
        let child = || -> io::Result<Self> {
            let (socket, launchers) = StdStream::pair()?;
            let launchers = OwnedFd::from(launchers);
            let mut command = Command::new(executable.path());
            command
                .arg0("orch-launcher")
                .env_clear()
                .stdin(Stdio::from(launchers.try_clone()?))
                .stdout(Stdio::from(launchers))
                .stderr(Stdio::null())
                .process_group(0)
                .kill_on_drop(false);
            Ok(Self { child: command.spawn()?, socket })
        };
        let launch = child().map_err(|error| internal("the launcher cannot be started", &error))?;
        launch.limit(plan)?;
        Ok(launch)
    }

    /// Sets the limits of the program while the launcher, from which it inherits them, waits.
    fn limit(&self, plan: &Plan) -> Result<(), RuntimeError> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        for (field, resource, limit) in [
            ("isolation.open_files_limit", Resource::Nofile, plan.open_files),
            ("resources.memory_bytes", Resource::Data, plan.memory_bytes),
        ] {
            if limit.is_none() {
                continue;
            }
            // Without a process id it would be the agent's own limit.
            let set = pid
                .ok_or(rustix::io::Errno::SRCH)
                .and_then(|pid| prlimit(Some(pid), resource, Rlimit { current: limit, maximum: limit }));
            set.map_err(|error| {
                let message = format!("{field}: this node cannot set the limit: {error}");
                RuntimeError::new(RuntimeErrorKind::Unsupported, message)
            })?;
        }
        Ok(())
    }

    /// Sends the plan, and receives the response.
    pub(super) async fn go(self, plan: &[u8]) -> Result<Launched, NotLaunched> {
        let Self { mut child, socket } = self;
        let answer = async {
            socket.set_nonblocking(true)?;
            let mut socket = UnixStream::from_std(socket)?;
            socket.write_all(plan).await?;
            let mut answer = Vec::new();
            while !is_whole(&answer) {
                if socket.read_buf(&mut answer).await? == 0 || answer.len() > ANSWER_MAX {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let answer: io::Result<String> = answer.await;
        let silent = |why: String| NotLaunched::Silent(why);
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let ended =
                    child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
                return Err(silent(format!(
                    "the launcher of the attempt does not answer ({error}, {ended})"
                )));
            }
        };
        let (word, rest) = answer.split_once('\n').unwrap_or_default();
        match word.split(' ').collect::<Vec<_>>()[..] {
            ["started"] => match Record::parse(rest) {
                Some(record) => Ok(Launched::Started(Box::new(record), child)),
                None => Err(silent(format!("the launcher of the attempt answered {answer:?}"))),
            },
            ["taken"] => {
                let _ = child.wait().await;
                Ok(Launched::Taken)
            }
            ["failed", step, number] => {
                let _ = child.wait().await;
                let error = io::Error::from_raw_os_error(number.parse().unwrap_or_default());
                Err(NotLaunched::Refused(refused(step, &error)))
            }
            _ => Err(silent(format!("the launcher of the attempt answered {answer:?}"))),
        }
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    match text.strip_prefix("started\n") {
        Some(record) => record.ends_with('\n') && record.lines().any(|line| line.starts_with("exit ")),
        None => text.ends_with('\n') && text != "started\n",
    }
}

fn refused(step: &str, error: &io::Error) -> RuntimeError {
    let program = step == "program";
    let kind = match kind_of(error) {
        RuntimeErrorKind::Internal if program && is_of_the_spec(error) => RuntimeErrorKind::InvalidSpec,
        kind => kind,
    };
    let what = match step {
        "program" => "workload.program: the system does not run it",
        "record" => "the directory of the attempt cannot be written to",
        _ => "the outputs of the attempt cannot be made",
    };
    RuntimeError::new(kind, format!("{what}: {error}"))
}

/// Whether the program, its arguments or its directory are the cause, and not the state of the node.
fn is_of_the_spec(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    const EXEC_FORMAT: i32 = rustix::io::Errno::NOEXEC.raw_os_error();
    matches!(
        error.kind(),
        Kind::NotFound
            | Kind::PermissionDenied
            | Kind::ArgumentListTooLong
            | Kind::InvalidInput
            | Kind::NotADirectory
    ) || error.raw_os_error() == Some(EXEC_FORMAT)
}

/// Error kind that `start` and its like report for an error of the system. A missing file in the directory
/// does not mean that the attempt is lost.
pub(super) fn kind_of(error: &io::Error) -> RuntimeErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => RuntimeErrorKind::NoSpace,
        _ => RuntimeErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _, num::NonZeroU32, os::unix::process::CommandExt as _};

    use super::{super::host::Host, *};
    use crate::{
        model::{AttemptId, Exit, SharedSpec, TaskId, TaskSpec},
        runtime::Work,
    };

    struct Bench {
        base: tempfile::TempDir,
        dir: AttemptDir,
        executable: Executable,
        plan: Vec<u8>,
    }

    impl Bench {
        fn new() -> Self {
            let base = tempfile::tempdir().unwrap();
            let attempt = AttemptId { task: TaskId::generate(), attempt: NonZeroU32::MIN };
            let script = format!("echo ran >>{}/count; exit 7", base.path().display());
            let spec = SharedSpec::from(TaskSpec::program("t", "sh").args(["-c", &script]).env("A", "b"));
            let work = Work { attempt, spec, secrets: BTreeMap::new() };
            let (dir, host) = (AttemptDir::new(base.path(), attempt), Host::this().unwrap());
            dir.create(&work.spec, &host, true).unwrap();
            let plan = Plan::of(&work, None).unwrap().encode(&work.spec, &dir, &host);
            Self { base, dir, executable: Executable::new().unwrap(), plan }
        }

        /// Runs a launcher with only this part of a plan. Returns its response and exit code.
        fn launch(&self, bytes: &[u8]) -> (String, Option<i32>) {
            let mut command = std::process::Command::new(self.executable.path());
            command.arg0("orch-launcher").env_clear().stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(bytes).unwrap();
            let mut answer = String::new();
            child.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
            (answer, child.wait().unwrap().code())
        }

        fn count(&self) -> usize {
            std::fs::read_to_string(self.base.path().join("count")).unwrap_or_default().lines().count()
        }
    }

    #[test]
    fn half_a_plan_starts_nothing() {
        let bench = Bench::new();
        for length in [0, 3, 4, 20, bench.plan.len() / 2, bench.plan.len() - 1] {
            assert_eq!(bench.launch(&bench.plan[..length]), (String::new(), Some(125)), "{length} bytes");
        }
        let mut wrong = bench.plan.clone();
        wrong[LENGTH_BYTES..].fill(0xff);
        assert_eq!(bench.launch(&wrong), (String::new(), Some(125)));
        assert_eq!((bench.count(), bench.dir.record()), (0, None));
    }

    const LENGTH_BYTES: usize = 4;

    #[test]
    fn of_two_launchers_one_goes_on() {
        let bench = Bench::new();
        let answers: Vec<_> = std::thread::scope(|scope| {
            let launchers: Vec<_> = (0..8).map(|_| scope.spawn(|| bench.launch(&bench.plan))).collect();
            launchers.into_iter().map(|launcher| launcher.join().unwrap()).collect()
        });
        assert_eq!(bench.count(), 1);
        assert_eq!(
            answers.iter().filter(|(answer, code)| answer == "taken\n" && *code == Some(125)).count(),
            7
        );
        let (answer, code) = answers.iter().find(|(answer, _)| answer != "taken\n").unwrap();
        let record = Record::parse(answer.strip_prefix("started\n").unwrap()).unwrap();
        assert_eq!((record.exit, *code), (None, Some(7)));
        assert_eq!(bench.dir.record().unwrap(), Record { exit: Some(Exit::from_code(7)), ..record });
    }

    #[test]
    fn a_launcher_whose_directory_is_gone_starts_nothing() {
        let bench = Bench::new();
        bench.dir.remove(true).unwrap();
        assert_eq!(bench.launch(&bench.plan), ("failed record 2\n".into(), Some(125)));
        assert_eq!(bench.count(), 0);
    }
}
