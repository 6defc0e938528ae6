//! Ed25519 signatures of submitters (feature `signing`), so that a worker or a reviewer can verify the author
//! of a spec.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use super::{SubmitterSignature, TaskSpec};
use crate::hex::{from_hex, to_hex};

/// Reasons for which a signature is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The spec carries no signature.
    #[error("the task is not signed")]
    Missing,
    /// A field is not the hexadecimal form of a digest, key or signature.
    #[error("the signature's {0} is malformed")]
    Malformed(&'static str),
    /// The spec was changed after it was signed.
    #[error("the task is not the one that was signed")]
    PayloadChanged,
    /// The signature does not match the public key that it names.
    #[error("the signature does not match its key")]
    Forged,
    /// The public key is not among the trusted ones.
    #[error("the signer's key is not trusted")]
    Untrusted,
}

impl TaskSpec {
    /// Signs the spec as it is now. Any later change of it invalidates the signature.
    #[must_use]
    pub fn sign(mut self, key: &SigningKey) -> Self {
        let digest = self.payload_digest();
        self.signature = Some(Box::new(SubmitterSignature {
            payload_sha256: to_hex(&digest),
            public_key: to_hex(key.verifying_key().as_bytes()),
            signature: to_hex(&key.sign(&digest).to_bytes()),
        }));
        self
    }

    /// Checks that one of `trusted` signed exactly this spec, and returns that key.
    ///
    /// # Errors
    /// The reason for which the signature is rejected.
    pub fn verify(&self, trusted: &[VerifyingKey]) -> Result<VerifyingKey, SignatureError> {
        let signed = self.signature.as_deref().ok_or(SignatureError::Missing)?;
        let digest: [u8; 32] =
            from_hex(&signed.payload_sha256).ok_or(SignatureError::Malformed("payload_sha256"))?;
        let key = from_hex(&signed.public_key)
            .and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok())
            .ok_or(SignatureError::Malformed("public_key"))?;
        let signature: [u8; 64] =
            from_hex(&signed.signature).ok_or(SignatureError::Malformed("signature"))?;
        if digest != self.payload_digest() {
            return Err(SignatureError::PayloadChanged);
        }
        if !trusted.contains(&key) {
            return Err(SignatureError::Untrusted);
        }
        key.verify_strict(&digest, &Signature::from_bytes(&signature)).map_err(|_| SignatureError::Forged)?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_exactly_what_was_signed() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let trusted = [key.verifying_key()];
        let spec = TaskSpec::program("a", "b").sign(&key);
        assert_eq!(spec.verify(&trusted), Ok(key.verifying_key()));
        assert_eq!(spec.verify(&[]), Err(SignatureError::Untrusted));
        assert_eq!(spec.clone().args(["c"]).verify(&trusted), Err(SignatureError::PayloadChanged));
        assert_eq!(TaskSpec::program("a", "b").verify(&trusted), Err(SignatureError::Missing));

        let mut forged = TaskSpec::program("a", "b").sign(&SigningKey::from_bytes(&[2; 32]));
        forged.signature.as_mut().unwrap().public_key = to_hex(trusted[0].as_bytes());
        assert_eq!(forged.verify(&trusted), Err(SignatureError::Forged));

        let mut cut = spec;
        cut.signature.as_mut().unwrap().signature.pop();
        assert_eq!(cut.verify(&trusted), Err(SignatureError::Malformed("signature")));
    }
}
