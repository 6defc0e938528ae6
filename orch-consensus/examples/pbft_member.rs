//! A member of a group that agrees on keys and values, as a process of its own.
//!
//! `pbft_member NUMBER DIRECTORY ADDRESS...` is the member of this number, counted from 0, of the group whose
//! members listen at these addresses. It takes commands line by line: `propose KEY VALUE`, `read KEY`,
//! `status`. Each is answered with a line, in the order in which the answers are known.
//!
//! The keys are made of the members' numbers, so that nothing has to be handed out. Real members keep theirs
//! to themselves.

use std::{collections::BTreeMap, error::Error, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use orch_consensus::pbft::{Ed25519Signer, PbftConfig, PbftConsensus};
use orch_core::{
    consensus::{Consensus, Context, Decision, MachineError, StateMachine},
    model::Timestamp,
    store::Revision,
};
use orch_net::p2p::{Identity, PeerConfig, PeerTransport};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    sync::{Mutex, watch},
    task::JoinSet,
};

/// Commands that are worked on at a time.
const COMMANDS_MAX: usize = 256;

fn seed(number: usize) -> Result<[u8; 32], Box<dyn Error>> {
    Ok([u8::try_from(number + 1)?; 32])
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "pbft_member NUMBER DIRECTORY ADDRESS...";
    let number: usize = arguments.next().ok_or(usage)?.parse()?;
    let directory = arguments.next().ok_or(usage)?;
    let addresses = arguments.map(|address| address.parse()).collect::<Result<Vec<SocketAddr>, _>>()?;

    let mut peers = PeerConfig {
        listen: Some(*addresses.get(number).ok_or(usage)?),
        reconnect_max: Duration::from_millis(500),
        ..PeerConfig::default()
    };
    let mut members = Vec::new();
    for (other, address) in addresses.iter().enumerate() {
        let peer = Identity::from_seed(&seed(other)?).peer_id();
        members.push((format!("member-{other}"), peer));
        if other != number {
            peers.peers.insert(peer, vec![(*address).into()]);
        }
    }
    let transport = PeerTransport::bind(&Identity::from_seed(&seed(number)?), peers).await?;
    let mut config = PbftConfig::new("pbft_member", members).durable(directory);
    config.core.request_timeout = Duration::from_millis(500);
    config.core.request_timeout_max = Duration::from_secs(2);
    let signer = Ed25519Signer::from_seed(&seed(number)?);
    let consensus = Arc::new(PbftConsensus::new(config, Arc::new(signer), Arc::new(transport))?);
    let values = Values::default();
    consensus.start(Box::new(values.clone())).await?;

    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let output = Arc::new(Mutex::new(tokio::io::stdout()));
    let mut running = JoinSet::new();
    while let Some(line) = lines.next_line().await? {
        if running.len() >= COMMANDS_MAX {
            running.join_next().await;
        }
        let (consensus, values, output) = (consensus.clone(), values.clone(), output.clone());
        running.spawn(async move {
            let answer = carry_out(&consensus, &values, &line).await;
            // A closed output cannot be written to.
            let mut output = output.lock().await;
            let _ = output.write_all(format!("{answer}\n").as_bytes()).await;
            let _ = output.flush().await;
        });
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
    consensus.shutdown().await;
    Ok(())
}

async fn carry_out(consensus: &PbftConsensus, values: &Values, line: &str) -> String {
    match line.split(' ').collect::<Vec<_>>()[..] {
        ["propose", key, value] => {
            let command = Bytes::from(format!("{key} {value}"));
            match consensus.propose(command).await {
                Ok(committed) => format!("done {key} {}", committed.revision),
                Err(error) => format!("failed {key} {error}"),
            }
        }
        ["read", key] => match consensus.read_barrier().await {
            Ok(_) => match values.0.borrow().get(key) {
                Some(value) => format!("value {key} {value}"),
                None => format!("nothing {key}"),
            },
            Err(error) => format!("failed {key} {error}"),
        },
        ["status"] => {
            let status = consensus.status();
            let role = if status.leader { "leads" } else { "follows" };
            format!("status {role} {} {}", status.applied, status.last_error.unwrap_or_default())
        }
        _ => "what? propose KEY VALUE, read KEY, or status".into(),
    }
}

/// Values by key; the last one counts.
#[derive(Clone, Debug)]
struct Values(watch::Sender<BTreeMap<String, String>>, Timestamp);

impl Default for Values {
    fn default() -> Self {
        Self(watch::Sender::new(BTreeMap::new()), Timestamp::ZERO)
    }
}

impl Values {
    fn read(text: &str) -> Option<(String, String)> {
        let (key, value) = text.split_once(' ')?;
        Some((key.to_owned(), value.to_owned()))
    }
}

impl StateMachine for Values {
    fn decide(&mut self, context: &Context<'_>, command: &[u8]) -> Decision {
        self.1 = self.1.max(context.time);
        if let Some((key, value)) = Self::read(&String::from_utf8_lossy(command)) {
            self.0.send_modify(|values| drop(values.insert(key, value)));
        }
        Decision { outcome: Bytes::new(), changes: Vec::new().into() }
    }

    fn commit(&mut self, _: Revision) {}

    fn rollback(&mut self) {}

    fn time(&self) -> Timestamp {
        self.1
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut text = self.1.as_millis().to_string();
        for (key, value) in &*self.0.borrow() {
            text.push_str(&format!("\n{key} {value}"));
        }
        text.into_bytes()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), MachineError> {
        let bad = || MachineError::malformed("a snapshot", "it is not ours");
        let text = std::str::from_utf8(snapshot).map_err(|_| bad())?;
        let mut lines = text.lines();
        let time = lines.next().and_then(|time| time.parse().ok()).ok_or_else(bad)?;
        let values = lines.map(Self::read).collect::<Option<_>>().ok_or_else(bad)?;
        self.1 = Timestamp::from_millis(time);
        self.0.send_replace(values);
        Ok(())
    }

    fn digest(&self) -> [u8; 32] {
        blake3::hash(&self.snapshot()).into()
    }
}
