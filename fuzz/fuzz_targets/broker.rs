//! Several clients at one broker, before providers that misbehave in every way, against a model of
//! who must hear what: each call is answered once, in its order on its connection, by its own
//! provider's word on it or by an error of the broker's.

#![no_main]

use std::collections::VecDeque;
use std::io;

use brahman_broker::alone::Alone;
use brahman_card::wire::frame::FrameBuffer;
use brahman_card::{Card, ModuleRecord, ModuleState};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::yield_now;

const CLIENTS: usize = 4;
/// More would be the same again.
const STEPS_MAX: usize = 48;
/// Providers by label: whether they give a call's number back, as ours do.
const PROVIDERS: [(&str, bool); 3] = [("a", true), ("b", false), ("c", true)];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // Time moves only while nobody has anything to do, so nothing is waited for.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        // A program of Rust's ignores it; here nobody has said so.
        let _pipe = signal(SignalKind::pipe()).expect("a handler");
        play(data).await;
    });
});

fn record(folder: &std::path::Path, label: &str, wants_uid: bool) -> ModuleRecord {
    let card = format!(
        "schema_version = 1\nlabel = \"{label}\"\nwants_uid = {wants_uid}\n[payload.native]\nexec = \"x\"\n[[flow.output]]\n\
         name = \"t\"\nidempotent = [\"Get\"]\ntype.interface.name = \"org.example.T{}\"\n",
        label.to_uppercase()
    );
    ModuleRecord {
        card: Card::parse("card", card.as_bytes()).expect("a good Card"),
        state: ModuleState::Ready,
        socket: folder.join(label).display().to_string(),
        pid: 1,
        incarnation: 1,
        restarts: 0,
        deaths: None,
        kills: None,
        uptime_ms: 0,
        reason: None,
        attributes: Default::default(),
        shortfalls: Vec::new(),
        origin: None,
    }
}

async fn play(data: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut records = Vec::new();
    for (label, gives_numbers) in PROVIDERS {
        let listener = UnixListener::bind(folder.path().join(label)).expect("bound");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(provide(stream, label, gives_numbers));
            }
        });
        records.push(record(folder.path(), label, gives_numbers));
    }
    let broker = Alone::new(folder.path(), records);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(&broker)).collect();
    let mut told = 0_u32;
    for step in data.chunks(3).take(STEPS_MAX) {
        let (what, how, at) =
            (step[0], *step.get(1).unwrap_or(&0), usize::from(*step.get(2).unwrap_or(&0)));
        let client = &mut clients[at % CLIENTS];
        match what % 16 {
            0..=10 => {
                told += 1;
                let (label, _) = PROVIDERS[usize::from(what >> 4) % PROVIDERS.len()];
                let oneway = how & 0xC0 == 0xC0;
                client.call(label, told, how & 0x3F, oneway, what % 16 > 7).await;
            }
            11 => client.hear().await,
            12 => *client = Client::connect(&broker),
            13 => {
                client.finish().await;
                *client = Client::connect(&broker);
            }
            14 => client.cut = usize::from(how),
            _ => {
                for _ in 0..how % 16 {
                    yield_now().await;
                }
            }
        }
    }
    for client in &mut clients {
        client.finish().await;
    }
}

/// One provider's connection: it does with each call as the call says.
async fn provide(mut stream: UnixStream, label: &'static str, gives_numbers: bool) {
    let mut frames = FrameBuffer::nul();
    loop {
        let Some(call) = message(&mut stream, &mut frames).await else { return };
        let number = call.get("org.brahman.call").filter(|_| gives_numbers).cloned();
        let own = |error: Option<&str>, continues: bool| {
            let mut reply = json!({"parameters": {"for": call["parameters"]["who"], "by": label}});
            if let Some(number) = &number {
                reply["org.brahman.call"] = number.clone();
            }
            if let Some(error) = error {
                reply["error"] = error.into();
            }
            if continues {
                reply["continues"] = true.into();
            }
            let mut bytes = reply.to_string().into_bytes();
            bytes.push(0);
            bytes
        };
        let how = call["parameters"]["how"].as_u64().unwrap_or(0);
        let is_silent = call["oneway"] == true;
        let said = match how % 16 {
            1 => return,
            2 => b"not json\0".to_vec(),
            3 => own(Some("org.example.No"), false),
            4 => [own(None, true), own(None, false)].concat(),
            5 => {
                b"{\"org.brahman.call\":4000000000,\"parameters\":{\"for\":0,\"by\":\"nobody\"}}\0"
                    .to_vec()
            }
            6 => [own(None, false), own(None, false)].concat(),
            7 => [own(None, false), b"{\"parameters\":{\"for\":0,\"by\":\"late\"}}\0".to_vec()]
                .concat(),
            8 | 9 => {
                let whole = own(None, false);
                let end = if how % 16 == 8 { whole.len() } else { whole.len() / 2 };
                let _ = stream.write_all(&whole[..end]).await;
                return;
            }
            10 => b"{\"parameters\":{},\"parameters\":{\"for\":0}}\0".to_vec(),
            11 => b"[]\0".to_vec(),
            _ => own(None, false),
        };
        // Some in pieces, some a while later, as if it worked.
        for _ in 0..(how >> 4) * 3 {
            yield_now().await;
        }
        if is_silent && how % 16 < 6 {
            continue;
        }
        for piece in said.chunks(if how % 16 == 12 { 5 } else { 4096 }) {
            if stream.write_all(piece).await.is_err() {
                return;
            }
            yield_now().await;
        }
    }
}

async fn message(stream: &mut UnixStream, frames: &mut FrameBuffer) -> Option<Value> {
    loop {
        if let Some(frame) = frames.next_frame().expect("short") {
            return Some(serde_json::from_slice(frame).expect("the broker speaks JSON"));
        }
        let spare = frames.spare();
        let n = stream.read(spare).await.ok().filter(|n| *n > 0)?;
        frames.filled(n);
    }
}

struct Client {
    stream: UnixStream,
    frames: FrameBuffer,
    owed: VecDeque<(u32, &'static str)>,
    /// Where the next message is cut in two.
    cut: usize,
}

impl Client {
    fn connect(broker: &Alone) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        tokio::spawn(broker.clone().converse(theirs));
        Self { stream: ours, frames: FrameBuffer::nul(), owed: VecDeque::new(), cut: 0 }
    }

    async fn call(
        &mut self,
        label: &'static str,
        who: u32,
        how: u8,
        oneway: bool,
        repeatable: bool,
    ) {
        let method = format!(
            "org.example.T{}.{}",
            label.to_uppercase(),
            if repeatable { "Get" } else { "Put" }
        );
        let mut call = json!({"method": method, "parameters": {"who": who, "how": how}});
        if oneway {
            call["oneway"] = true.into();
        } else {
            self.owed.push_back((who, label));
        }
        let mut bytes = call.to_string().into_bytes();
        bytes.push(0);
        let (first, second) = bytes.split_at(std::mem::take(&mut self.cut).min(bytes.len()));
        for piece in [first, second] {
            self.stream.write_all(piece).await.expect("the broker reads");
            yield_now().await;
        }
    }

    /// Takes what is owed first.
    async fn hear(&mut self) {
        let Some((who, label)) = self.owed.pop_front() else { return };
        let reply =
            message(&mut self.stream, &mut self.frames).await.expect("each call is answered");
        match reply["error"].as_str() {
            Some(error) if error.starts_with("org.brahman.Broker.") => {}
            Some("org.example.No") | None => {
                assert_eq!(
                    (&reply["parameters"]["for"], &reply["parameters"]["by"]),
                    (&json!(who), &json!(label)),
                    "{reply}"
                );
                assert!(
                    reply.get("continues").is_none()
                        && reply.as_object().expect("an object").len() <= 2,
                    "{reply}"
                );
            }
            Some(other) => panic!("{other}"),
        }
    }

    /// Hears all that is owed, and nothing else.
    async fn finish(&mut self) {
        while !self.owed.is_empty() {
            self.hear().await;
        }
        let mut sink = [0; 64];
        for _ in 0..8 {
            match self.stream.try_read(&mut sink) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => yield_now().await,
                other => panic!("nothing more was asked: {other:?}"),
            }
        }
    }
}
