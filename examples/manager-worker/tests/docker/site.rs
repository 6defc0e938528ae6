//! A lab whose workers run containers, on an engine that nobody else uses.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use orch_docker::testkit::{Containers, OwnEngine};
use serde_json::{Value, json};

use crate::lab::{Done, Lab, Service};

pub(crate) use orch_kit::testing::fixture;

pub(crate) struct Site {
    pub(crate) lab: Lab,
    pub(crate) engine: OwnEngine,
}

impl Site {
    /// A manager, and an engine that has the tests' image.
    pub(crate) fn new(containers: Containers) -> Self {
        let engine = OwnEngine::start(Path::new(&fixture("ORCH_TEST_SCRATCH")), containers);
        engine.load_image(&fixture("ORCH_TEST_DOCKER_HOST"), &fixture("ORCH_TEST_IMAGE"));
        let mut lab = Lab::new();
        fs::create_dir(lab.path("shared")).unwrap();
        lab.set_runtime(&["--runtime", "docker", "--docker-host", &engine.host()]);
        Self { lab, engine }
    }

    pub(crate) fn start_worker(&mut self, name: &str) {
        let shared = self.shared();
        self.lab.start_worker(name, &["--allow-host-path", &shared]);
    }

    /// Submits a container that runs a shell script, in which
    /// - `begins` notes that it runs, which [`Site::began`] counts,
    /// - `passes GATE` waits until [`Site::open`] opens the gate.
    pub(crate) fn submit(&self, name: &str, script: &str, options: &[&str]) -> String {
        let mount = format!("{}:/lab", self.shared());
        let fixed = ["run", "--network", "none", "--mount", &mount];
        let rest = [name, &fixture("ORCH_TEST_IMAGE"), "--", "sh", "-c", &with_words(script)];
        submitted(&self.lab.orch(&[&fixed, options, &rest].concat()))
    }

    /// Submits one with further fields of its spec.
    pub(crate) fn submit_with(&self, name: &str, script: &str, fields: &[(&str, Value)]) -> String {
        let mut spec = json!({
            "name": name,
            "workload": { "kind": "image", "image": fixture("ORCH_TEST_IMAGE") },
            "args": ["sh", "-c", with_words(script)],
            "isolation": { "network": "none" },
            "mounts": [{ "target": "/lab", "source": { "kind": "host", "path": self.shared() } }],
        });
        for (field, value) in fields {
            spec[*field] = value.clone();
        }
        let file = self.lab.path("task.json");
        fs::write(&file, spec.to_string()).unwrap();
        submitted(&self.lab.orch(&["run", "--file", file.to_str().unwrap()]))
    }

    /// The attempts whose containers began, once for each time.
    pub(crate) fn began(&self, task: &str) -> Vec<String> {
        let notes = self.lab.path("shared").join(format!("{task}.began"));
        fs::read_to_string(notes).unwrap_or_default().lines().map(Into::into).collect()
    }

    fn shared(&self) -> String {
        self.lab.path("shared").display().to_string()
    }

    pub(crate) fn open(&self, gate: &str) {
        fs::write(self.lab.path("shared").join(format!("{gate}.open")), "").unwrap();
    }

    /// Waits until the task is over. The exit code says how.
    pub(crate) fn wait(&self, task: &str) -> Done {
        self.lab.orch(&["wait", task, "--timeout", "60s"])
    }

    /// The engine's id of the task's only container.
    pub(crate) fn container_of(&self, task: &str) -> String {
        let filter = format!("label=orch.task={task}");
        let ids = self.docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]);
        assert_eq!(ids.lines().count(), 1, "containers of {task}: {ids:?}");
        ids.trim().to_owned()
    }

    /// The process of a running container.
    pub(crate) fn process_of(&self, container: &str) -> PathBuf {
        let pid = self.docker(&["inspect", "--format", "{{.State.Pid}}", container]);
        Path::new("/proc").join(pid.trim())
    }

    /// Waits until this happens to a container, or finds that it has happened.
    pub(crate) fn until_event(&self, container: &str, event: &str) {
        let mut events = self.docker_command(&["events", "--since", "1970-01-01T00:00:00Z"]);
        let (event, container) = (format!("event={event}"), format!("container={container}"));
        events.args(["--filter", &event, "--filter", &container, "--format", "seen"]);
        drop(Service::start(events, "seen"));
    }

    /// Runs the engine's client with these words.
    pub(crate) fn docker(&self, words: &[&str]) -> String {
        let done = Done::of(self.docker_command(words));
        assert_eq!(done.code, 0, "docker {words:?}: {}", done.err);
        done.out
    }

    fn docker_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &self.engine.host()]).args(words);
        command
    }
}

fn with_words(script: &str) -> String {
    let begins = "begins() { echo $ORCH_ATTEMPT >>/lab/$ORCH_TASK.began; }";
    let passes = "passes() { until [ -e /lab/$1.open ]; do sleep 0.05; done; }";
    format!("{begins}; {passes}; {script}")
}

fn submitted(done: &Done) -> String {
    assert_eq!(done.code, 0, "{}", done.err);
    done.out.trim().to_owned()
}
