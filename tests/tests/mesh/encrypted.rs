//! Connections to databases over TLS, as `sslmode` asks for it, against real servers and
//! certificates made here.

use std::path::{Path, PathBuf};
use std::process::Command;

use brahman_tests::servers::{MariaDb, Postgres};
use brahman_tests::{Mesh, Setup, shipped};
use serde_json::json;
use tempfile::TempDir;

use crate::tables::{mesh, pyarrow};

/// An authority, a certificate of its for `localhost`, and another authority that has nothing to do
/// with it.
struct Certificates(TempDir);

impl Certificates {
    fn make() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("brahman-tls-")
            .tempdir()
            .expect("a temporary directory");
        let openssl = |arguments: &str| {
            let out = Command::new("openssl")
                .args(arguments.split(' '))
                .current_dir(folder.path())
                .output()
                .expect("openssl runs: run `make setup`");
            assert!(
                out.status.success(),
                "openssl {arguments}: {}",
                String::from_utf8_lossy(&out.stderr)
            );
        };
        for name in ["ca", "other"] {
            openssl(&format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name} -keyout {name}.key -out {name}.pem"
            ));
        }
        openssl(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
        );
        std::fs::write(
            folder.path().join("san"),
            "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n",
        )
        .expect("written");
        openssl(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.pem",
        );
        if rustix::process::geteuid().is_root() {
            for file in [
                folder.path().to_owned(),
                folder.path().join("server.key"),
                folder.path().join("server.pem"),
                folder.path().join("ca.pem"),
            ] {
                std::os::unix::fs::chown(file, Some(65534), Some(65534))
                    .expect("given to the server's user");
            }
        }
        let secret = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(folder.path().join("server.key"), secret).expect("set");
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn setting(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

/// What a query gives over a connection, or why there was none.
async fn tried(mesh: &Mesh, method: &str, dsn: String, query: &str) -> Result<String, String> {
    let ask = json!({"dataset": "t", "dsn": dsn, "query": query});
    let out =
        mesh.call(&format!("org.brahman.Ingest.{method}"), ask).await.map_err(|e| e.to_string())?;
    Ok(pyarrow(&out, "t.column(0).to_pylist()[0]"))
}

#[tokio::test]
async fn postgres_is_encrypted_and_proved_as_sslmode_says() {
    let made = Certificates::make();
    let settings = [
        "ssl=on".to_owned(),
        setting("ssl_cert_file", &made.path("server.pem")),
        setting("ssl_key_file", &made.path("server.key")),
    ];
    let server = Postgres::with(&settings.each_ref().map(String::as_str));
    server.psql("create role r login password 'secret-word'");
    let mesh = mesh().await;
    let query = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    let over = async |host: &str, more: String| {
        tried(
            &mesh,
            "Postgres",
            format!("postgres://r:secret-word@{host}:{}/postgres?{more}", server.port()),
            query,
        )
        .await
    };
    let ca = setting("sslrootcert", &made.path("ca.pem"));
    for (mode, encrypted) in [("disable", "False"), ("prefer", "True"), ("require", "True")] {
        assert_eq!(
            over("127.0.0.1", format!("sslmode={mode}")).await,
            Ok(encrypted.into()),
            "{mode}"
        );
    }
    for mode in ["verify-ca", "verify-full"] {
        assert_eq!(
            over("localhost", format!("sslmode={mode}&{ca}")).await,
            Ok("True".into()),
            "{mode}"
        );
    }
    for (host, more, why) in [
        (
            "localhost",
            format!("sslmode=verify-full&{}", setting("sslrootcert", &made.path("other.pem"))),
            "certificate",
        ),
        ("127.0.0.1", format!("sslmode=verify-full&{ca}"), "certificate"),
        ("localhost", "sslmode=verify-full".to_owned(), "certificate"),
        (
            "localhost",
            format!("sslmode=verify-full&{}", setting("sslrootcert", &made.path("none.pem"))),
            "none.pem",
        ),
        ("localhost", "sslmode=perhaps".to_owned(), "sslmode"),
    ] {
        let fault = over(host, more).await.expect_err(why);
        assert!(fault.contains(why) && !fault.contains("secret-word"), "{fault}");
    }
    let plain = Postgres::start();
    plain.psql("create role r login password 'secret-word'");
    let to = |mode: &str| {
        format!("postgres://r:secret-word@127.0.0.1:{}/postgres?sslmode={mode}", plain.port())
    };
    let fault = tried(&mesh, "Postgres", to("require"), query).await.expect_err("it has no TLS");
    assert!(fault.contains("TLS") && !fault.contains("secret-word"), "{fault}");
    assert_eq!(tried(&mesh, "Postgres", to("prefer"), query).await, Ok("False".into()));
}

#[tokio::test]
async fn mariadb_is_encrypted_and_proved_as_sslmode_says() {
    let made = Certificates::make();
    let settings = [
        setting("--ssl-cert", &made.path("server.pem")),
        setting("--ssl-key", &made.path("server.key")),
        setting("--ssl-ca", &made.path("ca.pem")),
    ];
    let server = MariaDb::with(&settings.each_ref().map(String::as_str));
    server.sql("CREATE USER r@'%' IDENTIFIED BY 'secret-word'; GRANT SELECT ON d.* TO r@'%'");
    let mesh = Setup::new(&["broker", "catalog", "ingest"].map(shipped)).up().await;
    mesh.when(|m| m.iter().all(|m| m.state == brahman_card::ModuleState::Ready)).await;
    let query = "SELECT variable_value <> '' AS encrypted FROM information_schema.session_status WHERE variable_name = 'SSL_CIPHER'";
    let over = async |host: &str, more: String| {
        tried(
            &mesh,
            "Mysql",
            format!("mysql://r:secret-word@{host}:{}/d?{more}", server.port()),
            query,
        )
        .await
    };
    let ca = setting("sslrootcert", &made.path("ca.pem"));
    assert_eq!(over("127.0.0.1", "sslmode=disable".into()).await, Ok("0".into()));
    assert_eq!(over("127.0.0.1", "sslmode=require".into()).await, Ok("1".into()));
    assert_eq!(over("localhost", format!("sslmode=verify-full&{ca}")).await, Ok("1".into()));
    let other = setting("sslrootcert", &made.path("other.pem"));
    for (host, more) in [
        ("localhost", format!("sslmode=verify-full&{other}")),
        ("127.0.0.1", format!("sslmode=verify-full&{ca}")),
    ] {
        let fault = over(host, more).await.expect_err("its certificate proves nothing");
        assert!(fault.contains("certificate") && !fault.contains("secret-word"), "{fault}");
    }
}
