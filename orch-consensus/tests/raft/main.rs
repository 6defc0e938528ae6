//! Raft: the conformance suite, failures of members, disks and networks, and changes of members.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod conformance;
mod failover;
mod group;
mod members;
mod network;
mod storage;
