//! Checks signatures, alone or many together.
//!
//! There is one rule for what a good signature is, the cofactored one of ZIP 215: `s` is below the order of
//! the group, `R` and `A` are encodings of points (in any form), and `8 (s B - R - k A) = 0`. With it a sum
//! of many signatures is good exactly when each is, so no two correct replicas ever disagree about one,
//! however they happened to check it. RFC 8032 allows it; the stricter rules of most libraries do not sum up.

use std::collections::HashMap;

use curve25519_dalek::{
    EdwardsPoint, Scalar,
    constants::ED25519_BASEPOINT_POINT,
    edwards::{CompressedEdwardsY, VartimeEdwardsPrecomputation},
    traits::{IsIdentity as _, VartimePrecomputedMultiscalarMul as _},
};
use sha2::{Digest as _, Sha512};

use crate::pbft::core::{
    ids::{Digest, PublicKey, Signature},
    statement::Claim,
};

/// Keys of others than members whose points are remembered.
const KNOWN_KEYS_MAX: usize = 1024;

/// True when `signature` is one of `key` over `message`, by the rule of the group.
#[must_use]
pub fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    let Some(point) = CompressedEdwardsY(key.0).decompress() else { return false };
    let term = Term::read(key, message, signature, Whose::Other(point));
    term.is_some_and(|term| Verifier::default().hold(&[&term]))
}

/// Checks claims of one group.
pub(super) struct Verifier {
    group: Digest,
    /// Index of a member's point among those that tables are kept for, after the base point.
    members: HashMap<PublicKey, usize>,
    tables: VartimeEdwardsPrecomputation,
    others: HashMap<PublicKey, EdwardsPoint>,
}

/// A signature, read.
struct Term {
    whose: Whose,
    r: EdwardsPoint,
    s: Scalar,
    k: Scalar,
}

#[derive(Clone, Copy)]
enum Whose {
    Member(usize),
    Other(EdwardsPoint),
}

impl Default for Verifier {
    fn default() -> Self {
        Self::new(Digest::default(), std::iter::empty())
    }
}

impl Verifier {
    pub(super) fn new(group: Digest, members: impl Iterator<Item = PublicKey>) -> Self {
        let mut points = vec![ED25519_BASEPOINT_POINT];
        let mut indices = HashMap::new();
        for key in members {
            // A member whose key is no point signs nothing.
            if let Some(point) = CompressedEdwardsY(key.0).decompress() {
                indices.insert(key, points.len());
                points.push(-point);
            }
        }
        let tables = VartimeEdwardsPrecomputation::new(points);
        Self { group, members: indices, tables, others: HashMap::new() }
    }

    /// The indices of the claims that do not hold. One equation when all do.
    pub(super) fn bad(&mut self, claims: &[Claim]) -> Vec<usize> {
        let mut bad = Vec::new();
        let mut terms = Vec::with_capacity(claims.len());
        for (index, claim) in claims.iter().enumerate() {
            match self.read(claim) {
                Some(term) => terms.push((index, term)),
                None => bad.push(index),
            }
        }
        let terms: Vec<_> = terms.iter().map(|(index, term)| (*index, term)).collect();
        self.find_bad(&terms, &mut bad);
        bad.sort_unstable();
        bad
    }

    fn find_bad(&self, terms: &[(usize, &Term)], bad: &mut Vec<usize>) {
        let all: Vec<_> = terms.iter().map(|(_, term)| *term).collect();
        match terms {
            [] => {}
            _ if self.hold(&all) => {}
            [(index, _)] => bad.push(*index),
            _ => {
                let (left, right) = terms.split_at(terms.len() / 2);
                self.find_bad(left, bad);
                self.find_bad(right, bad);
            }
        }
    }

    fn read(&mut self, claim: &Claim) -> Option<Term> {
        let whose = match self.members.get(&claim.key) {
            Some(index) => Whose::Member(*index),
            None => Whose::Other(self.point_of(&claim.key)?),
        };
        Term::read(&claim.key, &claim.statement.bytes(&self.group), &claim.signature, whose)
    }

    fn point_of(&mut self, key: &PublicKey) -> Option<EdwardsPoint> {
        if let Some(point) = self.others.get(key) {
            return Some(*point);
        }
        let point = CompressedEdwardsY(key.0).decompress()?;
        if self.others.len() >= KNOWN_KEYS_MAX {
            self.others.clear();
        }
        self.others.insert(*key, point);
        Some(point)
    }

    /// `8 (sum(z s) B - sum(z R) - sum(z k A)) = 0`. Who does not know the coefficients `z` beforehand has no
    /// way to make bad signatures cancel out, and they follow from all of the signatures. The first may be 1.
    fn hold(&self, terms: &[&Term]) -> bool {
        let mut fixed = vec![Scalar::ZERO; 1 + self.members.len()];
        let (mut scalars, mut points) = (Vec::with_capacity(terms.len()), Vec::with_capacity(terms.len()));
        for (term, z) in terms.iter().zip(coefficients(terms)) {
            fixed[0] += z * term.s;
            scalars.push(z);
            points.push(-term.r);
            match term.whose {
                Whose::Member(index) => fixed[index] += z * term.k,
                Whose::Other(point) => {
                    scalars.push(z * term.k);
                    points.push(-point);
                }
            }
        }
        // Points of keys that signed nothing here would only be looked at in vain.
        let used = fixed.iter().rposition(|scalar| *scalar != Scalar::ZERO).map_or(0, |last| last + 1);
        let sum = self.tables.vartime_mixed_multiscalar_mul(&fixed[..used], &scalars, &points);
        sum.mul_by_cofactor().is_identity()
    }
}

impl Term {
    fn read(key: &PublicKey, message: &[u8], signature: &Signature, whose: Whose) -> Option<Self> {
        let (r, s) = signature.0.split_first_chunk::<32>()?;
        let s = Scalar::from_canonical_bytes(s.try_into().ok()?).into_option()?;
        let hash: [u8; 64] =
            Sha512::new().chain_update(r).chain_update(key.0).chain_update(message).finalize().into();
        let k = Scalar::from_bytes_mod_order_wide(&hash);
        Some(Self { whose, r: CompressedEdwardsY(*r).decompress()?, s, k })
    }
}

/// 1, and as many further numbers of 128 bits as it takes. Each `k` binds the key, the message and `R`.
fn coefficients(terms: &[&Term]) -> impl Iterator<Item = Scalar> {
    let mut output = (terms.len() > 1).then(|| {
        let mut hasher =
            blake3::Hasher::new_derive_key("orch pbft 2026 coefficients of a batch of signatures");
        for term in terms {
            hasher.update(term.k.as_bytes()).update(term.s.as_bytes());
        }
        hasher.finalize_xof()
    });
    let further = std::iter::from_fn(move || {
        let mut bytes = [0; 32];
        output.as_mut()?.fill(&mut bytes[..16]);
        Some(Scalar::from_bytes_mod_order(bytes))
    });
    std::iter::once(Scalar::ONE).chain(further)
}

#[cfg(test)]
mod tests;
