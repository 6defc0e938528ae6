//! Redis by `redis`.

use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture};
use redis::{Client, aio::MultiplexedConnection};

use super::key;
use crate::{BYTES, Raw, WATCHED, next, unused_name};

pub(super) struct Redis {
    client: Client,
    connection: MultiplexedConnection,
    name: String,
}

impl Redis {
    pub(super) async fn open(url: &str) -> Self {
        let client = Client::open(url.split('?').next().unwrap_or(url)).expect("a URL");
        let connection = client.get_multiplexed_async_connection().await.expect("the server is there");
        Self { client, connection, name: unused_name() }
    }

    fn log(&self) -> String {
        format!("{{{}}}:log", self.name)
    }

    async fn put(&self, key: String, claim: bool) {
        let (name, number, value) = (&self.name, next(), vec![7u8; BYTES]);
        let mut pipe = redis::pipe();
        pipe.atomic();
        let values = format!("{{{name}}}:values");
        if claim {
            pipe.hset_nx(&values, &key, &value)
        } else {
            pipe.hset(&values, &key, &value)
        };
        pipe.hset(format!("{{{name}}}:versions"), &key, number);
        pipe.zadd(format!("{{{name}}}:index"), &key, 0);
        pipe.cmd("HINCRBY").arg(format!("{{{name}}}:meta")).arg("revision").arg(1);
        pipe.cmd("XADD").arg(self.log()).arg("*").arg("revision").arg(number).arg(&key).arg(&value);
        pipe.cmd("PUBLISH").arg(name).arg(number);
        pipe.exec_async(&mut self.connection.clone()).await.expect("it is written");
    }
}

impl Raw for Redis {
    fn write(&mut self, together: u64, claim: bool) -> BoxFuture<'_, ()> {
        let all = (0..together).map(|_| self.put(key(next(), claim), claim));
        futures_util::future::join_all(all).map(drop).boxed()
    }

    fn seen(&mut self, times: u64) -> BoxFuture<'_, Duration> {
        async move {
            let mut ear = self.client.get_async_pubsub().await.expect("another connection");
            ear.subscribe(&self.name).await.expect("it listens");
            let mut news = ear.on_message();
            let reader = self.client.get_multiplexed_async_connection().await.expect("another connection");
            let begin = Instant::now();
            for _ in 0..times {
                let heard = async {
                    news.next().await.expect("the connection is there");
                    let mut newest = redis::cmd("XREVRANGE");
                    newest.arg(self.log()).arg("+").arg("-").arg("COUNT").arg(1);
                    newest
                        .query_async::<Vec<(String, Vec<Vec<u8>>)>>(&mut reader.clone())
                        .await
                        .expect("the log")
                };
                let ((), newest) = futures_util::join!(self.put(WATCHED.into(), false), heard);
                let [_, _, key, value] = &newest[0].1[..] else { panic!("not an entry of the log") };
                assert_eq!((&**key, value.len()), (WATCHED.as_bytes(), BYTES));
            }
            begin.elapsed()
        }
        .boxed()
    }
}
