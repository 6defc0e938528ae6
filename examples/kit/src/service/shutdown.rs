//! Shutdown of a service on request.

use tokio::signal::unix::{SignalKind, signal};

/// Returns on the first SIGINT or SIGTERM. A second one ends the process at once.
///
/// # Errors
/// The handlers cannot be installed.
pub async fn requested() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::abort();
    });
    Ok(())
}
