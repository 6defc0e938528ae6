//! Members of a signed store in processes of their own, over TLS on loopback, killed while they write, and
//! without their disk.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Duration};

use orch_core::testkit::child::{LineProcess, example_program, free_addresses};

const MEMBERS: usize = 4;
const DEADLINE: Duration = Duration::from_secs(60);

struct Group {
    directory: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
    members: Vec<Member>,
}

struct Member(LineProcess);

impl Group {
    fn start() -> Self {
        let (directory, addresses) = (tempfile::tempdir().unwrap(), free_addresses(MEMBERS));
        let members =
            (0..MEMBERS).map(|number| Member::start(number, directory.path(), &addresses)).collect();
        Self { directory, addresses, members }
    }

    async fn kill(&mut self, number: usize) {
        self.members[number].0.kill().await;
    }

    fn restart(&mut self, number: usize) {
        self.members[number] = Member::start(number, self.directory.path(), &self.addresses);
    }

    /// Waits until all have these keys.
    async fn all_have(&mut self, keys: &BTreeSet<String>) {
        for member in &mut self.members {
            for key in keys {
                member.send_until(&format!("get {key}"), &format!("value {key} of-{key}")).await;
            }
        }
    }
}

impl Member {
    fn start(number: usize, directory: &Path, addresses: &[SocketAddr]) -> Self {
        let own = directory.join(number.to_string()).to_str().unwrap().to_owned();
        let addresses = addresses.iter().map(ToString::to_string);
        let program = example_program("orch-store", "crdt", "crdt_member");
        Self(LineProcess::start(&program, [number.to_string(), own].into_iter().chain(addresses)))
    }

    /// Sends it again and again until this is the answer.
    async fn send_until(&mut self, command: &str, answer: &str) {
        let give_up = tokio::time::Instant::now() + DEADLINE;
        loop {
            let from = self.0.lines().len();
            self.0.send(command).await;
            // What it observes meanwhile is no answer.
            let is_answer = |line: &String| !line.starts_with("seen ") && !line.starts_with("gone ");
            self.0.wait_for(from, command, |lines| lines.iter().any(is_answer)).await;
            if self.0.lines()[from..].iter().any(|line| line == answer) {
                return;
            }
            let late = tokio::time::Instant::now() >= give_up;
            assert!(!late, "{command}: {:?}", &self.0.lines()[from..]);
            tokio::task::yield_now().await;
        }
    }

    /// Has it put a key, as soon as it may.
    async fn put(&mut self, key: &str) {
        self.send_until("status", "status complete 0 writes").await;
        let from = self.0.lines().len();
        self.0.send(&format!("put {key} of-{key}")).await;
        let done = format!("done {key} ");
        self.0.wait_for(from, key, |lines| lines.iter().any(|line| line.starts_with(&done))).await;
    }

    /// The keys whose writes it has acknowledged.
    fn done(&self) -> BTreeSet<String> {
        let lines = self.0.lines();
        let keys = lines.iter().filter_map(|line| line.strip_prefix("done ")?.split(' ').next());
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
            writer.0.send(&format!("put {key} of-{key}")).await;
        }
        let some = format!("done burst/{round}/20 ");
        writer.0.wait_for(0, "an answer", |lines| lines.iter().any(|line| line.contains(&some))).await;
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
    std::fs::remove_dir_all(group.directory.path().join("1")).unwrap();
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
        member.send_until("confirmed same", "value same of-same").await;
        member.send_until("status", "status complete 0 writes").await;
    }
}
