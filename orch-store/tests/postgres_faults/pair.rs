//! A primary with a physical standby, on free ports of loopback, for one test: it may kill the one and
//! promote the other.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use super::common::{unused_name, variable};

/// User of the server processes, because PostgreSQL refuses to run as root.
const USER: &str = "postgres";

/// Acknowledgement of commits by the standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standby {
    Asynchronous,
    Synchronous,
}

/// Both servers stop when it is dropped.
pub(crate) struct Pair {
    dir: PathBuf,
    primary: Server,
    standby: Server,
}

struct Server {
    data: PathBuf,
    port: u16,
}

impl Pair {
    /// Starts both, and waits until the standby follows.
    pub(crate) async fn start(standby: Standby) -> Self {
        tokio::task::spawn_blocking(move || Self::start_now(standby)).await.unwrap()
    }

    fn start_now(standby: Standby) -> Self {
        let dir = std::env::temp_dir().join(format!("orch-test-{}", unused_name()));
        fs::DirBuilder::new().mode(0o755).create(&dir).unwrap();
        if is_root() {
            let id = |option| read(Command::new("id").args([option, USER])).parse().unwrap();
            chown(&dir, Some(id("-u")), Some(id("-g"))).unwrap();
        }
        let server = |name: &str| Server { data: dir.join(name), port: free_port() };
        let pair = Self { primary: server("primary"), standby: server("standby"), dir: dir.clone() };
        let mut initdb = program("initdb");
        initdb.args(["-U", "orch", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"]);
        read(initdb.arg(&pair.primary.data));
        pair.primary.serve("");
        let mut copy = program("pg_basebackup");
        copy.args(["-h", "127.0.0.1", "-U", "orch", "-c", "fast", "--no-sync", "-p"]);
        read(copy.arg(pair.primary.port.to_string()).arg("-D").arg(&pair.standby.data));
        fs::write(pair.standby.data.join("standby.signal"), "").unwrap();
        let primary = format!("host=127.0.0.1 port={} user=orch application_name=standby", pair.primary.port);
        pair.standby.serve(&format!("-c primary_conninfo='{primary}'"));
        pair.primary.wait_for("SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'");
        if standby == Standby::Synchronous {
            pair.set("synchronous_standby_names", "standby");
            pair.primary.wait_for("SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'");
        }
        pair
    }

    /// URL with both hosts.
    pub(crate) fn url(&self) -> String {
        let (primary, standby) = (self.primary.port, self.standby.port);
        format!("postgres://orch@127.0.0.1:{primary},127.0.0.1:{standby}/postgres")
    }

    /// URL of the primary alone.
    pub(crate) fn primary_url(&self) -> String {
        format!("postgres://orch@127.0.0.1:{}/postgres", self.primary.port)
    }

    /// Changes a setting of the primary, for the sessions that it has as well.
    pub(crate) fn set(&self, name: &str, value: &str) {
        self.primary.psql(&format!("ALTER SYSTEM SET {name} = '{value}'"));
        self.primary.psql("SELECT pg_reload_conf()");
        self.primary.wait_for(&format!("SELECT current_setting('{name}') = '{value}'"));
    }

    /// Cuts the standby off: it has everything up to now, and receives nothing any more.
    pub(crate) fn cut_off(&self) {
        let now = self.primary.psql("SELECT pg_current_wal_flush_lsn()");
        self.primary.wait_for(&format!("SELECT bool_and(replay_lsn >= '{now}') FROM pg_stat_replication"));
        self.standby.psql("ALTER SYSTEM SET primary_conninfo = ''");
        // What is given on the command line goes first: the file does after a restart without it.
        self.standby.restart();
        self.primary.wait_for("SELECT count(*) = 0 FROM pg_stat_replication");
    }

    /// Kills every process of the primary and promotes the standby.
    pub(crate) fn fail_over(&self) {
        self.primary.kill();
        read(&mut self.standby.pg_ctl(&["-w", "promote"]));
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for server in [&self.primary, &self.standby] {
            let _ = server.pg_ctl(&["-w", "-m", "immediate", "stop"]).output();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Server {
    fn serve(&self, settings: &str) {
        let Self { port, .. } = self;
        let settings = format!(
            "-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories= -c max_connections=60 \
             -c shared_buffers=16MB {settings}"
        );
        read(&mut self.pg_ctl(&["-w", "-o", &settings, "start"]));
    }

    fn restart(&self) {
        read(&mut self.pg_ctl(&["-w", "-m", "fast", "stop"]));
        self.serve("");
    }

    /// `kill -9` of the server and of all that it started.
    fn kill(&self) {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).unwrap();
        let process = text.lines().next().unwrap().to_owned();
        // First the one that would start others again. One of the others may have ended by itself.
        let children = children_of(&process).join(" ");
        Command::new("sh").args(["-c", &format!("kill -9 {process} {children}")]).output().unwrap();
        until("the primary is gone", || std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err());
    }

    fn psql(&self, statement: &str) -> String {
        let mut psql = program("psql");
        psql.args(["-h", "127.0.0.1", "-U", "orch", "-d", "postgres", "-At", "-c", statement, "-p"]);
        read(psql.arg(self.port.to_string()))
    }

    fn wait_for(&self, condition: &str) {
        until(condition, || self.psql(condition) == "t");
    }

    fn pg_ctl(&self, args: &[&str]) -> Command {
        let mut command = program("pg_ctl");
        command.arg("-D").arg(&self.data).arg("-l").arg(self.data.with_extension("log")).args(args);
        command
    }
}

/// One of the server's programs, as the server's user.
fn program(name: &str) -> Command {
    let program = Path::new(&variable("ORCH_TEST_POSTGRES_PROGRAMS")).join(name);
    let mut command = match is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", USER, "--regid", USER, "--init-groups"]).arg(program);
            command
        }
        false => Command::new(program),
    };
    // The user may not be allowed in the current directory.
    command.current_dir("/");
    command
}

fn children_of(process: &str) -> Vec<String> {
    let parent = format!("PPid:\t{process}");
    let child = |entry: fs::DirEntry| {
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let id = entry.file_name().into_string().ok()?;
        status.lines().any(|line| line == parent).then_some(id)
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(child).collect()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Output of a command that must succeed. A server that it starts keeps the output open: it goes to a file.
fn read(command: &mut Command) -> String {
    let mut output = tempfile::tempfile().unwrap();
    let (out, err) = (output.try_clone().unwrap(), output.try_clone().unwrap());
    let status = command.stdout(out).stderr(err).status().unwrap();
    let mut text = String::new();
    std::io::Seek::rewind(&mut output).unwrap();
    std::io::Read::read_to_string(&mut output, &mut text).unwrap();
    assert!(status.success(), "{command:?}: {text}");
    text.trim().to_owned()
}

/// Polls a program that has no better way of reporting.
fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !ready() {
        assert!(Instant::now() < end, "not within 30 s: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
