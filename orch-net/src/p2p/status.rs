//! Status of connections for operators.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use orch_core::transport::PeerId;

use super::config::Address;

/// Status of one allowed peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// Id of the peer.
    pub peer: PeerId,
    /// Addresses at which it is dialled.
    pub addresses: Vec<Address>,
    /// The connection, while there is one.
    pub connection: Option<ConnectionStatus>,
    /// Reason for which the last connection ended, or the last attempt failed.
    pub last_error: Option<String>,
    /// Traffic of all connections with it.
    pub traffic: Traffic,
}

/// The connection with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStatus {
    /// Time at which it was opened.
    pub since: SystemTime,
    /// Address of the other end.
    pub remote: SocketAddr,
    /// Whether this side dialled.
    pub dialled: bool,
    /// Duration of the last ping, once there was one.
    pub round_trip: Option<Duration>,
}

/// Messages exchanged with a peer, including requests and responses, and bytes of their bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Traffic {
    /// Messages handed to the system to send.
    pub sent_messages: u64,
    /// Bytes of the messages sent.
    pub sent_bytes: u64,
    /// Messages that arrived.
    pub received_messages: u64,
    /// Bytes of the messages received.
    pub received_bytes: u64,
    /// Messages that were dropped because a queue was full.
    pub refused_messages: u64,
}

/// Counters of the traffic with one peer.
#[derive(Debug, Default)]
pub(super) struct Counters {
    sent_messages: AtomicU64,
    sent_bytes: AtomicU64,
    received_messages: AtomicU64,
    received_bytes: AtomicU64,
    refused_messages: AtomicU64,
}

impl Counters {
    pub(super) fn sent(&self, messages: u64, bytes: u64) {
        self.sent_messages.fetch_add(messages, Relaxed);
        self.sent_bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn received(&self, messages: u64, bytes: u64) {
        self.received_messages.fetch_add(messages, Relaxed);
        self.received_bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn refused(&self, messages: u64) {
        self.refused_messages.fetch_add(messages, Relaxed);
    }

    pub(super) fn read(&self) -> Traffic {
        Traffic {
            sent_messages: self.sent_messages.load(Relaxed),
            sent_bytes: self.sent_bytes.load(Relaxed),
            received_messages: self.received_messages.load(Relaxed),
            received_bytes: self.received_bytes.load(Relaxed),
            refused_messages: self.refused_messages.load(Relaxed),
        }
    }
}
