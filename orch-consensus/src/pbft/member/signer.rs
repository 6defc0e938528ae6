//! Signatures of a member.

use std::fmt;

use ed25519_dalek::Signer as _;
use orch_core::transport::PeerId;

use crate::pbft::core::ids::{PublicKey, Signature};

/// Signs for a member. A key may live elsewhere than in this process; then each vote waits for it.
///
/// An implementation MUST make Ed25519 signatures (RFC 8032) that the key of [`Signer::public_key`] made.
pub trait Signer: Send + Sync + fmt::Debug + 'static {
    /// The member's public key.
    fn public_key(&self) -> PublicKey;

    /// The member as its transport knows it, whose identity has the same key.
    fn peer(&self) -> PeerId {
        PeerId::from_bytes(self.public_key().0)
    }

    /// A signature over these bytes.
    fn sign(&self, message: &[u8]) -> Signature;
}

/// A key in memory, overwritten when it goes.
pub struct Ed25519Signer {
    key: ed25519_dalek::SigningKey,
    public: PublicKey,
}

impl Ed25519Signer {
    /// The key of this seed (the private key of RFC 8032).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(seed);
        Self { public: PublicKey(key.verifying_key().to_bytes()), key }
    }
}

impl Signer for Ed25519Signer {
    fn public_key(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.key.sign(message).to_bytes())
    }
}

impl fmt::Debug for Ed25519Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ed25519Signer").field("public", &self.public).finish_non_exhaustive()
    }
}
