//! State shared by all tasks of a transport, and their start and end.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use orch_core::transport::PeerId;
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};
use tracing::debug;

use super::{config::Address, dial, handshake, peers::Peers, tasks::Tasks, tls::Tls};

/// Timeout of the last frames of all connections.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Shared {
    pub(super) local: PeerId,
    pub(super) tls: Tls,
    pub(super) peers: Arc<Peers>,
    pub(super) tasks: Tasks,
}

impl Shared {
    pub(super) fn allow(self: &Arc<Self>, peer: PeerId, addresses: Vec<Address>) {
        if peer == self.local {
            return;
        }
        let Some(linked) = self.peers.allow(peer, addresses.clone()) else { return };
        let dialling = match addresses.is_empty() {
            true => None,
            false => self.tasks.spawn(dial::keep_dialling(Arc::clone(self), peer, addresses, linked)),
        };
        self.peers.dialled_by(peer, dialling);
    }

    /// Accepts connections until its task is ended.
    pub(super) async fn listen(self: Arc<Self>, listener: TcpListener) {
        let mut handshakes = VecDeque::<(IpAddr, AbortHandle)>::new();
        loop {
            let (stream, remote) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // For example when there are no file descriptors. Waiting lets connections end.
                    debug!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            handshakes.retain(|(_, handshake)| !handshake.is_finished());
            if handshakes.len() >= self.peers.config().handshakes_max {
                let addresses = handshakes.iter().map(|(address, _)| *address).collect::<Vec<_>>();
                let given_up = oldest_of_the_busiest(&addresses);
                if let Some((address, handshake)) = given_up.and_then(|at| handshakes.remove(at)) {
                    debug!(%address, "too many unauthenticated connections, the oldest one was closed");
                    handshake.abort();
                }
            }
            let handshake = self.tasks.spawn(Arc::clone(&self).accept(stream, remote));
            handshakes.extend(handshake.map(|handshake| (remote.ip(), handshake)));
        }
    }

    async fn accept(self: Arc<Self>, stream: TcpStream, remote: SocketAddr) {
        if let Err(error) = handshake::accept(&self, stream, remote).await {
            debug!(%remote, %error, "a connection was refused");
        }
    }

    /// Shuts everything down gracefully.
    pub(super) async fn close(&self) {
        self.peers.close();
        let Some(mut tasks) = self.tasks.take() else { return };
        tasks.others.shutdown().await;
        let farewell = async { while tasks.connections.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSE_TIMEOUT, farewell).await.is_err() {
            debug!("connections were cut at the shutdown deadline");
        }
        tasks.connections.shutdown().await;
    }

    /// Aborts everything at once.
    pub(super) fn stop(&self) {
        self.peers.close();
        // Dropped sets abort their tasks.
        drop(self.tasks.take());
    }
}

/// Index of the first connection of the address that occurs most often.
fn oldest_of_the_busiest(addresses: &[IpAddr]) -> Option<usize> {
    let count = |address| addresses.iter().filter(|other| **other == address).count();
    addresses.iter().enumerate().min_by_key(|(_, address)| Reverse(count(**address))).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_crowds_is_given_up_first() {
        let of = |hosts: &[u8]| {
            let addresses = hosts.iter().map(|host| [10, 0, 0, *host].into()).collect::<Vec<_>>();
            oldest_of_the_busiest(&addresses)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[1, 2, 3]), Some(0));
        assert_eq!(of(&[1, 2, 3, 2]), Some(1));
    }
}
