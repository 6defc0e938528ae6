//! Columns of rows.

use std::fmt;

use orch_core::store::{Entry, Incarnation, Key, Position, Revision};
use rusqlite::{Row, types::Type};

use super::super::checksum;

/// Columns that [`entry_of`] takes.
macro_rules! record_columns {
    () => {
        "key, value, version, incarnation, checksum"
    };
}
pub(super) use record_columns;

pub(super) fn entry_of(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let (key, version) = (key_of(row, 0)?, position_in(row, 2)?);
    let value: Vec<u8> = row.get(1)?;
    check_sum(row, 4, checksum::of_record(key.as_str(), version, &value), &key)?;
    Ok(Entry { key, value: value.into(), version })
}

/// A revision, and its incarnation in the column after it.
pub(super) fn position_in(row: &Row<'_>, column: usize) -> rusqlite::Result<Position> {
    Ok(Position::new(revision_of(row, column)?, incarnation_of(row, column + 1)?))
}

pub(super) fn revision_of(row: &Row<'_>, column: usize) -> rusqlite::Result<Revision> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map(Revision).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

pub(super) fn incarnation_of(row: &Row<'_>, column: usize) -> rusqlite::Result<Incarnation> {
    row.get::<_, i64>(column).map(|number| Incarnation(number.cast_unsigned()))
}

pub(super) fn key_of(row: &Row<'_>, column: usize) -> rusqlite::Result<Key> {
    let text = row.get_ref(column)?.as_str()?;
    Key::new(text).map_err(|error| damage(column, error))
}

/// Compares with the checksum in a column, which an earlier version did not write.
pub(super) fn check_sum(row: &Row<'_>, column: usize, sum: u32, key: &Key) -> rusqlite::Result<()> {
    match row.get::<_, Option<i64>>(column)? {
        Some(written) if written != i64::from(sum) => Err(damage(column, Altered(key.clone()))),
        _ => Ok(()),
    }
}

/// As SQLite counts.
pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// As SQLite has it.
pub(super) fn signed(incarnation: Incarnation) -> i64 {
    incarnation.0.cast_signed()
}

fn damage(column: usize, cause: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(cause))
}

#[derive(Debug)]
struct Altered(Key);

impl fmt::Display for Altered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the record {} does not have the content that was written", self.0)
    }
}

impl std::error::Error for Altered {}
