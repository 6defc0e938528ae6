//! Connection of the commands to a server.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use orch_core::model::Namespace;
use orch_net::http::{Client, ClientConfig};

use super::{
    context::{Context, Contexts},
    session::Session,
};
use crate::{
    config::{address, secret, variable},
    failure::{Cause, Failure},
    style::{ADMIN_TOKEN, Style},
};

/// Options of every command. The texts that name a style's server and variables are put in by
/// [`describe`](super::describe).
#[derive(Clone, Debug, Args)]
pub struct Connect {
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "server")]
    context: Option<String>,
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print JSON for programs instead of tables for people.
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[arg(short, long, global = true, value_name = "NAME")]
    namespace: Option<Namespace>,
}

/// The command with what its options are called in this style.
pub(super) fn describe(command: clap::Command, style: &Style) -> clap::Command {
    let (server, variable) = (style.server, |name: &str| style.variable(name));
    let url = format!(
        "Address of the {server}. [default: {}, that of the context, or {}]",
        style.server_variable(),
        style.url
    );
    let context = format!(
        "Name of the {server}'s context; see {} context. [default: {}, or the current one]",
        style.program,
        variable("CONTEXT")
    );
    let token = format!(
        "File with the admin token. [default: {} itself, the file {}, that of the context, or that of a {server} of this user \
         on this machine]",
        variable("TOKEN"),
        variable("TOKEN_FILE")
    );
    let ca = format!(
        "Certificate of the authority that signed the {server}'s certificate, PEM. [default: that of the context]"
    );
    let namespace = format!(
        "Only tasks of this namespace; run puts its task there. [default: {}, or all]",
        variable("NAMESPACE")
    );
    command
        .mut_arg("server", |arg| arg.long(server).help(url))
        .mut_arg("context", |arg| arg.help(context))
        .mut_arg("token_file", |arg| arg.help(token))
        .mut_arg("ca", |arg| arg.help(ca))
        .mut_arg("namespace", |arg| arg.help(namespace))
}

/// A server, and the source of its settings.
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
    /// A session on the server that the options, the environment and the contexts name.
    pub(super) fn session(&self, style: &Style) -> Result<Session, Failure> {
        let target = self.target(style)?;
        let mut config = ClientConfig::new(&target.url, self.token(style, &target)?.text);
        let ca = self.ca.as_deref().or(target.context.as_ref().and_then(|context| context.ca.as_deref()));
        config.ca_pem = ca.map(secret::read_ca).transpose().map_err(Failure::usage)?;
        let api = Arc::new(Client::new(&config)?);
        Ok(Session::new(*style, api).json(self.json).namespace(self.namespace(style)?))
    }

    /// Selected namespace, if there is one.
    fn namespace(&self, style: &Style) -> Result<Option<Namespace>, Failure> {
        let name = style.variable("NAMESPACE");
        match (&self.namespace, variable(&name)) {
            (Some(namespace), _) => Ok(Some(namespace.clone())),
            (None, Some(text)) => {
                text.parse().map(Some).map_err(|error| Failure::usage(format!("{name}: {error}")))
            }
            (None, None) => Ok(None),
        }
    }

    /// The server of the command line as a context to store under a name.
    pub(super) fn as_context(&self, style: &Style) -> Result<Context, Failure> {
        let absolute = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
        let flag = style.server_flag();
        let server = self
            .server
            .as_deref()
            .ok_or_else(|| Failure::usage(format!("give the {}'s address: {flag} URL", style.server)))?;
        Ok(Context {
            server: address::normal(server, &flag, style).map_err(Failure::usage)?,
            token_file: absolute(&self.token_file)?,
            token: None,
            ca: absolute(&self.ca)?,
        })
    }

    /// Adds the server and advice to a failure.
    pub(super) fn advise(&self, style: &Style, mut failure: Failure) -> Failure {
        let Some(cause) = failure.cause else { return failure };
        let Ok(target) = self.target(style) else { return failure };
        let (server, url, from) = (style.server, &target.url, &target.url_from);
        let token = self.token(style, &target).map(|token| token.from).unwrap_or_default();
        let (message, variable) = (&failure.message, style.variable("TOKEN"));
        failure.message = match cause {
            Cause::Unreachable if message.contains("certificate") => format!(
                "the {server} at {url} ({from}) shows a certificate that is not trusted: {message}; name the authority that \
                 vouches for it with --ca"
            ),
            Cause::Unreachable => format!(
                "the {server} at {url} ({from}) cannot be reached: {message}\n  Start it with {}, or name another with {}, {} \
                 or --context.",
                style.start,
                style.server_flag(),
                style.server_variable()
            ),
            Cause::UnknownToken => format!(
                "the {server} at {url} does not know the token of {token}; give that of the file {ADMIN_TOKEN} in its data \
                 directory with --token-file or {variable}"
            ),
            Cause::WeakToken => format!(
                "the token of {token} is not enough for this at {url}; give that of the file \
                 {ADMIN_TOKEN} with --token-file or {variable}"
            ),
        };
        failure
    }

    /// Precedence: flag, variable, context.
    fn target(&self, style: &Style) -> Result<Target, Failure> {
        let plain = |text: &str, from: &str| {
            let url = address::normal(text, from, style).map_err(Failure::usage)?;
            Ok(Target { url, url_from: from.to_owned(), context: None, asked_for: false })
        };
        let named = |all: &Contexts, name: &str, asked_for: bool| {
            let (context, from) = (all.get(name, style)?.clone(), format!("context {name}"));
            let url = address::normal(&context.server, &from, style).map_err(Failure::usage)?;
            Ok(Target { url, url_from: from, context: Some(context), asked_for })
        };
        let contexts = || Contexts::load(&style.contexts_file());
        if let Some(url) = &self.server {
            return plain(url, &style.server_flag());
        }
        if let Some(name) = &self.context {
            return named(&contexts()?, name, true);
        }
        let server = style.server_variable();
        if let Some(url) = variable(&server) {
            return plain(&url, &server);
        }
        let all = contexts()?;
        match variable(&style.variable("CONTEXT")).or(all.current.clone()) {
            Some(name) => named(&all, &name, false),
            None => plain(style.url, "the default"),
        }
    }

    fn token(&self, style: &Style, target: &Target) -> Result<Token, Failure> {
        let (token_variable, file_variable) = (style.variable("TOKEN"), style.variable("TOKEN_FILE"));
        let of_file = |path: &Path| match secret::read(path) {
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
        if let Some(text) = variable(&token_variable) {
            return Ok(Token { text, from: token_variable });
        }
        if let Some(path) = variable(&file_variable) {
            let Token { text, from } = of_file(Path::new(&path))
                .map_err(|failure| Failure::usage(format!("{file_variable}: {}", failure.message)))?;
            return Ok(Token { text, from: format!("{from} ({file_variable})") });
        }
        if let Some(token) = of_context() {
            return token;
        }
        let path = style.data_dir(style.server).join(ADMIN_TOKEN);
        of_file(&path).map_err(|failure| {
            Failure::usage(format!(
                "no admin token for {}: {}; give --token-file, or set {token_variable} or {file_variable}",
                target.url, failure.message
            ))
        })
    }
}
