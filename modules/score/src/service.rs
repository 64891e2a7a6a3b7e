//! `org.brahman.Score` for any engine.

mod finetune;
mod incremental;
mod matrix;
mod memory;
mod session;
mod weights;

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use brahman_card::interface::score::{
    self, ChatTemplate, Conversation, InfoOut, LogprobsIn, LogprobsOut, Message, Template,
};
use brahman_card::{Fault, Interface};
use brahman_sidecar::{Call, Reply, Service, chain};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::conversation::{ConversationError, Layout};
use crate::engine::{Engine, EngineError, Identity, Sequence, Stop};
use crate::kept::ResultStore;
use crate::turns::Turns;

/// A conversation's file: far more than any window holds.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Replies that wait for a slow caller before the model does.
const REPLIES_WAITING: usize = 16;

/// Answers the interface by way of an engine.
#[derive(Debug)]
pub struct ScoreService {
    turns: Turns,
    kept: Arc<ResultStore>,
    engine: Arc<dyn Engine>,
}

impl std::fmt::Debug for dyn Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Engine").field(self.identity()).finish()
    }
}

/// What a call works with on the model's thread.
struct Desk<'a> {
    engine: &'a dyn Engine,
    kept: &'a ResultStore,
    stop: &'a Stop,
}

/// The parameters by which every method names its conversation.
macro_rules! source {
    ($ask:expr) => {
        $crate::service::Source {
            conversation: $ask.conversation.take(),
            messages: $ask.messages.take(),
            path: $ask.path.take(),
            line: $ask.line.take(),
            tools: $ask.tools.take(),
            template: $ask.template.take(),
            chat: $ask.chat_template.take(),
        }
    };
}
use source;

/// Where the conversation is.
struct Source {
    conversation: Option<Conversation>,
    messages: Option<Vec<Message>>,
    path: Option<String>,
    line: Option<u64>,
    tools: Option<Vec<Value>>,
    template: Option<Template>,
    chat: Option<ChatTemplate>,
}

/// Cancels when the call's future is dropped: the caller has hung up.
struct CancelOnDrop(Arc<Stop>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What the model's thread tells the call.
enum Word<T, R> {
    One(T),
    End(Result<R, Fault>),
}

impl ScoreService {
    /// A service for this engine.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn open(engine: Arc<dyn Engine>, kept: ResultStore) -> std::io::Result<Self> {
        Ok(Self { turns: Turns::start(Arc::clone(&engine))?, kept: Arc::new(kept), engine })
    }

    /// Runs `work` on the model's thread when its turn comes. What it tells on the way is sent, or
    /// gathered for a caller who did not ask for `more`.
    async fn turn<T, R>(
        &self,
        call: &Call,
        priority: Option<i64>,
        work: impl FnOnce(&Desk<'_>, &mut dyn FnMut(T)) -> Result<R, Fault> + Send + 'static,
    ) -> Result<(R, Vec<T>), Fault>
    where
        T: Serialize + Send + Sync + 'static,
        R: Send + 'static,
    {
        let stop = Arc::new(Stop::at(call.deadline).of_priority(priority));
        let _cancel = CancelOnDrop(Arc::clone(&stop));
        let (words, mut hear) = mpsc::channel(REPLIES_WAITING);
        let kept = Arc::clone(&self.kept);
        self.turns.take(priority.unwrap_or(0), move |engine, way| {
            stop.give_way(way);
            let desk = Desk { engine, kept: &kept, stop: &stop };
            // Nobody hears any more: the next look at `stop` ends the work.
            let mut tell = |one| drop(words.blocking_send(Word::One(one)));
            let end = match stop.check() {
                Ok(()) => work(&desk, &mut tell),
                Err(error) => Err(error.fault()),
            };
            kept.flush();
            let _ = words.blocking_send(Word::End(end));
        })?;
        let mut gathered = Vec::new();
        loop {
            match hear.recv().await {
                Some(Word::One(one)) if call.more => call.send(&one).await?,
                Some(Word::One(one)) => gathered.push(one),
                Some(Word::End(end)) => return Ok((end?, gathered)),
                None => {
                    return Err(Fault::internal(
                        "scoring ended without a result; the log has more",
                    ));
                }
            }
        }
    }

    async fn logprobs(&self, call: &Call) -> Result<Reply, Fault> {
        let started = Instant::now();
        let LogprobsIn { text, tokens, priority } = call.parameters()?;
        if text.is_some() == tokens.is_some() {
            return Err(Fault::invalid_parameter("text, tokens", "expected one of them"));
        }
        let work = move |desk: &Desk<'_>, _: &mut dyn FnMut(LogprobsOut)| {
            desk.logprobs(text.as_deref(), tokens, started).map_err(|e| e.fault())
        };
        let (out, _) = self.turn(call, priority, work).await?;
        Reply::of(&out)
    }
}

impl Desk<'_> {
    fn identity(&self) -> &Identity {
        self.engine.identity()
    }

    fn logprobs(
        &self,
        text: Option<&str>,
        tokens: Option<Vec<u32>>,
        started: Instant,
    ) -> Result<LogprobsOut, EngineError> {
        let identity = self.identity();
        // Ids are the caller's, and so is what stands before them.
        let (tokens, first) = match (tokens, text) {
            (Some(tokens), _) => (tokens, &[][..]),
            (None, text) => (self.engine.encode(text.unwrap_or(""))?, &identity.first[..]),
        };
        if let Some(token) = tokens.iter().find(|t| **t >= identity.vocabulary) {
            return Err(EngineError::NoSuchToken {
                token: *token,
                vocabulary: identity.vocabulary,
            });
        }
        let all: Vec<u32> = first.iter().chain(&tokens).copied().collect();
        if all.len() > identity.window {
            return Err(EngineError::TooLong { tokens: all.len(), window: identity.window });
        }
        let mut scores = Ok(Vec::new());
        let mut work = crate::engine::Work::default();
        let from = first.len().max(1);
        if all.len() > from {
            let whole = Sequence {
                wanted: std::iter::once(from..all.len()).collect(),
                tokens: all,
                responses: Vec::new(),
            };
            work = self.engine.score(&[whole], self.stop, &mut |_, found| scores = found)?;
        }
        let scores = scores?;
        let total = scores.iter().map(|x| f64::from(*x)).sum();
        // Without a token that stands before everything, nothing precedes the first.
        let unknown = std::iter::repeat_n(None, tokens.len() - scores.len());
        Ok(LogprobsOut {
            logprobs: unknown.chain(scores.into_iter().map(Some)).collect(),
            pieces: tokens.iter().map(|t| self.engine.decode(&[*t])).collect(),
            tokens,
            total,
            tokens_forwarded: work.forwarded,
            tokens_reused: work.reused,
            model: identity.model.clone(),
            fingerprint: identity.fingerprint.clone(),
            device: identity.device.clone(),
            mock: identity.mock,
            elapsed_us: elapsed_us(started),
        })
    }
}

fn elapsed_us(started: Instant) -> u64 {
    started.elapsed().as_micros().try_into().unwrap_or(u64::MAX)
}

impl Source {
    /// The conversation, and how it is to be put into tokens.
    fn read(self, call: &Call) -> Result<(Conversation, Layout), Fault> {
        if self.line.is_some() && self.path.is_none() {
            return Err(Fault::invalid_parameter("line", "expected beside `path` only"));
        }
        let conversation = match (self.conversation, self.messages, self.path) {
            (Some(conversation), None, None) => Ok(conversation),
            (None, Some(messages), None) => {
                score::file::from_messages(messages, None).map_err(ConversationError::from)
            }
            (None, None, Some(path)) => {
                call.allow_paths()?;
                score::file::read(&file(&path)?, self.line).map_err(ConversationError::from)
            }
            _ => {
                return Err(Fault::invalid_parameter(
                    "conversation, messages, path",
                    "expected one of them",
                ));
            }
        };
        let mut conversation = conversation.map_err(|unfit| unfit.fault())?;
        if let Some(tools) = self.tools {
            if conversation.tools.is_some() {
                return Err(Fault::invalid_parameter(
                    "tools",
                    "the conversation has its own: expected one of them",
                ));
            }
            conversation.tools = Some(tools);
        }
        Ok((conversation, Layout { template: self.template, chat: self.chat.unwrap_or_default() }))
    }
}

fn file(path: &str) -> Result<Vec<u8>, Fault> {
    let unreadable = |why: String| {
        Fault::of(
            &score::error::FileUnreadable { path: path.to_owned() },
            false,
            format!("{path}: {why}"),
        )
    };
    if !Path::new(path).is_absolute() {
        return Err(unreadable(
            "expected an absolute path: the service has a working directory of its own".into(),
        ));
    }
    let open = std::fs::File::open(path).map_err(|e| unreadable(chain(&e)))?;
    let meta = open.metadata().map_err(|e| unreadable(chain(&e)))?;
    if !meta.is_file() {
        return Err(unreadable("not a regular file".into()));
    }
    let mut bytes = Vec::new();
    open.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| unreadable(chain(&e)))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(format!("{} bytes, expected at most {FILE_BYTES_MAX}", meta.len())));
    }
    Ok(bytes)
}

impl Service for ScoreService {
    fn interfaces(&self) -> &'static [&'static Interface] {
        &[&score::INTERFACE]
    }

    async fn call(self: Arc<Self>, call: Call) -> Result<Reply, Fault> {
        match call.method() {
            "Info" => {
                let info = self.engine.info();
                Reply::of(&InfoOut {
                    queue: self.turns.waiting() as u64,
                    kept: Some(self.kept.info()),
                    ..info
                })
            }
            "Logprobs" => self.logprobs(&call).await,
            "ScoreMatrix" => self.matrix(&call).await,
            "ScoreMemory" => self.memory(&call).await,
            "ScoreIncremental" => self.incremental(&call).await,
            "ScoreFinetune" => self.finetune(&call).await,
            "Weights" => self.weights(&call).await,
            "ResetWeights" => self.reset_weights(&call).await,
            _ => Err(call.unknown()),
        }
    }
}
