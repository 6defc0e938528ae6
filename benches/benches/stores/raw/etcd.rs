//! etcd by `tonic`, with hand-written messages.

use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use prost::Message;
use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use super::key;
use crate::{BYTES, Raw, WATCHED, next};

/// One connection to the first member, as the clients of etcd have it. etcd keeps a version, a log and the
/// number of the revision with each record, so that a commit is one put in a transaction, with one comparison
/// for a claim.
pub(super) struct Etcd {
    member: String,
    channel: Channel,
    namespace: String,
}

impl Etcd {
    /// Opens `etcd://host:port,host:port/namespace`.
    pub(super) async fn open(url: &str) -> Self {
        let (members, namespace) =
            url.trim_start_matches("etcd://").split_once('/').expect("members and a namespace");
        let member = members.split(',').next().unwrap_or(members).to_owned();
        let channel = connect(&member).await;
        Self { member, channel, namespace: format!("{namespace}-raw") }
    }

    fn put(&self, key: &str, claim: bool) -> impl Future<Output = ()> + use<> {
        let key = format!("{}/{key}", self.namespace).into_bytes();
        let compare = claim.then(|| Compare { target: Compare::MOD, key: key.clone(), revision: Some(0) });
        let put = RequestOp { put: Some(PutRequest { key, value: vec![7; BYTES] }) };
        let txn = TxnRequest { compare: compare.into_iter().collect(), success: vec![put] };
        let mut client = Grpc::new(self.channel.clone());
        async move {
            client.ready().await.expect("the member is there");
            let path = PathAndQuery::from_static("/etcdserverpb.KV/Txn");
            let codec = ProstCodec::<TxnRequest, TxnResponse>::default();
            let answer = client.unary(Request::new(txn), path, codec).await.expect("it is written");
            assert!(answer.into_inner().succeeded, "the key was not there");
        }
    }
}

async fn connect(member: &str) -> Channel {
    let channel = Channel::from_shared(format!("http://{member}")).expect("an address");
    channel.tcp_nodelay(true).connect().await.expect("the member is there")
}

impl Raw for Etcd {
    fn write(&mut self, together: u64, claim: bool) -> BoxFuture<'_, ()> {
        let all = (0..together).map(|_| self.put(&key(next(), claim), claim));
        futures_util::future::join_all(all).map(drop).boxed()
    }

    fn seen(&mut self, times: u64) -> BoxFuture<'_, Duration> {
        async move {
            let mut client = Grpc::new(connect(&self.member).await);
            client.ready().await.expect("another connection");
            let key = format!("{}/{WATCHED}", self.namespace).into_bytes();
            let create = WatchRequest { create: Some(WatchCreateRequest { key }) };
            let requests = Request::new(stream::iter([create]).chain(stream::pending()));
            let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
            let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
            let mut news = client.streaming(requests, path, codec).await.expect("a watch").into_inner();
            assert!(news.message().await.expect("a watch").is_some_and(|answer| answer.created));
            let begin = Instant::now();
            for _ in 0..times {
                let heard =
                    async { news.message().await.expect("the watch goes on").expect("the watch goes on") };
                let ((), news) = futures_util::join!(self.put(WATCHED, false), heard);
                assert!(
                    news.events
                        .iter()
                        .all(|event| event.kv.as_ref().is_some_and(|kv| kv.value.len() == BYTES))
                );
                assert_eq!(news.events.len(), 1);
            }
            begin.elapsed()
        }
        .boxed()
    }
}

#[derive(Clone, PartialEq, Message)]
struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    success: Vec<RequestOp>,
}

/// Condition that a key was last written by a revision; by zero, that it does not exist.
#[derive(Clone, PartialEq, Message)]
struct Compare {
    #[prost(int32, tag = "2")]
    target: i32,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(int64, optional, tag = "6")]
    revision: Option<i64>,
}

impl Compare {
    const MOD: i32 = 2;
}

#[derive(Clone, PartialEq, Message)]
struct RequestOp {
    #[prost(message, optional, tag = "2")]
    put: Option<PutRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct TxnResponse {
    #[prost(bool, tag = "2")]
    succeeded: bool,
}

#[derive(Clone, PartialEq, Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create: Option<WatchCreateRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchCreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchResponse {
    #[prost(bool, tag = "3")]
    created: bool,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(message, optional, tag = "2")]
    kv: Option<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}
