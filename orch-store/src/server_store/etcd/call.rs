//! One call of one member, by the name of its method.

use futures_util::Stream;
use prost::Message;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    metadata::{AsciiMetadataValue, MetadataValue},
    transport::Channel,
};
use tonic_prost::ProstCodec;

/// A member, and what shows it who we are.
pub(super) struct Caller {
    pub(super) channel: Channel,
    pub(super) token: Option<AsciiMetadataValue>,
}

impl Caller {
    pub(super) async fn unary<Q, A>(self, path: &'static str, message: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let (mut client, request) = self.ready(message).await?;
        let path = PathAndQuery::from_static(path);
        Ok(client.unary(request, path, ProstCodec::default()).await?.into_inner())
    }

    pub(super) async fn streaming<Q, A>(
        self,
        path: &'static str,
        messages: impl Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let (mut client, mut request) = self.ready(messages).await?;
        // A member that lost sight of the others ends the stream, instead of being silent for ever.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        let path = PathAndQuery::from_static(path);
        Ok(client.streaming(request, path, ProstCodec::default()).await?.into_inner())
    }

    async fn ready<T>(self, content: T) -> Result<(Grpc<Channel>, Request<T>), Status> {
        // What a page or a batch may hold is bounded by what was asked for and by etcd.
        let mut client = Grpc::new(self.channel).max_decoding_message_size(usize::MAX);
        client.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        let mut request = Request::new(content);
        if let Some(token) = self.token {
            request.metadata_mut().insert("token", token);
        }
        Ok((client, request))
    }
}
