//! Every proof that a correct replica sends is one: a quorum of current members signed it (TOCS 2.3.2 and
//! 4.4).

use std::{collections::BTreeSet, time::Duration};

use orch_consensus::pbft::{Membership, Message, ReplicaId, Signature, Statement};

use super::{Invariant, Observation};
use crate::{NodeId, pbft::group};

#[derive(Debug)]
pub(super) struct SoundCertificates;

impl Invariant for SoundCertificates {
    fn name(&self) -> &'static str {
        "sound certificates"
    }

    fn observe(&mut self, node: NodeId, _: Duration, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Sent { message, members } = observation else { return Ok(()) };
        let (certificates, stable) = match message {
            Message::Committed(certificate) => (std::slice::from_ref(certificate), None),
            Message::ViewChange(change) => (&change.prepared[..], change.stable.as_ref()),
            Message::NewView(new) => (&new.prepared[..], new.stable.as_ref()),
            Message::Stable(proof) => (&[][..], Some(&**proof)),
            _ => return Ok(()),
        };
        for certificate in certificates {
            // A message that waited for the disk while the members changed goes out all the same, and counts
            // for nothing.
            let current = certificate.epoch >= members.epoch();
            if current && !is_quorum(&certificate.votes, certificate.statement(), members) {
                return Err(format!("node {node} shows {certificate:?}"));
            }
        }
        match stable.filter(|proof| proof.checkpoint.epoch == members.epoch()) {
            Some(proof) if !is_quorum(&proof.votes, proof.checkpoint.statement(), members) => {
                Err(format!("node {node} shows {proof:?}"))
            }
            _ => Ok(()),
        }
    }
}

fn is_quorum(votes: &[(ReplicaId, Signature)], statement: Statement, members: &Membership) -> bool {
    let signed = |(replica, signature): &&(ReplicaId, Signature)| {
        members.member(*replica).is_some_and(|member| group::sign(&member.key, &statement) == *signature)
    };
    let voters: BTreeSet<_> = votes.iter().filter(signed).map(|(replica, _)| *replica).collect();
    voters.len() == votes.len() && voters.len() >= members.quorum().quorum()
}
