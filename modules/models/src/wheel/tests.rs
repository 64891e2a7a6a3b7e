//! A wheel of a registry on this machine, and what goes wrong with it.

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use brahman_storage::digest::{hex, sha256};
use serde_json::json;

use super::*;

/// A registry with one wheel. Each connection brings so many bytes of it at most; the paths and
/// first bytes that were asked for are kept.
struct Registry {
    url: String,
    asked: Arc<Mutex<Vec<(String, usize)>>>,
}

/// How a registry behaves.
#[derive(Clone)]
struct Conduct {
    content: Vec<u8>,
    /// What its listing says of it.
    listing: String,
    bytes_a_connection: usize,
    /// Whether it begins a file anew whatever is asked for.
    has_no_ranges: bool,
}

impl Registry {
    fn start(conduct: Conduct) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let url = format!("http://{}/simple", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        // It ends with the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // One that hangs up is no affair of the others.
                let _ = answer(stream, &conduct, &seen);
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<(String, usize)> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

/// Answers one request, once it is noted.
fn answer(
    mut stream: TcpStream,
    conduct: &Conduct,
    seen: &Mutex<Vec<(String, usize)>>,
) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(Result::ok);
    let target = lines.next()?.split(' ').nth(1)?.to_owned();
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let from = head
        .iter()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned))
        .and_then(|range| range.trim_end_matches('-').parse::<usize>().ok())
        .filter(|_| !conduct.has_no_ranges)
        .unwrap_or(0);
    seen.lock().expect("not poisoned").push((target.clone(), from));
    let (status, body) = match target.as_str() {
        "/simple/made/" => ("200 OK", conduct.listing.as_bytes()),
        "/files/made.whl" if from > 0 => ("206 Partial Content", &conduct.content[from..]),
        "/files/made.whl" => ("200 OK", &conduct.content[..]),
        _ => ("404 Not Found", &b""[..]),
    };
    let all = conduct.content.len();
    let range = if from > 0 {
        format!("content-range: bytes {from}-{}/{all}\r\n", all - 1)
    } else {
        String::new()
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n{range}connection: close\r\n\r\n",
        body.len()
    );
    io::Write::write_all(&mut stream, head.as_bytes()).ok()?;
    let is_file = target.starts_with("/files");
    let much = if is_file { body.len().min(conduct.bytes_a_connection) } else { body.len() };
    io::Write::write_all(&mut stream, &body[..much]).ok()
}

fn pinned(content: &[u8]) -> Wheel {
    Wheel {
        arch: "any",
        package: "made",
        version: "1.0",
        platforms: &[],
        bytes: content.len() as u64,
        sha256: hex(&sha256(content)).leak(),
    }
}

fn content() -> Vec<u8> {
    (0..600_000_u32).map(|i| (i * 31 / 7) as u8).collect()
}

/// As PEP 691 has it, with a link from where the listing lies.
fn listing(sha256: &str) -> String {
    json!({"name": "made", "files": [
        {"filename": "other.whl", "url": "https://elsewhere/other.whl", "hashes": {"sha256": "00"}},
        {"filename": "made.whl", "url": "../../files/made.whl", "hashes": {"sha256": sha256}, "size": 1},
    ]})
    .to_string()
}

fn conduct(wheel: &Wheel) -> Conduct {
    Conduct {
        content: content(),
        listing: listing(wheel.sha256),
        bytes_a_connection: usize::MAX,
        has_no_ranges: false,
    }
}

/// Fetches, and keeps what was told.
fn told(
    wheel: &Wheel,
    registry: &Registry,
    folder: &Path,
) -> (Result<PathBuf, WheelError>, Vec<String>) {
    let mut notes = Vec::new();
    let mut tell = |progress: Progress<'_>| {
        if let Progress::Note(text) = progress {
            notes.push(text.to_owned());
        }
    };
    let outcome = fetch(wheel, &registry.url, folder, &mut tell);
    (outcome, notes)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn a_wheel_is_found_by_its_checksum_and_goes_on_where_it_was_cut_off() {
    let wheel = pinned(&content());
    let page = format!(
        "<a href=\"/files/none.whl#sha256=00\">x</a>\n<a href=\"/files/made.whl#sha256={}\">made</a>",
        wheel.sha256
    );
    for listing in [listing(wheel.sha256), page] {
        let registry =
            Registry::start(Conduct { listing, bytes_a_connection: 250_000, ..conduct(&wheel) });
        let folder = folder();
        let (outcome, notes) = told(&wheel, &registry, folder.path());
        assert_eq!(fs::read(outcome.expect("fetched")).expect("there"), content());
        assert_eq!(notes.len(), 2, "{notes:?}");
        let asked: Vec<usize> = registry.asked().iter().map(|(_, from)| *from).collect();
        assert_eq!(asked, [0, 0, 250_000, 500_000]);
    }
}

#[test]
fn what_an_earlier_pull_left_is_gone_on_with_and_begun_anew_where_it_has_to_be() {
    let wheel = pinned(&content());
    let part = |folder: &Path| folder.join(format!("{}.whl.part", &wheel.sha256[..16]));
    let registry = Registry::start(conduct(&wheel));
    let there = folder();
    fs::write(part(there.path()), &content()[..100_000]).expect("written");
    told(&wheel, &registry, there.path()).0.expect("fetched");
    assert_eq!(registry.asked().last(), Some(&("/files/made.whl".to_owned(), 100_000)));

    // A server without ranges; a part that is longer than the whole.
    let stubborn = Registry::start(Conduct { has_no_ranges: true, ..conduct(&wheel) });
    fs::write(part(there.path()), &content()[..100_000]).expect("written");
    let path = told(&wheel, &stubborn, there.path()).0.expect("fetched");
    assert_eq!(fs::read(path).expect("there"), content());
    fs::write(part(there.path()), vec![7; 700_000]).expect("written");
    told(&wheel, &registry, there.path()).0.expect("fetched");
}

#[test]
fn another_content_is_refused_by_its_checksum_and_leaves_nothing() {
    let wheel = pinned(&content());
    let mut other = content();
    other[5] ^= 1;
    let longer = [content(), vec![0]].concat();
    for content in [other, longer] {
        let registry = Registry::start(Conduct { content, ..conduct(&wheel) });
        let folder = folder();
        let refused = told(&wheel, &registry, folder.path()).0.expect_err("another file");
        assert!(
            matches!(refused, WheelError::Content { .. }) && !refused.is_of_index(),
            "{refused}"
        );
        assert!(refused.to_string().contains(wheel.sha256), "{refused}");
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 0);
    }
}

#[test]
fn an_index_that_has_it_not_is_named_without_its_password() {
    let wheel = pinned(&content());
    let registry = Registry::start(Conduct { listing: listing("11"), ..conduct(&wheel) });
    let refused = told(&wheel, &registry, folder().path()).0.expect_err("not listed");
    assert!(matches!(refused, WheelError::Unlisted { .. }) && refused.is_of_index(), "{refused}");
    assert!(refused.to_string().contains("made 1.0"), "{refused}");
    let absent = Wheel { package: "absent", ..wheel };
    let refused = told(&absent, &registry, folder().path()).0.expect_err("not there");
    assert!(matches!(refused, WheelError::Status { status: 404, .. }), "{refused}");
    assert_eq!(bare("https://me:secret@host:8/simple/x?y"), "https://host:8/simple/x?y");
    assert_eq!(bare("no address"), "no address");
}

#[test]
fn links_lead_where_a_browser_goes() {
    let page = "https://host/pypi/simple/made/";
    for (link, expected) in [
        ("https://files/a.whl", "https://files/a.whl"),
        ("/a/b.whl", "https://host/a/b.whl"),
        ("b.whl", "https://host/pypi/simple/made/b.whl"),
        ("../../packages/b.whl", "https://host/pypi/packages/b.whl"),
        ("../../../../../b.whl", "https://host/b.whl"),
    ] {
        assert_eq!(joined(page, link), expected);
    }
}
