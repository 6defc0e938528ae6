//! An etcd server of one test, which may restore, stop, fill and kill it.

use std::{
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// Server on free ports of loopback with its data in a directory of its own. It is killed with its handle.
pub(crate) struct EtcdServer {
    dir: TempDir,
    client: String,
    peer: String,
    /// Restored snapshots so far: each has a data directory of its own.
    restored: u32,
    options: Vec<String>,
    process: Option<Child>,
}

impl EtcdServer {
    pub(crate) async fn start(options: &[&str]) -> Self {
        let address = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let (dir, client, peer) = (TempDir::new().unwrap(), address(), address());
        let mut server = Self { dir, client, peer, restored: 0, options, process: None };
        server.start_again().await;
        server
    }

    /// Host and port.
    pub(crate) fn member(&self) -> &str {
        &self.client
    }

    pub(crate) fn save(&self) {
        let snapshot = self.snapshot();
        let _ = std::fs::remove_file(&snapshot);
        self.ctl(&["snapshot", "save", snapshot.to_str().unwrap()]);
    }

    /// Kills it, and starts it with what was saved: with the same name, token and addresses, as from a
    /// backup.
    pub(crate) async fn restore(&mut self) {
        self.kill();
        self.restored += 1;
        let (data, peer) = (self.data(), format!("http://{}", self.peer));
        let cluster = format!("default={peer}");
        let snapshot = self.snapshot();
        let mut args = vec!["snapshot", "restore", snapshot.to_str().unwrap()];
        args.extend(["--data-dir", data.to_str().unwrap(), "--name", "default"]);
        args.extend(["--initial-cluster", &cluster, "--initial-advertise-peer-urls", &peer]);
        self.ctl(&args);
        self.start_again().await;
    }

    /// Kills it, and starts it without data.
    pub(crate) async fn replace(&mut self) {
        self.kill();
        self.restored += 1;
        self.start_again().await;
    }

    /// Stops and continues the process.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Kills it, and starts it with other options.
    pub(crate) async fn restart(&mut self, options: &[&str]) {
        self.kill();
        self.options = options.iter().map(|option| (*option).to_owned()).collect();
        self.start_again().await;
    }

    /// `etcdctl` on this server.
    pub(crate) fn ctl(&self, args: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.client]).args(args);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    async fn start_again(&mut self) {
        let (client, peer) = (format!("http://{}", self.client), format!("http://{}", self.peer));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.data());
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]).args(&self.options);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().unwrap());
        while TcpStream::connect(&self.client).is_err() {
            assert!(self.process.as_mut().unwrap().try_wait().unwrap().is_none(), "etcd ended");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join(format!("data-{}", self.restored))
    }

    fn snapshot(&self) -> PathBuf {
        self.dir.path().join("snapshot")
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}
