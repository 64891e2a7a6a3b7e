//! Private database servers: in a temporary directory, on a socket there, ended on drop. A server
//! that is not installed is a failed set-up.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use tempfile::TempDir;

use crate::PATIENCE;

/// Both servers refuse to run as root; then they run as nobody.
const NOBODY: u32 = 65_534;

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn folder() -> TempDir {
    let folder =
        tempfile::Builder::new().prefix("brahman-db-").tempdir().expect("a temporary directory");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("given away");
    }
    folder
}

/// Starts a server and waits until it says that it is ready.
fn start(mut command: Command, word: &'static str) -> Child {
    let mut process = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let (sender, ready) = mpsc::sync_channel(1);
    let lines = BufReader::new(process.stderr.take().expect("piped")).lines();
    std::thread::spawn(move || {
        let mut said = String::new();
        for line in lines.map_while(Result::ok) {
            if line.contains(word) {
                let _ = sender.try_send(Ok(()));
            } else if said.len() < 10_000 {
                said.push_str(&line);
                said.push('\n');
            }
        }
        let _ = sender.try_send(Err(said));
    });
    match ready.recv_timeout(PATIENCE) {
        Ok(Ok(())) => process,
        Ok(Err(said)) => panic!("the server ended: {said}"),
        Err(_) => panic!("the server did not become ready"),
    }
}

fn run(mut command: Command) -> String {
    let out = command.stdin(Stdio::null()).output().expect("it runs");
    let (stdout, stderr) =
        (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command:?}: {stdout}{stderr}");
    stdout.trim_end().to_owned()
}

/// A private PostgreSQL.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    process: Child,
    port: u16,
}

impl Postgres {
    /// Starts one whose local users are trusted, and which users over TCP have to prove themselves
    /// to by a password.
    #[must_use]
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same with settings of its own.
    #[must_use]
    pub fn with(settings: &[&str]) -> Self {
        let folder = folder();
        let data = folder.path().join("data");
        let mut init = command(&Self::program("initdb"));
        init.arg("-D").arg(&data).args([
            "-U",
            "tester",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "-E",
            "UTF8",
            "--locale=C",
        ]);
        run({
            init.arg("--no-sync");
            init
        });
        // The system gives a port that is free; it is taken again at once.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a free port")
            .port();
        let process = Self::serve(folder.path(), port, settings);
        Self { folder, process, port }
    }

    fn serve(folder: &Path, port: u16, settings: &[&str]) -> Child {
        let mut server = command(&Self::program("postgres"));
        server
            .arg("-D")
            .arg(folder.join("data"))
            .arg("-k")
            .arg(folder)
            .args(["-p", &port.to_string()]);
        for setting in ["listen_addresses=127.0.0.1", "fsync=off", "shared_buffers=64MB"]
            .iter()
            .chain(settings)
        {
            server.args(["-c", setting]);
        }
        start(server, "ready to accept connections")
    }

    fn program(name: &str) -> PathBuf {
        let versions = std::fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path().join("bin").join(name));
        let mut found: Vec<PathBuf> = versions.filter(|p| p.exists()).collect();
        found.sort();
        let others = ["/usr/local/bin", "/usr/bin", "/usr/pgsql/bin"]
            .iter()
            .map(|f| Path::new(f).join(name))
            .find(|p| p.exists());
        found
            .pop()
            .or(others)
            .unwrap_or_else(|| panic!("no PostgreSQL server ({name}): run `make setup`"))
    }

    /// Folder of its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.folder.path()
    }

    /// Its port, on 127.0.0.1 and in the socket's name.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// How to reach it as a trusted user.
    #[must_use]
    pub fn dsn(&self) -> String {
        format!(
            "postgres://tester@/postgres?host={}&port={}",
            self.folder.path().display(),
            self.port
        )
    }

    /// What `psql` prints for a statement, fields apart by `|`.
    pub fn psql(&self, sql: &str) -> String {
        let mut psql = Command::new("psql");
        psql.args([
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "tester",
            "-d",
            "postgres",
            "-p",
            &self.port.to_string(),
            "-h",
        ]);
        run({
            psql.arg(self.folder.path()).args(["-c", sql]);
            psql
        })
    }

    /// A `psql` that runs until it is killed; what stands in `sql` is repeated without end.
    #[must_use]
    pub fn writer(&self, sql: &str) -> Writer {
        let mut psql = Command::new("psql");
        psql.args(["-XAtq", "-U", "tester", "-d", "postgres", "-p", &self.port.to_string(), "-h"])
            .arg(self.folder.path());
        psql.args(["-c", &format!("DO $$ BEGIN LOOP {sql} COMMIT; END LOOP; END $$")]);
        Writer(
            psql.stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("psql runs"),
        )
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A private MariaDB.
#[derive(Debug)]
pub struct MariaDb {
    folder: TempDir,
    process: Child,
    port: u16,
}

impl MariaDb {
    /// Starts one with a database `d`, whose user `tester` needs no password on its socket.
    #[must_use]
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same with settings of its own.
    #[must_use]
    pub fn with(settings: &[&str]) -> Self {
        let folder = folder();
        let data = format!("--datadir={}/data", folder.path().display());
        let mut init = command(&Self::program("mariadb-install-db"));
        run({
            init.args([
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                &data,
            ]);
            init
        });
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a free port")
            .port();
        let mut server = command(&Self::program("mariadbd"));
        server.args([
            "--no-defaults",
            &data,
            "--bind-address=127.0.0.1",
            "--innodb-flush-log-at-trx-commit=0",
            "--sql-mode=",
        ]);
        server.args(["--character-set-server=utf8mb4", &format!("--port={port}")]).args(settings);
        server
            .arg(format!("--socket={}/my.sock", folder.path().display()))
            .arg(format!("--pid-file={}/pid", folder.path().display()));
        let server = Self { process: start(server, "ready for connections"), folder, port };
        server.sql_as(
            "root",
            "mysql",
            "CREATE DATABASE d; CREATE USER tester@localhost; GRANT ALL ON *.* TO tester@localhost WITH GRANT OPTION",
        );
        server
    }

    fn program(name: &str) -> PathBuf {
        let folders = ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/usr/local/sbin"];
        let found = folders.iter().map(|f| Path::new(f).join(name)).find(|p| p.exists());
        found.unwrap_or_else(|| panic!("no MariaDB ({name}): run `make setup`"))
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("my.sock")
    }

    /// How to reach it.
    #[must_use]
    pub fn dsn(&self) -> String {
        format!("mysql://tester@localhost/d?socket={}", self.socket().display())
    }

    /// What `mariadb` prints for statements.
    pub fn sql(&self, sql: &str) -> String {
        self.sql_as("tester", "d", sql)
    }

    fn sql_as(&self, user: &str, database: &str, sql: &str) -> String {
        let mut client = Command::new(Self::program("mariadb"));
        client
            .args(["--no-defaults", "-NB", "--default-character-set=utf8mb4", "-u", user, "-S"])
            .arg(self.socket());
        run({
            client.args(["-e", sql, database]);
            client
        })
    }

    /// A client that repeats statements, each round a transaction, until it is dropped.
    #[must_use]
    pub fn writer(&self, sql: &str) -> Writer {
        let body =
            format!("BEGIN NOT ATOMIC WHILE 1 DO START TRANSACTION; {sql} COMMIT; END WHILE; END");
        let mut client = Command::new(Self::program("mariadb"));
        client
            .args(["--no-defaults", "--delimiter=//", "-u", "tester", "-S"])
            .arg(self.socket())
            .args(["-e", &body, "d"]);
        Writer(
            client
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("mariadb runs"),
        )
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Writes until it is dropped.
#[derive(Debug)]
pub struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
