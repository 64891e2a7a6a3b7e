//! An S3 of ours that loses answers, refuses and forgets, as it is told.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use brahman_card::interface::storage::AddBucketIn;

use super::super::{BucketError, Buckets, Creation, lock};
use super::{Place, is_away};

/// What is to become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is done and answered.
    Answered,
    /// It is done, and nobody hears of it.
    Unheard,
    /// The connection ends before it is done.
    Dropped,
    /// It is refused.
    Refused(u16),
}

type Decide = Box<dyn FnMut(&str, &str) -> Fate + Send>;

struct Server {
    port: u16,
    objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    decide: Arc<Mutex<Decide>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let decide: Decide = Box::new(|_, _| Fate::Answered);
        let server = Self { port, objects: Arc::default(), decide: Arc::new(Mutex::new(decide)) };
        let (objects, decide) = (Arc::clone(&server.objects), Arc::clone(&server.decide));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A client that went away is its own affair.
                let _ = serve(stream, &objects, &decide);
            }
        });
        server
    }

    /// From now on.
    fn when(&self, decide: impl FnMut(&str, &str) -> Fate + Send + 'static) {
        *lock(&self.decide) = Box::new(decide);
    }

    fn ask(&self) -> AddBucketIn {
        let options = [
            ("aws_endpoint", format!("http://127.0.0.1:{}", self.port)),
            ("aws_allow_http", "true".to_owned()),
            ("aws_skip_signature", "true".to_owned()),
            ("aws_disable_bulk_delete", "true".to_owned()),
        ];
        let options =
            options.into_iter().map(|(option, value)| (option.to_owned(), value)).collect();
        AddBucketIn {
            name: "lake".into(),
            url: "s3://lake/p".into(),
            options: Some(options),
            secret: None,
        }
    }

    /// With a bucket `lake` here.
    async fn buckets(&self, place: &Place) -> Buckets {
        let buckets = place.open();
        buckets.add(self.ask()).await.expect("added");
        buckets
    }
}

/// One request of one connection.
fn serve(
    stream: TcpStream,
    objects: &Mutex<BTreeMap<String, Vec<u8>>>,
    decide: &Mutex<Decide>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut length, mut only_new) = (String::new(), 0, false);
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, target) =
        (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header == "\r\n" {
            break;
        }
        let header = header.to_ascii_lowercase();
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        only_new |= header.starts_with("if-none-match:");
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (path, query) = target.split_once('?').unwrap_or((target.as_str(), ""));
    let key = path.trim_start_matches('/').to_owned();
    let fate = {
        let mut decide = lock(decide);
        (*decide)(&method, &key)
    };
    let (status, answer) = match fate {
        Fate::Dropped => return Ok(()),
        Fate::Refused(status) => (status, Vec::new()),
        Fate::Answered | Fate::Unheard => {
            let mut objects = lock(objects);
            match method.as_str() {
                "PUT" if only_new && objects.contains_key(&key) => (412, Vec::new()),
                "PUT" => {
                    objects.insert(key, body);
                    (200, Vec::new())
                }
                "DELETE" => {
                    objects.remove(&key);
                    (204, Vec::new())
                }
                "GET" if query.contains("list-type") => {
                    (200, b"<ListBucketResult></ListBucketResult>".to_vec())
                }
                _ => objects.get(&key).map_or((404, Vec::new()), |bytes| (200, bytes.clone())),
            }
        }
    };
    if fate == Fate::Unheard {
        return Ok(());
    }
    let mut stream = reader.into_inner();
    let length = answer.len();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nETag: \"x\"\r\nConnection: close\r\n\r\n"
    )?;
    if method == "HEAD" { Ok(()) } else { stream.write_all(&answer) }
}

const KEY: &str = "lake/p/manifests/d/1.json";

/// These fates, one after the other, for requests of one method about [`KEY`]; then all is well.
fn in_turn(
    method: &'static str,
    fates: Vec<Fate>,
) -> impl FnMut(&str, &str) -> Fate + Send + use<> {
    let mut fates = fates.into_iter();
    move |asked: &str, key: &str| {
        if asked == method && key == KEY {
            fates.next().unwrap_or(Fate::Answered)
        } else {
            Fate::Answered
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_is_asked_for_until_it_is_known_who_put_it() {
    let (place, server) = (Place::new(), Server::start());
    let buckets = server.buckets(&place).await;
    let create = async |text: &str| {
        buckets.create("lake", "manifests/d/1.json", text.as_bytes().to_vec()).await
    };
    let there = || lock(&server.objects).get(KEY).cloned();
    for fates in [
        &[Fate::Unheard][..],
        &[Fate::Dropped],
        &[Fate::Dropped, Fate::Unheard],
        &[Fate::Refused(503); 5],
        &[Fate::Refused(409), Fate::Refused(409)],
    ] {
        lock(&server.objects).remove(KEY);
        server.when(in_turn("PUT", fates.to_vec()));
        assert_eq!(create("ours").await.expect("put"), Creation::New, "{fates:?}");
        assert_eq!(there(), Some(b"ours".to_vec()), "{fates:?}");
        // Said again it is the same; another's is kept out, and told.
        assert_eq!(create("ours").await.expect("put"), Creation::New);
        server.when(in_turn("PUT", fates.to_vec()));
        assert_eq!(
            create("another's").await.expect("told"),
            Creation::Exists(b"ours".to_vec()),
            "{fates:?}"
        );
        assert_eq!(there(), Some(b"ours".to_vec()), "{fates:?}");
    }
}

#[tokio::test]
async fn what_is_not_known_is_called_so_and_what_was_not_put_is_an_error() {
    let (place, server) = (Place::new(), Server::start());
    let buckets = server.buckets(&place).await;
    let create = async |text: &str| {
        buckets.create("lake", "manifests/d/1.json", text.as_bytes().to_vec()).await
    };
    // Done, and never heard of: no put is answered, nor is any question.
    server.when(|_: &str, key: &str| if key == KEY { Fate::Unheard } else { Fate::Answered });
    let unknown = create("ours").await.expect("not known");
    assert!(matches!(unknown, Creation::Unknown(_)), "{unknown:?}");
    server.when(|_, _| Fate::Answered);
    assert_eq!(create("ours").await.expect("put"), Creation::New, "said again, it is settled");
    // Others race for ever, and it is refused: nothing is there.
    for status in [409, 403] {
        lock(&server.objects).remove(KEY);
        server.when(move |method: &str, key: &str| {
            if method == "PUT" && key == KEY { Fate::Refused(status) } else { Fate::Answered }
        });
        let refused = create("ours").await;
        assert!(matches!(refused, Err(BucketError::Unusable { .. })), "{refused:?}");
        assert!(!lock(&server.objects).contains_key(KEY));
    }
}

#[tokio::test]
async fn an_s3_bucket_that_was_deleted_or_emptied_is_not_reachable() {
    let (place, server) = (Place::new(), Server::start());
    let buckets = server.buckets(&place).await;
    buckets.put("lake", "a", b"x".to_vec(), true).await.expect("put");
    buckets.present("lake").await.expect("there");
    let health = async |buckets: &Buckets| {
        buckets.health().await.into_iter().find(|h| h.name == "lake").expect("asked")
    };
    assert!(health(&buckets).await.reachable);
    // Deleted: everything is answered as what is missing in a bucket is.
    server.when(|_, _| Fate::Refused(404));
    let buckets = place.open();
    is_away(buckets.present("lake").await, "deleted, or emptied");
    is_away(buckets.put("lake", "b", b"y".to_vec(), false).await, "deleted, or emptied");
    is_away(buckets.read("lake", "a", (0, None), None).await, "deleted, or emptied");
    let told = health(&buckets).await;
    assert!(!told.reachable && told.error.is_some() && told.hint.is_some(), "{told:?}");
    assert_eq!(buckets.absent().len(), 1);
    server.when(|_, _| Fate::Answered);
    assert!(health(&buckets).await.reachable && buckets.absent().is_empty());
    // The same place by another name is the same bucket.
    let twice = AddBucketIn { name: "sea".into(), ..server.ask() };
    let refused = buckets.add(twice).await.expect_err("it is there already").to_string();
    assert!(refused.contains("`lake`"), "{refused}");
}
