//! Members in processes of their own, over TCP on loopback, killed and stopped while they work.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    sync::watch,
};

use crate::group::DEADLINE;

const MEMBERS: usize = 4;

/// The example, which `cargo test` builds along with this; where only this test was asked for, it is built
/// now.
fn program() -> PathBuf {
    let me = std::env::current_exe().unwrap();
    let profile = me.parent().and_then(Path::parent).unwrap();
    let program = profile.join("examples").join("pbft_member");
    if !program.exists() {
        let build = ["build", "-p", "orch-consensus", "--features", "pbft", "--example", "pbft_member"];
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
    /// Commands that any member acknowledged.
    acknowledged: BTreeSet<String>,
    last: usize,
}

/// Output of a member.
#[derive(Debug, Default)]
struct Heard {
    done: BTreeSet<String>,
    values: BTreeMap<String, Option<String>>,
    status: Option<String>,
}

struct Member {
    child: Child,
    input: ChildStdin,
    received: watch::Receiver<Heard>,
}

impl Member {
    fn start(number: usize, place: &Path, addresses: &[SocketAddr]) -> Self {
        let mut command = Command::new(program());
        command.arg(number.to_string()).arg(place.join(number.to_string()));
        command.args(addresses.iter().map(ToString::to_string));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (hear, received) = watch::channel(Heard::default());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let words: Vec<_> = line.splitn(3, ' ').map(ToOwned::to_owned).collect();
                hear.send_modify(|received| match &words[0][..] {
                    "done" => drop(received.done.insert(words[1].clone())),
                    "value" => drop(received.values.insert(words[1].clone(), Some(words[2].clone()))),
                    "nothing" => drop(received.values.insert(words[1].clone(), None)),
                    "status" => received.status = Some(words[1].clone()),
                    _ => {}
                });
            }
        });
        let input = child.stdin.take().unwrap();
        Self { child, input, received }
    }

    async fn say(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self, what: &str, wanted: impl FnMut(&Heard) -> bool) {
        let received = tokio::time::timeout(DEADLINE, self.received.wait_for(wanted)).await;
        assert!(received.is_ok_and(|received| received.is_ok()), "not received: {what}");
    }

    async fn leads(&mut self) -> bool {
        // Lines from before answer an earlier command.
        self.received.borrow_and_update();
        self.say("status").await;
        tokio::time::timeout(DEADLINE, self.received.changed()).await.unwrap().unwrap();
        self.received.borrow().status.as_deref() == Some("leads")
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Group {
    fn start() -> Self {
        let place = tempfile::tempdir().unwrap();
        // Held together, so that they differ.
        let held: Vec<_> = (0..MEMBERS).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = held.iter().map(|listener| listener.local_addr().unwrap()).collect();
        drop(held);
        let members = (0..MEMBERS).map(|number| Member::start(number, place.path(), &addresses)).collect();
        Self { place, addresses, members, acknowledged: BTreeSet::new(), last: 0 }
    }

    /// Has a member propose, and says which keys.
    async fn propose(&mut self, member: usize, count: usize) -> BTreeSet<String> {
        let keys: BTreeSet<_> =
            (self.last..self.last + count).map(|number| format!("key-{number}")).collect();
        self.last += count;
        for key in &keys {
            self.members[member].say(&format!("propose {key} of-{key}")).await;
        }
        keys
    }

    async fn acknowledged(&mut self, member: usize, keys: BTreeSet<String>) {
        self.members[member].hear("acknowledgements", |received| keys.is_subset(&received.done)).await;
        self.acknowledged.extend(keys);
    }

    async fn kill(&mut self, number: usize) {
        self.members[number].child.kill().await.unwrap();
        self.acknowledged.extend(self.members[number].received.borrow().done.iter().cloned());
    }

    fn restart(&mut self, number: usize) {
        self.members[number] = Member::start(number, self.place.path(), &self.addresses);
    }

    /// Everything that was acknowledged can be read from this member.
    async fn has_all(&mut self, number: usize) {
        let member = &mut self.members[number];
        for key in &self.acknowledged {
            member.say(&format!("read {key}")).await;
        }
        let (keys, mut lost) = (&self.acknowledged, Vec::new());
        member
            .hear("what was read", |received| keys.iter().all(|key| received.values.contains_key(key)))
            .await;
        for key in keys {
            if member.received.borrow().values[key].as_ref() != Some(&format!("of-{key}")) {
                lost.push(key.clone());
            }
        }
        assert!(lost.is_empty(), "member {number} lost {} of {}: {lost:?}", lost.len(), keys.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_members_are_killed_in_turn() {
    let mut group = Group::start();
    let first = group.propose(0, 20).await;
    group.acknowledged(0, first).await;
    for killed in 0..MEMBERS {
        let mut asked = Vec::new();
        for member in 0..MEMBERS {
            asked.push((member, group.propose(member, 50).await));
        }
        group.kill(killed).await;
        for (member, keys) in asked.into_iter().filter(|(member, _)| *member != killed) {
            group.acknowledged(member, keys).await;
        }
        group.restart(killed);
        let keys = group.propose(killed, 10).await;
        group.acknowledged(killed, keys).await;
    }
    assert!(group.acknowledged.len() >= 20 + MEMBERS * 160);
    for member in 0..MEMBERS {
        group.has_all(member).await;
    }
    // A power cut: no member is left, and all come back.
    for member in 0..MEMBERS {
        group.kill(member).await;
    }
    for member in 0..MEMBERS {
        group.restart(member);
    }
    for member in 0..MEMBERS {
        group.has_all(member).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_stopped_is_replaced_and_catches_up() {
    let mut group = Group::start();
    let first = group.propose(0, 20).await;
    group.acknowledged(0, first).await;
    let mut primary = None;
    while primary.is_none() {
        for member in 0..MEMBERS {
            if group.members[member].leads().await {
                primary = Some(member);
            }
        }
    }
    let primary = primary.unwrap();
    group.members[primary].signal(Signal::STOP);
    let mut asked = Vec::new();
    for member in (0..MEMBERS).filter(|member| *member != primary) {
        asked.push((member, group.propose(member, 50).await));
    }
    for (member, keys) in asked {
        group.acknowledged(member, keys).await;
    }
    group.members[primary].signal(Signal::CONT);
    group.has_all(primary).await;
    let keys = group.propose(primary, 10).await;
    group.acknowledged(primary, keys).await;
    for member in 0..MEMBERS {
        group.has_all(member).await;
    }
}
