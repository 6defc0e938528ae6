//! Members in processes of their own, over TCP on loopback, killed and stopped while they work.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
};

use orch_core::testkit::child::{LineProcess, example_program, free_addresses};
use rustix::process::{Pid, Signal, kill_process};

const MEMBERS: usize = 4;

struct Group {
    directory: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
    members: Vec<LineProcess>,
    /// Commands that any member acknowledged.
    acknowledged: BTreeSet<String>,
    last: usize,
}

fn start(number: usize, directory: &Path, addresses: &[SocketAddr]) -> LineProcess {
    let own = directory.join(number.to_string()).to_str().unwrap().to_owned();
    let addresses = addresses.iter().map(ToString::to_string);
    let program = example_program("orch-consensus", "pbft", "pbft_member");
    LineProcess::start(&program, [number.to_string(), own].into_iter().chain(addresses))
}

/// Acknowledged keys among these lines.
fn done(lines: &[String]) -> BTreeSet<String> {
    let keys = lines.iter().filter_map(|line| line.strip_prefix("done ")?.split(' ').next());
    keys.map(ToOwned::to_owned).collect()
}

/// Keys that were read, with their values.
fn values(lines: &[String]) -> BTreeMap<&str, Option<&str>> {
    lines.iter().filter_map(|line| read(line)).collect()
}

fn read(line: &str) -> Option<(&str, Option<&str>)> {
    match line.split(' ').collect::<Vec<_>>()[..] {
        ["value", key, value] => Some((key, Some(value))),
        ["nothing", key] => Some((key, None)),
        _ => None,
    }
}

async fn leads(member: &mut LineProcess) -> bool {
    let from = member.lines().len();
    member.send("status").await;
    let status = |line: &String| line.starts_with("status ");
    member.wait_for(from, "the status", |lines| lines.iter().any(status)).await;
    member.lines()[from..].iter().any(|line| line.starts_with("status leads"))
}

fn signal(member: &LineProcess, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(member.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

impl Group {
    fn start() -> Self {
        let (directory, addresses) = (tempfile::tempdir().unwrap(), free_addresses(MEMBERS));
        let members = (0..MEMBERS).map(|number| start(number, directory.path(), &addresses)).collect();
        Self { directory, addresses, members, acknowledged: BTreeSet::new(), last: 0 }
    }

    /// Has a member propose, and says which keys.
    async fn propose(&mut self, member: usize, count: usize) -> BTreeSet<String> {
        let keys: BTreeSet<_> =
            (self.last..self.last + count).map(|number| format!("key-{number}")).collect();
        self.last += count;
        for key in &keys {
            self.members[member].send(&format!("propose {key} of-{key}")).await;
        }
        keys
    }

    async fn acknowledged(&mut self, member: usize, keys: BTreeSet<String>) {
        let all = |lines: &[String]| keys.is_subset(&done(lines));
        self.members[member].wait_for(0, "an acknowledgement", all).await;
        self.acknowledged.extend(keys);
    }

    async fn kill(&mut self, number: usize) {
        self.members[number].kill().await;
        self.acknowledged.extend(done(&self.members[number].lines()));
    }

    fn restart(&mut self, number: usize) {
        self.members[number] = start(number, self.directory.path(), &self.addresses);
    }

    /// Everything that was acknowledged can be read from this member.
    async fn has_all(&mut self, number: usize) {
        let member = &mut self.members[number];
        let from = member.lines().len();
        for key in &self.acknowledged {
            member.send(&format!("read {key}")).await;
        }
        let keys = &self.acknowledged;
        let all = |lines: &[String]| {
            let read = values(lines);
            keys.iter().all(|key| read.contains_key(&key[..]))
        };
        member.wait_for(from, "a value", all).await;
        let lines = member.lines();
        let read = values(&lines[from..]);
        let lost: Vec<_> =
            keys.iter().filter(|key| read[&key[..]] != Some(&format!("of-{key}")[..])).collect();
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
            if leads(&mut group.members[member]).await {
                primary = Some(member);
            }
        }
    }
    let primary = primary.unwrap();
    signal(&group.members[primary], Signal::STOP);
    let mut asked = Vec::new();
    for member in (0..MEMBERS).filter(|member| *member != primary) {
        asked.push((member, group.propose(member, 50).await));
    }
    for (member, keys) in asked {
        group.acknowledged(member, keys).await;
    }
    signal(&group.members[primary], Signal::CONT);
    group.has_all(primary).await;
    let keys = group.propose(primary, 10).await;
    group.acknowledged(primary, keys).await;
    for member in 0..MEMBERS {
        group.has_all(member).await;
    }
}
