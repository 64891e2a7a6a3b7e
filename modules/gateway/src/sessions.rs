//! Sessions of clients that speak the Model Context Protocol over HTTP: under one, requests are
//! known by their ids, so that another request can cancel them.
//!
//! Invariants: a session is its caller's: under the same id another caller has another one, and
//! ends nobody's work. It holds nothing but which requests are being worked on, so that losing one,
//! with this process or for want of room, costs its client nothing: its next request begins it
//! anew. One that its client has ended stays so, as long as it is remembered. Sessions, requests of
//! each and idle lives are bounded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::HeaderMap;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::caller::Caller;
use crate::refusal::Refusal;

/// Header: which session a request belongs to.
pub(crate) const SESSION: &str = "mcp-session-id";
/// Sessions that are remembered: above all requests and streams at once, so that there is always
/// one without any that can be forgotten.
const SESSIONS_MAX: usize = 1024;
/// Requests of one session at once: a model's client makes a handful.
const REQUESTS_MAX: usize = 64;
/// How long a session is remembered after its last request.
const IDLE_MAX: Duration = Duration::from_secs(3600);

/// Whose a session is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Owner {
    /// The mesh's own user, or root.
    Socket,
    /// Whoever has the key of this name.
    Key(String),
    /// Whoever comes by TCP without a key: they are told apart by what they cannot guess, the id.
    Nobody,
}

impl Owner {
    fn of(caller: &Caller) -> Self {
        match &caller.key {
            Some(key) => Self::Key(key.name.clone()),
            None if caller.is_remote() => Self::Nobody,
            None => Self::Socket,
        }
    }
}

/// By what a session is known: its id, of which 80 bits are chance, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionName {
    owner: Owner,
    pub(crate) id: Ulid,
}

impl SessionName {
    /// The session that a request says it belongs to, if it says so.
    ///
    /// # Errors
    /// 404 for what has never been the id of a session here: then a client begins a new one.
    pub(crate) fn named(caller: &Caller, headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let Some(id) = headers.get(SESSION) else { return Ok(None) };
        let id = id.to_str().ok().and_then(|id| Ulid::from_string(id).ok());
        match id {
            Some(id) => Ok(Some(Self { owner: Owner::of(caller), id })),
            None => Err(Refusal::absent(format!(
                "no session is of this {SESSION}: expected the one that `initialize` has told"
            ))),
        }
    }
}

/// What is known of a session.
#[derive(Debug)]
struct Session {
    seen: Instant,
    has_ended: bool,
    /// By the ids of their requests, as JSON.
    running: HashMap<String, CancellationToken>,
}

/// Why a request is not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// Its client has ended the session.
    SessionEnd,
    /// Another request of its id is being worked on.
    SameId,
    /// As many are being worked on as may be.
    Crowd,
}

/// All sessions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions {
    known: Arc<Mutex<HashMap<SessionName, Session>>>,
}

/// A request that is being worked on; over with this.
#[derive(Debug)]
pub(crate) struct RunningRequest {
    sessions: Sessions,
    session: SessionName,
    id: String,
    cancellation: CancellationToken,
}

impl RunningRequest {
    /// Resolves once it is cancelled.
    pub(crate) async fn cancelled(&self) {
        self.cancellation.cancelled().await;
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        let mut known = self.sessions.known();
        if let Some(session) = known.get_mut(&self.session) {
            session.running.remove(&self.id);
            session.seen = Instant::now();
        }
    }
}

impl Sessions {
    fn known(&self) -> MutexGuard<'_, HashMap<SessionName, Session>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new session of a caller's.
    pub(crate) fn begin(&self, caller: &Caller) -> SessionName {
        let name = SessionName { owner: Owner::of(caller), id: Ulid::generate() };
        resume(&mut self.known(), &name);
        name
    }

    /// Begins a request of a session.
    pub(crate) fn enter(
        &self,
        name: &SessionName,
        request: &Value,
    ) -> Result<RunningRequest, Obstacle> {
        let mut known = self.known();
        let session = resume(&mut known, name);
        let id = request.to_string();
        if session.has_ended {
            return Err(Obstacle::SessionEnd);
        }
        if session.running.len() >= REQUESTS_MAX {
            return Err(Obstacle::Crowd);
        }
        // By its id it is cancelled: of two of one id only one could be.
        if session.running.contains_key(&id) {
            return Err(Obstacle::SameId);
        }
        let cancellation = CancellationToken::new();
        session.running.insert(id.clone(), cancellation.clone());
        Ok(RunningRequest { sessions: self.clone(), session: name.clone(), id, cancellation })
    }

    /// Cancels a request, if it is being worked on; false if the session has ended.
    pub(crate) fn cancel(&self, name: &SessionName, request: &Value) -> bool {
        let mut known = self.known();
        let session = resume(&mut known, name);
        if let Some(cancellation) = session.running.get(&request.to_string()) {
            cancellation.cancel();
        }
        !session.has_ended
    }

    /// Whether a session goes on: false if its client has ended it.
    pub(crate) fn goes_on(&self, name: &SessionName) -> bool {
        !resume(&mut self.known(), name).has_ended
    }

    /// Ends a session, and what is being worked on for it; false if it has ended before.
    pub(crate) fn end(&self, name: &SessionName) -> bool {
        let mut known = self.known();
        let session = resume(&mut known, name);
        session.running.values().for_each(CancellationToken::cancel);
        !std::mem::replace(&mut session.has_ended, true)
    }
}

/// The session of a name, seen just now; it begins, perhaps anew, if it is not known.
fn resume<'a>(known: &'a mut HashMap<SessionName, Session>, name: &SessionName) -> &'a mut Session {
    if !known.contains_key(name) {
        make_room(known);
    }
    let now = Instant::now();
    let session = known.entry(name.clone()).or_insert_with(|| Session {
        seen: now,
        has_ended: false,
        running: HashMap::new(),
    });
    session.seen = now;
    session
}

/// Forgets sessions that have been idle for long and, where there is no room, the one that has been
/// so for longest.
fn make_room(known: &mut HashMap<SessionName, Session>) {
    known.retain(|_, session| !session.running.is_empty() || session.seen.elapsed() < IDLE_MAX);
    while known.len() >= SESSIONS_MAX {
        let idle = known.iter().filter(|(_, session)| session.running.is_empty());
        let oldest = idle.min_by_key(|(_, session)| session.seen).map(|(name, _)| name.clone());
        match oldest {
            Some(name) => known.remove(&name),
            // Of requests there are fewer.
            None => return,
        };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(owner: Owner) -> SessionName {
        SessionName { owner, id: Ulid::from_bytes([7; 16]) }
    }

    #[tokio::test]
    async fn a_request_is_cancelled_by_its_id_and_by_nobody_else() {
        let sessions = Sessions::default();
        let mine = name(Owner::Key("mine".into()));
        let running = sessions.enter(&mine, &json!(1)).expect("begun");
        for other in [Owner::Socket, Owner::Nobody, Owner::Key("yours".into())] {
            assert!(sessions.cancel(&name(other.clone()), &json!(1)));
            assert!(sessions.end(&name(other)));
        }
        // A text is another id than a number.
        sessions.cancel(&mine, &json!("1"));
        sessions.cancel(&mine, &json!(2));
        assert!(!running.cancellation.is_cancelled());
        assert_eq!(sessions.enter(&mine, &json!(1)).map(drop), Err(Obstacle::SameId));
        let text = sessions.enter(&mine, &json!("1")).expect("begun");
        sessions.cancel(&mine, &json!(1));
        running.cancelled().await;
        assert!(!text.cancellation.is_cancelled());
        drop(running);
        sessions.enter(&mine, &json!(1)).expect("the id is free again");
    }

    #[test]
    fn an_ended_session_ends_its_work_and_takes_no_more() {
        let sessions = Sessions::default();
        let mine = name(Owner::Socket);
        let running = sessions.enter(&mine, &json!(1)).expect("begun");
        assert!(sessions.goes_on(&mine));
        assert!(sessions.end(&mine) && !sessions.end(&mine));
        assert!(running.cancellation.is_cancelled());
        assert_eq!(sessions.enter(&mine, &json!(2)).map(drop), Err(Obstacle::SessionEnd));
        assert!(!sessions.goes_on(&mine) && !sessions.cancel(&mine, &json!(1)));
    }

    #[test]
    fn requests_and_sessions_are_bounded_and_a_forgotten_one_goes_on() {
        let sessions = Sessions::default();
        let mine = name(Owner::Socket);
        let running: Vec<RunningRequest> =
            (0..REQUESTS_MAX).map(|id| sessions.enter(&mine, &json!(id)).expect("begun")).collect();
        assert_eq!(sessions.enter(&mine, &json!("more")).map(drop), Err(Obstacle::Crowd));
        let numbered = |number: usize| SessionName {
            owner: Owner::Nobody,
            id: Ulid::from_parts(u64::try_from(number).expect("small"), 1),
        };
        for number in 0..2 * SESSIONS_MAX {
            assert!(sessions.goes_on(&numbered(number)));
        }
        assert_eq!(sessions.known().len(), SESSIONS_MAX);
        assert!(sessions.known().contains_key(&mine), "work is being done for it");
        assert!(!sessions.known().contains_key(&numbered(0)));
        sessions.enter(&numbered(0), &json!(1)).expect("it begins anew");
        drop(running);
    }
}
