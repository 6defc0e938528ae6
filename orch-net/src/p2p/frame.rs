//! Wire format of a connection. No I/O: bytes in, frames out.
//!
//! | bytes | field |
//! |---|---|
//! | 0 | version, 1 |
//! | 1 | [`Kind`] |
//! | 2 | channel; 0 where the kind has none |
//! | 3 | reserved, 0 |
//! | 4..8 | length of the body, big-endian |
//! | 8..16 | id, big-endian: what it names depends on the kind; 0 where the kind has none |
//! | 16.. | body |

use bytes::{Buf as _, Bytes, BytesMut};

pub(super) const HEADER_BYTES: usize = 16;
const VERSION: u8 = 1;

/// Bodies up to this size are copied out of the read buffer. A slice would keep the whole buffer alive for as
/// long as a small message is held.
const COPIED_BYTES_MAX: usize = 256;

/// Upper bound of the bodies of a greeting, in bytes.
const GREETING_BYTES_MAX: usize = 64;

/// Kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Message = 1,
    /// The id is the request's.
    Request = 2,
    /// Response; the id is the request's.
    Answer = 3,
    /// The id comes back in the pong.
    Ping = 4,
    Pong = 5,
    /// The id is the sender's incarnation.
    Hello = 6,
    /// The id is that of the connection.
    Welcome = 7,
    /// The id is the reason.
    Close = 8,
}

impl Kind {
    fn parse(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Message,
            2 => Self::Request,
            3 => Self::Answer,
            4 => Self::Ping,
            5 => Self::Pong,
            6 => Self::Hello,
            7 => Self::Welcome,
            8 => Self::Close,
            _ => return None,
        })
    }

    /// Whether it carries a message of a user of the transport. The others are of the transport itself.
    pub(super) fn has_channel(self) -> bool {
        matches!(self, Self::Message | Self::Request | Self::Answer)
    }

    fn body_max(self, message_bytes_max: usize) -> usize {
        match self {
            Self::Message | Self::Request | Self::Answer => message_bytes_max,
            Self::Ping | Self::Pong | Self::Close => 0,
            Self::Hello | Self::Welcome => GREETING_BYTES_MAX,
        }
    }
}

/// Unit of a connection's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) channel: u8,
    pub(super) id: u64,
    /// Content, at most `u32::MAX` bytes.
    pub(super) body: Bytes,
}

impl Frame {
    /// Frame that belongs to the connection and to no channel.
    pub(super) fn control(kind: Kind, id: u64) -> Self {
        Self { kind, channel: 0, id, body: Bytes::new() }
    }

    /// Size on the wire, and in a queue, in bytes.
    pub(super) fn size(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }

    pub(super) fn header(&self) -> [u8; HEADER_BYTES] {
        let length = u32::try_from(self.body.len()).expect("sizes are checked where messages are taken");
        let mut header = [0; HEADER_BYTES];
        header[0] = VERSION;
        header[1] = self.kind as u8;
        header[2] = self.channel;
        header[4..8].copy_from_slice(&length.to_be_bytes());
        header[8..].copy_from_slice(&self.id.to_be_bytes());
        header
    }
}

/// Result of decoding a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// One frame, removed from the buffer.
    Frame(Frame),
    /// At least this many bytes are missing.
    Missing(usize),
}

/// Error: bytes that no peer of this version sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("frame of version {0}")]
    Version(u8),
    #[error("frame of unknown kind {0}")]
    Kind(u8),
    #[error("{kind:?} frame of {size} bytes; at most {max} are taken")]
    TooLarge { kind: Kind, size: usize, max: usize },
    #[error("{0:?} frame with a field that its kind does not have")]
    Malformed(Kind),
}

/// Decodes the next frame and removes it from the buffer. The size is checked as soon as the header is there,
/// so that a frame which is too large is never buffered.
pub(super) fn decode(buffer: &mut BytesMut, message_bytes_max: usize) -> Result<Decoded, FrameError> {
    let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else {
        return Ok(Decoded::Missing(HEADER_BYTES - buffer.len()));
    };
    let [version, kind, channel, reserved, l0, l1, l2, l3, id @ ..] = *header;
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    let kind = Kind::parse(kind).ok_or(FrameError::Kind(kind))?;
    let id = u64::from_be_bytes(id);
    if reserved != 0 || (channel != 0 && !kind.has_channel()) || (id != 0 && kind == Kind::Message) {
        return Err(FrameError::Malformed(kind));
    }
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    // A size beyond the address space is too large in any case.
    let (size, max) = (usize::try_from(length).unwrap_or(usize::MAX), kind.body_max(message_bytes_max));
    if size > max {
        return Err(FrameError::TooLarge { kind, size, max });
    }
    let present = buffer.len() - HEADER_BYTES;
    if present < size {
        return Ok(Decoded::Missing(size - present));
    }
    buffer.advance(HEADER_BYTES);
    let body = match size {
        0 => Bytes::new(),
        1..=COPIED_BYTES_MAX => {
            let body = Bytes::copy_from_slice(&buffer[..size]);
            buffer.advance(size);
            body
        }
        _ => buffer.split_to(size).freeze(),
    };
    Ok(Decoded::Frame(Frame { kind, channel, id, body }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 2000;

    fn bytes_of(frame: &Frame) -> Vec<u8> {
        [&frame.header()[..], &frame.body].concat()
    }

    fn frames() -> impl Strategy<Value = Frame> {
        (1_u8..=8, any::<u8>(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..=MAX)).prop_map(
            |(kind, channel, id, mut body)| {
                let kind = Kind::parse(kind).unwrap();
                body.truncate(kind.body_max(MAX));
                Frame {
                    kind,
                    channel: if kind.has_channel() { channel } else { 0 },
                    id: if kind == Kind::Message { 0 } else { id },
                    body: body.into(),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Decoded::Frame(_)) = decode(&mut buffer, MAX) {}
        }

        #[test]
        fn headers_with_any_fields_are_judged_and_never_panic(
            kind in 0_u8..10,
            fields in any::<[u8; 14]>(),
            rest in 0_usize..100,
        ) {
            let mut buffer = BytesMut::from(&[&[VERSION, kind], &fields[..], &vec![7; rest]].concat()[..]);
            while let Ok(Decoded::Frame(_)) = decode(&mut buffer, MAX) {}
        }

        #[test]
        fn frames_survive_any_cut_of_the_stream(
            sent in proptest::collection::vec(frames(), 1..8),
            cuts in proptest::collection::vec(1_usize..700, 1..20),
        ) {
            let stream = sent.iter().flat_map(bytes_of).collect::<Vec<_>>();
            let (mut buffer, mut received) = (BytesMut::new(), Vec::new());
            let (mut rest, mut sizes) = (&stream[..], cuts.iter().cycle());
            loop {
                match decode(&mut buffer, MAX).unwrap() {
                    Decoded::Frame(frame) => received.push(frame),
                    Decoded::Missing(bytes) => {
                        prop_assert!(bytes > 0);
                        let (piece, later) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                        if piece.is_empty() {
                            break;
                        }
                        buffer.extend_from_slice(piece);
                        rest = later;
                    }
                }
            }
            prop_assert_eq!(received, sent);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn what_is_missing_completes_a_frame(frame in frames(), cut in any::<prop::sample::Index>()) {
            let bytes = bytes_of(&frame);
            let cut = cut.index(bytes.len());
            let mut buffer = BytesMut::from(&bytes[..cut]);
            let Decoded::Missing(missing) = decode(&mut buffer, MAX).unwrap() else { panic!("it is cut") };
            prop_assert!(cut + missing <= bytes.len());
            prop_assert!(cut < HEADER_BYTES || cut + missing == bytes.len());
        }
    }

    #[test]
    fn a_size_is_refused_before_its_body_arrives() {
        let mut header = Frame::control(Kind::Request, 1).header();
        header[4..8].copy_from_slice(&2001_u32.to_be_bytes());
        let refused = FrameError::TooLarge { kind: Kind::Request, size: 2001, max: MAX };
        assert_eq!(decode(&mut BytesMut::from(&header[..]), MAX), Err(refused));
        header[1] = Kind::Ping as u8;
        header[4..8].copy_from_slice(&1_u32.to_be_bytes());
        assert!(decode(&mut BytesMut::from(&header[..]), MAX).is_err());
    }

    #[test]
    fn the_form_is_that_of_version_1() {
        let frame = Frame { kind: Kind::Answer, channel: 9, id: 0x0102, body: Bytes::from_static(b"ab") };
        assert_eq!(bytes_of(&frame), b"\x01\x03\x09\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x01\x02ab");
    }

    #[test]
    fn small_bodies_do_not_keep_the_buffer() {
        let frame = Frame { kind: Kind::Message, channel: 1, id: 0, body: vec![1; COPIED_BYTES_MAX].into() };
        let mut buffer = BytesMut::from(&bytes_of(&frame)[..]);
        let Ok(Decoded::Frame(small)) = decode(&mut buffer, MAX) else { panic!("it is complete") };
        assert!(buffer.try_reclaim(HEADER_BYTES), "nothing else may hold the buffer");
        assert_eq!(small, frame);
    }
}
