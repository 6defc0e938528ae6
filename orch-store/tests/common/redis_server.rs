//! A Redis server of one test, which may damage, fill and kill it.

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use redis::FromRedisValue;
use tempfile::TempDir;

/// Server on a free port of loopback with its data in a directory of its own. It is killed with its handle.
pub(crate) struct RedisServer {
    dir: TempDir,
    port: u16,
    options: Vec<String>,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts a server that keeps nothing on its disk but what the options say.
    pub(crate) async fn start(options: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut server = Self { dir: TempDir::new().unwrap(), port, options, process: None };
        server.start_again().await;
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// After it was killed, with what is on its disk.
    pub(crate) async fn start_again(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--port", &self.port.to_string(), "--dir"]);
        command.arg(self.dir.path()).args(&self.options).stdout(Stdio::null());
        self.process = Some(command.spawn().unwrap());
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(self.process.as_mut().unwrap().try_wait().unwrap().is_none(), "redis-server ended");
            tokio::task::yield_now().await;
        }
    }

    /// Stops and continues the process.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Runs commands, whose words are separated by blanks. A no-break space is a blank within a word, and a
    /// word of nothing else is empty.
    pub(crate) async fn run(&self, commands: &[&str]) {
        for command in commands {
            self.query::<redis::Value>(command).await;
        }
    }

    pub(crate) async fn query<T: FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            command.arg(if word == "\u{a0}" { String::new() } else { word.replace('\u{a0}', " ") });
        });
        command.query_async(&mut self.connection().await).await.unwrap()
    }

    /// Everything that it holds, but for clocks and access times.
    pub(crate) async fn dump(&self) -> Vec<(String, Vec<u8>)> {
        let mut names: Vec<String> = self.query("KEYS *").await;
        names.sort();
        let mut dump = Vec::new();
        for name in names {
            let content = self.query(&format!("DUMP {name}")).await;
            dump.push((name, content));
        }
        dump
    }

    /// Scripts that it has run.
    pub(crate) async fn calls(&self) -> u64 {
        let stats: String = self.query("INFO commandstats").await;
        let calls = |line: &str| line.split_once("calls=")?.1.split_once(',')?.0.parse::<u64>().ok();
        stats.lines().filter(|line| line.starts_with("cmdstat_evalsha")).filter_map(calls).sum()
    }

    /// A connection past the store.
    pub(crate) async fn connection(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}
