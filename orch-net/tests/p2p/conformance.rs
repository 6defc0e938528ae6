//! Conformance suite of transports.

use std::sync::Arc;

use async_trait::async_trait;
use orch_core::{
    testkit::transport::{TransportHarness, run_all},
    transport::Transport,
};
use orch_net::p2p::{Identity, PeerTransport};

use crate::bench::{acquaint, member, quick, sees};

struct Loopback;

#[async_trait]
impl TransportHarness for Loopback {
    async fn connect(&self, count: usize) -> Vec<Arc<dyn Transport>> {
        let mut members: Vec<Arc<PeerTransport>> = Vec::new();
        for _ in 0..count {
            let new = member(&Identity::generate().unwrap(), quick()).await;
            members.iter().for_each(|other| acquaint(other, &new));
            members.push(new);
        }
        for member in &members {
            sees(member, |peers| peers.len() == count - 1).await;
        }
        members.into_iter().map(|member| member as Arc<dyn Transport>).collect()
    }

    /// Sockets buffer an unknown number of messages; the bounds have a test of their own.
    fn queue_messages(&self) -> Option<usize> {
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_transport_conforms() {
    run_all(&Loopback).await;
}

#[tokio::test]
async fn the_transport_conforms_on_one_thread() {
    run_all(&Loopback).await;
}
