//! The key that an author signs with.

use std::fmt;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use orch_core::transport::PeerId;

/// The private key of an author, in memory; overwritten when it goes. Neither shown nor compared.
pub struct AuthorKey(SigningKey);

impl AuthorKey {
    /// The key of this seed (the private key of RFC 8032).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The author's name: the public key.
    #[must_use]
    pub fn author(&self) -> PeerId {
        PeerId::from_bytes(self.0.verifying_key().to_bytes())
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for AuthorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AuthorKey").field(&self.author()).finish()
    }
}

/// True if `author` signed `message`. Strict: there is one signature, and weak keys sign nothing.
pub(super) fn is_signed(author: PeerId, message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(author.as_bytes())
        .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
}
