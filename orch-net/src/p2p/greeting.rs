//! Agreement of two members on one connection. No I/O.
//!
//! Both may dial, at the same time. The member with the smaller key decides: it sends Welcome on one
//! connection and rejects the others, whichever side dialled them. The other member sends Hello on each, and
//! uses a connection once it gets Welcome. So both always use the same connection, and none that carries
//! messages is closed for another.
//!
//! A welcomed connection is replaced when the Hello shows that it is dead on the other side: the sender was
//! welcomed there before and has no connection now, or it is a new incarnation.

use bytes::Bytes;
use orch_core::transport::PeerId;

use super::frame::{Frame, Kind};

/// Whether `local` is the member that decides.
pub(super) fn decides(local: PeerId, peer: PeerId) -> bool {
    local < peer
}

/// First frame of the member that does not decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// Incarnation of the process; differs after each restart.
    pub(super) life: u64,
    /// Connection on which it was welcomed last.
    pub(super) last: Option<Last>,
    pub(super) message_bytes_max: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) connection: u64,
    pub(super) is_up: bool,
}

impl Hello {
    pub(super) fn frame(&self) -> Frame {
        let mut body = Vec::with_capacity(13);
        body.extend_from_slice(&self.message_bytes_max.to_be_bytes());
        body.push(match self.last {
            None => 0,
            Some(Last { is_up: false, .. }) => 1,
            Some(Last { is_up: true, .. }) => 2,
        });
        body.extend_from_slice(&self.last.map_or(0, |last| last.connection).to_be_bytes());
        Frame { body: body.into(), ..Frame::control(Kind::Hello, self.life) }
    }

    pub(super) fn parse(frame: &Frame) -> Option<Self> {
        let body = <[u8; 13]>::try_from(&frame.body[..]).ok().filter(|_| frame.kind == Kind::Hello)?;
        let [m0, m1, m2, m3, state, last @ ..] = body;
        let connection = u64::from_be_bytes(last);
        let last = match state {
            0 => None,
            1 | 2 => Some(Last { connection, is_up: state == 2 }),
            _ => return None,
        };
        Some(Self { life: frame.id, last, message_bytes_max: u32::from_be_bytes([m0, m1, m2, m3]) })
    }

    /// Whether this hello shows that `current` is dead on the other side.
    pub(super) fn outdates(&self, current: Welcomed) -> bool {
        let is_dead = |last: Last| last.connection == current.connection && !last.is_up;
        self.life != current.life || self.last.is_some_and(is_dead)
    }
}

/// A connection that was welcomed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Welcomed {
    pub(super) connection: u64,
    /// Incarnation that sent the Hello.
    pub(super) life: u64,
}

/// Response of the member that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    pub(super) connection: u64,
    pub(super) message_bytes_max: u32,
}

impl Welcome {
    pub(super) fn frame(&self) -> Frame {
        let body = Bytes::copy_from_slice(&self.message_bytes_max.to_be_bytes());
        Frame { body, ..Frame::control(Kind::Welcome, self.connection) }
    }

    pub(super) fn parse(frame: &Frame) -> Option<Self> {
        let body = <[u8; 4]>::try_from(&frame.body[..]).ok().filter(|_| frame.kind == Kind::Welcome)?;
        Some(Self { connection: frame.id, message_bytes_max: u32::from_be_bytes(body) })
    }
}

/// Reason for which a side closes a connection, sent to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// Another connection is used instead.
    Redundant = 1,
    /// The sender shuts down, or no longer allows the peer.
    Closing = 2,
    /// The peer violated the protocol.
    Protocol = 3,
}

impl Farewell {
    pub(super) fn frame(self) -> Frame {
        Frame::control(Kind::Close, self as u64)
    }

    /// Reason as text.
    pub(super) fn explain(code: u64) -> &'static str {
        match code {
            1 => "the peer has another connection with us",
            2 => "the peer closed the connection",
            3 => "the peer found our frames at fault",
            _ => "the peer closed the connection for a reason that this version does not know",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURRENT: Welcomed = Welcomed { connection: 7, life: 1 };

    fn hello(life: u64, last: Option<(u64, bool)>) -> Hello {
        let last = last.map(|(connection, is_up)| Last { connection, is_up });
        Hello { life, last, message_bytes_max: 9 }
    }

    #[test]
    fn a_connection_gives_way_when_it_is_known_to_be_dead() {
        assert!(hello(2, None).outdates(CURRENT), "a new life");
        assert!(hello(1, Some((7, false))).outdates(CURRENT), "lost over there");
        assert!(!hello(1, None).outdates(CURRENT), "both dialled, the welcome is on its way");
        assert!(!hello(1, Some((6, false))).outdates(CURRENT), "the same, after an earlier connection");
        assert!(!hello(1, Some((7, true))).outdates(CURRENT), "the other dial came late");
    }

    #[test]
    fn greetings_are_read_as_they_were_written() {
        for last in [None, Some((3, false)), Some((3, true))] {
            let hello = hello(5, last);
            assert_eq!(Hello::parse(&hello.frame()), Some(hello));
            assert_eq!(Welcome::parse(&hello.frame()), None);
        }
        let welcome = Welcome { connection: 4, message_bytes_max: 100 };
        assert_eq!(Welcome::parse(&welcome.frame()), Some(welcome));
        assert_eq!(Hello::parse(&Frame { kind: Kind::Hello, ..welcome.frame() }), None);
    }
}
