//! Image references, parsed as the engine parses them, so that a bad one is rejected before any request.

use orch_core::runtime::{RuntimeError, RuntimeErrorKind};

/// Reference to one image: with a tag or a digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ImageRef(String);

impl ImageRef {
    /// Parses `text`, adding the tag `latest` when there is neither a tag nor a digest: without one the
    /// engine would pull every tag.
    pub(crate) fn parse(text: &str) -> Result<Self, RuntimeError> {
        match check(text) {
            Ok(true) => Ok(Self(text.into())),
            Ok(false) => Ok(Self(format!("{text}:latest"))),
            Err(rule) => {
                let shown: String = text.chars().take(120).collect();
                Err(RuntimeError::new(
                    RuntimeErrorKind::BadReference,
                    format!("image reference {shown:?} is not valid: {rule}"),
                ))
            }
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Address of the registry; `None` for the engine's default one.
    pub(crate) fn registry(&self) -> Option<&str> {
        let (first, _) = self.0.split_once('/')?;
        is_registry(first).then_some(first)
    }
}

/// Returns whether the reference has a tag or digest, or the rule it breaks.
fn check(text: &str) -> Result<bool, &'static str> {
    if text.len() > 512 {
        return Err("it is too long");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if !digest.is_none_or(is_digest) {
        return Err("after '@' there must be a digest such as sha256:<64 hexadecimal digits>");
    }
    let path = match rest.split_once('/') {
        Some((first, path)) if is_registry(first) => path,
        _ => rest,
    };
    let (path, tag) = match path.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (path, None),
    };
    if !tag.is_none_or(is_tag) {
        return Err("a tag has letters, digits, '_', '.' and '-', and does not begin with '.' or '-'");
    }
    match path.split('/').all(is_component) {
        true => Ok(digest.is_some() || tag.is_some()),
        false => Err("a name has lower-case letters and digits, parted by '/', '.', '_' and '-'"),
    }
}

/// Whether the text before the first slash is a registry: it is when it looks like an address.
fn is_registry(first: &str) -> bool {
    let (host, port) = first.split_once(':').unwrap_or((first, "0"));
    let looks_like_one = first.contains(['.', ':']) || first == "localhost";
    let host_is_one = !host.is_empty()
        && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
        && host.starts_with(|c: char| c.is_ascii_alphanumeric());
    looks_like_one && host_is_one && port.parse::<u16>().is_ok()
}

fn is_component(part: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    part.starts_with(alphanumeric)
        && part.ends_with(alphanumeric)
        && part.chars().all(|c| alphanumeric(c) || matches!(c, '.' | '_' | '-'))
        && !part.contains("..")
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128 && tag.starts_with(word) && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm.starts_with(|c: char| c.is_ascii_alphabetic())
            && algorithm.chars().all(|c| c.is_ascii_alphanumeric())
            && (32..=128).contains(&hex.len())
            && hex.chars().all(|c| c.is_ascii_digit() || matches!(c, 'a'..='f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_references_name_one_image() {
        let digest = format!("busybox@sha256:{}", "0a".repeat(32));
        for (text, full, registry) in [
            ("busybox", "busybox:latest", None),
            ("busybox:1.36", "busybox:1.36", None),
            ("library/busy-box", "library/busy-box:latest", None),
            ("localhost/a", "localhost/a:latest", Some("localhost")),
            ("127.0.0.1:5000/a/b:T_1", "127.0.0.1:5000/a/b:T_1", Some("127.0.0.1:5000")),
            ("r.example/a__b", "r.example/a__b:latest", Some("r.example")),
            (&digest, &digest, None),
        ] {
            let image = ImageRef::parse(text).unwrap();
            assert_eq!((image.as_str(), image.registry()), (full, registry));
        }
    }

    #[test]
    fn bad_references_are_refused() {
        for text in [
            "",
            ":",
            "A",
            "a b",
            "a/",
            "/a",
            "a//b",
            "a:",
            "a:-x",
            "a:b:c",
            "a@sha256:1",
            "a@",
            "../a",
            "a..b",
            "-a",
            "a?x=1",
            "Not/A/Reference:::",
            "host:x/a",
            "a%2e",
        ] {
            let error = ImageRef::parse(text).unwrap_err();
            assert_eq!(error.kind, RuntimeErrorKind::BadReference, "{text}");
        }
    }
}
