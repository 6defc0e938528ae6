//! Configuration of the programs of a style: addresses, data directories and tokens, amounts with units, and
//! options that come from flags, the environment and a file.

pub mod address;
pub mod data_dir;
mod file;
pub mod layers;
pub mod secret;
pub mod units;

/// Value of an environment variable; an empty one counts as unset.
#[must_use]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}
