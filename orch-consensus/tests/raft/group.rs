//! Groups on a network inside this process, and a machine that writes down what it is given.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use orch_consensus::raft::{RaftConfig, RaftConsensus, Storage};
use orch_core::{
    consensus::{Consensus, ConsensusStatus, Context, Decision, MachineError, StateMachine},
    model::Timestamp,
    store::Revision,
    transport::{Channel, Faults, InProcessConfig, InProcessNetwork, PeerId},
};

pub(crate) const CHANNEL: Channel = Channel(3);

pub(crate) fn peer(number: u8) -> PeerId {
    PeerId::from_bytes([number; 32])
}

pub(crate) fn name(number: u8) -> String {
    format!("m{number}")
}

pub(crate) fn founders(count: u8) -> BTreeMap<String, PeerId> {
    (1..=count).map(|number| (name(number), peer(number))).collect()
}

/// Written down commands, and the times and revisions that they came with.
pub(crate) type Book = Arc<Mutex<Vec<(Bytes, Timestamp, Revision)>>>;

#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) book: Book,
    tentative: Vec<(Bytes, Timestamp)>,
    time: Timestamp,
}

impl StateMachine for Recorder {
    fn decide(&mut self, context: &Context<'_>, command: &[u8]) -> Decision {
        self.time = self.time.max(context.time);
        let index = self.book.lock().unwrap().len() + self.tentative.len();
        self.tentative.push((Bytes::copy_from_slice(command), context.time));
        let outcome = Bytes::copy_from_slice(&(index as u64).to_be_bytes());
        Decision { outcome, changes: Vec::new().into() }
    }

    fn commit(&mut self, revision: Revision) {
        let settled = self.tentative.drain(..).map(|(command, at)| (command, at, revision));
        self.book.lock().unwrap().extend(settled);
    }

    fn rollback(&mut self) {
        self.tentative.clear();
    }

    fn time(&self) -> Timestamp {
        self.time
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (command, at, revision) in self.book.lock().unwrap().iter() {
            out.extend((command.len() as u64).to_be_bytes());
            out.extend(command);
            out.extend(at.as_millis().to_be_bytes());
            out.extend(revision.0.to_be_bytes());
        }
        out
    }

    fn restore(&mut self, mut snapshot: &[u8]) -> Result<(), MachineError> {
        let mut book = Vec::new();
        let number = |from: &mut &[u8]| {
            let (head, rest) = from.split_first_chunk::<8>().unwrap();
            *from = rest;
            u64::from_be_bytes(*head)
        };
        while !snapshot.is_empty() {
            let length = usize::try_from(number(&mut snapshot)).unwrap();
            let (command, rest) = snapshot.split_at(length);
            snapshot = rest;
            let at = Timestamp::from_millis(number(&mut snapshot));
            book.push((Bytes::copy_from_slice(command), at, Revision(number(&mut snapshot))));
            self.time = self.time.max(at);
        }
        *self.book.lock().unwrap() = book;
        Ok(())
    }

    fn digest(&self) -> [u8; 32] {
        [0; 32]
    }
}

/// A member and what its machine has written down.
pub(crate) struct Member {
    pub(crate) raft: Arc<RaftConsensus>,
    pub(crate) book: Book,
}

impl Member {
    pub(crate) fn written(&self) -> Vec<Bytes> {
        self.book.lock().unwrap().iter().map(|(command, ..)| command.clone()).collect()
    }

    pub(crate) fn status(&self) -> ConsensusStatus {
        self.raft.status()
    }

    /// Waits, in the time of the runtime, until the status is so.
    pub(crate) async fn until(&self, what: &str, so: impl Fn(&ConsensusStatus) -> bool) {
        let waiting = async {
            while !so(&self.raft.status()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        assert!(in_time.is_ok(), "never {what}: {:?}", self.raft.status());
    }
}

/// Members that find each other, and their directories if they have any.
pub(crate) struct Group {
    pub(crate) network: InProcessNetwork,
    pub(crate) directory: Option<tempfile::TempDir>,
    pub(crate) founders: u8,
}

impl Group {
    pub(crate) fn in_memory(founders: u8, seed: u64) -> Self {
        let config = InProcessConfig { seed, ordered: false, ..InProcessConfig::default() };
        Self { network: InProcessNetwork::new(config), directory: None, founders }
    }

    pub(crate) fn on_disk(founders: u8) -> Self {
        Self { directory: Some(tempfile::tempdir().unwrap()), ..Self::in_memory(founders, 0) }
    }

    pub(crate) fn directory(&self, number: u8) -> PathBuf {
        self.directory.as_ref().unwrap().path().join(name(number))
    }

    pub(crate) fn config(&self, number: u8) -> RaftConfig {
        let storage = match &self.directory {
            None => Storage::Memory,
            Some(_) => Storage::Synced { directory: self.directory(number) },
        };
        let members = if number <= self.founders { founders(self.founders) } else { BTreeMap::new() };
        RaftConfig { channel: CHANNEL, storage, ..RaftConfig::new(members) }
    }

    pub(crate) async fn start_with(&self, number: u8, change: impl FnOnce(&mut RaftConfig)) -> Member {
        let mut config = self.config(number);
        change(&mut config);
        let raft = Arc::new(RaftConsensus::new(config, Arc::new(self.network.join(peer(number)))).unwrap());
        let book = Book::default();
        let machine = Recorder { book: book.clone(), ..Recorder::default() };
        raft.start(Box::new(machine)).await.unwrap();
        Member { raft, book }
    }

    pub(crate) async fn start(&self, number: u8) -> Member {
        self.start_with(number, |_| ()).await
    }

    pub(crate) async fn start_all(&self) -> Vec<Member> {
        let mut members = Vec::new();
        for number in 1..=self.founders {
            members.push(self.start(number).await);
        }
        members
    }

    pub(crate) fn faults(&self, loss_percent: u8, delay_max: Duration) {
        self.network.set_faults(Faults {
            loss_percent,
            duplicate_percent: loss_percent,
            reorder_percent: 2 * loss_percent,
            delay_min: Duration::ZERO,
            delay_max,
        });
    }
}

/// The index of the leader among the members, once there is one that they agree on.
pub(crate) async fn leader(members: &[&Member]) -> usize {
    let waiting = async {
        loop {
            let leaders: Vec<usize> = (0..members.len()).filter(|at| members[*at].status().leader).collect();
            if let [one] = leaders[..]
                && members.iter().all(|member| member.status().last_error.is_none())
            {
                return one;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("a leader is elected")
}

pub(crate) async fn shut_down(members: impl IntoIterator<Item = Member>) {
    for member in members {
        member.raft.shutdown().await;
    }
}
