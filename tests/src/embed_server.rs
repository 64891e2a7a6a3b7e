//! A server on this machine that embeds as OpenAI's, Ollama's and TEI's do, and whatever goes wrong
//! with one.
//!
//! Its vectors are a pure function of model and text. Each request has a connection of its own, so
//! that what becomes of one is no other's affair.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brahman_storage::digest::sha256;
use serde_json::{Value, json};

/// Length of a vector, unless a trouble says otherwise.
pub const DIM: usize = 8;
/// Bytes that a text may have; each counts as a token.
pub const WINDOW: usize = 2000;

/// A request for vectors, as the server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbedRequest {
    /// Its path.
    pub path: String,
    /// What it wants embedded.
    pub texts: Vec<String>,
    /// The token that was sent.
    pub token: Option<String>,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EmbedTrouble {
    /// It is answered.
    None,
    /// With this status and this header beside it.
    Status(u16, Option<(&'static str, String)>),
    /// The connection ends before an answer, as if nobody were there.
    Gone,
    /// Nothing comes, as long as the client waits.
    Silent,
    /// With these bytes in place of an answer.
    Body(Vec<u8>),
    /// With one vector too few.
    Fewer,
    /// With vectors of so many numbers.
    Dim(usize),
    /// With the vectors of another model.
    OtherModel,
    /// With `null` among the numbers of texts that contain this word.
    Null(&'static str),
    /// OpenAI's alone: the last first, each with its index.
    Reversed,
    /// The last first, and no index.
    Misordered,
    /// OpenAI's alone: in base64.
    Base64,
    /// Long texts lose their ends, and nobody is told.
    CutInSilence,
}

type Decide = Box<dyn FnMut(&EmbedRequest) -> EmbedTrouble + Send>;

struct Shared {
    port: u16,
    token: Option<String>,
    decide: Mutex<Decide>,
    seen: Mutex<Vec<EmbedRequest>>,
}

/// A server, until the test ends.
pub struct EmbedServer {
    shared: Arc<Shared>,
}

impl fmt::Debug for EmbedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbedServer").field("port", &self.shared.port).finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EmbedServer {
    /// One that wants this token, if any.
    #[must_use]
    pub fn start(token: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let decide: Decide = Box::new(|_| EmbedTrouble::None);
        let shared = Shared {
            port,
            token: token.map(str::to_owned),
            decide: Mutex::new(decide),
            seen: Mutex::default(),
        };
        let server = Self { shared: Arc::new(shared) };
        let shared = Arc::clone(&server.shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                // A client that goes away is none of the server's concern.
                std::thread::spawn(move || drop(serve(client, &shared)));
            }
        });
        server
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.shared.port)
    }

    /// From now on, what becomes of a request for vectors.
    pub fn when(&self, decide: impl FnMut(&EmbedRequest) -> EmbedTrouble + Send + 'static) {
        *locked(&self.shared.decide) = Box::new(decide);
    }

    /// From now on every request meets this trouble.
    pub fn always(&self, trouble: EmbedTrouble) {
        self.when(move |_| trouble.clone());
    }

    /// From now on every request is answered.
    pub fn heal(&self) {
        self.always(EmbedTrouble::None);
    }

    /// Requests for vectors so far.
    #[must_use]
    pub fn seen(&self) -> Vec<EmbedRequest> {
        locked(&self.shared.seen).clone()
    }
}

/// The vector that a model gives a text, of length 1.
#[must_use]
pub fn vector(model: &str, text: &str, dim: usize) -> Vec<f64> {
    let digest = sha256(format!("{model}\0{text}").as_bytes());
    let numbers: Vec<f64> = (0..dim).map(|i| f64::from(digest[i % digest.len()]) - 127.5).collect();
    let length = numbers.iter().map(|x| x * x).sum::<f64>().sqrt();
    numbers.iter().map(|x| x / length).collect()
}

/// One request, and its answer.
fn serve(client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(client);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(());
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut length, mut token) = (0, None);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header == "\r\n" {
            break;
        }
        let Some((name, value)) = header.split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "authorization" => token = value.trim().strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut client = reader.into_inner();
    let (status, header, body) = match answer(shared, &path, &body, token) {
        Ok(answer) => answer,
        Err(NoAnswer::Gone) => return Ok(()),
        // Until the client goes away.
        Err(NoAnswer::Silent) => return client.read(&mut [0]).map(drop),
    };
    let header = header.map(|(name, value)| format!("{name}: {value}\r\n")).unwrap_or_default();
    write!(
        client,
        "HTTP/1.1 {status} X\r\n{header}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    client.write_all(&body)
}

/// Why nothing is sent.
enum NoAnswer {
    /// The connection is to end.
    Gone,
    /// The connection stays.
    Silent,
}

/// Status, a header, and the body.
type Answer = Result<(u16, Option<(&'static str, String)>, Vec<u8>), NoAnswer>;

fn answer(shared: &Shared, path: &str, body: &[u8], token: Option<String>) -> Answer {
    let text = |status: u16, value: Value| Ok((status, None, value.to_string().into_bytes()));
    if path == "/info" {
        return text(
            200,
            json!({ "model_id": "acme/tei", "max_input_length": WINDOW, "max_client_batch_size": 4 }),
        );
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let inputs = if path == "/embed" { &body["inputs"] } else { &body["input"] };
    let texts: Vec<String> = inputs
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|text| text.as_str().map(str::to_owned))
        .collect();
    let request = EmbedRequest { path: path.to_owned(), texts, token };
    let trouble = {
        let mut decide = locked(&shared.decide);
        (*decide)(&request)
    };
    locked(&shared.seen).push(request.clone());
    if shared.token.is_some() && request.token != shared.token {
        return text(401, json!({ "error": { "message": "Incorrect API key provided" } }));
    }
    match &trouble {
        EmbedTrouble::Gone => return Err(NoAnswer::Gone),
        EmbedTrouble::Silent => return Err(NoAnswer::Silent),
        EmbedTrouble::Status(status, header) => {
            return Ok((*status, header.clone(), b"not now".to_vec()));
        }
        EmbedTrouble::Body(bytes) => return Ok((200, None, bytes.clone())),
        _ => {}
    }
    let cuts = body["truncate"] == true || trouble == EmbedTrouble::CutInSilence;
    if !cuts && let Some(long) = request.texts.iter().find(|text| text.len() > WINDOW) {
        let status = if path == "/embed" { 413 } else { 400 };
        return text(
            status,
            json!({ "error": format!("must have less than {WINDOW} tokens. Given: {}", long.len()) }),
        );
    }
    let model = if trouble == EmbedTrouble::OtherModel {
        "other"
    } else {
        body["model"].as_str().unwrap_or("acme/tei")
    };
    let dim = if let EmbedTrouble::Dim(dim) = trouble { dim } else { DIM };
    let kept = |text: &str| text.chars().take(WINDOW).collect::<String>();
    let mut vectors: Vec<Value> =
        request.texts.iter().map(|text| json!(vector(model, &kept(text), dim))).collect();
    if let EmbedTrouble::Null(word) = trouble {
        for (vector, _) in
            vectors.iter_mut().zip(&request.texts).filter(|(_, text)| text.contains(word))
        {
            vector[0] = Value::Null;
        }
    }
    match trouble {
        EmbedTrouble::Fewer if vectors.len() > 1 => drop(vectors.pop()),
        EmbedTrouble::Misordered => vectors.reverse(),
        _ => {}
    }
    let tokens: usize = request.texts.iter().map(|text| text.len().min(WINDOW)).sum();
    match path {
        "/v1/embeddings" => {
            let number = |x: &Value| x.as_f64().unwrap_or(f64::NAN) as f32;
            let coded = |vector: &Value| {
                let bytes: Vec<u8> = vector
                    .as_array()
                    .into_iter()
                    .flatten()
                    .flat_map(|x| number(x).to_le_bytes())
                    .collect();
                json!(brahman_card::wire::base64::encode(&bytes))
            };
            let shaped = |(index, vector): (usize, Value)| match trouble {
                EmbedTrouble::Base64 => {
                    json!({ "object": "embedding", "index": index, "embedding": coded(&vector) })
                }
                EmbedTrouble::Misordered => json!({ "object": "embedding", "embedding": vector }),
                _ => json!({ "object": "embedding", "index": index, "embedding": vector }),
            };
            let mut data: Vec<Value> = vectors.into_iter().enumerate().map(shaped).collect();
            if trouble == EmbedTrouble::Reversed {
                data.reverse();
            }
            text(
                200,
                json!({ "object": "list", "data": data, "usage": { "prompt_tokens": tokens, "total_tokens": tokens } }),
            )
        }
        "/api/embed" => {
            text(200, json!({ "model": model, "embeddings": vectors, "prompt_eval_count": tokens }))
        }
        "/embed" => text(200, Value::Array(vectors)),
        _ => text(404, json!({ "error": "no such path" })),
    }
}
