//! Conversion of a spec into a plan for the launcher: settings that cannot be honoured are rejected before
//! anything runs.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::PermissionsExt,
    },
    path::{Path, PathBuf},
};

use super::{attempt_dir::AttemptDir, host::Host, processes::MARKER};
use crate::{
    model::{NetworkMode, SecretTarget, TaskSpec, Workload},
    runtime::{RuntimeError, RuntimeErrorKind, Secret, Work},
};

/// Lower bound on open files. With fewer the launcher, which gets the limits as well, could not write the
/// output.
const OPEN_FILES_MIN: u32 = 16;
/// Lower bound on memory, in bytes, for the same reason.
const MEMORY_MIN: u64 = 4 << 20;

/// Variables of the agent's own environment that a task inherits.
const INHERITED: [&str; 3] = ["PATH", "HOME", "LANG"];

/// Plan of a spec that this runtime can carry out, with everything resolved.
pub(super) struct Plan {
    program: PathBuf,
    environment: BTreeMap<OsString, OsString>,
    /// Secrets that become files: index in the spec, path, and value.
    pub(super) files: Vec<(usize, PathBuf, Secret)>,
    pub(super) open_files: Option<u64>,
    pub(super) memory_bytes: Option<u64>,
}

impl Plan {
    /// Resolves everything without side effects. Secrets may become files in `secret_dir` only.
    pub(super) fn of(work: &Work, secret_dir: Option<&Path>) -> Result<Self, RuntimeError> {
        let spec = &work.spec;
        let program = match &spec.workload {
            Workload::Program { program } => program,
            Workload::Image { .. } => return unsupported("workload: this runtime runs programs, not images"),
        };
        refuse_isolation(spec)?;
        let mut environment = environment(work);
        let files = secrets(work, secret_dir, &mut environment)?;
        if let Some(dir) = &spec.working_dir
            && !Path::new(dir).is_dir()
        {
            return invalid(format!("working_dir: {dir:?} is not a directory on this node"));
        }
        let path = environment.get(OsStr::new("PATH")).cloned().unwrap_or_default();
        let program = find(program, &path, spec.working_dir.as_deref())?;
        let open_files = spec.isolation.open_files_limit.map(|limit| u64::from(limit.get()));
        if open_files.is_some_and(|limit| limit < u64::from(OPEN_FILES_MIN)) {
            return unsupported(&format!("isolation.open_files_limit: must be {OPEN_FILES_MIN} or more"));
        }
        let memory_bytes = Some(spec.resources.memory_bytes).filter(|bytes| *bytes > 0);
        if memory_bytes.is_some_and(|bytes| bytes < MEMORY_MIN) {
            return unsupported(&format!(
                "resources.memory_bytes: must be {MEMORY_MIN} or more, or 0 for no limit"
            ));
        }
        Ok(Self { program, environment, files, open_files, memory_bytes })
    }

    /// Encodes the bytes that the launcher reads; its `plan.rs` is the counterpart.
    pub(super) fn encode(&self, spec: &TaskSpec, dir: &AttemptDir, host: &Host) -> Vec<u8> {
        let mut fields = Fields(vec![0; LENGTH]);
        fields.text(dir.path());
        fields.text(&host.boot);
        fields.text(&host.pid_namespace);
        fields.number(spec.output_limit_bytes);
        fields.text(spec.working_dir.as_deref().unwrap_or_default());
        fields.text(&self.program);
        fields.number(spec.args.len() as u64);
        for arg in &spec.args {
            fields.text(arg);
        }
        fields.number(self.environment.len() as u64);
        for (name, value) in &self.environment {
            fields.text(name);
            fields.text(value);
        }
        let Fields(mut bytes) = fields;
        // A plan that is too long is rejected by the launcher.
        let length = u32::try_from(bytes.len() - LENGTH).unwrap_or(u32::MAX);
        bytes[..LENGTH].copy_from_slice(&length.to_le_bytes());
        bytes
    }
}

/// Size of the length prefix, in bytes.
const LENGTH: usize = 4;

struct Fields(Vec<u8>);

impl Fields {
    fn number(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: impl AsRef<OsStr>) {
        let bytes = text.as_ref().as_bytes();
        self.number(bytes.len() as u64);
        self.0.extend(bytes);
    }
}

/// Rejects isolation that a process cannot have, which must not be ignored silently.
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

/// Resolves the program's file, as a shell would.
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
