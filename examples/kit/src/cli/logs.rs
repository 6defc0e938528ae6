//! `orch logs`.

use std::{collections::BTreeSet, io::Write as _, num::NonZeroU32};

use clap::Args;
use futures_util::StreamExt as _;
use orch_core::{
    engine::{OutputChunk, OutputRange},
    model::Timestamp,
    runtime::OutputStream,
};
use orch_net::http::OutputChunks;

use super::{
    resolve::{Finder, Means},
    session::Session,
    table,
};
use crate::{config::units, failure::Failure};

/// Part of a task's output to print.
#[derive(Clone, Copy, Debug, Args)]
pub struct LogRange {
    /// Continue until the task has finished.
    #[arg(short, long)]
    follow: bool,
    /// Only this many of the last lines.
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(..=100_000))]
    tail: Option<u32>,
    /// Only the output of this attempt; attempts are numbered from 1.
    #[arg(long, value_name = "NUMBER")]
    attempt: Option<NonZeroU32>,
    /// Only output that was received since: an age such as 5min, or a time such as
    /// 2026-02-03T04:05:06Z.
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
    /// Prefix each line with the UTC time at which its beginning was received, or - where that is
    /// unknown.
    #[arg(short, long)]
    timestamps: bool,
}

/// Parses the time before which output is left out.
fn since(text: &str) -> Result<Timestamp, String> {
    if let Some(time) = Timestamp::from_rfc3339(text) {
        return Ok(time);
    }
    let age = units::duration(text)
        .map_err(|error| format!("{error}; or give a whole time such as 2026-02-03T04:05:06Z"))?;
    let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    Ok(Timestamp::from_millis(Timestamp::now().as_millis().saturating_sub(age)))
}

pub(super) async fn logs(session: &Session, reference: &str, range: &LogRange) -> Result<(), Failure> {
    let LogRange { follow, tail, attempt, since, timestamps } = *range;
    let range = OutputRange { follow, attempt, tail, since, times: timestamps };
    let api = &*session.api;
    let finder = Finder { session, command: "logs", means: Means::GoingOn };
    let id = finder.find(reference).await?;
    let output = api.output(id, range).await?;
    match session.json {
        true => print_json(output).await,
        false => print_all(output, timestamps.then(Stamps::default)).await,
    }
}

/// Prints a task's output as a line of JSON for each chunk.
pub(super) async fn print_json(mut output: OutputChunks) -> Result<(), Failure> {
    while let Some(chunk) = output.next().await {
        let json = serde_json::to_string(&chunk?).map_err(|error| Failure::other(error.to_string()))?;
        table::print(&(json + "\n"))?;
    }
    Ok(())
}

/// Prints a task's output to the streams that it was written to.
pub(super) async fn print_all(mut output: OutputChunks, mut stamps: Option<Stamps>) -> Result<(), Failure> {
    while let Some(chunk) = output.next().await {
        let mut chunk = chunk?;
        if let Some(stamps) = &mut stamps {
            chunk.data = stamps.stamp(&chunk).into();
        }
        match chunk.stream {
            OutputStream::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(&chunk.data)?;
                out.flush()?;
            }
            OutputStream::Stderr => std::io::stderr().lock().write_all(&chunk.data)?,
        }
        if let Some(notice) = chunk.notice() {
            std::io::stderr().lock().write_all(notice.as_bytes())?;
        }
    }
    Ok(())
}

/// Timestamps put before lines. A line has that of the chunk in which it began.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    /// Streams with an incomplete line.
    within: BTreeSet<OutputStream>,
}

impl Stamps {
    fn stamp(&mut self, chunk: &OutputChunk) -> Vec<u8> {
        let time = chunk.time.map_or_else(|| "-".to_owned(), Timestamp::to_rfc3339);
        let mut stamped = Vec::with_capacity(chunk.data.len() + time.len() + 1);
        for line in chunk.data.split_inclusive(|byte| *byte == b'\n') {
            if self.within.insert(chunk.stream) {
                stamped.extend_from_slice(time.as_bytes());
                stamped.push(b' ');
            }
            stamped.extend_from_slice(line);
            if line.ends_with(b"\n") {
                self.within.remove(&chunk.stream);
            }
        }
        stamped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_time_of_the_piece_in_which_it_began() {
        let mut stamps = Stamps::default();
        let mut stamp = |stream, millis: Option<u64>, text: &'static str| {
            let (time, data) = (millis.map(Timestamp::from_millis), text.as_bytes().into());
            let chunk = OutputChunk { attempt: NonZeroU32::MIN, stream, offset: 0, time, data, lost: 0 };
            String::from_utf8(stamps.stamp(&chunk)).unwrap()
        };
        let at = |second: u64| format!("1970-01-01T00:00:0{second}.000Z");
        let (one, two) = (at(1), at(2));
        assert_eq!(stamp(OutputStream::Stdout, Some(1000), "a\n\nb"), format!("{one} a\n{one} \n{one} b"));
        assert_eq!(stamp(OutputStream::Stderr, Some(1000), "e\n"), format!("{one} e\n"), "streams are apart");
        assert_eq!(stamp(OutputStream::Stdout, Some(2000), "c\nd"), format!("c\n{two} d"));
        assert_eq!(stamp(OutputStream::Stdout, None, "\nold\n"), "\n- old\n");
        assert_eq!(stamp(OutputStream::Stdout, Some(2000), ""), "");
    }

    #[test]
    fn since_is_an_age_or_a_time() {
        assert_eq!(since("2026-02-03T04:05:06Z").unwrap().to_rfc3339(), "2026-02-03T04:05:06.000Z");
        let before = Timestamp::now();
        let age = before.since(since("5min").unwrap());
        assert!(age <= std::time::Duration::from_secs(300), "{age:?}");
        assert_eq!(since("99999999w").unwrap(), Timestamp::ZERO);
        for wrong in ["", "yesterday", "2026-02-30T04:05:06Z", "-5min"] {
            assert!(since(wrong).unwrap_err().contains("2026-02-03T04:05:06Z"), "{wrong}");
        }
    }
}
