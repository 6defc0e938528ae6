//! Addresses of servers as people type them.

use crate::style::Style;

/// Normalises an address for a client. Without a scheme it is `http` on this machine, where nobody else
/// listens, and rejected elsewhere; `from` is the source of the address for the error.
///
/// # Errors
/// For people: what is wrong, and a form that is right.
pub fn normal(text: &str, from: &str, style: &Style) -> Result<String, String> {
    let text = text.trim();
    let (server, port) = (style.server, style.url.rsplit(':').next().unwrap_or_default());
    let form = format!("write it such as https://{server}.example:{port}, or {} on this machine", style.url);
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        None => (None, text),
    };
    let host = host(rest);
    if host.is_empty() {
        return Err(format!("{from}: {text:?} is no address; {form}"));
    }
    match scheme.as_deref() {
        Some("http" | "https") => Ok(text.to_owned()),
        Some(other) => Err(format!("{from}: {other:?} is no scheme of a {server}; {form}")),
        None if is_this_machine(host) => Ok(format!("http://{text}")),
        None if rest.contains(':') => Err(format!(
            "{from}: {text} has no scheme; write https://{text}, or http://{text} where nobody else hears the token"
        )),
        None => Err(format!("{from}: {text:?} has no scheme and no port; {form}")),
    }
}

fn host(rest: &str) -> &str {
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

fn is_this_machine(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::style::tests::STYLE;

    #[test]
    fn a_scheme_is_added_on_this_machine_only() {
        let normal = |text| normal(text, "--manager", &STYLE);
        for (text, url) in [
            ("127.0.0.1:3000", "http://127.0.0.1:3000"),
            ("localhost:1", "http://localhost:1"),
            ("[::1]:3000", "http://[::1]:3000"),
            (" http://far:1/path ", "http://far:1/path"),
            ("HTTPS://far", "HTTPS://far"),
        ] {
            assert_eq!(normal(text).as_deref(), Ok(url));
        }
        let far = normal("far.example:3000").unwrap_err();
        assert!(far.starts_with("--manager: ") && far.contains("https://far.example:3000"), "{far}");
        for wrong in ["", "http://", "ftp://x", "far", ":3000", "3000"] {
            assert!(normal(wrong).unwrap_err().contains("https://manager.example:3000"), "{wrong}");
        }
    }
}
