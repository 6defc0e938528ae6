//! Groups of replicas of the signed store (`orch_store::crdt`), with an author among them that lies, put through their paces.

pub mod fuzz;
mod host;
mod liar;
mod run;

pub use run::{Report, Scenario, run};
