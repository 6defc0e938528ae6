//! An engine that goes away over the order to start a container. It is a stand-in: a real one does it too seldom.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    sync::mpsc,
};

use orch_core::{
    model::TaskSpec,
    runtime::{Runtime, RuntimeErrorKind, Work},
};
use orch_docker::{DockerConfig, DockerRuntime};

mod common;

/// Answers one request, or breaks off where a container is to be started. Gives the request's first line.
fn serve(stream: &mut UnixStream, container: &str) -> String {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
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
    let (status, body) = match request.split(' ').collect::<Vec<_>>()[..] {
        ["POST", path, _] if path.contains("/start") => return request,
        ["DELETE", ..] => ("204 No Content", ""),
        ["GET", path, _] if path.starts_with("/containers/") => ("200 OK", container),
        _ => ("200 OK", "OK"),
    };
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    write!(stream, "{head}Content-Type: application/json\r\n\r\n{body}").unwrap();
    request
}

fn container_of(work: &Work) -> String {
    let (task, attempt) = (work.attempt.task, work.attempt.attempt);
    let labels =
        format!(r#"{{"orch.cluster":"c","orch.owner":"o","orch.task":"{task}","orch.attempt":"{attempt}"}}"#);
    let state = r#"{"Status":"created","Running":false,"StartedAt":"0001-01-01T00:00:00Z"}"#;
    format!(r#"{{"Id":"made","State":{state},"Config":{{"Labels":{labels}}}}}"#)
}

#[tokio::test]
async fn a_start_that_may_have_happened_is_not_repeated() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("d.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let work = common::work(TaskSpec::image("job", "image"));
    let container = container_of(&work);
    let (asked, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let request = serve(&mut stream.unwrap(), &container);
            if asked.send(request).is_err() {
                return;
            }
        }
    });
    let mut config = DockerConfig::new("c", "o");
    config.host = Some(format!("unix://{}", socket.display()));
    (config.secrets_dir, config.state_dir) = (home.path().join("secrets"), home.path().join("state"));
    let runtime = DockerRuntime::connect(config).await.unwrap();

    assert_eq!(runtime.start(&work).await.unwrap_err().kind, RuntimeErrorKind::Unavailable);
    let error = runtime.start(&work).await.unwrap_err();
    assert_eq!(error.kind, RuntimeErrorKind::NotFound, "{error}");
    assert!(error.message.contains("it may have run") && error.kind.is_retryable(), "{error}");
    let requests: Vec<String> = requests.try_iter().collect();
    let count = |word: &str| requests.iter().filter(|request| request.contains(word)).count();
    assert_eq!((count("/start"), count("DELETE")), (1, 1), "one start, and nothing is left: {requests:?}");

    // Once it is removed there is no doubt left.
    assert_eq!(runtime.start(&work).await.unwrap_err().kind, RuntimeErrorKind::Unavailable);
}
