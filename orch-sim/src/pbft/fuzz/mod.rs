//! Bodies of the fuzz targets, one function for each in `fuzz/` at the root of the project. Each takes any
//! bytes and panics when something is wrong, so that what a fuzzer found can be run again by an ordinary
//! test.

mod byzantine;
mod formats;
mod input;
mod seeds;
mod step;

pub use formats::{message, wal};
pub use seeds::seeds;
pub use step::step;
