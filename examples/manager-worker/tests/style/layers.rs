//! Options of the services from a file and from the environment.

use std::{fs, process::Command};

use crate::lab::{Done, Lab};

#[test]
fn a_worker_takes_its_options_from_a_file_and_from_variables() {
    let mut lab = Lab::new();
    let file = lab.path("worker.toml");
    let text = "max-tasks = 3\nlabel = { zone = \"north\", disk = \"ssd\" }\nmemory = \"1g\"\n";
    fs::write(&file, text).unwrap();
    let mut command = lab.worker_command("w1", "w1", &["--config", file.to_str().unwrap()]);
    command.envs([("ORCH_WORKER_MEMORY", "2g"), ("ORCH_WORKER_STARTS_IN_FLIGHT", "")]);
    lab.start_worker_by("w1", command);
    let spec = lab.json(&["nodes"])[0]["record"]["spec"].clone();
    assert_eq!((&spec["max_tasks"], &spec["labels"]["disk"]), (&3.into(), &"ssd".into()));
    assert_eq!(spec["capacity"]["memory_bytes"], 2_u64 << 30, "the variable before the file");
}

#[test]
fn a_wrong_option_is_told_with_its_source_and_nothing_is_started() {
    let lab = Lab::new();
    let file = lab.path("manager.toml");
    fs::write(&file, "# times\nnode-timeout = \"soon\"\n").unwrap();
    let text = |program: &str, words: &[&str], variable: (&str, &str)| {
        let mut command = Command::new(program);
        let config = file.to_str().unwrap();
        command.args(words).args(["--config", config, "--data-dir"]).arg(lab.path("other"));
        let done = Done::of({
            command.env(variable.0, variable.1);
            command
        });
        assert_eq!(done.code, 2, "{}", done.err);
        done.err
    };
    let (manager, orch) = (env!("CARGO_BIN_EXE_orch-manager"), env!("CARGO_BIN_EXE_orch"));
    for (program, words) in [(manager, &[][..]), (orch, &["manager"][..])] {
        let of_file = text(program, words, ("ORCH_MANAGER_LISTEN", ""));
        assert!(of_file.contains("manager.toml:2: invalid value 'soon'"), "{of_file}");
        let of_variable = text(program, words, ("ORCH_MANAGER_NODE_TIMEOUT", "later"));
        assert!(of_variable.contains("ORCH_MANAGER_NODE_TIMEOUT: invalid value 'later'"), "{of_variable}");
    }
    assert!(!lab.path("other").exists());
}
