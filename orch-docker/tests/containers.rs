//! Properties of a container on a real engine, and its ownership.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use bollard::{
    models::ContainerCreateBody,
    query_parameters::{
        CreateContainerOptionsBuilder, InspectContainerOptions, RemoveContainerOptionsBuilder,
    },
};
use futures_util::{StreamExt, TryStreamExt, stream};
use orch_core::{
    model::{Mount, MountSource, NetworkMode, Resources, SecretRef, SecretTarget, TaskSpec},
    runtime::{FoundState, OutputStream, Runtime, RuntimeErrorKind, Secret, Work},
};
use orch_docker::DockerConfig;

mod common;

async fn output(runtime: &dyn Runtime, work: &Work) -> String {
    let chunks: Vec<_> = runtime.logs(work.attempt, true).await.unwrap().try_collect().await.unwrap();
    let stdout = chunks.iter().filter(|chunk| chunk.stream == OutputStream::Stdout);
    let bytes: Vec<u8> = stdout.flat_map(|chunk| chunk.data.to_vec()).collect();
    String::from_utf8(bytes).unwrap()
}

/// Runs it to its end and returns its standard output.
async fn run(config: &DockerConfig, spec: TaskSpec) -> String {
    let runtime = common::runtime(config).await;
    let work = common::work(spec);
    common::start(&*runtime, &work).await.unwrap();
    let exit = runtime.wait(work.attempt).await.unwrap();
    let text = output(&*runtime, &work).await;
    runtime.remove(work.attempt).await.unwrap();
    assert!(exit.is_success(), "{exit}: {text}");
    text
}

#[tokio::test]
async fn a_hardened_task_is_kept_apart() {
    let script = "id -u; id -g; touch /x 2>/dev/null || echo read-only; touch /tmp/x && echo tmp; \
                  grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status | cut -f2; ulimit -n; ls /sys/class/net";
    let text = run(&common::config(), common::sh(script).hardened()).await;
    let none = "0000000000000000";
    assert_eq!(text, format!("1000\n1000\nread-only\ntmp\n{none}\n{none}\n1\n1024\nlo\n"));
}

#[tokio::test]
async fn limits_reach_the_kernel() {
    let mut spec = common::sh("sleep 1000").memory_mib(32).cpu_millis(250);
    spec.isolation.pids_limit = std::num::NonZeroU32::new(50);
    let runtime = common::runtime(&common::config()).await;
    let work = common::work(spec);
    let started = common::start(&*runtime, &work).await.unwrap();
    let docker = common::docker();
    let answer = docker.inspect_container(&started.handle, None::<InspectContainerOptions>).await.unwrap();
    let host = answer.host_config.unwrap();
    assert_eq!((host.memory, host.nano_cpus, host.pids_limit), (Some(32 << 20), Some(250_000_000), Some(50)));
    runtime.remove(work.attempt).await.unwrap();
}

#[tokio::test]
async fn mounts_are_seen_as_asked() {
    let home = tempfile::tempdir_in(common::variable("ORCH_TEST_SCRATCH")).unwrap();
    std::fs::write(home.path().join("greeting"), "hello from the node\n").unwrap();
    let mut config = common::config();
    config.allowed_host_paths.push(home.path().into());
    let script = "cat /in/greeting; touch /in/x 2>/dev/null || echo read-only; touch /memory/x && echo memory; \
                  df -k /memory | tail -n 1 | awk '{print $2}'";
    let mut spec = common::sh(script);
    let path = home.path().to_str().unwrap().into();
    spec.mounts = vec![
        Mount { target: "/in".into(), source: MountSource::Host { path }, read_only: true },
        Mount {
            target: "/memory".into(),
            source: MountSource::Tmpfs { size_bytes: 1 << 20 },
            read_only: false,
        },
    ];
    assert_eq!(run(&config, spec).await, "hello from the node\nread-only\nmemory\n1024\n");
}

#[tokio::test]
async fn ports_answer_on_the_node() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut config = common::config();
    config.publish_address = Some([127, 0, 0, 1].into());
    let mut spec = common::sh(&format!("echo ready; echo hello | nc -l -p {port}"));
    spec.isolation.network = NetworkMode::Bridge;
    spec.resources = Resources::default().port(port);
    let runtime = common::runtime(&config).await;
    let work = common::work(spec);
    common::start(&*runtime, &work).await.unwrap();
    let mut logs = runtime.logs(work.attempt, true).await.unwrap();
    logs.next().await.unwrap().unwrap();
    let text = tokio::task::spawn_blocking(move || {
        // `ready` comes just before it listens; until then the engine's proxy closes connections at once.
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let mut text = String::new();
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
                let _ = stream.write_all(b"\n");
                let _ = stream.read_to_string(&mut text);
            }
            if !text.is_empty() || Instant::now() > end {
                return text;
            }
        }
    });
    assert_eq!(text.await.unwrap(), "hello\n");
    runtime.remove(work.attempt).await.unwrap();
}

#[tokio::test]
async fn the_files_of_secrets_go_with_the_attempt() {
    let mut config = common::config();
    let home = tempfile::tempdir_in(common::variable("ORCH_TEST_SCRATCH")).unwrap();
    config.secrets_dir = home.path().join("secrets");
    let count = || std::fs::read_dir(&config.secrets_dir).map_or(0, Iterator::count);
    let runtime = common::runtime(&config).await;

    for hardened in [false, true] {
        let mut spec = common::sh("cat /run/secrets/a; exec sleep 1000");
        if hardened {
            spec = spec.hardened();
        }
        let target = SecretTarget::File { path: "/run/secrets/a".into() };
        spec.secrets.push(SecretRef { name: "a".into(), target });
        let mut work = common::work(spec);
        work.secrets.insert("a".into(), Secret::new("value\n"));
        let started = common::start(&*runtime, &work).await.unwrap();
        let chunk = runtime.logs(work.attempt, true).await.unwrap().next().await.unwrap().unwrap();
        assert_eq!(chunk.data, "value\n");
        assert_eq!(count(), 1);
        let docker = common::docker();
        let answer =
            docker.inspect_container(&started.handle, None::<InspectContainerOptions>).await.unwrap();
        assert!(!format!("{answer:?}").contains("value\\n"));
        runtime.remove(work.attempt).await.unwrap();
        assert_eq!(count(), 0);
    }

    // A container that cannot start leaves no secrets either.
    let mut spec = TaskSpec::image("job", common::image()).command(["/no/such/program"]);
    let target = SecretTarget::File { path: "/run/secrets/a".into() };
    spec.secrets.push(SecretRef { name: "a".into(), target });
    let mut work = common::work(spec);
    work.secrets.insert("a".into(), Secret::new("value"));
    common::start(&*runtime, &work).await.unwrap_err();
    assert_eq!(count(), 0);
}

#[tokio::test]
async fn other_people_s_containers_are_left_alone() {
    let ours = common::runtime(&common::config()).await;
    let mut others = common::config();
    others.owner = "somebody-else".into();
    let theirs = common::runtime(&others).await;

    // Another agent's container, and one of no agent at all that has the name of an attempt.
    let work = common::work(common::sh("exec sleep 1000"));
    common::start(&*theirs, &work).await.unwrap();
    let squatted = common::work(common::sh("exit 0"));
    let name = format!("orch-{}-1", squatted.attempt.task);
    let docker = common::docker();
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let body = ContainerCreateBody {
        image: Some(common::image()),
        cmd: Some(vec!["sh".into()]),
        ..Default::default()
    };
    docker.create_container(Some(options), body).await.unwrap();

    assert_eq!(ours.list().await.unwrap(), []);
    for attempt in [work.attempt, squatted.attempt] {
        assert_eq!(ours.wait(attempt).await.unwrap_err().kind, RuntimeErrorKind::NotFound);
        assert_eq!(ours.kill(attempt).await.unwrap_err().kind, RuntimeErrorKind::NotFound);
        ours.remove(attempt).await.unwrap();
    }
    let error = ours.start(&squatted).await.unwrap_err();
    assert!(error.message.contains("not this agent's"), "{error}");
    assert_eq!(theirs.list().await.unwrap()[0].state, FoundState::Running);
    docker.inspect_container(&name, None::<InspectContainerOptions>).await.unwrap();

    theirs.remove(work.attempt).await.unwrap();
    let force = RemoveContainerOptionsBuilder::default().force(true).build();
    docker.remove_container(&name, Some(force)).await.unwrap();
}

#[tokio::test]
async fn a_container_that_was_made_but_not_started_is_taken_up() {
    // Remains of an agent that crashed between the two steps.
    let runtime = common::runtime(&common::config()).await;
    let work = common::work(common::sh("exit 3"));
    let started = common::start(&*runtime, &work).await.unwrap();
    let docker = common::docker();
    let made = docker.inspect_container(&started.handle, None::<InspectContainerOptions>).await.unwrap();
    runtime.remove(work.attempt).await.unwrap();
    let config = made.config.unwrap();
    let body = ContainerCreateBody {
        image: config.image,
        entrypoint: config.entrypoint,
        labels: config.labels,
        ..Default::default()
    };
    let name = made.name.unwrap();
    let options = CreateContainerOptionsBuilder::default().name(name.trim_start_matches('/')).build();
    let id = docker.create_container(Some(options), body).await.unwrap().id;

    assert_eq!(runtime.list().await.unwrap()[0].state, FoundState::Created);
    assert_eq!(runtime.wait(work.attempt).await.unwrap_err().kind, RuntimeErrorKind::NotFound);
    assert_eq!(runtime.start(&work).await.unwrap().handle, id);
    assert_eq!(runtime.wait(work.attempt).await.unwrap().code, 3);
    runtime.remove(work.attempt).await.unwrap();
}

#[tokio::test]
async fn forty_at_once_all_run_once() {
    let runtime = common::runtime(&common::config()).await;
    let all: Vec<_> = (0..40).map(|code| common::work(common::sh(&format!("exit {code}")))).collect();
    let began = Instant::now();
    let exits: Vec<_> = stream::iter(&all)
        .map(async |work| {
            runtime.start(work).await.unwrap();
            let exit = runtime.wait(work.attempt).await.unwrap();
            runtime.remove(work.attempt).await.unwrap();
            exit.code
        })
        .buffered(40)
        .collect()
        .await;
    println!("40 containers in {:?}", began.elapsed());
    assert_eq!(exits, (0..40).collect::<Vec<_>>());
    assert_eq!(runtime.list().await.unwrap(), []);
}
