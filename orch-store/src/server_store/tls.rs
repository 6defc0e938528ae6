//! Certificates for connections to servers.

use std::path::Path;

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// Trusted authorities: those in a file in PEM form, or those that browsers trust. `None` when the file
/// cannot be used.
pub(super) fn authorities(file: Option<&Path>) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate).ok()?;
            }
        }
    }
    Some(roots)
}

/// Certificates in a file in PEM form; `None` when it cannot be read or holds none.
pub(super) fn certificates(file: &Path) -> Option<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    read.ok().filter(|found| !found.is_empty())
}
