//! Simulated engine for rare behaviour of real ones.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    sync::mpsc,
};

use orch_core::runtime::Work;
use orch_docker::{DockerConfig, DockerRuntime};
use tempfile::TempDir;

/// The engine, and the requests that it got.
pub(crate) struct StandIn {
    home: TempDir,
    requests: mpsc::Receiver<String>,
}

/// Status and body; `None` closes the connection.
pub(crate) type Answer = Option<(u16, String)>;

/// No response, on a connection that stays open.
pub(crate) const SILENCE: Answer = Some((0, String::new()));

impl StandIn {
    /// Starts an engine that responds by `respond`, which gets the words of each request's first line.
    pub(crate) fn start(respond: impl Fn(&str, &str) -> Answer + Send + 'static) -> Self {
        let home = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(home.path().join("d.sock")).unwrap();
        let (asked, requests) = mpsc::channel();
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = read(&mut stream);
                // Before the response: a caller that has it finds the request in the list.
                if asked.send(request.clone()).is_err() {
                    return;
                }
                let mut words = request.split(' ');
                let answer = respond(words.next().unwrap(), words.next().unwrap_or_default());
                if answer == SILENCE {
                    silent.push(stream);
                } else if let Some((status, body)) = answer {
                    write(&mut stream, status, &body);
                }
            }
        });
        Self { home, requests }
    }

    /// Runtime on it, for the owner `o` of the cluster `c`.
    pub(crate) async fn runtime(&self) -> DockerRuntime {
        DockerRuntime::connect(self.config()).await.unwrap()
    }

    pub(crate) fn config(&self) -> DockerConfig {
        let mut config = DockerConfig::new("c", "o");
        let home = self.home.path();
        config.host = Some(format!("unix://{}", home.join("d.sock").display()));
        (config.secrets_dir, config.state_dir) = (home.join("secrets"), home.join("state"));
        config
    }

    /// First lines of the requests since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.try_iter().collect()
    }
}

/// Description of a container of `work` that was created and not started.
pub(crate) fn created(work: &Work) -> String {
    container(work, "made", r#"{"Status":"created","Running":false,"StartedAt":"0001-01-01T00:00:00Z"}"#)
}

/// Description of a container of `work` that is in this state.
pub(crate) fn container(work: &Work, id: &str, state: &str) -> String {
    container_with(work, id, state, "")
}

/// The same with more labels.
pub(crate) fn container_with(work: &Work, id: &str, state: &str, more: &str) -> String {
    format!(r#"{{"Id":"{id}","State":{state},"Config":{{"Labels":{}}}}}"#, labels(work, more))
}

pub(crate) fn labels(work: &Work, more: &str) -> String {
    let (task, attempt) = (work.attempt.task, work.attempt.attempt);
    format!(
        r#"{{"orch.cluster":"c","orch.owner":"o","orch.task":"{task}","orch.attempt":"{attempt}"{more}}}"#
    )
}

/// Error response with this status and message.
pub(crate) fn refusal(status: u16, message: &str) -> Answer {
    Some((status, format!(r#"{{"message":"{message}"}}"#)))
}

/// Reads one request and returns its first line.
fn read(stream: &mut UnixStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut request, mut length) = (String::new(), 0);
    reader.read_line(&mut request).unwrap();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let Some((name, value)) = header.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap();
        }
    }
    reader.read_exact(&mut vec![0; length]).unwrap();
    request
}

fn write(stream: &mut UnixStream, status: u16, body: &str) {
    let head = format!("HTTP/1.1 {status} Told\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    write!(stream, "{head}Content-Type: application/json\r\n\r\n{body}").unwrap();
}
