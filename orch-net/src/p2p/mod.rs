//! Messages between members over TCP: [`PeerTransport`] implements
//! [`Transport`](orch_core::transport::Transport).
//!
//! Connections are TLS 1.3 with raw public keys (RFC 7250). Each member has an [`Identity`], an Ed25519 key
//! pair, and accepts connections from the configured keys only. Neither certificates nor names are involved.
//! There is no resumption and no early data, so recorded traffic cannot be replayed.

mod config;
mod connection;
mod dial;
mod frame;
mod greeting;
mod handshake;
mod identity;
mod inbox;
mod link;
mod peers;
mod queues;
mod shared;
mod status;
mod tasks;
mod tls;
mod transport;

pub use config::{Address, AddressError, PeerConfig, PeerError};
pub use identity::{Identity, IdentityError};
pub use status::{ConnectionStatus, PeerStatus, Traffic};
pub use transport::PeerTransport;
