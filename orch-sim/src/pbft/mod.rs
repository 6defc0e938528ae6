//! Groups of PBFT replicas under every fault of the simulator, with byzantine among them.
//!
//! A run has four phases: faults and clients; healing; liveness (something is committed soon, and all correct
//! replicas become equal); and the verdict on the clients' history. What must hold all the time is in
//! `invariants`, one file each.

mod byzantine;
mod external_client;
pub mod fuzz;
mod group;
mod host;
mod invariants;
mod lab;
mod node;
mod oracle;
mod registers;
mod run;
mod scenario;
pub mod script;
mod twins;

pub use byzantine::Attack;
pub use run::{Failure, Report, run};
pub use scenario::Scenario;
pub use twins::{Round, Twins};
