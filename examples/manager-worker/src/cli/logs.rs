//! `orch logs`.

use std::{io::Write as _, num::NonZeroU32};

use clap::Args;
use orch_core::{engine::OutputRange, runtime::OutputStream};
use orch_net::http::LogLines;

use super::{
    connect::Connect,
    exit::Failure,
    resolve::{Finder, Means, Scope},
    table,
};

/// Part of a task's output to print.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct LogRange {
    /// Go on until the task has finished.
    #[arg(short, long)]
    follow: bool,
    /// Only this many of the last lines.
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(..=100_000))]
    tail: Option<u32>,
    /// Only what this attempt wrote; they are numbered from 1.
    #[arg(long, value_name = "NUMBER")]
    attempt: Option<NonZeroU32>,
}

pub(super) async fn logs(
    connect: &Connect,
    reference: &str,
    range: &LogRange,
    scope: &Scope,
) -> Result<(), Failure> {
    let LogRange { follow, tail, attempt } = *range;
    let range = OutputRange { follow, attempt, tail, ..OutputRange::default() };
    let client = connect.client()?;
    let finder = Finder { client: &client, scope, command: "logs", means: Means::GoingOn };
    let id = finder.find(reference).await?;
    match connect.json {
        true => print_json(client.logs_in(id, range).await?).await,
        false => print_all(client.logs_in(id, range).await?).await,
    }
}

/// Prints a task's output as a line of JSON for each piece.
pub(super) async fn print_json(mut output: LogLines) -> Result<(), Failure> {
    while let Some(chunk) = output.next().await {
        let json = serde_json::to_string(&chunk?).map_err(|error| Failure::other(error.to_string()))?;
        table::print(&(json + "\n"))?;
    }
    Ok(())
}

/// Prints a task's output to the streams that it was written to.
pub(super) async fn print_all(mut output: LogLines) -> Result<(), Failure> {
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
