//! Files with tokens and certificates.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

/// Reads a token from a file that nobody else may read.
///
/// # Errors
/// It cannot be read, is empty, or may be read by others.
pub fn read(path: &Path) -> io::Result<String> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(io::Error::other("it may be read by others; chmod 600 it"));
    }
    let text = fs::read_to_string(path)?.trim().to_owned();
    match text.is_empty() {
        true => Err(io::Error::other("it is empty")),
        false => Ok(text),
    }
}

/// Reads certificates to trust.
///
/// # Errors
/// For people: it cannot be read.
pub fn read_ca(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}
