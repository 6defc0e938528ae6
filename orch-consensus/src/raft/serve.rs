//! Takes messages from the transport and responses them.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use orch_core::transport::{Incoming, Transport};
use tracing::{debug, warn};

use super::{
    node::Node,
    types::node_of,
    wire::{Request, Response},
};

/// Answers until the transport closes. All responses in the making are polled by this one task: a task for
/// each would be one more thread to wake for every message.
pub(super) async fn serve(node: Arc<Node>, transport: Arc<dyn Transport>) {
    let mut working = FuturesUnordered::new();
    let max_bytes = transport.capabilities().max_message_bytes;
    loop {
        tokio::select! {
            biased;
            Some(()) = working.next(), if !working.is_empty() => {}
            incoming = transport.incoming() => match incoming {
                None => break,
                Some(incoming) if incoming.channel != node.config.channel => {
                    debug!(from = %incoming.from, channel = ?incoming.channel, "a message on a foreign channel is dropped");
                }
                Some(incoming) if working.len() >= node.config.serving_max.get() => {
                    debug!(from = %incoming.from, "a message is dropped: too many are worked on");
                }
                Some(incoming) => working.push(reply(&node, incoming, max_bytes)),
            },
        }
    }
    node.last_error.send_replace(Some("the transport is closed".into()));
}

async fn reply(node: &Node, incoming: Incoming, max_bytes: usize) {
    let Some(reply) = incoming.reply else { return };
    let request = match Request::from_message(incoming.message) {
        Ok(request) => request,
        Err(error) => return warn!(from = %incoming.from, %error, "a message is refused"),
    };
    if let Some(answer) = node.respond(node_of(incoming.from), request).await {
        let message = answer.to_message();
        reply.send(if message.len() <= max_bytes {
            message
        } else {
            Response::Impossible("the outcomes are too large for a message".into()).to_message()
        });
    }
}
