//! How commands reach the manager, and how they find the task that somebody means.

use std::path::PathBuf;

use clap::Args;
use orch_core::{engine::TaskFilter, model::TaskId};
use orch_net::http::{Client, ClientConfig};

use super::exit::Failure;
use crate::{
    data_dir::{read_ca, read_secret},
    manager::{ADMIN_TOKEN, default_data_dir},
};

#[derive(Clone, Debug, Args)]
pub(super) struct Connect {
    /// Where the manager is.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "ORCH_MANAGER",
        default_value = "http://127.0.0.1:3000"
    )]
    manager: String,
    /// File with the admin token. [default: ORCH_TOKEN, or that of a manager of this user on this machine]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificate of the authority that vouches for the manager, PEM.
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print JSON for programs instead of tables for people.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

impl Connect {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let mut config = ClientConfig::new(&self.manager, self.token()?);
        config.ca_pem = self.ca.as_deref().map(read_ca).transpose().map_err(Failure::usage)?;
        Ok(Client::new(&config)?)
    }

    fn token(&self) -> Result<String, Failure> {
        if let Some(path) = &self.token_file {
            return read_secret(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())));
        }
        if let Ok(token) = std::env::var("ORCH_TOKEN") {
            return Ok(token);
        }
        let path = default_data_dir().join(ADMIN_TOKEN);
        read_secret(&path).map_err(|error| {
            Failure::usage(format!(
                "no admin token: {}: {error}; give --token-file, or set ORCH_TOKEN",
                path.display()
            ))
        })
    }
}

/// The task that `reference` means: an id, the beginning of one, or a name. Names need not be unique; one that several
/// tasks have is refused with their ids.
pub(super) async fn resolve(client: &Client, reference: &str) -> Result<TaskId, Failure> {
    if let Ok(id) = reference.parse() {
        return Ok(id);
    }
    const SHOWN: usize = 10;
    let named = TaskFilter { name: Some(reference.into()), limit: SHOWN, ..TaskFilter::default() };
    let mut found = client.tasks(&named).await?.tasks;
    let could_be_id = reference.len() >= 2 && reference.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if could_be_id {
        let prefix = Some(reference.to_ascii_lowercase());
        let by_id = TaskFilter { id_prefix: prefix, limit: SHOWN, ..TaskFilter::default() };
        found.extend(client.tasks(&by_id).await?.tasks);
    }
    let mut ids: Vec<TaskId> = found.iter().map(|task| task.view.record.id).collect();
    ids.sort_unstable();
    ids.dedup();
    match ids.as_slice() {
        [] => Err(Failure::unknown(format!("no task has the name or id {reference:?}"))),
        [id] => Ok(*id),
        several => {
            let list: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(Failure::usage(format!(
                "{reference:?} means several tasks; give one of these ids:\n  {}",
                list.join("\n  ")
            )))
        }
    }
}
