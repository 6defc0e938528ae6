//! Groups of replicas of the signed store (`orch_store::crdt`), with an author among them that forger, put
//! through their paces.

mod byzantine;
pub mod fuzz;
mod host;
mod run;

pub use run::{Report, Scenario, run};
