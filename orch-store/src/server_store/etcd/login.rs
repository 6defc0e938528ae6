//! Logging in with a password: members give a token for it, which ends after a while and with a member's
//! restart.

use parking_lot::{Mutex, MutexGuard};
use tonic::{Status, metadata::AsciiMetadataValue, transport::Channel};

use super::{call::Caller, config::EtcdLogin, wire};

pub(super) struct Login {
    who: EtcdLogin,
    token: Mutex<Option<AsciiMetadataValue>>,
    /// Those who find that there is no token wait for one of them to get one.
    asking: tokio::sync::Mutex<()>,
}

impl Login {
    pub(super) fn new(who: EtcdLogin) -> Self {
        Self { who, token: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    /// The token, asked of this member if there is none.
    pub(super) async fn token(&self, channel: &Channel) -> Result<AsciiMetadataValue, Status> {
        if let Some(token) = self.known() {
            return Ok(token);
        }
        let _one_at_a_time = self.asking.lock().await;
        if let Some(token) = self.known() {
            return Ok(token);
        }
        let EtcdLogin { user, password } = self.who.clone();
        let request = wire::AuthenticateRequest { name: user, password };
        let answer: wire::AuthenticateResponse =
            Caller { channel: channel.clone(), token: None }.unary(wire::AUTHENTICATE, request).await?;
        let mut token = AsciiMetadataValue::try_from(answer.token)
            .map_err(|_| Status::internal("the token is not one of etcd"))?;
        // Kept out of what is logged of requests.
        token.set_sensitive(true);
        self.current().replace(token.clone());
        Ok(token)
    }

    /// This token is not taken any more.
    pub(super) fn forget(&self, token: &AsciiMetadataValue) {
        self.current().take_if(|current| current == token);
    }

    fn known(&self) -> Option<AsciiMetadataValue> {
        self.current().clone()
    }

    fn current(&self) -> MutexGuard<'_, Option<AsciiMetadataValue>> {
        self.token.lock()
    }
}
