//! Replicated maps under one interface.

mod durable;
mod memory;
mod peers;

pub use durable::Durable;
pub use memory::Memory;
pub use peers::{Automerge, Loro, Yrs};

/// Why a measurement failed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The writes of one transaction.
pub const TOGETHER: usize = 1000;

/// Two copies of a map that are written apart and then meet.
pub trait Pair: Sized {
    /// Two empty copies.
    ///
    /// # Errors
    /// Those of the system.
    fn new() -> Result<Self, Failure>;

    /// Writes `count` keys from the first one on into a copy, [`TOGETHER`] at a time, values of 100 bytes.
    ///
    /// # Errors
    /// Those of the system.
    fn put(&mut self, copy: usize, first: usize, count: usize, value: u8) -> Result<(), Failure>;

    /// Gives each copy what the other has. Returns the bytes that went over.
    ///
    /// # Errors
    /// Those of the system.
    fn merge(&mut self) -> Result<usize, Failure>;

    /// The bytes that one copy takes on a disk.
    ///
    /// # Errors
    /// Those of the system.
    fn size(&mut self) -> Result<u64, Failure>;

    /// How many keys a copy has.
    ///
    /// # Errors
    /// Those of the system.
    fn keys(&self, copy: usize) -> Result<usize, Failure>;
}

fn key(number: usize) -> String {
    format!("nodes/{number:08}")
}

fn value(byte: u8) -> Vec<u8> {
    vec![byte; 100]
}
