//! `orch logs`.

use std::io::Write as _;

use orch_core::{model::TaskId, runtime::OutputStream};
use orch_net::http::Client;

use super::{
    connect::Connect,
    exit::Failure,
    resolve::{Finder, Means, Scope},
    table,
};

pub(super) async fn logs(
    connect: &Connect,
    reference: &str,
    follow: bool,
    scope: &Scope,
) -> Result<(), Failure> {
    let client = connect.client()?;
    let finder = Finder { client: &client, scope, command: "logs", means: Means::GoingOn };
    let id = finder.find(reference).await?;
    match connect.json {
        true => print_json(&client, id, follow).await,
        false => print_all(&client, id, follow).await,
    }
}

/// Prints a task's output as a line of JSON for each piece.
pub(super) async fn print_json(client: &Client, id: TaskId, follow: bool) -> Result<(), Failure> {
    let mut output = client.logs(id, follow).await?;
    while let Some(chunk) = output.next().await {
        let json = serde_json::to_string(&chunk?).map_err(|error| Failure::other(error.to_string()))?;
        table::print(&(json + "\n"))?;
    }
    Ok(())
}

/// Prints a task's output to the streams that it was written to.
pub(super) async fn print_all(client: &Client, id: TaskId, follow: bool) -> Result<(), Failure> {
    let mut output = client.logs(id, follow).await?;
    while let Some(chunk) = output.next().await {
        let chunk = chunk?;
        match chunk.stream {
            OutputStream::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(&chunk.data)?;
                out.flush()?;
            }
            OutputStream::Stderr => std::io::stderr().lock().write_all(&chunk.data)?,
        }
    }
    Ok(())
}
