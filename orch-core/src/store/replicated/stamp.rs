//! Positions in front of values: the revision (u64, with the highest bit set) and the incarnation (u64), both
//! big endian. Without that bit, in format 1, the value follows the revision.

use bytes::{Bytes, BytesMut};

use crate::{
    consensus::MachineError,
    store::{Incarnation, Position, Revision},
};

const WITH_INCARNATION: u64 = 1 << 63;

/// A record where a consensus keeps records: its version, then its value.
pub(super) fn stamp(version: Position, value: &[u8]) -> Bytes {
    let mut stamped = BytesMut::with_capacity(16 + value.len());
    stamped.extend_from_slice(&(version.revision.0 | WITH_INCARNATION).to_be_bytes());
    stamped.extend_from_slice(&version.incarnation.0.to_be_bytes());
    stamped.extend_from_slice(value);
    stamped.freeze()
}

pub(super) fn stamp_alone(position: Position) -> Bytes {
    stamp(position, &[])
}

/// The version and the value of the record `what`.
pub(super) fn unstamp(what: &str, stamped: &Bytes) -> Result<(Position, Bytes), MachineError> {
    let mut rest: &[u8] = stamped;
    let position = take_position(&mut rest)
        .ok_or_else(|| MachineError::malformed(format!("record {what}"), "it has no version in front"))?;
    Ok((position, stamped.slice(stamped.len() - rest.len()..)))
}

pub(super) fn unstamp_alone(what: &str, stamped: &Bytes) -> Result<Position, MachineError> {
    match unstamp(what, stamped)? {
        (position, rest) if rest.is_empty() => Ok(position),
        _ => Err(MachineError::malformed(format!("record {what}"), "something follows the position")),
    }
}

/// The position at the beginning of `rest`, which begins after it then.
pub(super) fn take_position(rest: &mut &[u8]) -> Option<Position> {
    let number = take_number(rest)?;
    let incarnation = if number & WITH_INCARNATION == 0 { 0 } else { take_number(rest)? };
    Some(Position::new(Revision(number & !WITH_INCARNATION), Incarnation(incarnation)))
}

pub(super) fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let (number, tail) = rest.split_first_chunk::<8>()?;
    *rest = tail;
    Some(u64::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_of_both_formats_are_read_and_damage_is_noticed() {
        let version = Position::new(Revision(7), Incarnation(u64::MAX));
        let stamped = stamp(version, b"value");
        assert_eq!(unstamp("k", &stamped).expect("as written"), (version, Bytes::from("value")));
        let old = Bytes::from(&b"\0\0\0\0\0\0\0\x07value"[..]);
        let version = Position::new(Revision(7), Incarnation(0));
        assert_eq!(unstamp("k", &old).expect("of format 1"), (version, Bytes::from("value")));
        assert!(unstamp("k", &stamped.slice(..15)).is_err());
        assert!(unstamp_alone("k", &stamped).is_err());
    }
}
