//! Simulated group: names, keys and signatures of its nodes, its messages, and the beginning of its clocks.

use std::sync::Arc;

use orch_consensus::pbft::{Claim, Digest, Message, PublicKey, Signature, Statement};

use crate::NodeId;

/// The name of the simulated group.
pub(super) const GROUP: Digest = Digest([7; 32]);

/// The key of a node: its number, so that logs can be read.
pub(super) fn key(node: NodeId) -> PublicKey {
    let mut key = [0; 32];
    key[31] = u8::try_from(node + 1).unwrap_or(u8::MAX);
    PublicKey(key)
}

/// The node with this key.
pub(super) fn node(key: &PublicKey) -> NodeId {
    usize::from(key.0[31]).wrapping_sub(1)
}

/// Stands in for Ed25519: cheap, and as good as long as no test forges it. Byzantine replicas sign with their
/// own keys only.
pub(super) fn sign(key: &PublicKey, statement: &Statement) -> Signature {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |word: u64| hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    mix(u64::from(key.0[31]));
    for chunk in statement.bytes(&GROUP).chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(u64::from_le_bytes(word));
    }
    let mut signature = [0; 64];
    signature[..8].copy_from_slice(&hash.to_le_bytes());
    Signature(signature)
}

/// The indices of the claims that are false.
pub(super) fn check(claims: &[Claim]) -> Vec<usize> {
    let bad = |(index, claim): (usize, &Claim)| {
        (sign(&claim.key, &claim.statement) != claim.signature).then_some(index)
    };
    claims.iter().enumerate().filter_map(bad).collect()
}

/// Beginning of simulated time, in milliseconds after 1970.
pub(super) const EPOCH_MILLIS: u64 = 1_700_000_000_000;

/// Message on the network: shared, because most go to all.
pub(super) type Packet = Arc<Message>;

/// Name and key of a node, for changes of members.
pub(super) fn member(node: NodeId) -> (String, PublicKey) {
    (format!("node-{node}"), key(node))
}
