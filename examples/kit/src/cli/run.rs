//! `orch run`.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use futures_util::StreamExt as _;
use orch_core::engine::OutputRange;
use orch_core::{
    engine::EventKind,
    model::{
        Constraint, HealthCheck, Isolation, Mount, MountSource, NetworkMode, NodeId, PullPolicy,
        RestartPolicy, SecretRef, SecretTarget, StopSignal, TaskSpec, Workload,
    },
};
use orch_net::http::{Api, EventStart, wire::TaskInfo};

use super::{exit, logs, progress::Progress, session::Session, table};
use crate::{config::units, failure::Failure};

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    task: SpecArgs,
    /// Read the whole task from a JSON file ("-" for standard input); the format is in docs/task-model.md.
    #[arg(long, value_name = "FILE", conflicts_with = "SpecArgs")]
    file: Option<PathBuf>,
    /// Wait until it has finished; the exit code is the result.
    #[arg(short, long)]
    wait: bool,
    /// Print its output as it arrives; implies --wait.
    #[arg(short, long)]
    follow: bool,
}

/// Options that make up a spec, where it is not read from a file.
#[derive(Debug, Args)]
struct SpecArgs {
    /// Name of the task.
    #[arg(required_unless_present = "file")]
    name: Option<String>,
    /// The image to run, or the program with --program.
    #[arg(required_unless_present = "file")]
    image: Option<String>,
    /// Arguments; those that begin with a dash go after --.
    args: Vec<String>,
    /// Run a program of the node's operating system instead of an image.
    #[arg(long)]
    program: bool,
    /// Replace the image's entry point by these words; give it once for each word.
    #[arg(long, value_name = "WORD")]
    entrypoint: Vec<String>,
    /// Cores, such as 0.5.
    #[arg(long, value_name = "CORES", value_parser = units::cores)]
    cpu: Option<u64>,
    /// Memory, such as 256m.
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    memory: Option<u64>,
    /// Devices, such as gpu=1.
    #[arg(long, value_name = "NAME=COUNT", value_parser = units::counted)]
    device: Vec<(String, u64)>,
    /// A host port of the node.
    #[arg(long, value_name = "PORT")]
    port: Vec<u16>,
    /// An environment variable.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = units::pair)]
    env: Vec<(String, String)>,
    /// Working directory.
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
    /// A label, which the cluster does not interpret.
    #[arg(long, value_name = "NAME=VALUE", value_parser = units::pair)]
    label: Vec<(String, String)>,
    /// Run only on nodes with this label.
    #[arg(long, value_name = "NAME=VALUE", value_parser = units::pair)]
    constraint: Vec<(String, String)>,
    /// Run only on this node.
    #[arg(long, value_name = "NODE")]
    node: Option<NodeId>,
    /// Scheduling priority; higher goes first.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// Failures before the task is given up.
    #[arg(long, value_name = "COUNT", default_value = "1")]
    attempts: NonZeroU32,
    /// Delay before the second attempt; it doubles with each failure.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    backoff: Option<Duration>,
    /// Time limit of an attempt.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    timeout: Option<Duration>,
    /// Time limit of waiting for a node.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    queue_timeout: Option<Duration>,
    /// Time limit of everything together.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    total_timeout: Option<Duration>,
    /// Isolate it from its node as far as possible: no network, read-only root, no privileges.
    #[arg(long)]
    hardened: bool,
    /// Network: bridge, none, host, or the name of a network of the engine.
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// User to run as, such as 1000:1000.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Mount a directory of the node (/path:/target) or a volume (name:/target); :ro at the end for
    /// read-only.
    #[arg(long, value_name = "SOURCE:TARGET[:ro]", value_parser = mount)]
    mount: Vec<Mount>,
    /// A secret that the node holds, as an environment variable.
    #[arg(long, value_name = "VARIABLE=SECRET", value_parser = units::pair)]
    secret: Vec<(String, String)>,
    /// The same as a file at an absolute path.
    #[arg(long, value_name = "PATH=SECRET", value_parser = units::pair)]
    secret_file: Vec<(String, String)>,
    /// Ends that are retried: failures (as often as --attempts says), always (success too), or none, not even
    /// when its node is lost.
    #[arg(long, value_enum, default_value = "on-failure")]
    restart: Restart,
    /// A shell command that is run inside the task periodically; when it fails three times in a row, the
    /// attempt has failed.
    #[arg(long, value_name = "COMMAND")]
    health: Option<String>,
    /// Interval between health checks.
    #[arg(long, value_name = "TIME", value_parser = units::duration, requires = "health", default_value = "10s")]
    health_interval: Duration,
    /// Signal of the stop request, such as SIGINT.
    #[arg(long, value_name = "SIGNAL", value_parser = stop_signal)]
    stop_signal: Option<StopSignal>,
    /// Grace period between the signal and the kill.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    stop_grace: Option<Duration>,
    /// Pull policy of the image.
    #[arg(long, value_enum)]
    pull: Option<Pull>,
    /// Name of the registry credentials that the node holds.
    #[arg(long, value_name = "SECRET")]
    registry_login: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Pull {
    IfMissing,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Restart {
    OnFailure,
    Always,
    Never,
}

pub(super) async fn run(session: &Session, args: RunArgs) -> Result<(), Failure> {
    let api = &*session.api;
    let (wait, follow) = (args.wait || args.follow, args.follow);
    let spec = in_namespace(
        match &args.file {
            Some(path) => read_spec(path)?,
            None => spec(args.task)?,
        },
        session,
    )?;
    let task = api.submit_one(spec).await?;
    if !wait {
        warn_if_pending(session, &task);
        return match session.json {
            true => table::print_json(&task),
            false => table::print(&format!("{}\n", task.view.record.id)),
        };
    }
    warn_if_pending(session, &task);
    let id = task.view.record.id;
    let done = if follow {
        let output = api.output(id, OutputRange { follow: true, ..OutputRange::default() }).await?;
        match session.json {
            true => logs::print_json(output).await?,
            false => logs::print_all(output, None).await?,
        }
        api.wait(id).await?
    } else {
        wait_with_progress(api, &task).await?
    };
    if session.json {
        table::print_json(&done)?;
    } else if !follow {
        table::print(&format!("{id} {}\n", done.status))?;
    }
    exit::of_task(&done)
}

fn warn_if_pending(session: &Session, task: &TaskInfo) {
    if let Some(explanation) = &task.explanation {
        session.note(format_args!("pending: {}", table::one_line(&explanation.text)));
    }
}

/// Puts a task into the namespace of the command line; a file may name the same one already.
fn in_namespace(mut spec: TaskSpec, session: &Session) -> Result<TaskSpec, Failure> {
    let Some(wanted) = session.namespace.clone() else { return Ok(spec) };
    if !spec.namespace.is_default() && spec.namespace != wanted {
        let said = &spec.namespace;
        return Err(Failure::usage(format!(
            "the file puts the task into the namespace {said}, not into {wanted}"
        )));
    }
    spec.namespace = wanted;
    Ok(spec)
}

/// Waits; on a terminal it shows the progress of the task.
async fn wait_with_progress(api: &dyn Api, task: &TaskInfo) -> Result<TaskInfo, Failure> {
    let (id, progress) = (task.view.record.id, Progress::new());
    if !progress.is_seen() {
        return Ok(api.wait(id).await?);
    }
    let mut events = api.events(EventStart::Now).await?;
    let done = api.wait(id);
    tokio::pin!(done);
    progress.show(task.status.as_str());
    loop {
        tokio::select! {
            done = &mut done => return Ok(done?),
            Some(Ok(positioned)) = events.next() => match positioned.event.kind {
                EventKind::Task(record) if record.id == id => progress.show(record.status().as_str()),
                EventKind::Observed { attempt, kind } if attempt.task == id => {
                    progress.show(&super::events::words(&kind));
                }
                _ => {}
            },
        }
    }
}

fn read_spec(path: &std::path::Path) -> Result<TaskSpec, Failure> {
    let failed = |error: String| Failure::usage(format!("{}: {error}", path.display()));
    let text = match path.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(path),
    };
    let text = text.map_err(|error| failed(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
}

fn spec(args: SpecArgs) -> Result<TaskSpec, Failure> {
    let (name, image) = (args.name.unwrap_or_default(), args.image.unwrap_or_default());
    let mut spec = match args.program {
        true => TaskSpec::program(name, image),
        false => TaskSpec::image(name, image).command(args.entrypoint),
    };
    spec = spec.args(args.args).priority(args.priority).max_attempts(args.attempts.get());
    spec.resources.cpu_millis = args.cpu.unwrap_or(0);
    spec.resources.memory_bytes = args.memory.unwrap_or(0);
    spec.resources.devices = args.device.into_iter().collect();
    for port in args.port {
        spec.resources = spec.resources.port(port);
    }
    spec.env = args.env.into_iter().collect();
    spec.working_dir = args.workdir;
    spec.labels = args.label.into_iter().collect();
    spec.constraints =
        args.constraint.into_iter().map(|(label, value)| Constraint::Equals { label, value }).collect();
    spec.constraints.extend(args.node.map(|node| Constraint::Node { node }));
    if let Some(backoff) = args.backoff {
        spec.retry.backoff = backoff;
    }
    spec.timeouts.run = args.timeout;
    spec.timeouts.queue = args.queue_timeout;
    spec.timeouts.total = args.total_timeout;
    if args.hardened {
        *spec.isolation = Isolation::hardened();
    }
    if let Some(network) = args.network {
        spec.isolation.network = match network.as_str() {
            "bridge" => NetworkMode::Bridge,
            "none" => NetworkMode::None,
            "host" => NetworkMode::Host,
            _ => NetworkMode::Named(network),
        };
    }
    if args.user.is_some() {
        spec.isolation.user = args.user;
    }
    spec.mounts = args.mount;
    let variable = |(variable, name)| SecretRef { name, target: SecretTarget::Env { variable } };
    let file = |(path, name)| SecretRef { name, target: SecretTarget::File { path } };
    spec.secrets =
        args.secret.into_iter().map(variable).chain(args.secret_file.into_iter().map(file)).collect();
    spec.restart = match args.restart {
        Restart::OnFailure => RestartPolicy::OnFailure,
        Restart::Always => RestartPolicy::Always,
        Restart::Never => RestartPolicy::Never,
    };
    spec.health = args.health.map(|command| Box::new(health_check(command, args.health_interval)));
    spec.stop.signal = args.stop_signal.unwrap_or_default();
    spec.stop.grace = args.stop_grace.unwrap_or(spec.stop.grace);
    if let Workload::Image { pull, registry_credentials, .. } = &mut spec.workload {
        *pull = match args.pull {
            None | Some(Pull::IfMissing) => PullPolicy::IfMissing,
            Some(Pull::Always) => PullPolicy::Always,
            Some(Pull::Never) => PullPolicy::Never,
        };
        *registry_credentials = args.registry_login;
    }
    Ok(spec)
}

fn health_check(command: String, interval: Duration) -> HealthCheck {
    HealthCheck {
        command: ["sh".into(), "-c".into(), command].into(),
        interval,
        timeout: Duration::from_secs(5),
        start_period: Duration::ZERO,
        retries: const { NonZeroU32::new(3).unwrap() },
    }
}

fn stop_signal(text: &str) -> Result<StopSignal, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

fn mount(text: &str) -> Result<Mount, String> {
    let mut parts = text.split(':');
    let (Some(source), Some(target), mode, None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("it must be SOURCE:TARGET or SOURCE:TARGET:ro".into());
    };
    let read_only = match mode {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(other) => return Err(format!("{other:?} is no mode; use ro or rw")),
    };
    let source = match source.starts_with('/') {
        true => MountSource::Host { path: source.into() },
        false => MountSource::Volume { name: source.into() },
    };
    Ok(Mount { target: target.into(), source, read_only })
}
