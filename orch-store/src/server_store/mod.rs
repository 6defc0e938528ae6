//! Stores on a server that processes share.

#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod log_follower;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "redis")]
pub mod redis;
mod retry;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod tls;
