//! rust-orch's protocol, both sides of it: [`routes`] serve its clients and workers beside our own, and
//! [`Link`] joins our worker to a manager of theirs.

mod link;
mod manager;
mod wire;

pub use self::{
    link::{Link, LinkConfig, OpenError},
    manager::{Config, routes},
};
