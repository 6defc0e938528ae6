//! Redis by `redis`.

use futures_util::{FutureExt as _, future::BoxFuture};

use super::key;
use crate::{BYTES, Raw, next, unused_name};

pub(super) struct Redis(redis::aio::MultiplexedConnection, String);

impl Redis {
    pub(super) async fn open(url: &str) -> Self {
        let client = redis::Client::open(url.split('?').next().unwrap_or(url)).expect("a URL");
        Self(client.get_multiplexed_async_connection().await.expect("the server is there"), unused_name())
    }
}

impl Raw for Redis {
    fn write(&mut self, together: u64, claim: bool) -> BoxFuture<'_, ()> {
        async move {
            let all = (0..together).map(|_| {
                let (mut connection, name, number) = (self.0.clone(), &self.1, next());
                let key = key(number, claim);
                async move {
                    let value = vec![7u8; BYTES];
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
                    let log = format!("{{{name}}}:log");
                    pipe.cmd("XADD").arg(log).arg("*").arg("revision").arg(number).arg(&key).arg(&value);
                    pipe.cmd("PUBLISH").arg(name).arg(number);
                    pipe.exec_async(&mut connection).await.expect("it is written");
                }
            });
            futures_util::future::join_all(all).await;
        }
        .boxed()
    }
}
