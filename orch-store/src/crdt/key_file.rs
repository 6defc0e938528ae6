//! Storage of an author's private key: a file that only its owner may read, sealed with a passphrase unless
//! the user says otherwise, or an environment variable.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use orch_base::files;
use zeroize::Zeroizing;

use super::key::AuthorKey;

const FIRST_LINE: &str = "orch author key, format 1";
const FILE_BYTES_MAX: u64 = 4096;
const SALT: usize = 16;
const NONCE: usize = 24;

/// Argon2id costs: the second choice of RFC 9106, section 4, for 64 MiB.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 4;
/// Highest costs that a file may ask for.
const MEMORY_KIB_MAX: u32 = 1 << 20;
const PASSES_MAX: u32 = 64;

/// Protection of a private key in its file.
#[derive(Clone, Copy)]
pub enum Protection<'a> {
    /// Sealed (XChaCha20-Poly1305) under a key that is derived from the passphrase (Argon2id).
    Passphrase(&'a [u8]),
    /// As it is. Whoever reads the file writes in the author's name from then on.
    PlainText,
}

impl std::fmt::Debug for Protection<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase(..)",
            Self::PlainText => "PlainText",
        })
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// There is a file by that name already; it was left alone.
    #[error("{}: there is a key already; it is never overwritten: choose another name, or remove it", .0.display())]
    Exists(PathBuf),
    /// The file cannot be read or written.
    #[error("{}: cannot be used; check that its directory exists and that this user may use it", path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// Others may read the file.
    #[error("{}: has mode {mode:03o}, so others can read the key; make it 600 (and a new key, if somebody may have read it)", path.display())]
    Mode {
        /// Path of the file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is no key file, or was changed.
    #[error("{}: is not a key file of this version ({reason})", path.display())]
    Malformed {
        /// Path of the file.
        path: PathBuf,
        /// Reason.
        reason: &'static str,
    },
    /// A passphrase is needed.
    #[error("{}: is sealed, and needs its passphrase", .0.display())]
    Sealed(PathBuf),
    /// The passphrase is another one, or the file was changed.
    #[error("{}: this passphrase does not open it", .0.display())]
    WrongPassphrase(PathBuf),
    /// The environment variable is missing or no key.
    #[error("the environment variable {0} does not hold a key: 64 hexadecimal digits")]
    Environment(String),
    /// The system has no random numbers, or no memory for the passphrase.
    #[error("no key could be made: {0}")]
    System(&'static str),
}

impl AuthorKey {
    /// A new key, from the system's random numbers.
    ///
    /// # Errors
    /// [`KeyFileError::System`] when there are none.
    pub fn generate() -> Result<Self, KeyFileError> {
        Ok(Self::from_seed(&*random::<32>()?))
    }

    /// Makes a new key and keeps it in a new file with mode 600. The file is complete or not there at all.
    ///
    /// Deriving from a passphrase takes some tenths of a second and 64 MiB; this blocks.
    ///
    /// # Errors
    /// [`KeyFileError`]. An existing file is left as it is.
    pub fn create_file(path: &Path, protection: Protection<'_>) -> Result<Self, KeyFileError> {
        let seed = random::<32>()?;
        let key = Self::from_seed(&seed);
        let mut text = Zeroizing::new(format!("{FIRST_LINE}\npublic {}\n", key.author()));
        match protection {
            Protection::PlainText => {
                text.push_str("plain ");
                push_hex(&mut text, &*seed);
            }
            Protection::Passphrase(passphrase) => {
                let (salt, nonce) = (random::<SALT>()?, random::<NONCE>()?);
                write!(text, "argon2id {MEMORY_KIB} {PASSES} {LANES} ").expect("texts take everything");
                push_hex(&mut text, &*salt);
                text.push('\n');
                let cipher = cipher(passphrase, &*salt, (MEMORY_KIB, PASSES, LANES))?;
                // What the file says besides is sealed too.
                let payload = Payload { msg: &*seed, aad: text.as_bytes() };
                let sealed = cipher
                    .encrypt(&XNonce::from(*nonce), payload)
                    .map_err(|_| KeyFileError::System("it cannot be sealed"))?;
                text.push_str("sealed ");
                push_hex(&mut text, &*nonce);
                push_hex(&mut text, &sealed);
            }
        }
        text.push('\n');
        write_new(path, text.as_bytes())?;
        Ok(key)
    }

    /// Reads a key from its file. This blocks, as [`AuthorKey::create_file`] does.
    ///
    /// # Errors
    /// [`KeyFileError`], also when others than its owner may read the file.
    pub fn open_file(path: &Path, passphrase: Option<&[u8]>) -> Result<Self, KeyFileError> {
        let text = read(path)?;
        let malformed = |reason| KeyFileError::Malformed { path: path.into(), reason };
        let mut lines = text.lines();
        if lines.next() != Some(FIRST_LINE) {
            return Err(malformed("its first line is another"));
        }
        let public = lines.next().and_then(|line| line.strip_prefix("public "));
        let public =
            public.and_then(|text| text.parse().ok()).ok_or(malformed("its public key is missing"))?;
        let third = lines.next().unwrap_or_default();
        let seed = if let Some(plain) = third.strip_prefix("plain ") {
            bytes::<32>(plain).ok_or(malformed("its key is not 64 hexadecimal digits"))?
        } else {
            let costs = third.strip_prefix("argon2id ").ok_or(malformed("how it is sealed is unknown"))?;
            let (costs, salt) =
                costs_of(costs).ok_or(malformed("the costs of its passphrase are no good"))?;
            let sealed = lines.next().and_then(|line| line.strip_prefix("sealed "));
            let sealed = sealed.and_then(bytes::<{ NONCE + 32 + 16 }>);
            let sealed = sealed.ok_or(malformed("what is sealed is missing"))?;
            let passphrase = passphrase.ok_or_else(|| KeyFileError::Sealed(path.into()))?;
            let (nonce, sealed) = sealed.split_first_chunk::<NONCE>().expect("it is longer");
            let end = text.find("sealed ").expect("it was found above");
            let payload = Payload { msg: sealed, aad: &text.as_bytes()[..end] };
            let seed = cipher(passphrase, &*salt, costs)?
                .decrypt(&XNonce::from(*nonce), payload)
                .map_err(|_| KeyFileError::WrongPassphrase(path.into()))?;
            let seed = Zeroizing::new(seed);
            Zeroizing::new(*seed.first_chunk().ok_or(malformed("its key is too short"))?)
        };
        let key = Self::from_seed(&seed);
        if key.author() == public { Ok(key) } else { Err(malformed("its keys do not belong together")) }
    }

    /// The key in an environment variable: 64 hexadecimal digits. Children of this process inherit the
    /// variable.
    ///
    /// # Errors
    /// [`KeyFileError::Environment`].
    pub fn from_environment(variable: &str) -> Result<Self, KeyFileError> {
        let text = Zeroizing::new(std::env::var(variable).unwrap_or_default());
        let seed = bytes::<32>(text.trim()).ok_or_else(|| KeyFileError::Environment(variable.to_owned()))?;
        Ok(Self::from_seed(&seed))
    }
}

/// The costs of a passphrase (KiB, passes, lanes) and its salt.
type Costs = ((u32, u32, u32), Zeroizing<[u8; SALT]>);

fn costs_of(text: &str) -> Option<Costs> {
    let mut parts = text.split(' ');
    let mut number = || parts.next()?.parse().ok();
    let (memory, passes, lanes) = (number()?, number()?, number()?);
    let bounded = memory <= MEMORY_KIB_MAX && passes <= PASSES_MAX && lanes <= 64;
    let salt = bytes(parts.next()?)?;
    (bounded && parts.next().is_none()).then_some(((memory, passes, lanes), salt))
}

fn cipher(
    passphrase: &[u8],
    salt: &[u8],
    (memory, passes, lanes): (u32, u32, u32),
) -> Result<XChaCha20Poly1305, KeyFileError> {
    let mut key = Zeroizing::new([0; 32]);
    Params::new(memory, passes, lanes, Some(key.len()))
        .map(|params| Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
        .and_then(|argon2| argon2.hash_password_into(passphrase, salt, &mut *key))
        .map_err(|_| KeyFileError::System("its passphrase cannot be worked on; is there memory enough?"))?;
    Ok(XChaCha20Poly1305::new((&*key).into()))
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, KeyFileError> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(&mut *bytes).map_err(|_| KeyFileError::System("the system has no random numbers"))?;
    Ok(bytes)
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    bytes.iter().for_each(|byte| write!(text, "{byte:02x}").expect("texts take everything"));
}

fn bytes<const N: usize>(text: &str) -> Option<Zeroizing<[u8; N]>> {
    if text.len() != 2 * N || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = Zeroizing::new([0; N]);
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

fn read(path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    let failed = |source| KeyFileError::Io { path: path.into(), source };
    let file = File::open(path).map_err(failed)?;
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().map_err(failed)?.permissions());
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Mode { path: path.into(), mode: mode & 0o777 });
        }
    }
    // As large as it can get, so that no copy of it is left behind.
    let mut text = Zeroizing::new(String::with_capacity(4096 + 1));
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), KeyFileError> {
    files::create(path, bytes).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.into()),
        _ => KeyFileError::Io { path: path.into(), source },
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn dir_and(name: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        (dir, path)
    }

    #[test]
    fn a_sealed_key_opens_with_its_passphrase_only() {
        let (dir, path) = dir_and("author.key");
        let key = AuthorKey::create_file(&path, Protection::Passphrase(b"correct horse")).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("plain"), "{text}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
        let again = AuthorKey::open_file(&path, Some(b"correct horse")).unwrap();
        assert_eq!(again.author(), key.author());
        assert!(matches!(AuthorKey::open_file(&path, None), Err(KeyFileError::Sealed(_))));
        let wrong = AuthorKey::open_file(&path, Some(b"battery staple")).unwrap_err();
        assert!(matches!(wrong, KeyFileError::WrongPassphrase(_)));
        assert!(!format!("{wrong} {wrong:?}").contains("staple"));
        assert!(matches!(AuthorKey::create_file(&path, Protection::PlainText), Err(KeyFileError::Exists(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "what is there is left alone");
        // Changed in any line, it does not open; costs beyond the bounds are not even tried.
        for (from, to) in [
            ("format 1", "format 2"),
            ("65536 3 4", "65536 2 4"),
            ("65536 3 4", "99999999 3 4"),
            ("sealed ", "sealed 0"),
        ] {
            fs::write(&path, text.replacen(from, to, 1)).unwrap();
            assert!(AuthorKey::open_file(&path, Some(b"correct horse")).is_err(), "{from} as {to}");
        }
    }

    #[test]
    fn plain_text_is_there_when_it_was_asked_for() {
        let (_dir, path) = dir_and("plain.key");
        let key = AuthorKey::create_file(&path, Protection::PlainText).unwrap();
        assert_eq!(AuthorKey::open_file(&path, None).unwrap().author(), key.author());
        let text = fs::read_to_string(&path).unwrap();
        let mixed =
            text.replace(&key.author().to_string(), &AuthorKey::generate().unwrap().author().to_string());
        fs::write(&path, mixed).unwrap();
        assert!(matches!(AuthorKey::open_file(&path, None), Err(KeyFileError::Malformed { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_dir, path) = dir_and("author.key");
        AuthorKey::create_file(&path, Protection::PlainText).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = AuthorKey::open_file(&path, None).unwrap_err();
        assert!(
            error.to_string().contains("mode 640") && error.to_string().contains("make it 600"),
            "{error}"
        );
    }

    #[test]
    fn neither_keys_nor_passphrases_are_shown() {
        let seed = [7; 32];
        let key = AuthorKey::from_seed(&seed);
        assert!(!format!("{key:?}").contains("0707"));
        assert_eq!(format!("{:?}", Protection::Passphrase(b"secret")), "Passphrase(..)");
        let missing = AuthorKey::from_environment("ORCH_NO_SUCH_VARIABLE").unwrap_err();
        assert!(missing.to_string().contains("ORCH_NO_SUCH_VARIABLE"), "{missing}");
        assert_ne!(AuthorKey::generate().unwrap().author(), AuthorKey::generate().unwrap().author());
    }
}
