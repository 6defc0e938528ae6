//! [`Style`]: the names by which a deployment style goes on terminals, in files and in the environment.

use std::path::PathBuf;

use crate::config::data_dir;

/// Names of a style. A constant of each style; everything that the kit prints, reads from the environment or
/// puts into directories is named by it.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Program of the command line, as people type it: `orch`.
    pub program: &'static str,
    /// Noun for the server that the command line calls: `manager`. Also its flag, `--manager`.
    pub server: &'static str,
    /// Command that starts a server: `orch-manager`.
    pub start: &'static str,
    /// Address of a server on this machine with its defaults.
    pub url: &'static str,
    /// Beginning of the names of environment variables: `ORCH`.
    pub variables: &'static str,
    /// Directory of the style below those for data and configuration: `orch`.
    pub folder: &'static str,
}

/// File of the admin token, which permits everything, in the data directory of a server.
pub const ADMIN_TOKEN: &str = "admin.token";

impl Style {
    /// Name of an environment variable: `ORCH_TOKEN` for `TOKEN`.
    #[must_use]
    pub fn variable(&self, name: &str) -> String {
        format!("{}_{name}", self.variables)
    }

    /// Variable with the address of the server: `ORCH_MANAGER`.
    #[must_use]
    pub fn server_variable(&self) -> String {
        self.variable(&self.server.to_ascii_uppercase())
    }

    /// Flag with the address of the server: `--manager`.
    #[must_use]
    pub fn server_flag(&self) -> String {
        format!("--{}", self.server)
    }

    /// Default data directory of a part of the style: below `XDG_DATA_HOME`, or `~/.local/share`.
    #[must_use]
    pub fn data_dir(&self, part: &str) -> PathBuf {
        data_dir::base_dir("XDG_DATA_HOME", ".local/share").join(self.folder).join(part)
    }

    /// File of contexts: below `XDG_CONFIG_HOME`, or `~/.config`.
    #[must_use]
    pub fn contexts_file(&self) -> PathBuf {
        data_dir::base_dir("XDG_CONFIG_HOME", ".config").join(self.folder).join("config.toml")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const STYLE: Style = Style {
        program: "orch",
        server: "manager",
        start: "orch-manager",
        url: "http://127.0.0.1:3000",
        variables: "ORCH",
        folder: "orch",
    };

    #[test]
    fn names_follow_from_each_other() {
        assert_eq!(
            (STYLE.server_variable().as_str(), STYLE.server_flag().as_str()),
            ("ORCH_MANAGER", "--manager")
        );
        assert_eq!(STYLE.variable("TOKEN"), "ORCH_TOKEN");
        assert!(STYLE.data_dir("worker").ends_with("orch/worker"));
        assert!(STYLE.contexts_file().ends_with("orch/config.toml"));
    }
}
