//! Groups of PBFT replicas under every fault of the simulator, with byzantine among them.
//!
//! A run has four parts: faults and clients; healing; liveness (something is committed soon, and all correct replicas become
//! equal); and the verdict on what clients were told. What must hold all the time is in `invariants`, one file each.

pub mod fuzz;
mod host;
mod invariants;
mod keys;
mod lab;
mod byzantine;
mod node;
mod external_client;
mod registers;
mod run;
mod scenario;
pub mod script;
mod twins;
mod oracle;

pub use byzantine::Misbehavior;
pub use run::{Failure, Report, run};
pub use scenario::Scenario;
pub use twins::{Round, Twins};
