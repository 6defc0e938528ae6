//! [`Instances`]: a measurement.

use std::time::Duration;

/// A measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instances {
    /// Final instances.
    pub(crate) count: u64,
    /// Elapsed time.
    pub(crate) wall: Duration,
    /// CPU time of all threads of the process meanwhile.
    pub(crate) cpu: Duration,
}
