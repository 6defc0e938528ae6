//! Codec of evidence: two signed statements of one member, for anyone who knows the group to check.

use bytes::Bytes;

use super::verifier::verify;
use crate::codec::Malformed;
use crate::pbft::core::{
    ids::{Digest, Epoch, PublicKey, Seq, Signature, View},
    statement::{Claim, Misbehaviour, Phase, STATEMENT_BYTES, Statement},
};

const VERSION: u8 = 1;
const CLAIM_BYTES: usize = STATEMENT_BYTES + 64;
const PROOF_BYTES: usize = 1 + 32 + 2 * CLAIM_BYTES;

/// Two statements that exclude each other, both signed by `key`. No correct member signs both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Equivocation {
    /// Key of the signer.
    pub key: PublicKey,
    /// One statement.
    pub first: Statement,
    /// The other.
    pub second: Statement,
}

/// Checks evidence of a group ([`PbftConfig::group`](super::PbftConfig::group)), as
/// [`Consensus::evidence`](orch_core::consensus::Consensus::evidence) gives it out.
///
/// # Errors
/// [`Malformed`] when it proves nothing.
pub fn verify_evidence(group: &Digest, proof: &[u8]) -> Result<Equivocation, Malformed> {
    if proof.len() != PROOF_BYTES || proof[0] != VERSION {
        return Err(Malformed("this is no evidence of this version"));
    }
    let key = PublicKey(array(proof, 1)?);
    let mut statements = [None; 2];
    for (statement, claim) in statements.iter_mut().zip(proof[33..].chunks(CLAIM_BYTES)) {
        let (bytes, signature) = claim.split_at(STATEMENT_BYTES);
        if !verify(&key, bytes, &Signature(array(signature, 0)?)) {
            return Err(Malformed("a signature is wrong"));
        }
        *statement = Some(read_statement(group, bytes)?);
    }
    match statements {
        [Some(first), Some(second)] if exclude_each_other(&first, &second) => {
            Ok(Equivocation { key, first, second })
        }
        _ => Err(Malformed("a correct member may sign both")),
    }
}

pub(super) fn encode(group: &Digest, misbehaviour: &Misbehaviour) -> Bytes {
    let mut out = Vec::with_capacity(PROOF_BYTES);
    out.push(VERSION);
    out.extend(misbehaviour.first.key.0);
    for Claim { statement, signature, .. } in [&misbehaviour.first, &misbehaviour.second] {
        out.extend(statement.bytes(group));
        out.extend(signature.0);
    }
    out.into()
}

pub(super) fn describe(misbehaviour: &Misbehaviour) -> String {
    match misbehaviour.first.statement {
        Statement::Vote { phase, epoch, view, seq, .. } => {
            format!("it cast two {phase:?} votes for different batches at {epoch} {view} {seq}")
        }
        Statement::Checkpoint { epoch, seq, .. } => {
            format!("it vouched for two different states at {epoch} {seq}")
        }
        _ => "it signed two statements that exclude each other".into(),
    }
}

fn exclude_each_other(first: &Statement, second: &Statement) -> bool {
    match (*first, *second) {
        (
            Statement::Vote { phase, epoch, view, seq, digest },
            Statement::Vote { phase: phase2, epoch: epoch2, view: view2, seq: seq2, digest: digest2 },
        ) => (phase, epoch, view, seq) == (phase2, epoch2, view2, seq2) && digest != digest2,
        (
            Statement::Checkpoint { epoch, seq, digest },
            Statement::Checkpoint { epoch: epoch2, seq: seq2, digest: digest2 },
        ) => (epoch, seq) == (epoch2, seq2) && digest != digest2,
        _ => false,
    }
}

/// Reads a statement from its signed bytes.
fn read_statement(group: &Digest, bytes: &[u8]) -> Result<Statement, Malformed> {
    let number = |at| array(bytes, at).map(u64::from_le_bytes);
    let (epoch, view, seq) = (Epoch(number(44)?), View(number(52)?), Seq(number(60)?));
    let digest = Digest(array(bytes, 68)?);
    let statement = match bytes[11] {
        1 => Statement::Vote { phase: Phase::Prepare, epoch, view, seq, digest },
        2 => Statement::Vote { phase: Phase::Commit, epoch, view, seq, digest },
        3 => Statement::Checkpoint { epoch, seq, digest },
        _ => return Err(Malformed("it is about something that proves nothing")),
    };
    // What differs is of another group, or was not written by us.
    if statement.bytes(group) == bytes { Ok(statement) } else { Err(Malformed("it is about another group")) }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    let part = bytes.get(at..at + N).and_then(|part| part.try_into().ok());
    part.ok_or(Malformed("it ends too early"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pbft::core::ids::ReplicaId;
    use crate::pbft::member::signer::{Ed25519Signer, Signer as _};

    const GROUP: Digest = Digest([1; 32]);

    fn claim(signer: &Ed25519Signer, phase: Phase, seq: u64, digest: u8) -> Claim {
        let digest = Digest([digest; 32]);
        let statement = Statement::Vote { phase, epoch: Epoch(0), view: View(3), seq: Seq(seq), digest };
        Claim { key: signer.public_key(), statement, signature: signer.sign(&statement.bytes(&GROUP)) }
    }

    fn proof(first: Claim, second: Claim) -> Bytes {
        encode(&GROUP, &Misbehaviour { replica: ReplicaId(0), first, second })
    }

    #[test]
    fn two_votes_for_one_place_are_evidence_for_everybody() {
        let signer = Ed25519Signer::from_seed(&[3; 32]);
        let (first, second) = (claim(&signer, Phase::Prepare, 7, 1), claim(&signer, Phase::Prepare, 7, 2));
        let shown = verify_evidence(&GROUP, &proof(first, second)).unwrap();
        assert_eq!(
            shown,
            Equivocation { key: signer.public_key(), first: first.statement, second: second.statement }
        );
    }

    #[test]
    fn nothing_else_is() {
        let (signer, other) = (Ed25519Signer::from_seed(&[3; 32]), Ed25519Signer::from_seed(&[4; 32]));
        let vote = claim(&signer, Phase::Prepare, 7, 1);
        let good = proof(vote, claim(&signer, Phase::Prepare, 7, 2));
        for harmless in [vote, claim(&signer, Phase::Commit, 7, 2), claim(&signer, Phase::Prepare, 8, 2)] {
            assert!(verify_evidence(&GROUP, &proof(vote, harmless)).is_err());
        }
        assert!(verify_evidence(&GROUP, &proof(vote, claim(&other, Phase::Prepare, 7, 2))).is_err());
        assert!(verify_evidence(&Digest([2; 32]), &good).is_err(), "another group");
        for at in 0..good.len() {
            let mut changed = good.to_vec();
            changed[at] ^= 1;
            assert!(verify_evidence(&GROUP, &changed).is_err(), "byte {at}");
        }
        assert!(verify_evidence(&GROUP, &good[1..]).is_err());
    }
}
