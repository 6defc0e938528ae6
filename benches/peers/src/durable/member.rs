//! A member of orch as a process of its own.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use orch_consensus::raft::{RaftConfig, RaftConsensus};
use orch_core::{
    consensus::Consensus,
    transport::{Channel, PeerId, Transport as _},
};
use orch_net::p2p::{Identity, PeerConfig, PeerTransport};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    task::JoinSet,
};

use super::{
    Keys, VALUE_BYTES,
    table::{Table, put},
};
use crate::{
    Failure, Load, Summary, Until,
    load::{Figures, closed_loop},
};

/// Messages between members.
const MEMBERS: Channel = Channel(1);
/// Messages of clients.
pub(super) const CLIENTS: Channel = Channel(2);
/// The client that is a process of its own.
pub(super) const CLIENT: u8 = u8::MAX;

/// The key of a member, or of the client, which is not worth keeping from anybody.
pub(super) fn identity(number: u8) -> Identity {
    Identity::from_seed(&[number; 32])
}

/// Runs the member that the arguments describe: its number, its directory, where it listens for clients, and
/// where the members listen. It answers lines: `status`, and `run CLIENTS SECONDS`. It ends with its input.
///
/// # Errors
/// What it cannot read, or what failed.
#[expect(clippy::print_stdout, reason = "its host reads the answers there")]
pub async fn run(arguments: &[String]) -> Result<(), Failure> {
    let [number, directory, clients, addresses @ ..] = arguments else {
        return Err("too few arguments".into());
    };
    let addresses = addresses.iter().map(|text| text.parse()).collect::<Result<Vec<SocketAddr>, _>>()?;
    let number: u8 = number.parse()?;
    let raft = Arc::new(start(number, directory.into(), &addresses).await?);
    let listen = PeerConfig {
        listen: Some(clients.parse()?),
        peers: BTreeMap::from([(identity(CLIENT).peer_id(), Vec::new())]),
        ..PeerConfig::default()
    };
    let serving = tokio::spawn(serve(raft.clone(), PeerTransport::bind(&identity(number), listen).await?));

    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["status"] => println!("{}", if raft.status().leader { "leads" } else { "follows" }),
            ["run", clients, seconds] => {
                let until = Until::Over(Duration::try_from_secs_f64(seconds.parse()?)?);
                let load = Load { clients: clients.parse()?, payload: VALUE_BYTES, until };
                println!("{}", Summary::from(&write(&raft, &load).await?));
            }
            _ => return Err(format!("not understood: {line}").into()),
        }
    }
    serving.abort();
    raft.shutdown().await;
    Ok(())
}

async fn start(number: u8, directory: PathBuf, addresses: &[SocketAddr]) -> Result<RaftConsensus, Failure> {
    let listen = addresses.get(usize::from(number)).copied();
    let mut peers = PeerConfig {
        listen: Some(listen.ok_or("no address for this member")?),
        // The others may start later, and nothing is measured before they are there.
        reconnect_max: Duration::from_millis(100),
        ..PeerConfig::default()
    };
    let mut members = BTreeMap::new();
    for (other, address) in (0..).zip(addresses) {
        let peer = identity(other).peer_id();
        members.insert(format!("m{other}"), peer);
        if other != number {
            peers.peers.insert(peer, vec![(*address).into()]);
        }
    }
    let transport = PeerTransport::bind(&identity(number), peers).await?;
    let config = RaftConfig { channel: MEMBERS, ..RaftConfig::new(members).durable(directory) };
    let raft = RaftConsensus::new(config, Arc::new(transport))?;
    raft.start(Box::new(Table::default())).await?;
    Ok(raft)
}

/// Clients in this process.
async fn write(raft: &Arc<RaftConsensus>, load: &Load) -> Result<Figures, Failure> {
    let (raft, keys) = (raft.clone(), Arc::new(Keys::default()));
    closed_loop(load, move |value| {
        let (raft, key) = (raft.clone(), keys.next().0);
        async move { Ok(raft.propose(put(&key, &value)).await.map(drop)?) }
    })
    .await
}

/// Proposes what clients ask for. Who gets no answer sees it time out, and the run fails.
async fn serve(raft: Arc<RaftConsensus>, transport: PeerTransport) {
    // At most as many as the client's transport has requests under way.
    let mut working = JoinSet::new();
    while let Some(incoming) = transport.incoming().await {
        while working.try_join_next().is_some() {}
        let Some(reply) = incoming.reply else { continue };
        let raft = raft.clone();
        working.spawn(async move {
            if raft.propose(incoming.message).await.is_ok() {
                reply.send(Bytes::new());
            }
        });
    }
}

/// The peer that a member is.
pub(super) fn peer(number: u8) -> PeerId {
    identity(number).peer_id()
}
