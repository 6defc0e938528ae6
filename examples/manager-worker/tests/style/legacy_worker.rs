//! Our worker at a manager of rust-orch. Without an engine for images it can only fail their tasks; what runs
//! is tested with Docker, and with simulated images in `tests/rust_orch`.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::mpsc,
};

use serde_json::{Value, json};

use crate::lab::{Done, Lab, PATIENCE, Service};

const OURS: &str = "7f3f0a52-4d9b-4f0e-9a41-6a3b1a0d2c11";
const OTHER: &str = "7f3f0a52-4d9b-4f0e-9a41-6a3b1a0d2c12";

fn worker(manager: &str, dir: &Path) -> Service {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orch-worker"));
    command.env_remove("ORCH_MANAGER").args(["--legacy", manager, "--legacy-poll", "50ms"]);
    command.args(["--id", "worker-1", "--runtime", "process", "--data-dir"]).arg(dir);
    Service::start(command, "worker-1 is registered")
}

/// Answers requests, one a connection, as their manager does, but never takes a task off its list. Gives each
/// update.
fn manager(listener: TcpListener) -> mpsc::Receiver<(String, Value)> {
    let (told, updates) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // A worker may be killed within a request.
            let Ok((line, body)) = request(&stream) else { continue };
            let answer = match line.split(' ').next().unwrap() {
                "GET" => json!([scheduled(OTHER, "worker-2"), scheduled(OURS, "worker-1")]).to_string(),
                _ => String::new(),
            };
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
            drop(stream);
            if line.starts_with("PUT") && told.send((line, serde_json::from_str(&body).unwrap())).is_err() {
                return;
            }
        }
    });
    updates
}

fn scheduled(id: &str, node: &str) -> Value {
    json!({
        "id": id, "name": "web", "image": "nginx", "memory": 256, "cpu": 0.5, "env": {}, "status": "Scheduled",
        "created_at": "2026-02-03T04:05:06.789000000Z", "started_at": null, "node_id": node, "container_id": null,
    })
}

fn request(stream: &TcpStream) -> io::Result<(String, String)> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if line == "\r\n" => break,
            _ => lines.push(line.trim_end().to_owned()),
        }
    }
    let length = lines.iter().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body)?;
    Ok((lines.remove(0), String::from_utf8(body).unwrap()))
}

#[test]
fn it_takes_what_is_its_own_and_says_how_that_went_in_each_of_its_lives() {
    let dir = tempfile::tempdir().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let url = format!("http://{address}");
    let first = worker(&url, dir.path());
    // It was there before its manager.
    let updates = manager(TcpListener::bind(address).unwrap());
    let failed =
        (format!("PUT /tasks/{OURS}/status HTTP/1.1"), json!({ "status": "Failed", "container_id": null }));
    for _ in 0..2 {
        assert_eq!(updates.recv_timeout(PATIENCE).unwrap(), failed);
    }
    drop(first);
    updates.try_iter().for_each(|update| assert_eq!(update, failed));
    let _second = worker(&url, dir.path());
    assert_eq!(updates.recv_timeout(PATIENCE).unwrap(), failed);
}

#[test]
fn our_manager_takes_it_for_one_of_theirs() {
    let lab = Lab::with(&["--legacy-worker", "worker-1"]);
    lab.until("worker-1 in the cluster", |event| event["node"]["spec"]["id"] == "worker-1");
    let submitted = lab.orch(&["run", "web", "nginx"]);
    assert_eq!(submitted.code, 0, "{}", submitted.err);
    let id = submitted.out.trim();
    assert_eq!(lab.json(&["show", id])["status"], "placed");
    let _worker = worker(&format!("http://{}", lab.address()), &lab.path("worker-1"));
    assert_eq!(lab.orch(&["wait", id]).code, 10);
    let shown = lab.orch(&["show", id]).out;
    assert!(shown.contains("worker-1 could not start it"), "{shown}");
}

#[test]
fn options_that_mean_nothing_there_are_refused() {
    let refused = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orch-worker"));
        command.env_remove("ORCH_MANAGER").args(words);
        let done = Done::of(command);
        assert_eq!(done.code, 2, "{words:?}: {}", done.err);
        done.err
    };
    for other in ["--manager", "--token-file", "--label", "--device", "--allow-host-path", "--secrets-dir"] {
        let why = refused(&["--legacy", "http://127.0.0.1:1", other, "a=1"]);
        assert!(why.contains("'--legacy <URL>' cannot be used with") && why.contains(other), "{why}");
    }
    assert!(refused(&["--legacy-poll", "1s"]).contains("--legacy <URL>"));
}
