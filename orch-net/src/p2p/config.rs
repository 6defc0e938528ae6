//! Configuration of a transport.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use orch_core::transport::PeerId;

/// Upper bound of `message_bytes_max`.
const MESSAGE_BYTES_LIMIT: usize = 1 << 30;

/// Configuration of a transport: its address, its peers, and its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Address to listen on; port 0 takes any free one. Loopback by default. Without an address this member
    /// only dials.
    pub listen: Option<SocketAddr>,
    /// Peers that may connect, each with the addresses at which it is dialled. A peer without addresses must
    /// dial us.
    pub peers: BTreeMap<PeerId, Vec<Address>>,
    /// Maximum size of a message sent or received, in bytes. Peers exchange their values, and use the smaller
    /// one.
    pub message_bytes_max: usize,
    /// Maximum number of messages queued for one peer, for each class of channels; the next one is `Busy`.
    pub outgoing_messages_max: usize,
    /// Maximum bytes queued for one peer, for each class of channels.
    pub outgoing_bytes_max: usize,
    /// Maximum number of received messages of one peer that wait to be taken; beyond it reading from the peer
    /// is paused. The messages of one read may exceed it.
    pub incoming_messages_max: usize,
    /// Maximum bytes of received messages of one peer that wait to be taken.
    pub incoming_bytes_max: usize,
    /// Maximum number of requests to one peer without a response; the next one is `Busy`.
    pub requests_max: usize,
    /// Maximum number of incoming connections that are not authenticated yet. When there are more, the oldest
    /// one of the IP address with the most of them is closed, so that slow strangers keep nobody out.
    pub handshakes_max: usize,
    /// Timeout of opening a connection, for both sides, including the look-up of its address.
    pub handshake_timeout: Duration,
    /// Time without received bytes after which the connection is closed. Pings are sent three times as often.
    pub idle_timeout: Duration,
    /// Delay after the first failed attempt to connect. Each further delay is twice as long.
    pub reconnect_min: Duration,
    /// Maximum delay between attempts. A connection that lasted as long resets the delay.
    pub reconnect_max: Duration,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            listen: Some((Ipv4Addr::LOCALHOST, 0).into()),
            peers: BTreeMap::new(),
            message_bytes_max: 16 << 20,
            outgoing_messages_max: 4096,
            outgoing_bytes_max: 32 << 20,
            incoming_messages_max: 4096,
            incoming_bytes_max: 32 << 20,
            requests_max: 1024,
            handshakes_max: 64,
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(10),
            reconnect_min: Duration::from_millis(50),
            reconnect_max: Duration::from_secs(5),
        }
    }
}

impl PeerConfig {
    pub(super) fn validate(&self) -> Result<(), PeerError> {
        let refuse = |why| Err(PeerError::Config(why));
        let counts = [
            self.message_bytes_max,
            self.outgoing_messages_max,
            self.incoming_messages_max,
            self.incoming_bytes_max,
            self.requests_max,
            self.handshakes_max,
        ];
        if counts.contains(&0) {
            return refuse("bounds must not be zero");
        }
        if self.message_bytes_max > MESSAGE_BYTES_LIMIT {
            return refuse("message_bytes_max must be at most 1 GiB");
        }
        if self.outgoing_bytes_max < self.message_bytes_max + super::frame::HEADER_BYTES {
            return refuse(
                "outgoing_bytes_max must have room for a message of message_bytes_max and its header",
            );
        }
        let times = [self.handshake_timeout, self.idle_timeout, self.reconnect_min];
        if times.iter().any(|time| *time < Duration::from_millis(1)) {
            return refuse("times must be at least a millisecond");
        }
        match self.reconnect_max < self.reconnect_min {
            true => refuse("reconnect_max must not be shorter than reconnect_min"),
            false => Ok(()),
        }
    }
}

/// Address at which a peer can be dialled: an IP address or a name, and a port. Names are looked up for each
/// attempt.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(String);

impl Address {
    /// Address as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self(address.to_string())
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let is_name = |name: &str| {
            let may_be = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            !name.is_empty() && name.len() <= 253 && name.bytes().all(may_be)
        };
        let valid = text.parse::<SocketAddr>().is_ok()
            || text.rsplit_once(':').is_some_and(|(name, port)| is_name(name) && port.parse::<u16>().is_ok());
        if valid { Ok(Self(text.to_owned())) } else { Err(AddressError) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Error: a text is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an address is an IP address or a name, then a colon and a port")]
pub struct AddressError;

/// Reason for which a transport cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The configuration is invalid.
    #[error("the configuration cannot work: {0}")]
    Config(&'static str),
    /// The address cannot be bound.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Error of the system.
        source: io::Error,
    },
    /// TLS cannot be set up with this identity.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_once() {
        for good in ["127.0.0.1:80", "[::1]:80", "node-1.example.org:7000", "localhost:1"] {
            assert_eq!(good.parse::<Address>().unwrap().as_str(), good);
        }
        for bad in ["", "localhost", ":80", "a:b", "a:70000", "::1:x", "a b:80", "a/b:80"] {
            assert_eq!(bad.parse::<Address>(), Err(AddressError), "{bad}");
        }
    }

    #[test]
    fn bounds_that_contradict_are_refused() {
        assert!(PeerConfig::default().validate().is_ok());
        let no_room = PeerConfig { outgoing_bytes_max: 16 << 20, ..PeerConfig::default() };
        assert!(no_room.validate().unwrap_err().to_string().contains("outgoing_bytes_max"));
        assert!(PeerConfig { requests_max: 0, ..PeerConfig::default() }.validate().is_err());
        assert!(PeerConfig { reconnect_max: Duration::ZERO, ..PeerConfig::default() }.validate().is_err());
    }
}
