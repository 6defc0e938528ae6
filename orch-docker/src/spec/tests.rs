use std::{collections::BTreeMap, num::NonZeroU32, path::PathBuf};

use orch_core::{
    model::{AttemptId, Capability, SecretRef, TaskId, TaskSpec},
    runtime::Secret,
};

use super::*;

fn config() -> DockerConfig {
    DockerConfig::new("c", "o")
}

fn work(spec: TaskSpec) -> Work {
    let attempt = AttemptId { task: TaskId::generate(), attempt: NonZeroU32::MIN };
    Work { attempt, spec: spec.into(), secrets: BTreeMap::new() }
}

fn translate(spec: TaskSpec, config: &DockerConfig) -> Result<ContainerCreateBody, RuntimeError> {
    container(&work(spec), &[], &Identity::new(config), config)
}

fn host(spec: TaskSpec, config: &DockerConfig) -> HostConfig {
    translate(spec, config).unwrap().host_config.unwrap()
}

fn refused(spec: TaskSpec) -> String {
    let error = translate(spec, &config()).unwrap_err();
    assert_eq!(error.kind, RuntimeErrorKind::InvalidSpec);
    error.message
}

fn job() -> TaskSpec {
    TaskSpec::image("job", "busybox")
}

#[test]
fn the_smallest_spec_gets_the_image_s_own_command_and_no_new_privileges() {
    let body = translate(job(), &config()).unwrap();
    assert_eq!(body.image.as_deref(), Some("busybox:latest"));
    assert_eq!((body.entrypoint, body.cmd, body.user, body.working_dir), (None, None, None, None));
    assert_eq!(body.healthcheck, None);
    let host = body.host_config.unwrap();
    assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
    assert_eq!((host.memory, host.nano_cpus, host.pids_limit, host.privileged), (None, None, None, None));
    assert_eq!(host.network_mode.as_deref(), Some("default"));
    assert_eq!(host.mounts, Some(vec![]));
}

#[test]
fn command_and_arguments_replace_entry_point_and_command() {
    let body = translate(job().command(["sh", "-c"]).args(["true"]).env("A", "b=c"), &config()).unwrap();
    assert_eq!(body.entrypoint.unwrap(), ["sh", "-c"]);
    assert_eq!(body.cmd.unwrap(), ["true"]);
    let env = body.env.unwrap();
    assert_eq!(env[0], "A=b=c");
    assert!(env[1].starts_with("ORCH_TASK=") && env[2].starts_with("ORCH_ATTEMPT="), "{env:?}");
}

#[test]
fn limits_are_in_the_engine_s_units() {
    let host = host(job().cpu_millis(1500).memory_mib(64), &config());
    assert_eq!(host.nano_cpus, Some(1_500_000_000));
    assert_eq!((host.memory, host.memory_swap), (Some(64 << 20), Some(64 << 20)));
    let tiny = self::host(job().cpu_millis(1), &config());
    assert_eq!(tiny.nano_cpus, Some(10_000_000));
    refused(job().cpu_millis(u64::MAX));
}

#[test]
fn hardened_means_all_of_it() {
    let body = translate(job().hardened(), &config()).unwrap();
    assert_eq!(body.user.as_deref(), Some("1000:1000"));
    let host = body.host_config.unwrap();
    assert_eq!(host.network_mode.as_deref(), Some("none"));
    assert_eq!(host.readonly_rootfs, Some(true));
    assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
    assert_eq!(host.pids_limit, Some(128));
    let limit = &host.ulimits.unwrap()[0];
    assert_eq!((limit.name.as_deref(), limit.soft, limit.hard), (Some("nofile"), Some(1024), Some(1024)));
    let tmp = &host.mounts.unwrap()[0];
    assert_eq!((tmp.target.as_deref(), tmp.typ), (Some("/tmp"), Some(MountType::TMPFS)));
}

#[test]
fn what_the_agent_does_not_allow_is_refused_by_name() {
    let mut spec = job();
    spec.isolation.network = NetworkMode::Host;
    assert!(refused(spec.clone()).contains("host network"));
    let mut generous = config();
    generous.allow_host_network = true;
    assert_eq!(host(spec, &generous).network_mode.as_deref(), Some("host"));

    for name in ["host", "none", "container:abc", "mine"] {
        let mut spec = job();
        spec.isolation.network = NetworkMode::Named(name.into());
        assert!(refused(spec).contains(name));
    }
    let mut spec = job();
    spec.isolation.add_capabilities.insert(Capability("SYS_ADMIN".into()));
    assert!(refused(spec).contains("SYS_ADMIN"));
    let mut spec = job();
    spec.isolation.add_capabilities.insert(Capability("NET_BIND_SERVICE".into()));
    assert_eq!(host(spec, &config()).cap_add.unwrap(), ["NET_BIND_SERVICE"]);

    let mut spec = job();
    let source = MountSource::Host { path: "/etc".into() };
    spec.mounts.push(Mount { target: "/x".into(), source, read_only: true });
    assert!(refused(spec).contains("/etc"));
}

#[test]
fn mounts_of_each_kind() {
    let home = tempfile::tempdir().unwrap();
    let mut config = config();
    config.allowed_host_paths.push(home.path().into());
    let mut spec = job();
    let sources = [
        MountSource::Host { path: home.path().to_str().unwrap().into() },
        MountSource::Volume { name: "data".into() },
        MountSource::Tmpfs { size_bytes: 4096 },
    ];
    spec.mounts.extend(sources.map(|source| Mount { target: "/x".into(), source, read_only: true }));
    let mounts = host(spec, &config).mounts.unwrap();
    let kinds: Vec<_> = mounts.iter().map(|mount| mount.typ.unwrap()).collect();
    assert_eq!(kinds, [MountType::BIND, MountType::VOLUME, MountType::TMPFS]);
    assert!(mounts.iter().all(|mount| mount.read_only == Some(true)));
    assert_eq!(mounts[2].tmpfs_options.as_ref().unwrap().size_bytes, Some(4096));

    let mut spec = job();
    let source = MountSource::Volume { name: "/etc".into() };
    spec.mounts.push(Mount { target: "/x".into(), source, read_only: true });
    assert!(refused(spec).contains("volume"));
}

#[test]
fn devices_need_a_set_up_except_gpus() {
    let gpu = host(job().resources(Resources::default().device("gpu", 2)), &config());
    let request = &gpu.device_requests.unwrap()[0];
    assert_eq!((request.count, request.capabilities.clone()), (Some(2), Some(vec![vec!["gpu".into()]])));
    let fpga = job().resources(Resources::default().device("fpga", 1));
    assert!(refused(fpga.clone()).contains("fpga"));
    let mut equipped = config();
    equipped.devices.insert("fpga".into(), vec![PathBuf::from("/dev/fpga0")]);
    let mapping = &host(fpga, &equipped).devices.unwrap()[0];
    assert_eq!(mapping.path_on_host.as_deref(), Some("/dev/fpga0"));
}

#[test]
fn ports_are_published_where_there_is_a_network() {
    let mut spec = job().resources(Resources::default().port(8080));
    let mut local = config();
    local.publish_address = Some([127, 0, 0, 1].into());
    let bindings = host(spec.clone(), &local).port_bindings.unwrap();
    let binding = &bindings["8080/tcp"].as_ref().unwrap()[0];
    assert_eq!((binding.host_ip.as_deref(), binding.host_port.as_deref()), (Some("127.0.0.1"), Some("8080")));
    spec.isolation.network = NetworkMode::None;
    assert_eq!(host(spec, &local).port_bindings.unwrap().len(), 0);
}

#[test]
fn kept_output_is_bounded_on_disk() {
    let mut spec = job();
    spec.output_limit_bytes = 8 << 20;
    let log = host(spec, &config()).log_config.unwrap();
    let options = log.config.unwrap();
    assert_eq!((options["max-size"].as_str(), options["max-file"].as_str()), ("16777216", "2"));
}

#[test]
fn secrets_are_variables_or_mounts() {
    let mut spec = job();
    let targets = [
        SecretTarget::Env { variable: "TOKEN".into() },
        SecretTarget::File { path: "/run/secrets/token".into() },
    ];
    spec.secrets.extend(targets.map(|target| SecretRef { name: "token".into(), target }));
    let mut work = work(spec);
    let identity = Identity::new(&config());
    let missing = container(&work, &[], &identity, &config()).unwrap_err();
    assert_eq!(missing.kind, RuntimeErrorKind::InvalidSpec);

    work.secrets.insert("token".into(), Secret::new("value"));
    let file = SecretFile { source: "/private/0".into(), target: "/run/secrets/token".into() };
    let body = container(&work, &[file], &identity, &config()).unwrap();
    assert_eq!(body.env.unwrap()[0], "TOKEN=value");
    let mount = &body.host_config.unwrap().mounts.unwrap()[0];
    assert_eq!((mount.source.as_deref(), mount.read_only), (Some("/private/0"), Some(true)));

    work.secrets.insert("token".into(), Secret::new([0xff, 0xfe]));
    let binary = container(&work, &[], &identity, &config()).unwrap_err();
    assert!(binary.message.contains("use a file"));
}

#[test]
fn programs_are_for_another_runtime() {
    let error = translate(TaskSpec::program("job", "sh"), &config()).unwrap_err();
    assert_eq!(error.kind, RuntimeErrorKind::Unsupported);
}
