//! Conversion of a task's spec into the engine's description of a container. Nothing here talks to the
//! engine.

use std::{collections::HashMap, time::Duration};

use bollard::models::{
    ContainerCreateBody, DeviceMapping, DeviceRequest, HealthConfig, HostConfig, HostConfigLogConfig,
    Mount as EngineMount, MountTmpfsOptions, MountType, PortBinding, ResourcesUlimits,
};
use orch_core::{
    model::{HealthCheck, Isolation, Mount, MountSource, NetworkMode, Resources, SecretTarget, Workload},
    runtime::{RuntimeError, RuntimeErrorKind, Work},
};

use crate::{
    DockerConfig,
    container::OUTPUT_LIMIT,
    host_paths,
    identity::Identity,
    reference::ImageRef,
    secrets::{self, SecretFile},
};

/// Size of the in-memory `/tmp` of a task with a read-only root, in bytes.
const TMP_BYTES: i64 = 64 << 20;

/// Number of output files between which the engine rotates.
const LOG_FILES: u64 = 2;

/// Minimum size of one such file, in bytes: rotating costs, and smaller ones save nothing.
const LOG_FILE_BYTES_MIN: u64 = 1 << 20;

/// Minimum cpu: the engine rejects less than a hundredth of a core.
const CPU_MILLIS_MIN: u64 = 10;

/// Minimum start period: the engine interprets zero as "as in the image", and rejects anything shorter than
/// this.
const START_PERIOD_MIN: Duration = Duration::from_millis(1);

/// Capabilities that the engine grants by default; tasks may request these after dropping all.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Image that the work runs.
pub(crate) fn image(work: &Work) -> Result<ImageRef, RuntimeError> {
    match &work.spec.workload {
        Workload::Image { image, .. } => ImageRef::parse(image),
        Workload::Program { program } => Err(RuntimeError::new(
            RuntimeErrorKind::Unsupported,
            format!("program {program:?} is not an image; the docker runtime runs images only"),
        )),
    }
}

/// Description of the container for `work`, with the `files` of its secrets.
pub(crate) fn container(
    work: &Work,
    files: &[SecretFile],
    identity: &Identity,
    config: &DockerConfig,
) -> Result<ContainerCreateBody, RuntimeError> {
    let spec = &work.spec;
    let command = match &spec.workload {
        Workload::Image { command, .. } => command.clone(),
        Workload::Program { .. } => Vec::new(), // refused by `image` below
    };
    let mut labels = identity.labels(work.attempt);
    labels.insert(OUTPUT_LIMIT.into(), spec.output_limit_bytes.to_string());
    let published = publishes(&spec.isolation.network).then_some(spec.resources.ports.as_slice());
    let ports = published.unwrap_or_default();
    Ok(ContainerCreateBody {
        image: Some(image(work)?.as_str().into()),
        entrypoint: (!command.is_empty()).then_some(command),
        cmd: (!spec.args.is_empty()).then(|| spec.args.clone()),
        env: Some(environment(work)?),
        working_dir: spec.working_dir.clone(),
        user: spec.isolation.user.clone(),
        labels: Some(labels),
        stop_signal: Some(spec.stop.signal.name().into()),
        healthcheck: health(spec.health.as_deref(), config)?,
        exposed_ports: Some(ports.iter().copied().map(port_key).collect()),
        host_config: Some(HostConfig {
            mounts: Some(mounts(work, files, config)?),
            port_bindings: Some(
                ports.iter().map(|port| (port_key(*port), Some(vec![binding(*port, config)]))).collect(),
            ),
            network_mode: Some(network(&spec.isolation.network, config)?),
            log_config: Some(log_config(spec.output_limit_bytes)),
            ..limits(&spec.resources, &spec.isolation, config)?
        }),
        ..ContainerCreateBody::default()
    })
}

fn environment(work: &Work) -> Result<Vec<String>, RuntimeError> {
    let mut all: Vec<_> = work.spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    for secret in &work.spec.secrets {
        let value = secrets::value(work, &secret.name)?;
        let SecretTarget::Env { variable } = &secret.target else { continue };
        let text = std::str::from_utf8(value.expose()).ok().filter(|text| !text.contains('\0'));
        let text = text.ok_or_else(|| {
            invalid(format!("secret {:?} is not text and cannot be a variable; use a file", secret.name))
        })?;
        all.push(format!("{variable}={text}"));
    }
    all.push(format!("ORCH_TASK={}", work.attempt.task));
    all.push(format!("ORCH_ATTEMPT={}", work.attempt));
    Ok(all)
}

/// Health check of the spec. Without one the image's applies, as the engine does by default, unless the agent
/// disables it.
fn health(check: Option<&HealthCheck>, config: &DockerConfig) -> Result<Option<HealthConfig>, RuntimeError> {
    let Some(check) = check else {
        let none = HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() };
        return Ok((!config.image_health_checks).then_some(none));
    };
    let nanos = |duration: Duration| {
        i64::try_from(duration.as_nanos()).map_err(|_| invalid("health: a time is too long".into()))
    };
    let test = ["CMD".into()].into_iter().chain(check.command.iter().cloned()).collect();
    Ok(Some(HealthConfig {
        test: Some(test),
        interval: Some(nanos(check.interval)?),
        timeout: Some(nanos(check.timeout)?),
        start_period: Some(nanos(check.start_period.max(START_PERIOD_MIN))?),
        retries: Some(check.retries.get().into()),
        start_interval: None,
    }))
}

fn limits(
    resources: &Resources,
    isolation: &Isolation,
    config: &DockerConfig,
) -> Result<HostConfig, RuntimeError> {
    let too_much = |what: &str| invalid(format!("resources.{what} is out of range"));
    let memory = match resources.memory_bytes {
        0 => None,
        bytes => Some(i64::try_from(bytes).map_err(|_| too_much("memory_bytes"))?),
    };
    let nano_cpus = match resources.cpu_millis {
        0 => None,
        millis => {
            let nanos = millis.max(CPU_MILLIS_MIN).checked_mul(1_000_000);
            Some(nanos.and_then(|nanos| i64::try_from(nanos).ok()).ok_or_else(|| too_much("cpu_millis"))?)
        }
    };
    let (device_requests, devices) = devices(resources, config)?;
    Ok(HostConfig {
        memory,
        memory_swap: memory, // both together: no swap
        nano_cpus,
        device_requests: Some(device_requests),
        devices: Some(devices),
        pids_limit: isolation.pids_limit.map(|limit| limit.get().into()),
        ulimits: isolation.open_files_limit.map(|limit| {
            let limit = Some(limit.get().into());
            vec![ResourcesUlimits { name: Some("nofile".into()), soft: limit, hard: limit }]
        }),
        readonly_rootfs: Some(isolation.read_only_root),
        cap_drop: isolation.drop_all_capabilities.then(|| vec!["ALL".into()]),
        cap_add: Some(capabilities(isolation, config)?),
        security_opt: (!isolation.new_privileges).then(|| vec!["no-new-privileges".into()]),
        ..HostConfig::default()
    })
}

fn capabilities(isolation: &Isolation, config: &DockerConfig) -> Result<Vec<String>, RuntimeError> {
    let allowed = |name: &str| {
        DEFAULT_CAPABILITIES.contains(&name)
            || config.allowed_capabilities.iter().any(|allowed| allowed == name)
    };
    let asked = isolation.add_capabilities.iter().map(|capability| capability.0.as_str());
    asked
        .map(|name| match allowed(name) {
            true => Ok(name.into()),
            false => Err(invalid(format!("capability {name} is not among those that this agent allows"))),
        })
        .collect()
}

fn devices(
    resources: &Resources,
    config: &DockerConfig,
) -> Result<(Vec<DeviceRequest>, Vec<DeviceMapping>), RuntimeError> {
    let (mut requests, mut mappings) = (Vec::new(), Vec::new());
    for (name, count) in resources.devices.iter().filter(|(_, count)| **count > 0) {
        if let Some(files) = config.devices.get(name) {
            mappings.extend(files.iter().map(|file| {
                let path = Some(file.to_string_lossy().into_owned());
                let cgroup_permissions = Some("rwm".into());
                DeviceMapping { path_on_host: path.clone(), path_in_container: path, cgroup_permissions }
            }));
        } else if name == "gpu" {
            let count =
                i64::try_from(*count).map_err(|_| invalid("resources.devices.gpu is out of range".into()))?;
            requests.push(DeviceRequest {
                count: Some(count),
                capabilities: Some(vec![vec!["gpu".into()]]),
                ..DeviceRequest::default()
            });
        } else {
            return Err(invalid(format!("device {name:?} is not set up on this agent")));
        }
    }
    Ok((requests, mappings))
}

fn mounts(
    work: &Work,
    files: &[SecretFile],
    config: &DockerConfig,
) -> Result<Vec<EngineMount>, RuntimeError> {
    let spec = &work.spec;
    let mut all = spec.mounts.iter().map(|mount| one_mount(mount, config)).collect::<Result<Vec<_>, _>>()?;
    if spec.isolation.read_only_root && !spec.mounts.iter().any(|mount| mount.target == "/tmp") {
        all.push(tmpfs("/tmp", TMP_BYTES, false));
    }
    all.extend(files.iter().map(|file| EngineMount {
        target: Some(file.target.clone()),
        source: Some(file.source.to_string_lossy().into_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(true),
        ..EngineMount::default()
    }));
    Ok(all)
}

fn one_mount(mount: &Mount, config: &DockerConfig) -> Result<EngineMount, RuntimeError> {
    let (typ, source) = match &mount.source {
        MountSource::Tmpfs { size_bytes } => {
            let size = i64::try_from(*size_bytes)
                .map_err(|_| invalid("mounts: size_bytes is out of range".into()))?;
            return Ok(tmpfs(&mount.target, size, mount.read_only));
        }
        MountSource::Host { path } => {
            let real = host_paths::resolve(path, &config.allowed_host_paths).map_err(invalid)?;
            (MountType::BIND, real.to_string_lossy().into_owned())
        }
        MountSource::Volume { name } => {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
            match name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain) {
                true => (MountType::VOLUME, name.clone()),
                false => return Err(invalid(format!("{name:?} cannot name a volume"))),
            }
        }
    };
    Ok(EngineMount {
        target: Some(mount.target.clone()),
        source: Some(source),
        typ: Some(typ),
        read_only: Some(mount.read_only),
        ..EngineMount::default()
    })
}

fn tmpfs(target: &str, size_bytes: i64, read_only: bool) -> EngineMount {
    EngineMount {
        target: Some(target.into()),
        typ: Some(MountType::TMPFS),
        read_only: Some(read_only),
        tmpfs_options: Some(MountTmpfsOptions {
            size_bytes: Some(size_bytes),
            mode: Some(0o1777),
            options: None,
        }),
        ..EngineMount::default()
    }
}

fn network(mode: &NetworkMode, config: &DockerConfig) -> Result<String, RuntimeError> {
    match mode {
        NetworkMode::Bridge => Ok("default".into()),
        NetworkMode::None => Ok("none".into()),
        NetworkMode::Host if config.allow_host_network => Ok("host".into()),
        NetworkMode::Host => Err(invalid("this agent does not allow the host network".into())),
        // A name must not inject a mode: `host`, `container:...`.
        NetworkMode::Named(name)
            if matches!(name.as_str(), "host" | "none" | "default") || name.contains(':') =>
        {
            Err(invalid(format!("{name:?} is a mode, not the name of a network")))
        }
        NetworkMode::Named(name) if config.allowed_networks.contains(name) => Ok(name.clone()),
        NetworkMode::Named(name) => {
            Err(invalid(format!("network {name:?} is not among those that this agent allows")))
        }
    }
}

/// Whether the engine publishes ports in this mode; with the host's network they are the host's anyway.
fn publishes(mode: &NetworkMode) -> bool {
    matches!(mode, NetworkMode::Bridge | NetworkMode::Named(_))
}

fn port_key(port: u16) -> String {
    format!("{port}/tcp")
}

fn binding(port: u16, config: &DockerConfig) -> PortBinding {
    PortBinding {
        host_ip: config.publish_address.map(|address| address.to_string()),
        host_port: Some(port.to_string()),
    }
}

/// Size at which the engine begins another file of output, in bytes: the bound and the overhead of the
/// engine's format, in two files of which the older is dropped as a whole.
pub(crate) fn log_file_bytes(output_limit: u64) -> u64 {
    output_limit.saturating_mul(2).max(LOG_FILE_BYTES_MIN)
}

fn log_config(output_limit: u64) -> HostConfigLogConfig {
    let options =
        [("max-size", log_file_bytes(output_limit).to_string()), ("max-file", LOG_FILES.to_string())];
    HostConfigLogConfig {
        typ: Some("json-file".into()),
        config: Some(
            options.into_iter().map(|(name, value)| (name.into(), value)).collect::<HashMap<_, _>>(),
        ),
    }
}

fn invalid(message: String) -> RuntimeError {
    RuntimeError::new(RuntimeErrorKind::InvalidSpec, message)
}

#[cfg(test)]
mod tests;
