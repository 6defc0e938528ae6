//! Routes without a token, on loopback, must be closed to browsers: any page could call them otherwise.

use axum::http::{
    HeaderMap,
    header::{HOST, ORIGIN},
    uri::Authority,
};

use super::{
    Shell,
    auth::Role,
    problem::{Problem, kinds},
};

/// Lets a request pass that comes from this machine and from no browser, or that carries the admin token.
pub(super) fn local_or_admin(shell: &Shell, headers: &HeaderMap) -> Result<(), Problem> {
    match shell.is_loopback() {
        true => no_browser(headers),
        false => shell.authenticate(headers)?.check(Role::Admin),
    }
}

/// A page of another site sends `Origin`; one whose name was rebound to 127.0.0.1 sends its own name as
/// `Host`.
fn no_browser(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(ORIGIN) {
        return Err(Problem::new(kinds::FORBIDDEN, "requests of web pages are not answered here"));
    }
    let Some(host) = headers.get(HOST) else { return Ok(()) };
    let authority = host.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
    let local = authority.is_some_and(|authority| {
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
    });
    match local {
        true => Ok(()),
        false => Err(Problem::new(kinds::FORBIDDEN, "call this server by its address or as localhost")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_are_told_apart() {
        let passes = |pairs: &[(axum::http::HeaderName, &str)]| {
            let mut headers = HeaderMap::new();
            headers.extend(pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())));
            no_browser(&headers).is_ok()
        };
        assert!(passes(&[]));
        for local in ["localhost", "LOCALHOST:3000", "127.0.0.1:3000", "[::1]:3000", "10.0.0.7"] {
            assert!(passes(&[(HOST, local)]), "{local}");
            assert!(!passes(&[(HOST, local), (ORIGIN, "http://localhost")]), "{local}");
        }
        for strange in ["evil.example", "evil.example:3000", "localhost.evil.example", "", "a b"] {
            assert!(!passes(&[(HOST, strange)]), "{strange}");
        }
    }
}
