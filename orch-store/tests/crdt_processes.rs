//! Members of a signed store in processes of their own, over TLS on loopback, killed while they write, and
//! without their disk.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    sync::watch,
};

const MEMBERS: usize = 4;
const DEADLINE: Duration = Duration::from_secs(60);

/// The example, which `cargo test` builds along with this; where only this test was asked for, it is built
/// now.
fn program() -> PathBuf {
    let me = std::env::current_exe().unwrap();
    let profile = me.parent().and_then(Path::parent).unwrap();
    let program = profile.join("examples").join("crdt_member");
    if !program.exists() {
        let build = ["build", "-p", "orch-store", "--features", "crdt", "--example", "crdt_member"];
        let mut cargo = std::process::Command::new(env!("CARGO"));
        cargo.args(build).arg("--target-dir").arg(profile.parent().unwrap());
        assert!(cargo.status().unwrap().success(), "the example does not build");
    }
    program
}

struct Group {
    place: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
    members: Vec<Member>,
}

struct Member {
    child: Child,
    input: ChildStdin,
    /// All lines since its start.
    said: watch::Receiver<Vec<String>>,
}

impl Group {
    fn start() -> Self {
        let place = tempfile::tempdir().unwrap();
        // Held together, so that they differ.
        let held: Vec<_> = (0..MEMBERS).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = held.iter().map(|listener| listener.local_addr().unwrap()).collect();
        drop(held);
        let members = (0..MEMBERS).map(|number| Member::start(number, place.path(), &addresses)).collect();
        Self { place, addresses, members }
    }

    async fn kill(&mut self, number: usize) {
        self.members[number].child.kill().await.unwrap();
    }

    fn restart(&mut self, number: usize) {
        self.members[number] = Member::start(number, self.place.path(), &self.addresses);
    }

    /// Waits until all have these keys.
    async fn all_have(&mut self, keys: &BTreeSet<String>) {
        for member in &mut self.members {
            for key in keys {
                member.say_until(&format!("get {key}"), &format!("value {key} of-{key}")).await;
            }
        }
    }
}

impl Member {
    fn start(number: usize, place: &Path, addresses: &[SocketAddr]) -> Self {
        let mut command = Command::new(program());
        command.arg(number.to_string()).arg(place.join(number.to_string()));
        command.args(addresses.iter().map(ToString::to_string));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (printed, said) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                printed.send_modify(|said| said.push(line));
            }
        });
        let input = child.stdin.take().unwrap();
        Self { child, input, said }
    }

    async fn say(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Waits for lines after the first `from`.
    async fn expect(&mut self, from: usize, what: &str, wanted: impl Fn(&[String]) -> bool) {
        let found = tokio::time::timeout(DEADLINE, self.said.wait_for(|said| wanted(&said[from..]))).await;
        assert!(found.is_ok_and(|found| found.is_ok()), "missing: {what}; {:?}", self.said.borrow());
    }

    /// Says it again and again until this is the answer.
    async fn say_until(&mut self, line: &str, answer: &str) {
        let give_up = tokio::time::Instant::now() + DEADLINE;
        loop {
            let from = self.said.borrow().len();
            self.say(line).await;
            // What it sees meanwhile is no answer.
            let is_answer = |line: &String| !line.starts_with("seen ") && !line.starts_with("gone ");
            self.expect(from, line, |said| said.iter().any(is_answer)).await;
            if self.said.borrow()[from..].iter().any(|line| line == answer) {
                return;
            }
            assert!(tokio::time::Instant::now() < give_up, "{line}: {:?}", &self.said.borrow()[from..]);
            tokio::task::yield_now().await;
        }
    }

    /// Has it put a key, as soon as it may.
    async fn put(&mut self, key: &str) {
        self.say_until("status", "status complete 0 writes").await;
        let from = self.said.borrow().len();
        self.say(&format!("put {key} of-{key}")).await;
        self.expect(from, key, |said| said.iter().any(|line| line.starts_with(&format!("done {key} "))))
            .await;
    }

    /// The keys whose writes it has answered.
    fn done(&self) -> BTreeSet<String> {
        let said = self.said.borrow();
        let keys = said.iter().filter_map(|line| line.strip_prefix("done ")?.split(' ').next());
        keys.map(ToOwned::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_outlives_kills_and_a_lost_disk() {
    let mut group = Group::start();
    let mut answered = BTreeSet::new();
    for number in 0..MEMBERS {
        let key = format!("first/{number}");
        group.members[number].put(&key).await;
        answered.insert(key);
    }
    group.all_have(&answered).await;

    // Killed while it writes.
    for round in 0..3 {
        let writer = &mut group.members[1];
        for number in 0..200 {
            let key = format!("burst/{round}/{number}");
            writer.say(&format!("put {key} of-{key}")).await;
        }
        writer
            .expect(0, "some answers", |said| {
                said.iter().any(|line| line.contains(&format!("done burst/{round}/20 ")))
            })
            .await;
        group.kill(1).await;
        answered.extend(group.members[1].done());
        group.restart(1);
        group.members[1].put(&format!("after/{round}")).await;
        answered.insert(format!("after/{round}"));
    }
    assert!(answered.len() >= 60, "{}", answered.len());
    group.all_have(&answered).await;

    // A new disk, and its own writes come back before it writes again.
    group.kill(1).await;
    std::fs::remove_dir_all(group.place.path().join("1")).unwrap();
    group.members[0].put("meanwhile").await;
    answered.insert("meanwhile".into());
    group.restart(1);
    group.members[1].put("again").await;
    answered.insert("again".into());
    group.all_have(&answered).await;

    // Nobody has contradicted itself, and two say the same.
    for member in [0, 1] {
        group.members[member].put("same").await;
    }
    for member in &mut group.members {
        member.say_until("confirmed same", "value same of-same").await;
        member.say_until("status", "status complete 0 writes").await;
    }
}
