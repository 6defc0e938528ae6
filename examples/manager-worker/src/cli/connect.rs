//! Connection of the commands to the manager.

use std::path::{Path, PathBuf};

use clap::Args;
use orch_net::http::{Client, ClientConfig};

use super::{
    context::{self, Context, Contexts},
    exit::{Cause, Failure},
};
use crate::{
    address,
    data_dir::{read_ca, read_secret},
    manager::{ADMIN_TOKEN, default_data_dir},
};

const TOKEN_VARIABLE: &str = "ORCH_TOKEN";
const TOKEN_FILE_VARIABLE: &str = "ORCH_TOKEN_FILE";
const CONTEXT_VARIABLE: &str = "ORCH_CONTEXT";

#[derive(Clone, Debug, Args)]
pub(super) struct Connect {
    /// Address of the manager. [default: ORCH_MANAGER, that of the context, or http://127.0.0.1:3000]
    #[arg(long, global = true, value_name = "URL")]
    manager: Option<String>,
    /// Name of the manager's context; see orch context. [default: ORCH_CONTEXT, or the current one]
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "manager")]
    context: Option<String>,
    /// File with the admin token. [default: ORCH_TOKEN itself, the file ORCH_TOKEN_FILE, that of the context,
    /// or that of a manager of this user on this machine]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificate of the authority that signed the manager's certificate, PEM. [default: that of the
    /// context]
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print JSON for programs instead of tables for people.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// A manager, and the source of its settings.
struct Target {
    url: String,
    url_from: String,
    /// Context that the address is from; none of its other settings is used with another manager.
    context: Option<Context>,
    /// Whether the context was selected on the command line, which has precedence over variables.
    asked_for: bool,
}

/// A token and its source.
struct Token {
    text: String,
    from: String,
}

impl Connect {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let target = self.target()?;
        let mut config = ClientConfig::new(&target.url, self.token(&target)?.text);
        let ca = self.ca.as_deref().or(target.context.as_ref().and_then(|context| context.ca.as_deref()));
        config.ca_pem = ca.map(read_ca).transpose().map_err(Failure::usage)?;
        Ok(Client::new(&config)?)
    }

    /// The manager of the command line as a context to store under a name.
    pub(super) fn as_context(&self) -> Result<Context, Failure> {
        let absolute = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
        let manager = self
            .manager
            .as_deref()
            .ok_or_else(|| Failure::usage("give the manager's address: --manager URL"))?;
        Ok(Context {
            manager: address::normal(manager, "--manager").map_err(Failure::usage)?,
            token_file: absolute(&self.token_file)?,
            token: None,
            ca: absolute(&self.ca)?,
        })
    }

    /// Adds the manager and advice to a failure.
    pub(super) fn advise(&self, mut failure: Failure) -> Failure {
        let Some(cause) = failure.cause else { return failure };
        let Ok(target) = self.target() else { return failure };
        let (url, from) = (&target.url, &target.url_from);
        let token = self.token(&target).map(|token| token.from).unwrap_or_default();
        let message = &failure.message;
        failure.message = match cause {
            Cause::Unreachable if message.contains("certificate") => format!(
                "the manager at {url} ({from}) shows a certificate that is not trusted: {message}; name the authority that \
                 vouches for it with --ca"
            ),
            Cause::Unreachable => format!(
                "the manager at {url} ({from}) cannot be reached: {message}\n  Start it with orch-manager, or name another \
                 with --manager, {} or --context.",
                address::VARIABLE
            ),
            Cause::UnknownToken => format!(
                "the manager at {url} does not know the token of {token}; give that of the file {ADMIN_TOKEN} in its data \
                 directory with --token-file or {TOKEN_VARIABLE}"
            ),
            Cause::WeakToken => format!(
                "the token of {token} is not enough for this at {url}: it opens the protocol of workers; give that of \
                 {ADMIN_TOKEN} with --token-file or {TOKEN_VARIABLE}"
            ),
        };
        failure
    }

    /// Precedence: flag, variable, context.
    fn target(&self) -> Result<Target, Failure> {
        let plain = |text: &str, from: &str| {
            let url = address::normal(text, from).map_err(Failure::usage)?;
            Ok(Target { url, url_from: from.to_owned(), context: None, asked_for: false })
        };
        let named = |all: &Contexts, name: &str, asked_for: bool| {
            let (context, from) = (all.get(name)?.clone(), format!("context {name}"));
            let url = address::normal(&context.manager, &from).map_err(Failure::usage)?;
            Ok(Target { url, url_from: from, context: Some(context), asked_for })
        };
        let contexts = || Contexts::load(&context::file());
        if let Some(url) = &self.manager {
            return plain(url, "--manager");
        }
        if let Some(name) = &self.context {
            return named(&contexts()?, name, true);
        }
        if let Some(url) = address::variable(address::VARIABLE) {
            return plain(&url, address::VARIABLE);
        }
        let all = contexts()?;
        match address::variable(CONTEXT_VARIABLE).or(all.current.clone()) {
            Some(name) => named(&all, &name, false),
            None => plain(address::DEFAULT, "the default"),
        }
    }

    fn token(&self, target: &Target) -> Result<Token, Failure> {
        let of_file = |path: &Path| match read_secret(path) {
            Ok(text) => Ok(Token { text, from: path.display().to_string() }),
            Err(error) => Err(Failure::usage(format!("{}: {error}", path.display()))),
        };
        if let Some(path) = &self.token_file {
            return of_file(path);
        }
        let of_context = || {
            let context = target.context.as_ref()?;
            let inline = |text: &String| Ok(Token { text: text.clone(), from: target.url_from.clone() });
            context.token_file.as_deref().map(of_file).or(context.token.as_ref().map(inline))
        };
        if let (true, Some(token)) = (target.asked_for, of_context()) {
            return token;
        }
        if let Some(text) = address::variable(TOKEN_VARIABLE) {
            return Ok(Token { text, from: TOKEN_VARIABLE.into() });
        }
        if let Some(path) = address::variable(TOKEN_FILE_VARIABLE) {
            let Token { text, from } = of_file(Path::new(&path))
                .map_err(|failure| Failure::usage(format!("{TOKEN_FILE_VARIABLE}: {}", failure.message)))?;
            return Ok(Token { text, from: format!("{from} ({TOKEN_FILE_VARIABLE})") });
        }
        if let Some(token) = of_context() {
            return token;
        }
        let path = default_data_dir().join(ADMIN_TOKEN);
        of_file(&path).map_err(|failure| {
            Failure::usage(format!(
                "no admin token for {}: {}; give --token-file, or set {TOKEN_VARIABLE} or \
                 {TOKEN_FILE_VARIABLE}",
                target.url, failure.message
            ))
        })
    }
}
