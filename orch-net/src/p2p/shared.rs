//! What all tasks of a transport share, and how they begin and end.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use orch_core::transport::PeerId;
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};
use tracing::debug;

use super::{config::Address, dial, handshake, peers::Peers, tasks::Tasks, tls::Tls};

/// How long connections may take to say farewell.
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
        self.peers.allow(peer, addresses, |addresses, linked| {
            self.tasks.spawn(dial::keep_dialling(Arc::clone(self), peer, addresses, linked))
        });
    }

    /// Takes connections until its task is ended.
    pub(super) async fn listen(self: Arc<Self>, listener: TcpListener) {
        let mut handshakes = VecDeque::<AbortHandle>::new();
        loop {
            let (stream, remote) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, say. Waiting lets connections end.
                    debug!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            handshakes.retain(|handshake| !handshake.is_finished());
            if handshakes.len() >= self.peers.config().handshakes_max
                && let Some(oldest) = handshakes.pop_front()
            {
                debug!("too many connections do not say who they are, the oldest was given up");
                oldest.abort();
            }
            handshakes.extend(self.tasks.spawn(Arc::clone(&self).accept(stream, remote)));
        }
    }

    async fn accept(self: Arc<Self>, stream: TcpStream, remote: SocketAddr) {
        if let Err(error) = handshake::accept(&self, stream, remote).await {
            debug!(%remote, %error, "a connection was refused");
        }
    }

    /// Ends everything in good order.
    pub(super) async fn close(&self) {
        self.peers.close();
        let Some(mut tasks) = self.tasks.take() else { return };
        tasks.others.shutdown().await;
        let farewell = async { while tasks.connections.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSE_TIMEOUT, farewell).await.is_err() {
            debug!("connections were cut at the end of the time to close");
        }
        tasks.connections.shutdown().await;
    }

    /// Ends everything at once.
    pub(super) fn stop(&self) {
        self.peers.close();
        // Dropped, the sets abort what is in them.
        drop(self.tasks.take());
    }
}
