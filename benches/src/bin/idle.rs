//! Cost of an idle manager: `idle local [agents] [seconds]` with agents in its own process (theirs is counted
//! as well), `idle http [agents] [seconds]` with agents over HTTP and the manager in a child process.

use std::{process::ExitCode, process::Stdio, sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use orch_benches::{
    Failure,
    cluster::{join, node},
    exit_code,
    process::cpu_time,
};
use orch_core::{
    Orchestrator,
    engine::{AgentHandle, ControlLink},
};
use orch_net::http::{ClientConfig, HttpLink, Limits, Server, ServerConfig, Tokens};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::Command,
};

const AGENTS: usize = 1000;
const SECONDS: u64 = 20;
/// Number of agents that register at a time.
const JOINING: usize = 16;
const TOKEN: &str = "the token of workers";

fn main() -> ExitCode {
    exit_code(orch_core::block_on(measure()))
}

async fn measure() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let agents = args.get(1).map_or(Ok(AGENTS), |agents| agents.parse())?;
    let time = Duration::from_secs(args.get(2).map_or(Ok(SECONDS), |seconds| seconds.parse())?);
    match args.first().map(String::as_str) {
        Some("local") => local(agents, time).await,
        Some("http") => http(agents, time).await,
        Some("manager") => manager().await,
        _ => Err("usage: idle local|http [agents] [seconds]".into()),
    }
}

async fn local(agents: usize, time: Duration) -> Result<(), Failure> {
    let orchestrator = Orchestrator::builder().build().await?;
    let _agents = join_all(agents, || Ok(orchestrator.link())).await?;
    watch("manager and agents in one process", std::process::id(), agents, time).await?;
    Ok(orchestrator.shutdown().await?)
}

async fn http(agents: usize, time: Duration) -> Result<(), Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("manager")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let id = child.id().ok_or("the manager is gone")?;
    let output = child.stdout.take().ok_or("the manager has no output")?;
    let mut address = String::new();
    BufReader::new(output).read_line(&mut address).await?;
    let config = ClientConfig::new(format!("http://{}", address.trim()), TOKEN);
    let link = || Ok(Arc::new(HttpLink::new(&config)?) as Arc<dyn ControlLink>);
    let _agents = join_all(agents, link).await?;
    watch("manager alone, agents over HTTP", id, agents, time).await?;
    // End of input makes the manager stop.
    drop(child.stdin.take());
    child.wait().await?;
    Ok(())
}

/// A manager with a server, until the end of its input.
async fn manager() -> Result<(), Failure> {
    let orchestrator = Orchestrator::builder().build().await?;
    let tokens = Tokens::new("the token of nobody", TOKEN)?;
    let limits = Limits { connections_max: 8 * AGENTS, ..Limits::default() };
    let config = ServerConfig { limits, ..ServerConfig::new("127.0.0.1:0".parse()?, tokens) };
    let server = Server::bind(config, orchestrator.clone()).await?;
    say(&server.local_addr().to_string());
    let input_ends = async {
        let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
    };
    server.serve(input_ends).await;
    Ok(orchestrator.shutdown().await?)
}

async fn join_all(
    agents: usize,
    link: impl Fn() -> Result<Arc<dyn ControlLink>, Failure>,
) -> Result<Vec<AgentHandle>, Failure> {
    let joins = (0..agents).map(|number| {
        let link = link();
        async move { join(link?, node(number)).await }
    });
    stream::iter(joins).buffer_unordered(JOINING).try_collect().await
}

async fn watch(what: &str, process: u32, agents: usize, time: Duration) -> Result<(), Failure> {
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = cpu_time(process)?;
    tokio::time::sleep(time).await;
    let used = cpu_time(process)? - before;
    say(&format!(
        "{what}: {:.2} % of a core with {agents} idle agents ({} ms in {} s)",
        100.0 * used.as_secs_f64() / time.as_secs_f64(),
        used.as_millis(),
        time.as_secs()
    ));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the numbers are what it is for")]
fn say(text: &str) {
    println!("{text}");
}
