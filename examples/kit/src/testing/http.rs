//! One request on one connection.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

pub use orch_net::http::testkit::Answer;

use super::PATIENCE;

/// Sends a request with these headers, each ended by a line break, and reads until the server closes.
#[must_use]
pub fn request(address: &str, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    Answer::parse(answer)
}
