//! [`Authenticator`]: establishes who calls; [`Tokens`] do it by bearer tokens.

use std::fmt;

use axum::http::{HeaderMap, header::AUTHORIZATION};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::problem::{Problem, kinds};

/// Identity that an [`Authenticator`] has established.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Role in which it may act.
    pub role: Role,
}

/// Establishes who calls. A server asks it for each request to a route that is not open to everybody.
pub trait Authenticator: fmt::Debug + Send + Sync + 'static {
    /// The caller of a request with these headers.
    ///
    /// # Errors
    /// The refusal, with a detail that helps an honest caller and tells nothing of secrets.
    fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, Problem>;
}

/// The bearer tokens that a server accepts. Only their SHA-256 digests are kept, and digests are compared, in
/// constant time, so that neither content nor length of a token can be measured.
#[derive(Clone)]
pub struct Tokens {
    admin: [u8; 32],
    worker: [u8; 32],
}

/// Role of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Everything.
    Admin,
    /// The protocol of workers.
    Worker,
}

impl Tokens {
    /// `admin` opens everything, `worker` the protocol of workers only. Take long random texts.
    ///
    /// # Errors
    /// When one is empty or both are the same.
    pub fn new(admin: &str, worker: &str) -> Result<Self, TokenError> {
        match (admin.is_empty() || worker.is_empty(), admin == worker) {
            (true, _) => Err(TokenError::Empty),
            (_, true) => Err(TokenError::Same),
            _ => Ok(Self { admin: digest(admin), worker: digest(worker) }),
        }
    }
}

impl Authenticator for Tokens {
    fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, Problem> {
        let text = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(token) = text.and_then(bearer) else {
            return Err(Problem::new(kinds::UNAUTHENTICATED, "send the header Authorization: Bearer TOKEN"));
        };
        let given = digest(token);
        let (admin, worker): (Choice, Choice) = (given.ct_eq(&self.admin), given.ct_eq(&self.worker));
        match (bool::from(admin), bool::from(worker)) {
            (true, _) => Ok(Principal { role: Role::Admin }),
            (false, true) => Ok(Principal { role: Role::Worker }),
            (false, false) => Err(Problem::new(kinds::UNAUTHENTICATED, "the token is not known here")),
        }
    }
}

impl Principal {
    /// Checks that it may act in `needed`'s role. An administrator may act in any.
    ///
    /// # Errors
    /// The refusal.
    pub fn check(&self, needed: Role) -> Result<(), Problem> {
        match self.role == needed || self.role == Role::Admin {
            true => Ok(()),
            false => Err(Problem::new(kinds::FORBIDDEN, "this needs the admin token")),
        }
    }
}

/// Tokens are not printed, nor are their digests.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// Why tokens cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// One has no characters.
    #[error("a token must not be empty")]
    Empty,
    /// A worker would be an administrator.
    #[error("the admin token and the worker token must differ")]
    Same,
}

fn bearer(text: &str) -> Option<&str> {
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_opens_its_own_doors() {
        assert_eq!(Tokens::new("", "w").unwrap_err(), TokenError::Empty);
        assert_eq!(Tokens::new("a", "a").unwrap_err(), TokenError::Same);
        let tokens = Tokens::new("a", "w").unwrap();
        let status = |header: Option<&str>, role| {
            let mut headers = HeaderMap::new();
            headers.extend(header.map(|text| (AUTHORIZATION, text.parse().unwrap())));
            let checked = tokens.authenticate(&headers).and_then(|principal| principal.check(role));
            checked.map_err(|problem| problem.info().status)
        };
        assert_eq!(status(Some("Bearer a"), Role::Admin), Ok(()));
        assert_eq!(status(Some("bearer a"), Role::Worker), Ok(()));
        assert_eq!(status(Some("Bearer w"), Role::Worker), Ok(()));
        assert_eq!(status(Some("Bearer w"), Role::Admin), Err(403));
        for wrong in [None, Some("Bearer x"), Some("Basic a"), Some("a"), Some("Bearer ")] {
            assert_eq!(status(wrong, Role::Worker), Err(401), "{wrong:?}");
        }
        assert!(!format!("{tokens:?}").contains('['));
    }
}
