//! Calls that outlast a server which is away, for example during its restart.

use std::time::Duration;

use orch_base::backoff::Backoff;
use orch_net::http::ClientError;

/// Repeats a call, with a back-off, for as long as its error is one that trying again may mend. Cancel safe
/// where the call is.
pub(crate) async fn until_answered<T, F>(call: impl Fn() -> F) -> Result<T, ClientError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        match call().await {
            Err(error) if error.is_retryable() => tokio::time::sleep(backoff.next_delay()).await,
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_call_is_repeated_while_trying_again_may_help() {
        let calls = Cell::new(0);
        let call = async |last: ClientError| {
            calls.set(calls.get() + 1);
            if calls.get() < 3 { Err::<(), _>(ClientError::Unreachable("away".into())) } else { Err(last) }
        };
        let last = || ClientError::Protocol("not mended by that".into());
        assert_eq!(orch_core::block_on(until_answered(|| call(last()))), Err(last()));
        assert_eq!(calls.get(), 3);
    }
}
