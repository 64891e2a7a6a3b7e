//! Who calls the mesh while it is harmed: clients of ours and of others, and those that do what
//! they should not.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use brahman_sidecar::{CallOptions, Client};
use serde_json::{Value, json};

use super::{Field, PATIENCE};

/// Texts that are embedded again and again.
pub(super) const TEXTS: usize = 40;

/// Our own client in Rust: embeds and asks the stranger; every answer must be its own, and there
/// must be one.
pub(super) fn own_client(field: &Field, expected: &[Value], number: usize) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = Client::new(&field.socket());
        let options = CallOptions { deadline: Some(PATIENCE), ..CallOptions::default() };
        let mut n = number;
        while field.goes_on() {
            n += 1;
            let text = n % TEXTS;
            match client
                .call::<_, Value>(
                    "org.brahman.Embed.EmbedText",
                    &json!({"texts": [word(text)]}),
                    &options,
                )
                .await
            {
                Ok(answer) if answer.value["vectors"] == expected[text] => {
                    field.count("our client: embedded");
                }
                Ok(answer) => field.wrong(format!(
                    "the vector of `{}` is another's: {}",
                    word(text),
                    answer.value["vectors"]
                )),
                Err(error) => field.wrong(format!("our client, EmbedText: {error}")),
            }
            let who = format!("{number}-{n}");
            match client
                .call::<_, Value>(
                    "org.example.T.Get",
                    &json!({"who": who, "sleep": 0.002}),
                    &options,
                )
                .await
            {
                Ok(answer) if answer.value["for"] == *who => {
                    field.count("our client: asked the stranger");
                }
                Ok(answer) => {
                    field.wrong(format!("{who} heard what was for {}", answer.value["for"]));
                }
                Err(error) => field.wrong(format!("our client, T.Get: {error}")),
            }
        }
    });
}

/// How a command ended, and all it said: with `--json` an error is on its output.
fn said(out: &std::process::Output) -> String {
    format!(
        "{}: {} {}",
        out.status,
        String::from_utf8_lossy(&out.stdout).trim(),
        String::from_utf8_lossy(&out.stderr).trim()
    )
}

/// The command, as a script would use it.
pub(super) fn command_line(field: &Field, expected: &[Value]) {
    let mut n = 0;
    while field.goes_on() {
        n += 1;
        let text = n % TEXTS;
        let out = field.brahman(&["embed", &word(text), "--json"]);
        let value: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        if !out.status.success() {
            field.wrong(format!("brahman embed: {}", said(&out)));
        } else if value["vectors"] != expected[text] {
            field.wrong(format!("brahman embed {}: another's vector", word(text)));
        } else {
            field.count("command: embedded");
        }
        let id = n % 20;
        let out = field.brahman(&[
            "search",
            "docs",
            &format!("unique{id}"),
            "--lexical",
            "-k",
            "1",
            "--json",
        ]);
        let value: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        let found = value["results"][0][0]["text"]
            .as_str()
            .unwrap_or_default()
            .contains(&format!("unique{id} "));
        if !out.status.success() {
            field.wrong(format!("brahman search: {}", said(&out)));
        } else if !found {
            field.wrong(format!("searched for unique{id}, found {}", value["results"]));
        } else {
            field.count("command: searched");
        }
    }
}

/// A client without a library. Says how long the mesh was away for it, and what it lost.
pub(super) fn raw_client(field: &Field) {
    let mut n = 0_u64;
    let mut stream: Option<(UnixStream, BufReader<UnixStream>)> = None;
    let mut away: Option<Instant> = None;
    while field.goes_on() {
        n += 1;
        if stream.is_none() {
            let Ok(fresh) = UnixStream::connect(field.socket()) else {
                away.get_or_insert_with(Instant::now);
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            fresh.set_read_timeout(Some(PATIENCE)).expect("set");
            stream = Some((fresh.try_clone().expect("cloned"), BufReader::new(fresh)));
        }
        let Some((writer, reader)) = &mut stream else { continue };
        let call = json!({"method": "org.example.T.Get", "parameters": {"who": n}});
        let mut reply = Vec::new();
        let got = writer.write_all(format!("{call}\0").as_bytes()).is_ok()
            && reader.read_until(0, &mut reply).is_ok()
            && reply.last() == Some(&0);
        if !got {
            field.count("raw client: lost with the broker or init");
            stream = None;
            away.get_or_insert_with(Instant::now);
            continue;
        }
        if let Some(since) = away.take() {
            let ms = since.elapsed().as_millis();
            field.count(if ms < 250 {
                "raw client: away for less than 250 ms"
            } else {
                "raw client: away for longer (init)"
            });
        }
        let value: Value = serde_json::from_slice(&reply[..reply.len() - 1]).unwrap_or_default();
        if value.get("error").is_some() {
            field.wrong(format!("raw client: {value}"));
        } else if value["parameters"]["for"] == n {
            field.count("raw client: answered");
        } else {
            field.wrong(format!("raw client {n} heard {value}"));
        }
    }
}

/// Somebody else's client, if `make test` has installed it.
pub(super) fn foreign_client(field: &Field) {
    let Some(tools) = std::env::var_os("BRAHMAN_TEST_TOOLS") else { return };
    let python = Path::new(&tools).join("bin/python3");
    let program = r#"
import sys, time, varlink
for n in range(50):
    try:
        with varlink.Client(address="unix:" + sys.argv[1]).open("org.brahman.Embed") as e:
            print("ok" if e.EmbedText(texts=["foreign"])["dim"] == 32 else "wrong", flush=True)
    except varlink.VarlinkError as e:
        print("error", e.error(), flush=True)
    except (FileNotFoundError, ConnectionRefusedError):
        print("away", flush=True)
        time.sleep(0.05)
    except Exception as e:
        print("lost", type(e).__name__, flush=True)
"#;
    while field.goes_on() {
        let out = Command::new(&python)
            .args(["-c", program])
            .arg(field.socket())
            .stderr(Stdio::null())
            .output()
            .expect("it runs");
        for line in String::from_utf8_lossy(&out.stdout).lines() {
            match line.split(' ').next() {
                Some("ok") => field.count("foreign client: answered"),
                Some("away") => {
                    field
                        .count("foreign client: nobody there until init's launcher had started it");
                }
                Some("lost") => field.count("foreign client: lost with the broker or init"),
                _ => field.wrong(format!("foreign client: {line}")),
            }
        }
    }
}

/// Who asks for much and takes little, says nothing, or half of something.
pub(super) fn nuisance(field: &Field) {
    while field.goes_on() {
        let Ok(mut slow) = UnixStream::connect(field.socket()) else { continue };
        slow.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        let _ = slow
            .write_all(b"{\"method\":\"org.example.T.Get\",\"parameters\":{\"bytes\":4000000}}\0");
        let silent: Vec<UnixStream> =
            (0..20).filter_map(|_| UnixStream::connect(field.socket()).ok()).collect();
        for (i, stream) in silent.iter().enumerate().filter(|(i, _)| i % 2 == 0) {
            let mut stream = stream;
            let _ = stream.write_all(
                format!("{{\"method\":\"org.brahman.Embed.Info\",\"parameters\":{{\"{i}")
                    .as_bytes(),
            );
        }
        let mut little = [0; 64];
        for _ in 0..30 {
            if !field.goes_on() || slow.read(&mut little).unwrap_or(0) == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        field.count("nuisances");
        drop(silent);
    }
}

/// A call that ends its provider each time it is taken.
pub(super) fn poison(field: &Field) {
    let mut n = 0;
    while field.goes_on() {
        n += 1;
        let parameters = json!({"poison": true, "n": n / 3}).to_string();
        let out = field.brahman(&["call", "org.example.T.Get", &parameters]);
        if out.status.success() {
            field.wrong("a poison call was answered".into());
        }
        field.count("poison calls");
        for _ in 0..100 {
            if field.goes_on() {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Writes datasets; what is acknowledged is noted.
pub(super) fn writer(field: &Field) {
    let mut n = 0_u64;
    while field.goes_on() && !field.written.load(Ordering::Relaxed) {
        n += 1;
        let rows = 50 + n % 50;
        let path = field.folder.join("rows.csv");
        let text: String = (0..rows).map(|i| format!("{i},value {n}\n")).collect();
        std::fs::write(&path, format!("id,text\n{text}")).expect("written");
        let name = format!("d{}", n % 30);
        let full_before = field.full.load(Ordering::Relaxed);
        let out = field.brahman(&["ingest", "files", &name, &path.display().to_string(), "--json"]);
        let mut acknowledged = field.acknowledged.lock().expect("whole");
        if out.status.success() {
            acknowledged.insert(name, rows);
            field.count("writer: acknowledged");
        } else {
            // It may have been committed all the same: what the dataset holds is not known until it
            // is written again.
            acknowledged.remove(&name);
            field.count(if full_before || field.full.load(Ordering::Relaxed) {
                "writer: refused on the full disk"
            } else {
                "writer: cut off by a kill"
            });
        }
        drop(acknowledged);
        std::thread::sleep(Duration::from_millis(500));
    }
}

pub(super) fn word(n: usize) -> String {
    format!("text number {n} of the soak")
}
