//! A way to a PostgreSQL server: connecting, waiting for it but not for ever, stopping what it
//! does, and its errors without passwords.

use std::time::Duration;

use brahman_sidecar::chain;
use futures_util::FutureExt;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;

use crate::dsn::{Dsn, DsnError, Tls};
use crate::table::{self, ReadError, ServerError};
use crate::tls;

/// Texts of values that are the same everywhere, and come back as what they were.
const SESSION: &str = "SET datestyle = 'ISO, YMD'; SET timezone = 'UTC'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3; \
                       SET bytea_output = 'hex'; SET standard_conforming_strings = on; SET client_encoding = 'UTF8'";
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long asking the server to stop, or to end a snapshot, may take: whoever waits for that has
/// an error to tell.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A way to the server.
#[derive(Clone)]
pub(super) struct Server {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    dsn: Dsn,
}

/// A connection, and the task that drives it.
pub(super) struct Session {
    pub(super) client: Client,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Server {
    pub(super) fn new(dsn: &Dsn) -> Result<Self, ReadError> {
        // The parser's message may quote the text.
        let bad = || {
            ReadError::bad(DsnError::Bad(
                "not a PostgreSQL URL: expected postgres://user:password@host:port/database?option=value, each part percent-encoded",
            ))
        };
        let mut config: Config = dsn.url().parse().map_err(|_| bad())?;
        if let Some(password) = dsn.password() {
            config.password(password);
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host_path("/var/run/postgresql");
        }
        config.connect_timeout(CONNECT_TIMEOUT).application_name("brahman-ingest");
        let tls = match &dsn.tls {
            Tls::Disable => {
                config.ssl_mode(SslMode::Disable);
                None
            }
            mode => {
                config.ssl_mode(if *mode == Tls::Prefer {
                    SslMode::Prefer
                } else {
                    SslMode::Require
                });
                Some(MakeRustlsConnect::new(tls::client(mode).map_err(ReadError::bad)?))
            }
        };
        Ok(Self { config, tls, dsn: dsn.clone() })
    }

    /// The server's address, without user and password.
    pub(super) fn address(&self) -> String {
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => format!("postgres://{host}:{port}"),
            Some(Host::Unix(path)) => format!("postgres://{}:{port}", path.display()),
            None => format!(
                "postgres://{}:{port}",
                self.config.get_hostaddrs().first().map_or_else(String::new, ToString::to_string)
            ),
        }
    }

    /// An error of the driver in words that hold no password.
    pub(super) fn said(&self, doing: &'static str, error: &tokio_postgres::Error) -> ReadError {
        let mut words = match error.as_db_error() {
            Some(db) => format!("{} ({})", db.message(), db.code().code()),
            None => chain(error),
        };
        if let Some(hint) = error.as_db_error().and_then(|db| db.hint()) {
            words.push_str(&format!("; {hint}"));
        }
        let said =
            ServerError::Said { address: self.address(), doing, words: self.dsn.redact(&words) };
        let bad = [
            SqlState::UNDEFINED_TABLE,
            SqlState::UNDEFINED_COLUMN,
            SqlState::INSUFFICIENT_PRIVILEGE,
            SqlState::SYNTAX_ERROR,
            SqlState::INVALID_PASSWORD,
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            SqlState::INVALID_CATALOG_NAME,
            SqlState::UNDEFINED_FUNCTION,
            SqlState::READ_ONLY_SQL_TRANSACTION,
        ];
        match error.code() {
            Some(code) if bad.contains(code) => ReadError::bad(said),
            _ => said.into(),
        }
    }

    /// A connection whose session is ours: how values are printed and read is not left to the
    /// server, the database or the user.
    async fn connect(&self) -> Result<Session, ReadError> {
        let session = self.dial().await?;
        session
            .client
            .batch_execute(SESSION)
            .await
            .map_err(|e| self.said("setting the session", &e))?;
        Ok(session)
    }

    async fn dial(&self) -> Result<Session, ReadError> {
        let failed = |e: tokio_postgres::Error| self.said("connecting", &e);
        let (client, driver) = match &self.tls {
            Some(tls) => {
                let (client, connection) =
                    self.config.connect(tls.clone()).await.map_err(failed)?;
                (client, tokio::spawn(connection.map(drop)))
            }
            None => {
                let (client, connection) =
                    self.config.connect(tokio_postgres::NoTls).await.map_err(failed)?;
                (client, tokio::spawn(connection.map(drop)))
            }
        };
        Ok(Session { client, driver })
    }

    /// Waits for the server, but not for ever, and not for a caller who has gone.
    pub(super) async fn patiently<T>(
        &self,
        client: &Client,
        stall: Duration,
        cancel: &CancellationToken,
        what: impl Future<Output = T>,
    ) -> Result<T, ReadError> {
        let error = match table::patiently(&self.address(), stall, cancel, what).await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        self.stop(client).await;
        Err(error)
    }

    /// Asks the server to stop what a session does.
    pub(super) async fn stop(&self, client: &Client) {
        let token = client.cancel_token();
        let asking = async {
            match &self.tls {
                Some(tls) => token.cancel_query(tls.clone()).await,
                None => token.cancel_query(tokio_postgres::NoTls).await,
            }
        };
        let _ = tokio::time::timeout(STOP_TIMEOUT, asking).await;
    }

    /// A connection, after some tries if it must be; one that is taken and then not answered is
    /// given up like any other silence.
    pub(super) async fn connected(
        &self,
        stall: Duration,
        cancel: &CancellationToken,
    ) -> Result<Session, ReadError> {
        table::connected(cancel, async || {
            table::patiently(&self.address(), stall, cancel, self.connect()).await?
        })
        .await
    }
}
