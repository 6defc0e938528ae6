use super::{external_client::ExternalClient, group::Packet, host::Host};
use crate::{Context, NodeId, Process};

/// Process at a node of a simulated group.
#[derive(Debug)]
pub(super) enum Node {
    Host(Box<Host>),
    ExternalClient(Box<ExternalClient>),
}

impl Node {
    pub(super) fn host(&self) -> Option<&Host> {
        match self {
            Self::Host(host) => Some(host),
            Self::ExternalClient(_) => None,
        }
    }

    pub(super) fn host_mut(&mut self) -> Option<&mut Host> {
        match self {
            Self::Host(host) => Some(host),
            Self::ExternalClient(_) => None,
        }
    }

    /// Operations of the clients at this node that have no answer yet.
    pub(super) fn outstanding(&self) -> usize {
        match self {
            Self::Host(host) => host.outstanding(),
            Self::ExternalClient(external_client) => external_client.outstanding(),
        }
    }
}

impl Process for Node {
    type Message = Packet;

    fn start(&mut self, ctx: &mut Context<'_, Packet>) {
        match self {
            Self::Host(host) => host.start(ctx),
            // It begins with its first operation.
            Self::ExternalClient(_) => {}
        }
    }

    fn receive(&mut self, from: NodeId, message: Packet, ctx: &mut Context<'_, Packet>) {
        match self {
            Self::Host(host) => host.receive(from, message, ctx),
            Self::ExternalClient(external_client) => external_client.receive(from, &message, ctx),
        }
    }

    fn timer(&mut self, id: u64, ctx: &mut Context<'_, Packet>) {
        match self {
            Self::Host(host) => host.timer(id, ctx),
            Self::ExternalClient(external_client) => external_client.timer(id, ctx),
        }
    }

    fn synced(&mut self, token: u64, ctx: &mut Context<'_, Packet>) {
        match self {
            Self::Host(host) => host.synced(token, ctx),
            Self::ExternalClient(_) => {}
        }
    }
}
