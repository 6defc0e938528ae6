//! The examples do what they say.
#![expect(unreachable_pub, clippy::duplicate_mod, reason = "each example is a program of its own as well")]

#[path = "../examples/pbft_cluster.rs"]
mod pbft_cluster;
#[path = "../examples/raft_cluster.rs"]
mod raft_cluster;

#[test]
fn a_cluster_agrees_by_raft() {
    raft_cluster::main().unwrap();
}

#[test]
fn a_cluster_agrees_by_pbft() {
    pbft_cluster::main().unwrap();
}
