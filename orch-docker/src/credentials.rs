//! Registry credentials, parsed from the value of a secret.

use bollard::auth::DockerCredentials;
use orch_core::{
    model::Workload,
    runtime::{RuntimeError, RuntimeErrorKind, Secret, Work},
};
use serde::Deserialize;

use crate::reference::ImageRef;

/// Credentials that the work's image is pulled with, if it names any.
///
/// The value is `{"username": "...", "password": "..."}` or `username:password`. Errors never quote it.
pub(crate) fn of(work: &Work, image: &ImageRef) -> Result<Option<DockerCredentials>, RuntimeError> {
    let Workload::Image { registry_credentials: Some(name), .. } = &work.spec.workload else {
        return Ok(None);
    };
    let invalid = |problem| {
        RuntimeError::new(RuntimeErrorKind::InvalidSpec, format!("registry login {name:?} {problem}"))
    };
    let secret = work.secrets.get(name).ok_or_else(|| invalid("is not known to this agent"))?;
    let login = Login::read(secret)
        .ok_or_else(|| invalid("is neither \"username:password\" nor JSON with username and password"))?;
    Ok(Some(DockerCredentials {
        username: Some(login.username),
        password: Some(login.password),
        serveraddress: image.registry().map(Into::into),
        ..DockerCredentials::default()
    }))
}

#[derive(Deserialize)]
struct Login {
    username: String,
    password: String,
}

impl Login {
    fn read(secret: &Secret) -> Option<Self> {
        let text = std::str::from_utf8(secret.expose()).ok()?;
        if text.trim_start().starts_with('{') {
            return serde_json::from_str(text).ok();
        }
        let (username, password) = text.trim_end_matches(['\r', '\n']).split_once(':')?;
        Some(Self { username: username.into(), password: password.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(String, String)> {
        Login::read(&Secret::new(text)).map(|login| (login.username, login.password))
    }

    #[test]
    fn both_forms_are_read() {
        let both = Some(("me".to_string(), "a:b".to_string()));
        assert_eq!(read("me:a:b\n"), both);
        assert_eq!(read(r#" {"username":"me","password":"a:b"}"#), both);
        assert_eq!(read("nothing"), None);
        assert_eq!(read(r#"{"username":"me"}"#), None);
    }
}
