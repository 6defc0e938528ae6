//! From a spec to a command: what cannot be honoured is refused before anything runs.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::unix::{ffi::OsStringExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};

use super::{attempt_dir::AttemptDir, tree::MARKER};
use crate::{
    model::{NetworkMode, SecretTarget, TaskSpec, Workload},
    runtime::{OutputStream, RuntimeError, RuntimeErrorKind, Secret, Work},
};

/// Runs the program and leaves its exit code behind, so that it is known even when the agent is gone by then.
///
/// `set -C` makes the shell create `pid` only if it is not there: of two wrappers of one attempt one goes on, whatever
/// happened to the agent in between. Signals of the group reach the program as well; the wrapper must outlive it, and
/// a handler (unlike ignoring) is not inherited.
const WRAPPER: &str = r#"
d=$1 files=$2 memory=$3; shift 3
fields() { shift 21; echo "$1"; }
read -r stat </proc/$$/stat && read -r boot </proc/sys/kernel/random/boot_id || exit 125
start=$(fields $stat)
trap : HUP INT QUIT TERM USR1 USR2
set -C
{ echo "$$ $start $boot" >"$d/pid"; } 2>/dev/null || exit 125
set +C
if { [ -z "$files" ] || ulimit -n "$files"; } && { [ -z "$memory" ] || ulimit -d "$memory"; }
then "$@"; code=$?
else echo "orch: a limit of the task cannot be set on this node" >&2; code=125
fi
echo "$code" >"$d/exit"
"#;

/// What of the agent's own environment a task sees.
const INHERITED: [&str; 3] = ["PATH", "HOME", "LANG"];

/// A spec that this runtime can carry out, with everything looked up.
pub(super) struct Launch {
    program: PathBuf,
    environment: BTreeMap<OsString, OsString>,
    /// Secrets that become files: their number in the spec, where, and the value.
    files: Vec<(usize, PathBuf, Secret)>,
}

impl Launch {
    /// Looks everything up without changing anything. Secrets may become files in `secret_dir` only.
    pub(super) fn plan(work: &Work, secret_dir: Option<&Path>) -> Result<Self, RuntimeError> {
        let program = match &work.spec.workload {
            Workload::Program { program } => program,
            Workload::Image { .. } => return unsupported("workload: this runtime runs programs, not images"),
        };
        refuse_isolation(&work.spec)?;
        let mut environment = environment(work);
        let files = secrets(work, secret_dir, &mut environment)?;
        if let Some(dir) = &work.spec.working_dir
            && !Path::new(dir).is_dir()
        {
            return invalid(format!("working_dir: {dir:?} is not a directory on this node"));
        }
        let path = environment.get(OsStr::new("PATH")).cloned().unwrap_or_default();
        let program = find(program, &path, work.spec.working_dir.as_deref())?;
        Ok(Self { program, environment, files })
    }

    /// Starts the wrapper in a process group of its own, with nothing of the agent's terminal.
    pub(super) fn spawn(self, work: &Work, dir: &AttemptDir) -> io::Result<Child> {
        let spec = &work.spec;
        let files = spec.isolation.open_files_limit.map(|limit| limit.to_string()).unwrap_or_default();
        let memory = Some(spec.resources.memory_bytes / 1024).filter(|kib| *kib > 0);
        let output = |stream| File::options().append(true).create(true).open(dir.output(stream));
        for (number, target, value) in &self.files {
            dir.place_secret(*number, target, value.expose())?;
        }
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", WRAPPER, "orch-wrapper"])
            .arg(fs::canonicalize(dir.path())?)
            .arg(files)
            .arg(memory.map(|kib| kib.to_string()).unwrap_or_default())
            .arg(self.program)
            .args(&spec.args)
            .env_clear()
            .envs(self.environment)
            .stdin(Stdio::null())
            .stdout(output(OutputStream::Stdout)?)
            .stderr(output(OutputStream::Stderr)?)
            .process_group(0)
            .kill_on_drop(false);
        if let Some(dir) = &spec.working_dir {
            command.current_dir(dir);
        }
        command.spawn()
    }
}

/// Isolation that a process cannot be given must not be left out silently.
fn refuse_isolation(spec: &TaskSpec) -> Result<(), RuntimeError> {
    let isolation = &spec.isolation;
    let asked = [
        ("mounts", !spec.mounts.is_empty()),
        ("isolation.network", !matches!(isolation.network, NetworkMode::Bridge | NetworkMode::Host)),
        ("isolation.user", isolation.user.is_some()),
        ("isolation.read_only_root", isolation.read_only_root),
        ("isolation.drop_all_capabilities", isolation.drop_all_capabilities),
        ("isolation.add_capabilities", !isolation.add_capabilities.is_empty()),
        ("isolation.pids_limit", isolation.pids_limit.is_some()),
        ("health", spec.health.is_some()),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((field, _)) => {
            unsupported(&format!("{field}: plain processes cannot have it; use a container runtime"))
        }
        None => Ok(()),
    }
}

fn environment(work: &Work) -> BTreeMap<OsString, OsString> {
    let mut all = BTreeMap::new();
    for name in INHERITED {
        all.extend(std::env::var_os(name).map(|value| (name.into(), value)));
    }
    all.extend(work.spec.env.iter().map(|(name, value)| (name.into(), value.into())));
    all.insert("ORCH_TASK".into(), work.attempt.task.to_string().into());
    all.insert(MARKER.into(), work.attempt.to_string().into());
    all
}

/// Adds secrets to the environment; returns those that become files.
fn secrets(
    work: &Work,
    secret_dir: Option<&Path>,
    environment: &mut BTreeMap<OsString, OsString>,
) -> Result<Vec<(usize, PathBuf, Secret)>, RuntimeError> {
    let mut files = Vec::new();
    for (number, secret) in work.spec.secrets.iter().enumerate() {
        let name = &secret.name;
        if let SecretTarget::File { path } = &secret.target {
            check_secret_file(path, secret_dir)?;
        }
        let Some(value) = work.secrets.get(name) else {
            return invalid(format!("secrets: this node has no secret called {name:?}"));
        };
        match &secret.target {
            SecretTarget::Env { .. } if value.expose().contains(&0) => {
                return invalid(format!(
                    "secrets: {name:?} has a NUL byte, no environment variable can hold it"
                ));
            }
            SecretTarget::Env { variable } => {
                environment.insert(variable.into(), OsString::from_vec(value.expose().to_vec()));
            }
            SecretTarget::File { path } => files.push((number, path.into(), value.clone())),
        }
    }
    Ok(files)
}

fn check_secret_file(path: &str, secret_dir: Option<&Path>) -> Result<(), RuntimeError> {
    match secret_dir {
        Some(dir) if Path::new(path).parent() == Some(dir) => Ok(()),
        Some(dir) => unsupported(&format!("secrets.target.path: must be a file in {}", dir.display())),
        None => unsupported("secrets.target: this node gives secrets as environment variables, not as files"),
    }
}

/// The program's file, found as a shell would.
fn find(program: &str, path: &OsStr, working_dir: Option<&str>) -> Result<PathBuf, RuntimeError> {
    if program.contains('/') {
        let from = working_dir.map_or_else(std::env::current_dir, |dir| Ok(dir.into()));
        let file = from.unwrap_or_default().join(program);
        return match fs::metadata(&file) {
            Ok(found) if is_program(&found) => Ok(file),
            Ok(_) => invalid(format!("workload.program: {} is not an executable file", file.display())),
            Err(error) => invalid(format!("workload.program: {}: {error}", file.display())),
        };
    }
    let mut candidates = std::env::split_paths(path).map(|dir| dir.join(program));
    match candidates.find(|file| fs::metadata(file).is_ok_and(|found| is_program(&found))) {
        Some(file) => Ok(file),
        None => {
            invalid(format!("workload.program: {program:?} is in no directory of PATH ({})", path.display()))
        }
    }
}

fn is_program(found: &fs::Metadata) -> bool {
    found.is_file() && found.permissions().mode() & 0o111 != 0
}

fn unsupported<T>(message: &str) -> Result<T, RuntimeError> {
    Err(RuntimeError::new(RuntimeErrorKind::Unsupported, message))
}

fn invalid<T>(message: String) -> Result<T, RuntimeError> {
    Err(RuntimeError::new(RuntimeErrorKind::InvalidSpec, message))
}
