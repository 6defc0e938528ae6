//! Positions as they are written in Redis: `7:00f3...`, the revision and the id of its commit. Earlier
//! versions wrote the revision alone.

use bytes::Bytes;
use orch_core::store::{Incarnation, Position, Revision, StoreError};

use super::error;

/// The text of a position. Scripts compare it byte for byte.
pub(super) fn text_of(Position { revision, incarnation }: Position) -> String {
    match incarnation {
        Incarnation(0) => revision.to_string(),
        Incarnation(id) => format!("{revision}:{id:016x}"),
    }
}

/// The position of a text.
pub(super) fn position_in(text: &[u8]) -> Result<Position, StoreError> {
    parse(text).ok_or_else(|| error::corrupt("the position of a commit cannot be read"))
}

fn parse(text: &[u8]) -> Option<Position> {
    let text = std::str::from_utf8(text).ok()?;
    let (revision, incarnation) = match text.split_once(':') {
        None => (text, 0),
        Some((revision, id)) => (revision, u64::from_str_radix(id, 16).ok()?),
    };
    Some(Position::new(Revision(revision.parse().ok()?), Incarnation(incarnation)))
}

/// The commit of an entry of the log, and the fields with its writes. The first field is for people.
pub(super) fn commit_in(fields: &[Bytes]) -> Result<(Incarnation, &[Bytes]), StoreError> {
    match fields {
        [_, _, name, id, writes @ ..] if &name[..] == b"commit" => {
            let id = std::str::from_utf8(id).ok().and_then(|id| u64::from_str_radix(id, 16).ok());
            let id = id.ok_or_else(|| error::corrupt("the id of a commit cannot be read"))?;
            Ok((Incarnation(id), writes))
        }
        [_, _, writes @ ..] => Ok((Incarnation(0), writes)),
        _ => Err(error::corrupt("an entry of the log is empty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_written_and_read_as_scripts_compare_them() {
        let at = |revision, incarnation| Position::new(Revision(revision), Incarnation(incarnation));
        for (text, position) in [
            ("0", Position::ZERO),
            ("7", at(7, 0)),
            ("7:00000000000000ff", at(7, 255)),
            ("18446744073709551615:ffffffffffffffff", at(u64::MAX, u64::MAX)),
        ] {
            assert_eq!(text_of(position), text);
            assert_eq!(position_in(text.as_bytes()).unwrap(), position);
        }
        for damaged in ["", ":", "7:", "7:xyz", "-1", "7:1:2"] {
            assert!(matches!(position_in(damaged.as_bytes()), Err(StoreError::Corrupt(_))), "{damaged:?}");
        }
    }
}
