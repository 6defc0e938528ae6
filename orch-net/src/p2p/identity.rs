//! Identity of a member: a key pair that it keeps in a file.

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use orch_base::files;
use orch_core::transport::PeerId;
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    sign::{CertifiedKey, SigningKey},
};
use zeroize::Zeroizing;

use super::tls;

/// Prefix of the PKCS#8, version 1, of an Ed25519 key, up to the seed.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
const FILE_BYTES_MAX: u64 = 16 << 10;

/// An Ed25519 key pair. Its public key is the member's [`PeerId`].
///
/// The secret is overwritten in memory when the identity is dropped; the copy that the TLS library signs with
/// is not.
#[derive(Clone)]
pub struct Identity {
    pkcs8: Zeroizing<Vec<u8>>,
    key: Arc<dyn SigningKey>,
    peer: PeerId,
}

impl Identity {
    /// Generates a new identity.
    ///
    /// # Errors
    /// [`IdentityError::Random`] when the system provides no randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        let mut seed = Zeroizing::new([0; 32]);
        let random = ring::default_provider().secure_random;
        random.fill(&mut *seed).map_err(|_| IdentityError::Random)?;
        Ok(Self::from_seed(&seed))
    }

    /// Identity with this Ed25519 seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let mut pkcs8 = Zeroizing::new(Vec::with_capacity(PKCS8_PREFIX.len() + seed.len()));
        pkcs8.extend_from_slice(&PKCS8_PREFIX);
        pkcs8.extend_from_slice(seed);
        Self::from_pkcs8(pkcs8).expect("any seed makes a key")
    }

    /// Reads a PKCS#8 file in PEM form, as [`Identity::save`] and `openssl genpkey -algorithm ed25519` write
    /// it.
    ///
    /// # Errors
    /// [`IdentityError::Exposed`] when others may open the file, [`IdentityError::File`] when it cannot be
    /// read, [`IdentityError::NotAKey`] when it contains something else.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, IdentityError> {
        let path = path.as_ref();
        let failed = |source| IdentityError::File { path: path.to_owned(), source };
        let file = fs::File::open(path).map_err(failed)?;
        refuse_exposed(path, &file.metadata().map_err(failed)?)?;
        let mut text = Zeroizing::new(Vec::new());
        file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&text).ok();
        key.and_then(|key| Self::from_pkcs8(Zeroizing::new(key.secret_pkcs8_der().to_vec())))
            .ok_or_else(|| IdentityError::NotAKey { path: path.to_owned() })
    }

    /// Writes a new file that only this user may open. An existing file is left alone.
    ///
    /// # Errors
    /// [`IdentityError::File`], also when the file exists.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), IdentityError> {
        let path = path.as_ref();
        files::create(path, pem(&self.pkcs8).as_bytes())
            .map_err(|source| IdentityError::File { path: path.to_owned(), source })
    }

    /// Loads the file, or creates it with a new identity where there is none.
    ///
    /// # Errors
    /// The errors of [`Identity::load`] and [`Identity::save`].
    pub fn load_or_generate(path: impl AsRef<Path>) -> Result<Self, IdentityError> {
        match Self::load(&path) {
            Err(IdentityError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let identity = Self::generate()?;
                identity.save(path)?;
                Ok(identity)
            }
            loaded => loaded,
        }
    }

    /// Public key of the identity.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.peer
    }

    /// Key that TLS presents and signs with.
    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        let public = CertificateDer::from(tls::spki(self.peer).to_vec());
        Arc::new(CertifiedKey::new(vec![public], Arc::clone(&self.key)))
    }

    fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Option<Self> {
        let key = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.as_slice())).ok()?;
        let peer = tls::peer_of(&key.public_key()?)?;
        Some(Self { pkcs8, key, peer })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Error of generating, loading or saving an identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The system provided no randomness.
    #[error("the system gave no randomness for a new key")]
    Random,
    /// The file cannot be read or written.
    #[error("cannot use the identity file {path}", path = path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// Others than its owner may open the file, so the key may no longer be a secret.
    #[error(
        "the identity file {path} can be opened by others (mode {mode:o}); make a new identity, or chmod 600 it if \
         nobody can have read it",
        path = path.display()
    )]
    Exposed {
        /// Path of the file.
        path: PathBuf,
        /// Permissions of the file.
        mode: u32,
    },
    /// The file contains no Ed25519 key.
    #[error("the identity file {path} holds no Ed25519 key as PKCS#8 in PEM form", path = path.display())]
    NotAKey {
        /// Path of the file.
        path: PathBuf,
    },
}

#[cfg(unix)]
fn refuse_exposed(path: &Path, metadata: &fs::Metadata) -> Result<(), IdentityError> {
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(IdentityError::Exposed { path: path.to_owned(), mode }),
    }
}

#[cfg(not(unix))]
fn refuse_exposed(_: &Path, _: &fs::Metadata) -> Result<(), IdentityError> {
    Ok(())
}

fn pem(der: &[u8]) -> Zeroizing<String> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // Large enough that no reallocation leaves a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(der.len() * 2 + 100));
    text.push_str("-----BEGIN PRIVATE KEY-----");
    for (at, group) in der.chunks(3).enumerate() {
        if at % 16 == 0 {
            text.push('\n');
        }
        let bits =
            group.iter().enumerate().fold(0, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit <= group.len() { char::from(DIGITS[value as usize]) } else { '=' });
        }
    }
    text.push_str("\n-----END PRIVATE KEY-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_key_of_rfc_8032() {
        let hex = |text: &str| text.parse::<PeerId>().unwrap();
        let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let public = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(Identity::from_seed(seed.as_bytes()).peer_id(), public);
    }

    #[test]
    fn pem_is_padded_and_broken_into_lines() {
        for size in [0, 1, 2, 3, 47, 48, 49, 100] {
            let der = (0..size).collect::<Vec<u8>>();
            let read = PrivatePkcs8KeyDer::from_pem_slice(pem(&der).as_bytes()).unwrap();
            assert_eq!(read.secret_pkcs8_der(), der);
            assert!(pem(&der).lines().all(|line| line.len() <= 64));
        }
    }
}
