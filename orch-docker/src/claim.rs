//! Lock that admits one runtime at a time for the containers of one cluster and owner on one engine.

use std::io;

use orch_core::runtime::{RuntimeError, RuntimeErrorKind};
use tokio::sync::OnceCell;

use crate::{engine::Engine, identity::Identity};

/// Claim on the identity of our containers against other agents of this machine: two with one identity, such
/// as an agent and a copy of its data directory, would each adopt and remove the containers of the other. The
/// claim is a name in the kernel that is released with the process, however that ends. Agents on other
/// machines or with a network of their own are not noticed.
#[derive(Debug, Default)]
pub(crate) struct Claim(OnceCell<Option<Held>>);

impl Claim {
    /// Claims the identity, or fails because another process has it. A repeated call tries again.
    pub(crate) async fn take(&self, engine: &Engine, identity: &Identity) -> Result<(), RuntimeError> {
        self.0.get_or_try_init(|| take(engine, identity)).await.map(drop)
    }
}

async fn take(engine: &Engine, identity: &Identity) -> Result<Option<Held>, RuntimeError> {
    let info = engine.ask(engine.docker.info()).await;
    let info = info.map_err(|error| error.into_runtime("ask the engine for its name"))?;
    // Without an id engines cannot be told apart, and no agent should be refused without proof.
    let Some(engine) = info.id.filter(|id| !id.is_empty()) else { return Ok(None) };
    match hold(&format!("orch-docker-{:016x}", digest(&[&engine, identity.cluster(), identity.owner()]))) {
        Ok(held) => Ok(Some(held)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(RuntimeError::new(
            RuntimeErrorKind::Unavailable,
            format!(
                "another agent on this machine has the containers of cluster {:?} and owner {:?}: end it, or give each \
                 agent an owner of its own (a data directory must not be copied)",
                identity.cluster(),
                identity.owner()
            ),
        )),
        Err(error) => {
            tracing::warn!(%error, "another agent with the same cluster and owner would not be detected");
            Ok(None)
        }
    }
}

#[cfg(target_os = "linux")]
type Held = std::os::unix::net::UnixDatagram;

#[cfg(target_os = "linux")]
fn hold(name: &str) -> io::Result<Held> {
    use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr};
    Held::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

#[cfg(not(target_os = "linux"))]
type Held = ();

#[cfg(not(target_os = "linux"))]
fn hold(_: &str) -> io::Result<Held> {
    Err(io::ErrorKind::Unsupported.into())
}

/// FNV-1a, which every build of the program computes alike; with the length of each text, so that different
/// lists differ in their input.
fn digest(texts: &[&str]) -> u64 {
    let lengths = texts.iter().flat_map(|text| text.len().to_le_bytes());
    let bytes = lengths.chain(texts.iter().flat_map(|text| text.bytes()));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_told_apart() {
        assert_eq!(digest(&["a", "bc"]), digest(&["a", "bc"]));
        for other in [["ab", "c"], ["a", "bd"], ["", "abc"], ["bc", "a"]] {
            assert_ne!(digest(&["a", "bc"]), digest(&other));
        }
    }
}
