//! zlink, the other Varlink library for Rust, in both roles: `zlink_peer serve` is a provider on
//! the socket that init passes, `zlink_peer call SOCKET` a client of a mesh that has it and
//! `embed-mock`. For `foreign::` in the mesh tests.

#![expect(missing_docs, reason = "the macros write public types without any")]

use std::error::Error;
use std::os::unix::net::UnixDatagram;

use futures_util::{Stream, StreamExt, pin_mut};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use zlink::tokio::unix;
use zlink::{Reply, ReplyError, Server, introspect, proxy, service};

#[derive(Debug, Clone, Serialize, Deserialize, introspect::Type)]
struct Sum {
    sum: i64,
}

#[derive(Debug, PartialEq, Eq, ReplyError, introspect::ReplyError)]
#[zlink(interface = "org.example.Sums")]
enum SumError {
    TooLarge { most: i64 },
}

/// Largest term.
const MOST: i64 = 1_000_000;

struct Sums;

#[service(interface = "org.example.Sums")]
impl Sums {
    async fn add(&self, a: i64, b: i64) -> Result<Sum, SumError> {
        if a > MOST || b > MOST {
            Err(SumError::TooLarge { most: MOST })
        } else {
            Ok(Sum { sum: a + b })
        }
    }

    #[zlink(more)]
    async fn count(&self, more: bool, to: i64) -> impl Stream<Item = Reply<Sum>> + Unpin {
        let to = if more { to.max(1) } else { 1 };
        futures_util::stream::iter(
            (1..=to).map(move |sum| Reply::new(Some(Sum { sum })).set_continues(Some(sum < to))),
        )
    }
}

#[proxy("org.example.Sums")]
trait SumsProxy {
    async fn add(&mut self, a: i64, b: i64) -> zlink::Result<Result<Sum, SumError>>;
    #[zlink(more)]
    async fn count(
        &mut self,
        to: i64,
    ) -> zlink::Result<impl Stream<Item = zlink::Result<Result<Sum, SumError>>>>;
}

#[derive(Debug, Deserialize)]
struct Embedded {
    dim: u64,
    vectors: Vec<Vec<f32>>,
    mock: bool,
}

#[derive(Debug, ReplyError)]
#[zlink(interface = "org.brahman.Embed")]
enum EmbedError {
    FileUnreadable { path: String, message: String, retryable: bool },
}

#[proxy("org.brahman.Embed")]
trait EmbedProxy {
    async fn embed_text(&mut self, texts: &[&str]) -> zlink::Result<Result<Embedded, EmbedError>>;
    async fn embed_file(&mut self, path: &str) -> zlink::Result<Result<Embedded, EmbedError>>;
}

async fn serve() -> Result<(), Box<dyn Error>> {
    let listener =
        listenfd::ListenFd::from_env().take_unix_listener(0)?.ok_or("no socket was passed")?;
    listener.set_nonblocking(true)?;
    UnixDatagram::unbound()?.send_to(b"READY=1", std::env::var("NOTIFY_SOCKET")?)?;
    Server::new(unix::Listener::from(UnixListener::from_std(listener)?), Sums).run().await?;
    Ok(())
}

async fn call(socket: &str) -> Result<(), Box<dyn Error>> {
    let mut connection = unix::connect(socket).await?;
    for i in 0..50 {
        assert_eq!(connection.add(i, 2 * i).await?.expect("small").sum, 3 * i);
    }
    assert_eq!(connection.add(MOST + 1, 0).await?.err(), Some(SumError::TooLarge { most: MOST }));
    {
        let counted = connection.count(5).await?;
        pin_mut!(counted);
        let mut seen = Vec::new();
        while let Some(reply) = counted.next().await {
            seen.push(reply?.expect("a number").sum);
        }
        assert_eq!(seen, [1, 2, 3, 4, 5]);
    }
    let embedded = connection.embed_text(&["a", "b"]).await?.expect("embedded");
    assert!(
        embedded.mock
            && embedded.vectors.iter().all(|v| v.len() as u64 == embedded.dim)
            && embedded.vectors.len() == 2
    );
    let EmbedError::FileUnreadable { path, message, retryable } =
        connection.embed_file("/nonexistent").await?.expect_err("there is none");
    assert!(
        path == "/nonexistent" && !message.is_empty() && !retryable,
        "{path} {message} {retryable}"
    );
    // The connection is good for more.
    assert_eq!(connection.add(1, 1).await?.expect("small").sum, 2);
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve"] => serve().await,
        ["call", socket] => call(socket).await,
        _ => Err("usage: zlink_peer serve | zlink_peer call SOCKET".into()),
    }
}
