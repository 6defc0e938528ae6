//! Three members of orch in three processes, and their clients.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use orch_core::transport::{PeerId, Transport as _};
use orch_net::p2p::{PeerConfig, PeerTransport};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{ChildStdin, ChildStdout, Command},
};

use super::{
    Keys, MEMBERS, PATIENCE, Place,
    member::{CLIENT, CLIENTS, identity, peer},
    processes::{Process, cpu_of_us, free_addresses},
    table::put,
};
use crate::{Failure, Load, Summary, Until, load::closed_loop};

/// Time that a client waits for an answer.
const ANSWER: Duration = Duration::from_secs(10);

pub(super) struct OrchGroup {
    members: Vec<Member>,
    leader: usize,
    clients: Arc<PeerTransport>,
    _directory: TempDir,
}

struct Member {
    process: Process,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    peer: PeerId,
}

impl Member {
    async fn ask(&mut self, line: &str) -> Result<String, Failure> {
        self.input.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(self.output.next_line().await?.ok_or("a member has ended")?)
    }
}

impl OrchGroup {
    pub(super) async fn start() -> Result<Self, Failure> {
        let directory = TempDir::new()?;
        let addresses = free_addresses(2 * MEMBERS).await?;
        let (ours, theirs) = addresses.split_at(MEMBERS);
        let (mut members, mut peers) = (Vec::new(), BTreeMap::new());
        for (number, address) in (0..).zip(theirs) {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("member").arg(number.to_string()).arg(directory.path().join(format!("m{number}")));
            command.arg(address.to_string()).args(ours.iter().map(ToString::to_string));
            let mut process = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
            let input = process.child.stdin.take().ok_or("no input")?;
            let output = process.child.stdout.take().ok_or("no output")?;
            let output = BufReader::new(output).lines();
            members.push(Member { process, input, output, peer: peer(number) });
            peers.insert(peer(number), vec![(*address).into()]);
        }
        let config = PeerConfig {
            listen: None,
            peers,
            reconnect_max: Duration::from_millis(100),
            ..PeerConfig::default()
        };
        let clients = Arc::new(PeerTransport::bind(&identity(CLIENT), config).await?);
        let mut group = Self { members, leader: 0, clients, _directory: directory };
        group.leader = group.settle().await?;
        Ok(group)
    }

    /// Waits until one leads and the clients reach it.
    async fn settle(&mut self) -> Result<usize, Failure> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            for (at, member) in self.members.iter_mut().enumerate() {
                if member.ask("status").await? == "leads" && self.clients.peers().contains(&member.peer) {
                    return Ok(at);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err("no member of orch leads".into())
    }

    pub(super) async fn run(&mut self, place: Place, load: &Load) -> Result<Summary, Failure> {
        let at = match place {
            Place::Apart => return self.run_apart(load).await,
            Place::Leader => self.leader,
            Place::Follower => (self.leader + 1) % MEMBERS,
        };
        let Until::Over(time) = load.until else { return Err("members run for a time".into()) };
        self.members[at].ask(&format!("run {} {}", load.clients, time.as_secs_f64())).await?.parse()
    }

    async fn run_apart(&self, load: &Load) -> Result<Summary, Failure> {
        let (clients, leader) = (self.clients.clone(), self.members[self.leader].peer);
        let keys = Arc::new(Keys::default());
        let propose = move |value: Bytes| {
            let (clients, command) = (clients.clone(), put(&keys.next().0, &value));
            async move { Ok(clients.request(leader, CLIENTS, command, ANSWER).await.map(drop)?) }
        };
        Ok(Summary::from(&closed_loop(load, propose).await?))
    }

    /// Of the members and of this process.
    pub(super) fn cpu(&self) -> Result<Duration, Failure> {
        self.members.iter().try_fold(cpu_of_us()?, |sum, member| Ok(sum + member.process.cpu()?))
    }

    pub(super) async fn stop(self) -> Result<(), Failure> {
        self.clients.close().await;
        for Member { process, input, .. } in self.members {
            drop(input);
            process.end().await?;
        }
        Ok(())
    }
}
