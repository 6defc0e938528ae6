//! What operators are told.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use orch_core::transport::PeerId;

use super::config::Address;

/// One allowed peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// Who.
    pub peer: PeerId,
    /// Where it can be dialled.
    pub addresses: Vec<Address>,
    /// The connection, while there is one.
    pub connection: Option<ConnectionStatus>,
    /// Why the last connection ended, or the last attempt failed.
    pub last_error: Option<String>,
    /// What went over all connections with it.
    pub traffic: Traffic,
}

/// The connection with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStatus {
    /// When it was opened.
    pub since: SystemTime,
    /// The other end.
    pub remote: SocketAddr,
    /// Whether this side dialled.
    pub dialled: bool,
    /// How long the last ping took, once there was one.
    pub round_trip: Option<Duration>,
}

/// What was sent to a peer and came from it: messages, requests and answers, and bytes of their bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Traffic {
    /// Messages given to the system to send.
    pub sent_messages: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Messages that arrived.
    pub received_messages: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Messages that were dropped because a queue was full.
    pub refused_messages: u64,
}

/// Counts the traffic with one peer.
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
