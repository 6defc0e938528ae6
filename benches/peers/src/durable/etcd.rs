//! Three processes of etcd, and clients that speak gRPC with the one that leads.

use std::{
    fs::File,
    io,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;
use tempfile::TempDir;
use tokio::process::Command;
use tonic::{
    Request,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{
    Keys, MEMBERS, PATIENCE,
    processes::{Process, cpu_of_us, free_addresses},
};
use crate::{Failure, Load, Summary, load::closed_loop};

/// Clients that share a connection, so that no connection is what they wait for.
const CLIENTS_PER_CONNECTION: usize = 16;

pub(super) struct EtcdGroup {
    members: Vec<Process>,
    connections: Arc<Vec<Channel>>,
    _directory: TempDir,
}

/// `etcdserverpb.PutRequest`.
#[derive(Clone, PartialEq, Message)]
struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// `etcdserverpb.StatusResponse`.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// `etcdserverpb.ResponseHeader`.
#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member: u64,
}

impl EtcdGroup {
    pub(super) async fn start(clients: usize) -> Result<Self, Failure> {
        let directory = TempDir::new()?;
        let addresses = free_addresses(2 * MEMBERS).await?;
        let (peers, endpoints) = addresses.split_at(MEMBERS);
        let mut members = Vec::new();
        for number in 0..MEMBERS {
            members.push(start(directory.path(), number, peers, endpoints)?);
        }
        let leader = find_leader(&mut members, endpoints).await?;
        let mut connections = Vec::new();
        for _ in 0..clients.div_ceil(CLIENTS_PER_CONNECTION) {
            connections.push(endpoint(leader)?.connect().await?);
        }
        Ok(Self { members, connections: Arc::new(connections), _directory: directory })
    }

    pub(super) async fn run(&self, load: &Load) -> Result<Summary, Failure> {
        let (connections, keys) = (self.connections.clone(), Arc::new(Keys::default()));
        let count = connections.len() as u64;
        let put = move |value| {
            let (key, number) = keys.next();
            let at = usize::try_from(number % count).unwrap_or_default();
            let connection = connections[at].clone();
            async move { call::<_, ()>(connection, "/etcdserverpb.KV/Put", Put { key, value }).await }
        };
        Ok(Summary::from(&closed_loop(load, put).await?))
    }

    /// Of the members and of this process.
    pub(super) fn cpu(&self) -> Result<Duration, Failure> {
        self.members.iter().try_fold(cpu_of_us()?, |sum, member| Ok(sum + member.cpu()?))
    }

    pub(super) async fn stop(self) -> Result<(), Failure> {
        for member in self.members {
            member.kill().await?;
        }
        Ok(())
    }
}

/// A member with etcd's defaults: what it answers is synced.
fn start(
    directory: &Path,
    number: usize,
    peers: &[SocketAddr],
    endpoints: &[SocketAddr],
) -> Result<Process, Failure> {
    let url = |address: SocketAddr| format!("http://{address}");
    let names = peers.iter().enumerate().map(|(other, peer)| format!("m{other}={}", url(*peer)));
    let mut command = Command::new("etcd");
    for (option, value) in [
        ("--name", format!("m{number}")),
        ("--listen-peer-urls", url(peers[number])),
        ("--initial-advertise-peer-urls", url(peers[number])),
        ("--listen-client-urls", url(endpoints[number])),
        ("--advertise-client-urls", url(endpoints[number])),
        ("--initial-cluster", names.collect::<Vec<_>>().join(",")),
        ("--initial-cluster-state", "new".into()),
    ] {
        command.arg(option).arg(value);
    }
    command.arg("--data-dir").arg(directory.join(format!("m{number}")));
    let log = File::create(directory.join(format!("m{number}.log")))?;
    command.stdout(log.try_clone()?).stderr(log);
    Process::start(&mut command).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no program etcd; on Debian it comes with: apt-get install etcd-server".into()
        }
        _ => error.into(),
    })
}

async fn find_leader(members: &mut [Process], endpoints: &[SocketAddr]) -> Result<SocketAddr, Failure> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        for (member, address) in members.iter_mut().zip(endpoints) {
            if let Some(status) = member.ended()? {
                return Err(format!("a member of etcd has ended: {status}").into());
            }
            // Until it listens there is nothing to connect to.
            let Ok(connection) = endpoint(*address)?.connect().await else { continue };
            let status = call(connection, "/etcdserverpb.Maintenance/Status", ()).await;
            if status.is_ok_and(|status: Status| status.header.is_some_and(|us| us.member == status.leader)) {
                return Ok(*address);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err("no member of etcd leads".into())
}

fn endpoint(address: SocketAddr) -> Result<Endpoint, Failure> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?)
}

async fn call<Q, A>(connection: Channel, method: &'static str, question: Q) -> Result<A, Failure>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut client = Grpc::new(connection);
    client.ready().await?;
    let path = PathAndQuery::from_static(method);
    Ok(client.unary(Request::new(question), path, ProstCodec::default()).await?.into_inner())
}
