//! Messages on their way out: signed once, encoded once, sent to whom they are for.

use std::sync::Arc;

use bytes::Bytes;
use orch_core::transport::{Channel, PeerId, Transport, TransportError};

use super::signer::Signer;
use crate::pbft::core::membership::Membership;
use crate::pbft::core::{
    ids::{Digest, PublicKey},
    io::To,
    message::Message,
};

/// Queue of outgoing messages, with transport and signer.
#[derive(Debug)]
pub(super) struct Outbox {
    transport: Arc<dyn Transport>,
    signer: Arc<dyn Signer>,
    group: Digest,
    channel: Channel,
    genesis: Membership,
    /// All other members.
    others: Vec<PeerId>,
    /// And those who had one at the beginning: who is far behind knows no others.
    ever: Vec<PeerId>,
    waiting: Vec<(Target, Channel, Bytes)>,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    One(PeerId),
    Others,
    Ever,
}

impl Outbox {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        signer: Arc<dyn Signer>,
        group: Digest,
        channel: Channel,
        genesis: &Membership,
    ) -> Self {
        let mut outbox = Self {
            transport,
            signer,
            group,
            channel,
            others: Vec::new(),
            ever: Vec::new(),
            waiting: Vec::new(),
            genesis: genesis.clone(),
        };
        outbox.set_members(genesis);
        outbox
    }

    /// These have a vote now.
    pub(super) fn set_members(&mut self, members: &Membership) {
        let me = self.transport.local_peer();
        let peers = |members: &Membership| {
            let peers = members.members().iter().map(|member| peer(&member.key));
            peers.filter(|peer| *peer != me).collect::<Vec<_>>()
        };
        self.others = peers(members);
        self.ever = self.others.iter().copied().chain(peers(&self.genesis)).collect();
        self.ever.sort_unstable();
        self.ever.dedup();
    }

    /// Signs a message that has a field for a signature.
    pub(super) fn sign(&self, message: &mut Message) {
        message.sign(|statement| self.signer.sign(&statement.bytes(&self.group)));
    }

    pub(super) fn push(&mut self, to: To, message: &Message) {
        let asks = matches!(message, Message::Status(_) | Message::Fetch(_));
        let target = match to {
            To::One(key) => Target::One(peer(&key)),
            To::Others if asks => Target::Ever,
            To::Others => Target::Others,
        };
        if matches!(target, Target::Others) && self.others.is_empty() {
            return;
        }
        let slow = matches!(
            message,
            Message::Request(_)
                | Message::Reply(..)
                | Message::Fetch(_)
                | Message::Supply(_)
                | Message::Stable(_)
        );
        let channel = Channel(self.channel.0 + u8::from(slow));
        self.waiting.push((target, channel, message.to_wire().into()));
    }

    /// Hands everything over to the transport, which never waits. What it refuses is lost, as anything may
    /// be.
    pub(super) async fn flush(&mut self) {
        for (target, channel, message) in self.waiting.drain(..) {
            let one;
            let peers = match target {
                Target::One(peer) => {
                    one = [peer];
                    &one[..]
                }
                Target::Others => &self.others,
                Target::Ever => &self.ever,
            };
            for peer in peers {
                match self.transport.send(*peer, channel, message.clone()).await {
                    Ok(()) => {}
                    Err(error @ TransportError::TooLarge { .. }) => {
                        tracing::error!(%error, "the transport takes smaller messages than the group needs");
                    }
                    Err(error) => tracing::trace!(%error, "a message is lost"),
                }
            }
        }
    }
}

fn peer(key: &PublicKey) -> PeerId {
    PeerId::from_bytes(key.0)
}
