//! A member of a group that keeps a signed store together, as a process of its own.
//!
//! `crdt_member NUMBER DIRECTORY ADDRESS...` is the member of this number, counted from 0, of the group whose
//! members listen at these addresses; less than a third of them may lie. It takes commands line by line: `put
//! KEY VALUE`, `delete KEY`, `get KEY`, `confirmed KEY`, `status`. Each is answered with a line. What changes
//! in its copy is told as it happens: `seen KEY VALUE`, or `gone KEY`.
//!
//! The keys are made of the members' numbers, so that nothing has to be handed out. Real members keep theirs
//! to themselves, in a file that `AuthorKey::open_file` makes.

use std::{error::Error, net::SocketAddr, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use orch_core::{
    store::{Key, StateStore, Txn, Write},
    transport::Channel,
};
use orch_net::p2p::{Identity, PeerConfig, PeerTransport};
use orch_store::crdt::{AuthorKey, CrdtStore, CrdtStoreConfig, Hash, ReadLevel, ReplicaConfig};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str = "usage: crdt_member NUMBER DIRECTORY ADDRESS...";

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let number: usize = arguments.next().ok_or(USAGE)?.parse().map_err(|_| USAGE)?;
    let directory = PathBuf::from(arguments.next().ok_or(USAGE)?);
    let addresses = arguments.map(|address| address.parse()).collect::<Result<Vec<SocketAddr>, _>>()?;
    let store = Arc::new(open(number, directory, &addresses).await?);

    let (say, mut said) = tokio::sync::mpsc::channel::<String>(256);
    let printing = tokio::spawn(async move {
        let mut output = tokio::io::stdout();
        while let Some(line) = said.recv().await {
            // Whoever closed the output does not want to know.
            let _ = output.write_all(format!("{line}\n").as_bytes()).await;
            let _ = output.flush().await;
        }
    });
    let mut changes = store.watch("", store.head().await?).await?;
    let tell = say.clone();
    let telling = tokio::spawn(async move {
        while let Some(Ok(batch)) = changes.next().await {
            for Write { key, value } in batch.writes {
                let line = match value {
                    Some(value) => format!("seen {key} {}", text(&value)),
                    None => format!("gone {key}"),
                };
                if tell.send(line).await.is_err() {
                    return;
                }
            }
        }
    });
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let answer =
            carry_out(&store, &line).await.unwrap_or_else(|error| format!("failed {}", full(&*error)));
        say.send(answer).await?;
    }
    store.close().await?;
    drop(say);
    telling.await?;
    printing.await?;
    Ok(())
}

async fn open(number: usize, directory: PathBuf, addresses: &[SocketAddr]) -> Outcome<CrdtStore> {
    let seed = |number: usize| Ok::<_, Box<dyn Error + Send + Sync>>([u8::try_from(number + 1)?; 32]);
    let mut peers = PeerConfig {
        listen: Some(*addresses.get(number).ok_or(USAGE)?),
        reconnect_max: Duration::from_millis(500),
        ..PeerConfig::default()
    };
    let mut members = Vec::new();
    for (other, address) in addresses.iter().enumerate() {
        let peer = Identity::from_seed(&seed(other)?).peer_id();
        members.push(peer);
        if other != number {
            peers.peers.insert(peer, vec![(*address).into()]);
        }
    }
    let transport = PeerTransport::bind(&Identity::from_seed(&seed(number)?), peers).await?;
    let liars = addresses.len().saturating_sub(1) / 3;
    let replica = ReplicaConfig {
        confirmations: NonZeroUsize::MIN.saturating_add(liars),
        // A disk that was lost must not make an honest member contradict itself, whoever lies to it.
        startup_quorum: 2 * liars + 1,
        ..ReplicaConfig::new(Hash::of(b"crdt_member"), members)
    };
    let digest_interval = Duration::from_millis(200);
    let config = CrdtStoreConfig { digest_interval, ..CrdtStoreConfig::new(directory, replica) };
    let key = AuthorKey::from_seed(&seed(number)?);
    Ok(CrdtStore::open_on(config, key, Arc::new(transport), Channel(1)).await?)
}

async fn carry_out(store: &CrdtStore, line: &str) -> Outcome<String> {
    let shown = |key: Key, value: Option<Bytes>| match value {
        Some(value) => format!("value {key} {}", text(&value)),
        None => format!("nothing {key}"),
    };
    Ok(match line.splitn(3, ' ').collect::<Vec<_>>()[..] {
        ["put", key, value] => {
            let write = Write::put(Key::new(key)?, value.to_owned());
            format!("done {key} {}", store.commit(Txn::of(vec![write])).await?)
        }
        ["delete", key] => {
            format!("done {key} {}", store.commit(Txn::of(vec![Write::delete(Key::new(key)?)])).await?)
        }
        ["get", key] => {
            let key = Key::new(key)?;
            let value = store.read(&key, ReadLevel::Optimistic).await?;
            shown(key, value)
        }
        ["confirmed", key] => {
            let key = Key::new(key)?;
            let value = store.read(&key, ReadLevel::Confirmed).await?;
            shown(key, value)
        }
        ["status"] => {
            let status = store.status().await?;
            let state = if status.complete { "complete" } else { "repairing" };
            let writes = status.writes.map_or_else(|why| why.to_string(), |()| "writes".into());
            let evidence = status.authors.iter().filter(|author| author.evidence).count();
            format!("status {state} {evidence} {writes}")
        }
        _ => "what? put KEY VALUE, delete KEY, get KEY, confirmed KEY, or status".into(),
    })
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// An error with its causes.
fn full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
