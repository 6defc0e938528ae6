//! A manager of rust-orch, as far as its workers can see: it lists what is scheduled, says 200 to every
//! update, and knows nothing else. It can be told to misbehave.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use orch_core::model::TaskId;
use orch_net::http::testkit::soon;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// Behaviour from now on.
#[derive(Clone, Debug)]
pub(crate) enum Manners {
    /// As it should.
    Honest,
    /// It says 200 to updates and forgets them: what is scheduled is listed for ever.
    Forgetful,
    /// It takes requests and closes without an answer.
    Silent,
    /// It answers 500 to how this task ended.
    Deaf(TaskId),
    /// It answers lists with this body, and updates with this status.
    Odd(String, u16),
}

pub(crate) struct Manager {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    serving: Option<JoinHandle<()>>,
}

struct Shared {
    tasks: Mutex<Vec<Value>>,
    manners: Mutex<Manners>,
    /// Every update that it answered 200.
    updates: watch::Sender<Vec<Value>>,
    /// Number of lists that it gave.
    lists: watch::Sender<u64>,
}

impl Manager {
    pub(crate) async fn new() -> Self {
        let shared = Shared {
            tasks: Mutex::default(),
            manners: Mutex::new(Manners::Honest),
            updates: watch::Sender::default(),
            lists: watch::Sender::default(),
        };
        let address = "127.0.0.1:0".parse().unwrap();
        let mut manager = Self { address, shared: Arc::new(shared), serving: None };
        manager.start().await;
        manager
    }

    /// Listens, again after [`Manager::stop`].
    pub(crate) async fn start(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let shared = self.shared.clone();
        self.serving = Some(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(shared.clone(), stream));
            }
        }));
    }

    /// Connections are refused from now on.
    pub(crate) async fn stop(&mut self) {
        let serving = self.serving.take().unwrap();
        serving.abort();
        let _ = serving.await;
    }

    pub(crate) fn behave(&self, manners: Manners) {
        *self.shared.manners.lock().unwrap() = manners;
    }

    /// Schedules an image on a node.
    pub(crate) fn schedule(&self, image: &str, node: &str) -> TaskId {
        let id = TaskId::generate();
        self.add(json!({
            "id": id, "name": "t", "image": image, "memory": 256, "cpu": 0.5, "env": {}, "status": "Scheduled",
            "created_at": "2026-02-03T04:05:06.789000000Z", "started_at": null, "node_id": node,
            "container_id": null,
        }));
        id
    }

    pub(crate) fn add(&self, task: Value) {
        self.shared.tasks.lock().unwrap().push(task);
    }

    /// Waits for that many updates of a task, which must have these statuses, and returns them whole.
    pub(crate) async fn told(&self, task: TaskId, statuses: &[&str]) -> Vec<Value> {
        let mut updates = self.shared.updates.subscribe();
        let is_told = |updates: &Vec<Value>| of(task, updates).len() >= statuses.len();
        let mut told = of(task, &soon(updates.wait_for(is_told)).await.unwrap());
        told.truncate(statuses.len());
        let found: Vec<&str> = told.iter().map(|update| update["status"].as_str().unwrap()).collect();
        assert_eq!(found, statuses);
        told
    }

    /// Everything that was said of a task until now.
    pub(crate) fn updates(&self, task: TaskId) -> Vec<Value> {
        of(task, &self.shared.updates.borrow())
    }

    /// Waits for this many lists that are asked for from now on.
    pub(crate) async fn lists(&self, more: u64) {
        let mut lists = self.shared.lists.subscribe();
        let target = *lists.borrow() + more;
        soon(lists.wait_for(|lists| *lists >= target)).await.unwrap();
    }
}

fn of(task: TaskId, updates: &[Value]) -> Vec<Value> {
    updates.iter().filter(|update| update["id"] == task.to_string()).cloned().collect()
}

async fn answer(shared: Arc<Shared>, mut stream: TcpStream) {
    let Some((line, body)) = request(&mut stream).await else { return };
    let words: Vec<&str> = line.split(' ').collect();
    let manners = shared.manners.lock().unwrap().clone();
    let (status, body) = match (words[0], words[1].split('/').collect::<Vec<_>>().as_slice(), manners) {
        (_, _, Manners::Silent) => {
            shared.lists.send_modify(|lists| *lists += u64::from(words[0] == "GET"));
            return;
        }
        ("GET", ["", "tasks"], manners) => {
            let body = match manners {
                Manners::Odd(body, _) => body,
                _ => shared.list(),
            };
            shared.lists.send_modify(|lists| *lists += 1);
            (200, body)
        }
        ("PUT", ["", "tasks", id, "status"], manners) => (shared.update(id, &body, &manners), String::new()),
        _ => (404, String::new()),
    };
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    let _ = stream.write_all(answer.as_bytes()).await;
}

impl Shared {
    fn list(&self) -> String {
        let tasks = self.tasks.lock().unwrap();
        let ended =
            |task: &&Value| matches!(task["status"].as_str(), Some("Running" | "Complete" | "Failed"));
        Value::from_iter(tasks.iter().filter(|task| !ended(task)).cloned()).to_string()
    }

    fn update(&self, id: &str, body: &str, manners: &Manners) -> u16 {
        let mut update: Value = serde_json::from_str(body).unwrap();
        if let Manners::Odd(_, status) = manners {
            return *status;
        }
        if matches!(manners, Manners::Deaf(task) if task.to_string() == id) && update["status"] != "Running" {
            return 500;
        }
        let mut tasks = self.tasks.lock().unwrap();
        if let (Manners::Honest | Manners::Deaf(_), Some(task)) =
            (manners, tasks.iter_mut().find(|task| task["id"] == id))
        {
            task["status"] = update["status"].clone();
        }
        update["id"] = id.into();
        self.updates.send_modify(|updates| updates.push(update));
        200
    }
}

/// Reads as a simple program does: header names in their usual case, a body only with its length.
async fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        assert!(head.contains("\r\nConnection: close"), "{head}");
        assert!(!head.contains("Authorization"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return Some((head.lines().next()?.to_owned(), body.to_owned()));
        }
    }
}
