//! A proxy for HTTP that loses answers: between a client and a server of somebody else's making, it
//! does with each request what it is told.
//!
//! Each request travels on a connection of its own, so that what becomes of one is no other's
//! affair.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What is to become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is passed on, and answered.
    Answered,
    /// It is passed on, and nobody hears of it.
    Unheard,
    /// It never arrives.
    Dropped,
    /// It is passed on after a while, and answered.
    Late(Duration),
    /// It never arrives, and is answered with this status.
    Refused(u16),
}

type Decide = Box<dyn FnMut(&str, &str) -> Fate + Send>;

struct Shared {
    server: u16,
    decide: Mutex<Decide>,
    seen: Mutex<Vec<String>>,
}

/// A proxy, until the test ends.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("port", &self.port)
            .field("server", &self.shared.server)
            .finish_non_exhaustive()
    }
}

impl Proxy {
    /// One before a server on this port of this machine; everything is answered until
    /// [`Self::when`] says otherwise.
    #[must_use]
    pub fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let decide: Decide = Box::new(|_, _| Fate::Answered);
        let shared =
            Arc::new(Shared { server, decide: Mutex::new(decide), seen: Mutex::default() });
        let of_all = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&of_all);
                // Whichever side goes away, the other is told by the end of its connection.
                std::thread::spawn(move || drop(carry(client, &shared)));
            }
        });
        Self { port, shared }
    }

    /// Its port, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on, what becomes of a request, by its method and its target.
    pub fn when(&self, decide: impl FnMut(&str, &str) -> Fate + Send + 'static) {
        *self.shared.decide.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(decide);
    }

    /// Requests so far, as `METHOD target`.
    #[must_use]
    pub fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// These fates, one after the other, for the requests of which something holds; everything else is
/// answered.
pub fn in_turn<H>(fates: Vec<Fate>, holds: H) -> impl FnMut(&str, &str) -> Fate + Send + use<H>
where
    H: Fn(&str, &str) -> bool + Send,
{
    let mut fates = fates.into_iter();
    move |method: &str, target: &str| {
        if holds(method, target) { fates.next().unwrap_or(Fate::Answered) } else { Fate::Answered }
    }
}

/// One request of a connection, and its answer.
fn carry(client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(client);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(());
    }
    let mut words = line.split(' ');
    let (method, target) =
        (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let (mut head, mut length) = (line.clone(), 0);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header == "\r\n" {
            break;
        }
        let lower = header.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if !lower.starts_with("connection:") {
            head.push_str(&header);
        }
    }
    head.push_str("Connection: close\r\n\r\n");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{method} {target}"));
    let fate = {
        let mut decide = shared.decide.lock().unwrap_or_else(PoisonError::into_inner);
        (*decide)(&method, &target)
    };
    let mut client = reader.into_inner();
    match fate {
        Fate::Dropped => return Ok(()),
        Fate::Refused(status) => {
            return write!(
                client,
                "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        Fate::Late(time) => std::thread::sleep(time),
        Fate::Answered | Fate::Unheard => {}
    }
    let mut server = TcpStream::connect(("127.0.0.1", shared.server))?;
    server.write_all(head.as_bytes())?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    if fate == Fate::Unheard { Ok(()) } else { client.write_all(&answer) }
}
