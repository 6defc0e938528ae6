//! Commands in the process of an orchestrator, without a server.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use clap::{Parser, Subcommand as _};
use orch_core::{Orchestrator, state::TaskStatus};
use orch_kit::{
    Failure, Style,
    cli::{Command, Session},
};
use orch_net::http::{Api, Embedded};

const STYLE: Style = Style {
    program: "other",
    server: "core",
    start: "other core",
    url: "http://127.0.0.1:5000",
    variables: "OTHER",
    folder: "other",
};

#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

async fn run(api: &Arc<dyn Api>, words: &[&str]) -> Result<(), Failure> {
    let line = Line::try_parse_from([&["other"], words].concat()).unwrap();
    line.command.carry_out(&Session::new(STYLE, api.clone())).await
}

#[test]
fn commands_work_on_an_orchestrator_of_the_same_process() {
    orch_core::block_on(async {
        let orchestrator = Orchestrator::builder().build().await.unwrap();
        let api: Arc<dyn Api> = Arc::new(Embedded::new(orchestrator));
        run(&api, &["run", "hello", "busybox", "--", "echo"]).await.unwrap();
        for words in [&["list"][..], &["show", "hello"], &["explain", "hello"], &["nodes"], &["status"]] {
            run(&api, words).await.unwrap();
        }
        run(&api, &["cancel", "hello"]).await.unwrap();
        let task = api.tasks(&Default::default()).await.unwrap().tasks.remove(0);
        assert_eq!(task.status, TaskStatus::Cancelled);
        let code = async |words: &[&str]| run(&api, words).await.unwrap_err().code();
        assert_eq!(code(&["wait", "hello"]).await, 12);
        assert_eq!(code(&["show", "nobody"]).await, 4);
        assert_eq!(code(&["drain", "nobody"]).await, 4);
        assert_eq!(code(&["run", "  ", "image"]).await, 5);
        assert_eq!(code(&["completions", "bash"]).await, 2, "it is about a program");
    });
}

#[test]
fn texts_name_the_server_and_the_variables_of_the_style() {
    let parser = Command::augment_subcommands(clap::Command::new("x"));
    let parser =
        orch_kit::cli::describe(<orch_kit::cli::Connect as clap::Args>::augment_args(parser), &STYLE);
    let help = parser.clone().render_help().to_string();
    for words in
        ["--core <URL>", "OTHER_CORE", "http://127.0.0.1:5000", "OTHER_TOKEN_FILE", "the core cannot be"]
    {
        assert!(help.contains(words), "{words}: {help}");
    }
    assert!(!help.contains("manager") && !help.contains("ORCH_"), "{help}");
}
