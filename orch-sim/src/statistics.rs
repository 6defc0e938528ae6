/// Index of a node: `0..n`.
pub type NodeId = usize;

/// Counts of events so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Events taken from the queue.
    pub events: u64,
    /// Messages given to the network.
    pub sent: u64,
    /// Messages that the network lost, or that found their receiver down.
    pub lost: u64,
    /// Copies that the network made.
    pub duplicated: u64,
    /// Messages that a process received, copies included.
    pub delivered: u64,
    /// Timers that fired.
    pub timers: u64,
    /// Syncs that finished.
    pub syncs: u64,
    /// Crashes, those of processes that gave up included.
    pub crashes: u64,
    /// Starts after a crash.
    pub restarts: u64,
}
