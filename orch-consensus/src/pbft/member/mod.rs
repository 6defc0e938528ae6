//! A replica with everything around it: signatures, a log on a disk, a transport, callers.

mod calls;
mod client;
mod config;
mod consensus;
mod disk;
mod driver;
mod evidence;
mod journal;
mod outbox;
mod priority_queues;
mod signer;
mod verifier;

pub use client::PbftClient;
pub use config::{PbftConfig, PbftConfigError};
pub use consensus::PbftConsensus;
pub use disk::{Directory, Disk};
pub use evidence::{Equivocation, verify_evidence};
pub use signer::{Ed25519Signer, Signer};
pub use verifier::verify;
