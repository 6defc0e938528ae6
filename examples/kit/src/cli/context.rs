//! Contexts, which are servers by name, and the file that keeps them.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use orch_base::files;
use serde::{Deserialize, Serialize};

use super::{connect::Connect, table};
use crate::{failure::Failure, style::Style};

/// Content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contexts {
    /// Name of the context that is used by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) current: Option<String>,
    #[serde(default)]
    pub(super) contexts: BTreeMap<String, Context>,
}

/// A server with its connection settings.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Context {
    /// Address; earlier files of manager-worker call it `manager`.
    #[serde(alias = "manager")]
    pub(super) server: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ca: Option<PathBuf>,
}

/// Tokens are not printed.
impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("server", &self.server).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Subcommand)]
pub enum ContextCommand {
    /// List the contexts.
    #[command(visible_alias = "ls")]
    List,
    /// Use this context by default.
    Use {
        /// Name of the context.
        name: String,
    },
    /// Add a context from the address, --token-file and --ca of this command line. The first one is used at
    /// once.
    Add {
        /// Name of the context.
        name: String,
        /// Replace the context of this name.
        #[arg(long)]
        replace: bool,
    },
    /// Remove a context.
    #[command(visible_alias = "rm")]
    Remove {
        /// Name of the context.
        name: String,
    },
}

pub(super) fn carry_out(style: &Style, connect: &Connect, command: ContextCommand) -> Result<(), Failure> {
    let path = style.contexts_file();
    let mut all = Contexts::load(&path)?;
    let done = match command {
        ContextCommand::List => return list(style, connect, &all),
        ContextCommand::Use { name } => {
            all.get(&name, style)?;
            all.current = Some(name.clone());
            format!("{name} in use")
        }
        ContextCommand::Add { name, replace } => {
            check_name(&name)?;
            if all.contexts.contains_key(&name) && !replace {
                return Err(Failure::usage(format!(
                    "there is a context {name} already; give --replace to change it"
                )));
            }
            all.contexts.insert(name.clone(), connect.as_context(style)?);
            all.current.get_or_insert_with(|| name.clone());
            format!("{name} added")
        }
        ContextCommand::Remove { name } => {
            all.get(&name, style)?;
            all.contexts.remove(&name);
            all.current.take_if(|current| *current == name);
            format!("{name} removed")
        }
    };
    all.save(&path)?;
    match connect.json {
        true => print_json(&all),
        false => table::print(&format!("{done}\n")),
    }
}

fn list(style: &Style, connect: &Connect, all: &Contexts) -> Result<(), Failure> {
    if connect.json {
        return print_json(all);
    }
    let rows = all.contexts.iter().map(|(name, context)| {
        let token = match (&context.token_file, &context.token) {
            (Some(path), _) => path.display().to_string(),
            (None, Some(_)) => "in the file".into(),
            (None, None) => String::new(),
        };
        let mark = if all.current.as_ref() == Some(name) { "*" } else { "" };
        vec![mark.into(), name.clone(), context.server.clone(), token]
    });
    table::print(&table::render(&["", "NAME", &style.server.to_ascii_uppercase(), "TOKEN"], rows))
}

fn print_json(all: &Contexts) -> Result<(), Failure> {
    let mut shown = all.clone();
    for context in shown.contexts.values_mut() {
        context.token = context.token.take().map(|_| "(hidden)".into());
    }
    table::print_json(&shown)
}

fn check_name(name: &str) -> Result<(), Failure> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match !name.is_empty() && name.len() <= 64 && name.chars().all(good) {
        true => Ok(()),
        false => Err(Failure::usage(format!(
            "{name:?} is no name for a context: take up to 64 letters, digits, dots, dashes and underscores"
        ))),
    }
}

impl Contexts {
    /// Reads the file; a missing one has no contexts. One with a token in it must not be readable by others.
    pub(super) fn load(path: &Path) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text.map_err(|error| failed(&error))?,
        };
        let all: Self = toml::from_str(&text).map_err(|error| failed(&error.message()))?;
        let mode = fs::metadata(path).map_err(|error| failed(&error))?.permissions().mode();
        if mode & 0o077 != 0 && all.contexts.values().any(|context| context.token.is_some()) {
            return Err(failed(&"it holds a token and may be read by others; chmod 600 it"));
        }
        Ok(all)
    }

    pub(super) fn get(&self, name: &str, style: &Style) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let known = match known.is_empty() {
                true => format!(
                    "there are none yet: {} context add NAME {} URL",
                    style.program,
                    style.server_flag()
                ),
                false => format!("there are {}", known.join(", ")),
            };
            Failure::usage(format!("there is no context {name:?}; {known}"))
        })
    }

    /// Replaces the file as a whole.
    fn save(&self, path: &Path) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::other(format!("{}: {error}", path.display()));
        let text = toml::to_string(self).map_err(|error| Failure::other(error.to_string()))?;
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        files::replace(path, text.as_bytes()).map_err(failed)
    }
}
