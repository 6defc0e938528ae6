//! Checksums of records and log entries: a flipped bit on the disk is damage, not another value.

use crc32fast::Hasher;
use orch_core::store::{Key, Position};

/// CRC-32 of a record, of its key and version too, so that no record passes for another.
pub(super) fn of_record(key: &str, version: Position, value: &[u8]) -> u32 {
    sum(version, &[key.as_bytes(), &[0], value])
}

/// CRC-32 of one change of a revision; none for a deletion is another value than an empty one.
pub(super) fn of_change(key: &Key, position: Position, value: Option<&[u8]>) -> u32 {
    let kind: &[u8] = if value.is_some() { &[1] } else { &[2] };
    sum(position, &[key.as_str().as_bytes(), kind, value.unwrap_or_default()])
}

/// CRC-32 of all changes of a revision.
pub(super) fn of_entry(position: Position, entry: &[u8]) -> u32 {
    sum(position, &[entry])
}

fn sum(position: Position, parts: &[&[u8]]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&position.revision.0.to_le_bytes());
    hasher.update(&position.incarnation.0.to_le_bytes());
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}
