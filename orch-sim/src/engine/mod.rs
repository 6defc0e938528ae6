//! Real orchestrators and agents in virtual time: members over one store, agents that reach them over a
//! network that delays, loses and repeats calls, nodes that are cut off, processes that end and come back,
//! clocks that are off.
//!
//! [`run`] is one run of such a cluster; it fails when something happens that must never happen
//! ([`Violation`]).

mod chaos;
mod link;
mod losses;
mod oracle;
mod probe;
mod process;
mod run;
mod store;
mod world;

pub use losses::{Losses, count_losses};
pub use oracle::Violation;
pub use run::{Scenario, Summary, run};
