//! A client's call, read by its header alone and owned, so that reading may go on meanwhile.
//!
//! Invariants: its payload is stepped over, never parsed; what is wrong with a whole message is
//! kept as its flaw, so that the connection goes on behind it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use brahman_card::interface;
use brahman_card::wire::fault::Fault;
use brahman_card::wire::header::{
    CallHeader, push_escaped, push_number_member, push_text_member, reply_head,
};
use brahman_card::wire::{
    KEY_CALL, KEY_CONTEXT, KEY_DEADLINE, KEY_REQUIRE, KEY_TRACE, KEY_UID, parameters,
};
use brahman_sidecar::serve::unknown_key;
use brahman_sidecar::{Deadline, chain};

use crate::quarantine::Fingerprint;

/// Latest deadline: clocks add up to it without overflow.
const DEADLINE_MS_MAX: u64 = 30 * 24 * 3600 * 1000;
/// Longest name a context may have: a word, not a text.
const CONTEXT_BYTES_MAX: usize = 64;
/// Longest trace id: a word, not a text.
const TRACE_BYTES_MAX: usize = 256;
/// Longest JSON text and most members of the attributes that a call requires.
const REQUIRE_MAX: (usize, usize) = (4096, 16);

/// A call as it goes to the provider, owned so that reading may go on meanwhile.
pub(crate) struct Outgoing {
    frame: Vec<u8>,
    parameters: Range<usize>,
    pub(crate) interface: String,
    pub(crate) method: String,
    pub(crate) context: Option<String>,
    pub(crate) require: Option<BTreeMap<String, String>>,
    trace: Option<String>,
    /// On whose behalf it is made, by its caller's word: whether that counts is for the broker to
    /// say.
    pub(crate) uid: Option<u32>,
    pub(crate) more: bool,
    pub(crate) oneway: bool,
    pub(crate) upgrade: bool,
    pub(crate) deadline: Deadline,
    number: Option<u64>,
    /// Whether its caller takes keys of ours.
    pub(crate) extras: bool,
    /// A provider has ended on it before.
    pub(crate) again: bool,
    /// What is wrong with it, though it is a whole message.
    pub(crate) flaw: Option<Fault>,
}

impl Outgoing {
    /// Its parameters' JSON text; empty if there are none.
    pub(crate) fn parameters(&self) -> &[u8] {
        &self.frame[self.parameters.clone()]
    }

    /// Bytes of its message.
    pub(crate) fn len(&self) -> usize {
        self.frame.len()
    }

    /// What a reply to it by this provider begins with.
    pub(crate) fn reply_head(&self, provider: &str) -> Vec<u8> {
        reply_head(provider, self.extras, self.number)
    }

    /// The message for a provider, up to its parameters' text. Additions only for one whose Card
    /// wants them, but that it is told of whoever calls through a module that speaks for others, if
    /// its interface is one of ours: it would open its own user's files for him else. `peer` is who
    /// connected.
    pub(crate) fn head(&self, wants_uid: bool, peer: u32, number: u64) -> Vec<u8> {
        let uid = self.uid.unwrap_or(peer);
        let mut out = Vec::with_capacity(256);
        out.push(b'{');
        if wants_uid {
            push_number_member(&mut out, KEY_CALL, number);
            push_number_member(&mut out, KEY_UID, uid.into());
            if let Some(left) = self.deadline.left() {
                push_number_member(
                    &mut out,
                    KEY_DEADLINE,
                    u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
                );
            }
            for (key, value) in [(KEY_CONTEXT, &self.context), (KEY_TRACE, &self.trace)] {
                if let Some(value) = value {
                    push_text_member(&mut out, key, value);
                }
            }
        }
        if !wants_uid && uid != peer && self.interface.starts_with(interface::OURS) {
            push_number_member(&mut out, KEY_UID, uid.into());
        }
        for (set, member) in [
            (self.more, "\"more\":true,"),
            (self.oneway, "\"oneway\":true,"),
            (self.upgrade, "\"upgrade\":true,"),
        ] {
            if set {
                out.extend_from_slice(member.as_bytes());
            }
        }
        out.extend_from_slice(b"\"method\":\"");
        push_escaped(&mut out, &self.interface);
        out.push(b'.');
        push_escaped(&mut out, &self.method);
        out.extend_from_slice(if self.parameters.is_empty() {
            b"\""
        } else {
            b"\",\"parameters\":"
        });
        out
    }

    /// Whether its stream has no end of its own, so that it must not hold a place that calls wait
    /// for.
    pub(crate) fn is_endless(&self) -> bool {
        self.more && interface::is_endless(&self.interface, &self.method)
    }

    /// How long it may take if its caller does not say.
    pub(crate) fn patience_s(&self) -> u64 {
        interface::patience_s(&self.interface, &self.method)
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.interface, &self.method, self.parameters())
    }
}

impl Outgoing {
    /// Reads the header of a call.
    pub(crate) fn read(frame: Vec<u8>) -> Result<Self, Fault> {
        let header = CallHeader::skim(&frame);
        let header = header.map_err(|e| {
            Fault::invalid_parameter("(message)", format!("not a Varlink call: {}", chain(&e)))
        })?;
        let (require, flaw) = match requirements(&header) {
            Ok(require) => (require, None),
            Err(flaw) => (None, Some(flaw)),
        };
        let (interface, method) = header.split();
        let mut call = Self {
            interface: interface.to_owned(),
            method: method.to_owned(),
            context: header.context.map(str::to_owned),
            require,
            trace: header.trace.map(str::to_owned),
            uid: header.uid,
            // Nothing answers a oneway call, neither a stream nor an upgrade.
            more: header.more && !header.oneway,
            oneway: header.oneway,
            upgrade: header.upgrade && !header.oneway,
            deadline: Deadline::in_ms(header.deadline_ms.map(|ms| ms.min(DEADLINE_MS_MAX))),
            number: header.call,
            extras: header.extras,
            again: header.again,
            flaw,
            parameters: span(&frame, header.parameters),
            frame: Vec::new(),
        };
        if call.deadline.is_never() && !call.more && !call.upgrade {
            call.deadline = Deadline::within(Duration::from_secs(call.patience_s()));
        }
        Ok(Self { frame, ..call })
    }
}

/// What a call requires of its provider, once all else in its header is found to be within its
/// bounds.
fn requirements(header: &CallHeader<'_>) -> Result<Option<BTreeMap<String, String>>, Fault> {
    if let Some(key) = header.unknown {
        return Err(unknown_key(key));
    }
    if !parameters::is_object(header.parameters) {
        return Err(Fault::invalid_parameter("parameters", "expected an object"));
    }
    for (key, value, max) in [
        (KEY_CONTEXT, header.context, CONTEXT_BYTES_MAX),
        (KEY_TRACE, header.trace, TRACE_BYTES_MAX),
    ] {
        if value.is_some_and(|value| value.len() > max) {
            return Err(Fault::invalid_parameter(key, format!("expected at most {max} bytes")));
        }
    }
    let (bytes_max, members_max) = REQUIRE_MAX;
    let wrong = || {
        Fault::invalid_parameter(
            KEY_REQUIRE,
            format!(
                "expected an object of at most {members_max} strings, {bytes_max} bytes in all"
            ),
        )
    };
    match header.require {
        b"" => Ok(None),
        text if text.len() > bytes_max => Err(wrong()),
        text => {
            let require: BTreeMap<String, String> =
                serde_json::from_slice(text).map_err(|_| wrong())?;
            if require.len() > members_max {
                Err(wrong())
            } else {
                Ok(Some(require).filter(|require| !require.is_empty()))
            }
        }
    }
}

/// Where a part lies in the whole that it is a part of.
pub(crate) fn span(whole: &[u8], part: &[u8]) -> Range<usize> {
    if part.is_empty() {
        return 0..0;
    }
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, uid: Option<u32>, wants_uid: bool) -> String {
        let uid = uid.map(|uid| format!(",\"{KEY_UID}\":{uid}")).unwrap_or_default();
        let call = Outgoing::read(format!("{{\"method\":\"{method}\"{uid}}}").into_bytes())
            .expect("a call");
        String::from_utf8(call.head(wants_uid, 1000, 7)).expect("text")
    }

    #[test]
    fn whoever_calls_through_a_module_is_named_to_a_provider_of_ours_whatever_its_card_says() {
        let ours = format!("{}.Info", interface::embed::INTERFACE.name);
        let named = |head: &str, uid: u32| head.contains(&format!("\"{KEY_UID}\":{uid},"));
        assert!(
            named(&head(&ours, Some(65534), false), 65534)
                && named(&head(&ours, Some(65534), true), 65534)
        );
        assert!(named(&head(&ours, None, true), 1000));
        for plain in [
            head(&ours, None, false),
            head(&ours, Some(1000), false),
            head("com.example.Thing.Do", Some(65534), false),
        ] {
            assert!(!plain.contains(KEY_UID) && !plain.contains(KEY_CALL), "{plain}");
        }
    }
}
