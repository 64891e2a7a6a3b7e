//! From bytes to a validated [`Card`]: bounds first, then shape, then sense.

use std::net::SocketAddr;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::names::{INTERFACES_OF_INIT, is_reserved};
use super::{
    Access, CARD_BYTES_MAX, Card, ENTRIES_MAX, FlowType, Payload, STRING_BYTES_MAX, Supervision,
    TCP,
};
use crate::interface::{self, OURS};
use crate::names::{Kind, REPLICAS_MAX};
use crate::wire::DEPTH_MAX;

/// Why a Card was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{origin}: {field}: {expected}")]
pub struct CardError {
    /// The file, or what stands for it.
    pub origin: String,
    /// Path of the field, such as `flow.output[0].type`; `(file)` for the whole.
    pub field: String,
    /// What is wrong and what was expected.
    pub expected: String,
}

/// How a Card is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `*.toml`
    Toml,
    /// `*.json`
    Json,
}

impl Dialect {
    /// By the ending of the name; without one, an opening brace means JSON.
    #[must_use]
    pub fn of(origin: &str, text: &[u8]) -> Self {
        if origin.ends_with(".json") {
            return Self::Json;
        }
        let first = text.iter().find(|b| !b.is_ascii_whitespace());
        if origin.ends_with(".toml") || first != Some(&b'{') { Self::Toml } else { Self::Json }
    }
}

/// The JSON Schema of a Card, for editors (`docs/card.schema.json`).
#[must_use]
pub fn json_schema() -> Value {
    let mut schema = schemars::schema_for!(Card).to_value();
    if let Some(object) = schema.as_object_mut() {
        object.insert("title".into(), "Brahman Card".into());
        // Reverse-domain keys are extensions; anything else unknown is refused.
        object.insert(
            "patternProperties".into(),
            serde_json::json!({ "^[a-z0-9-]+(\\.[A-Za-z0-9-]+)+$": true }),
        );
    }
    schema
}

/// Interfaces of ours that have one writer for the whole mesh, and so no replicas.
const SINGLE_WRITERS: [&str; 6] = [
    interface::broker::INTERFACE.name,
    interface::catalog::INTERFACE.name,
    interface::storage::INTERFACE.name,
    interface::index::INTERFACE.name,
    interface::ingest::INTERFACE.name,
    interface::profiles::INTERFACE.name,
];

pub(super) fn parse(origin: &str, text: &[u8], dialect: Dialect) -> Result<Card, CardError> {
    let fail = |field: &str, expected: String| CardError {
        origin: origin.into(),
        field: field.into(),
        expected,
    };
    if text.len() > CARD_BYTES_MAX {
        return Err(fail(
            "(file)",
            format!("{} bytes long, expected at most {CARD_BYTES_MAX}", text.len()),
        ));
    }
    let text = std::str::from_utf8(text).map_err(|e| {
        fail("(file)", format!("not UTF-8 at byte {}, expected text", e.valid_up_to()))
    })?;
    if nesting(text) > DEPTH_MAX {
        return Err(fail("(file)", format!("nested deeper than {DEPTH_MAX} levels")));
    }
    let value: Value = match dialect {
        Dialect::Json => {
            serde_json::from_str(text).map_err(|e| fail("(file)", format!("not JSON: {e}")))?
        }
        Dialect::Toml => toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            fail("(file)", format!("not TOML at line {line}: {}", e.message()))
        })?,
    };
    bound(&value, "").map_err(|(field, why)| fail(&field, why))?;
    let Value::Object(mut object) = value else {
        return Err(fail("(file)", "expected an object of Card fields".into()));
    };
    take_extensions(&mut object);
    let mut card: Card = serde_path_to_error::deserialize(Value::Object(object)).map_err(|e| {
        let path = e.path().to_string();
        fail(if path == "." { "(file)" } else { &path }, e.into_inner().to_string())
    })?;
    check(&card).map_err(|(field, why)| fail(&field, why))?;
    if card.id.is_empty() {
        card.id = minted_id(&card);
    }
    Ok(card)
}

/// Deepest nesting of brackets outside strings: cheap, and computed before a recursive parser sees
/// the text.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest, mut quote, mut escaped) = (0_usize, 0_usize, None, false);
    for byte in text.bytes() {
        match (quote, byte) {
            (Some(_), _) if escaped => escaped = false,
            (Some(b'"'), b'\\') => escaped = true,
            (Some(open), _) if open == byte || byte == b'\n' => quote = None,
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'{' | b'[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (None, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    // TOML also nests by dotted keys.
    let dotted =
        text.lines().map(|line| line.split('=').next().unwrap_or("").matches('.').count()).max();
    deepest.max(dotted.unwrap_or(0))
}

fn bound(value: &Value, path: &str) -> Result<(), (String, String)> {
    let too_many =
        |n: usize| (path.to_owned(), format!("{n} entries, expected at most {ENTRIES_MAX}"));
    match value {
        Value::String(text) if text.len() > STRING_BYTES_MAX => Err((
            path.to_owned(),
            format!("{} bytes long, expected at most {STRING_BYTES_MAX}", text.len()),
        )),
        Value::Array(items) if items.len() > ENTRIES_MAX => Err(too_many(items.len())),
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(i, item)| bound(item, &format!("{path}[{i}]")))
        }
        Value::Object(map) if map.len() > ENTRIES_MAX => Err(too_many(map.len())),
        Value::Object(map) => map.iter().try_for_each(|(key, item)| {
            bound(item, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") })
        }),
        _ => Ok(()),
    }
}

fn take_extensions(object: &mut Map<String, Value>) {
    let keys: Vec<String> = object.keys().filter(|key| key.contains('.')).cloned().collect();
    if keys.is_empty() {
        return;
    }
    let mut extensions = match object.remove("extensions") {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    };
    for key in keys {
        if let Some(value) = object.remove(&key) {
            extensions.insert(key, value);
        }
    }
    object.insert("extensions".into(), Value::Object(extensions));
}

fn check(card: &Card) -> Result<(), (String, String)> {
    let fail = |field: &str, why: String| Err((field.to_owned(), why));
    if card.schema_version != 1 {
        return fail(
            "schema_version",
            format!("{} is not known here, expected 1", card.schema_version),
        );
    }
    if !card.id.is_empty() && ulid::Ulid::from_string(&card.id).is_err() {
        return fail(
            "id",
            format!("`{}` is not a ULID: expected 26 characters of Crockford base 32", card.id),
        );
    }
    if let Payload::Native(native) = &card.payload
        && native.exec.trim().is_empty()
    {
        return fail("payload.native.exec", "empty, expected a program's path or name".into());
    }
    if card.label.is_replica() {
        let why = format!(
            "`{}`: replicas are numbered by `replicas = N`, expected a label without `@`",
            card.label
        );
        return fail("label", why);
    }
    check_replicas(card)?;
    if Kind::Label.reserves(card.label.as_str()) {
        return fail(
            "label",
            format!("`{}` is a name of the mesh's own parts, expected another", card.label),
        );
    }
    if let Some(socket) = &card.service_socket {
        check_socket(socket)?;
    }
    check_listen(card)?;
    if let Some(key) = card.extensions.keys().find(|key| !key.contains('.')) {
        return fail(
            &format!("extensions.{key}"),
            "expected a reverse-domain key such as com.example.team".into(),
        );
    }
    check_flows(card)?;
    let ours = card.offered_interfaces().any(|name| name.starts_with(OURS));
    if card.access == Access::Group && !card.wants_uid && ours {
        let why = "false with access = \"group\": without the caller's uid a member of the group would count as the owner";
        return fail("wants_uid", format!("{why}, expected true"));
    }
    if let Some(weight) = card.limits.cpu_weight
        && !(1..=10_000).contains(&weight)
    {
        return fail("limits.cpu_weight", format!("{weight}, expected 1 to 10000"));
    }
    for (field, value) in [
        ("quotas.connections", card.quotas.connections),
        ("quotas.in_flight", card.quotas.in_flight),
        ("readiness.timeout_s", card.readiness.timeout_s),
    ] {
        if value == 0 {
            return fail(field, "0 would let nothing through, expected at least 1".into());
        }
    }
    if let Supervision::Restart(policy) = &card.supervision
        && (policy.initial_ms > policy.max_ms || policy.intensity == 0 || policy.period_s == 0)
    {
        return fail(
            "supervision.restart",
            "expected initial_ms ≤ max_ms, intensity ≥ 1 and period_s ≥ 1".into(),
        );
    }
    let native_env = match &card.payload {
        Payload::Native(native) => Some(("payload.native.env", &native.env)),
        Payload::Virtual => None,
    };
    for (field, map) in native_env.into_iter().chain([("environment", &card.environment)]) {
        if let Some((key, _)) =
            map.iter().find(|(k, v)| k.is_empty() || k.contains(['=', '\0']) || v.contains('\0'))
        {
            return fail(
                field,
                format!(
                    "`{}` is not a variable's name, or its value holds a NUL",
                    key.escape_debug()
                ),
            );
        }
    }
    Ok(())
}

/// Whether a Card may have as many replicas as it says.
fn check_replicas(card: &Card) -> Result<(), (String, String)> {
    let fail = |why: String| Err(("replicas".to_owned(), why));
    if !(1..=REPLICAS_MAX).contains(&card.replicas) {
        return fail(format!("{}, expected 1 to {REPLICAS_MAX}", card.replicas));
    }
    if card.replicas == 1 {
        return Ok(());
    }
    if !matches!(card.payload, Payload::Native(_)) || card.supervision == Supervision::Delegate {
        return fail(
            "init does not start this module, and so makes no replicas of it: expected 1".into(),
        );
    }
    if card.service_socket.is_some() || !card.listen.is_empty() || !card.id.is_empty() {
        return fail(
            "each replica has a socket and an id of its own: expected neither `service_socket`, `listen` nor `id` beside it".into(),
        );
    }
    match card.offered_interfaces().find(|name| SINGLE_WRITERS.contains(name)) {
        Some(name) => fail(format!("{name} has one writer in a mesh: expected 1")),
        None => Ok(()),
    }
}

fn check_socket(socket: &str) -> Result<(), (String, String)> {
    let fail = |why: String| Err(("service_socket".to_owned(), why));
    let file = socket.rsplit('/').next().unwrap_or_default();
    let relative = socket.contains('/') && !socket.starts_with('/');
    if file.is_empty()
        || file.starts_with('.')
        || socket.contains("..")
        || socket.contains('\0')
        || relative
    {
        return fail(format!(
            "`{}`: expected a file name or an absolute path",
            socket.escape_debug()
        ));
    }
    if is_reserved(file) {
        return fail(format!(
            "`{}` is a file of the mesh's own, expected another name",
            socket.escape_debug()
        ));
    }
    Ok(())
}

/// Whether a module may be listened for at these addresses.
fn check_listen(card: &Card) -> Result<(), (String, String)> {
    let (mut sockets, mut addresses) = (usize::from(card.service_socket.is_some()), Vec::new());
    for (i, address) in card.listen.iter().enumerate() {
        let fail = |why: String| Err((format!("listen[{i}]"), why));
        let Some(tcp) = address.strip_prefix(TCP) else {
            check_socket(address).map_err(|(_, why)| (format!("listen[{i}]"), why))?;
            sockets += 1;
            if sockets > 1 {
                return fail(format!(
                    "`{}`: a module has one socket, expected TCP addresses beside it",
                    address.escape_debug()
                ));
            }
            continue;
        };
        let parsed: Result<SocketAddr, _> = tcp.parse();
        match parsed {
            Ok(parsed) if parsed.port() != 0 && !addresses.contains(&parsed) => {
                addresses.push(parsed);
            }
            Ok(_) => {
                return fail(format!(
                    "`{address}`: expected a port other than 0, and each address once"
                ));
            }
            Err(_) => {
                return fail(format!(
                    "`{}`: expected an address in numbers, such as tcp:127.0.0.1:7077",
                    address.escape_debug()
                ));
            }
        }
    }
    if !addresses.is_empty() && !matches!(card.payload, Payload::Native(_)) {
        return Err((
            "listen".into(),
            "init listens for modules that it starts: expected none in a virtual Card".into(),
        ));
    }
    Ok(())
}

fn check_flows(card: &Card) -> Result<(), (String, String)> {
    for (side, flows) in [("input", &card.flow.input), ("output", &card.flow.output)] {
        for (i, flow) in flows.iter().enumerate() {
            if flow.name.is_empty() {
                return Err((
                    format!("flow.{side}[{i}].name"),
                    "empty, expected a short name such as embed".into(),
                ));
            }
            let FlowType::Interface { name } = &flow.ty else { continue };
            let field = format!("flow.{side}[{i}].type.interface.name");
            if !is_interface_name(name) {
                return Err((
                    field,
                    format!(
                        "`{name}` is not a Varlink interface name, expected one such as org.example.Thing"
                    ),
                ));
            }
            if side == "output" && INTERFACES_OF_INIT.contains(&name.as_str()) {
                return Err((
                    field,
                    format!(
                        "`{name}` is answered by init and by every socket itself, expected another"
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Whether `name` is a Varlink interface name: reverse-domain, at least two elements of letters,
/// digits and hyphens.
#[must_use]
pub(crate) fn is_interface_name(name: &str) -> bool {
    name.len() <= 255
        && name.split('.').count() >= 2
        && name.split('.').all(|part| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// A ULID whose bits come from label and socket: stable over restarts, equal on every machine.
pub(super) fn minted_id(card: &Card) -> String {
    let digest = Sha256::digest(format!("{}\0{}", card.label, card.socket_name()));
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    ulid::Ulid::from_bytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
schema_version = 1
label = "embed-mock"
mock = true
"com.example.team" = "search"
[payload.native]
exec = "embed-mock"
[limits]
memory = "64M"
[[flow.output]]
name = "embed"
type.interface.name = "org.brahman.Embed"
[priority_contexts.test]
priority_offset = 10
"#;

    fn refused(text: &str) -> CardError {
        Card::parse("bad.toml", text.as_bytes()).expect_err("the Card must be refused")
    }

    #[test]
    fn a_toml_card_keeps_its_extensions_and_mints_a_stable_id() {
        let card = Card::parse("good.toml", GOOD.as_bytes()).expect("a good Card");
        assert_eq!(card.extensions["com.example.team"], "search");
        assert_eq!(card.limits.memory.map(|m| m.0), Some(64 << 20));
        assert_eq!(card.id, Card::parse("again.toml", GOOD.as_bytes()).expect("the same Card").id);
        assert!(ulid::Ulid::from_string(&card.id).is_ok());
    }

    #[test]
    fn a_card_survives_the_way_through_json() {
        let card = Card::parse("good.toml", GOOD.as_bytes()).expect("a good Card");
        let json = serde_json::to_vec(&card).expect("a Card is JSON");
        assert_eq!(Card::parse("good.json", &json).expect("the same Card"), card);
    }

    #[test]
    fn an_error_names_file_field_and_expectation() {
        for (change, field, words) in [
            (("label = \"embed-mock\"", "label = \"Embed\""), "label", "1 to 64"),
            (("mock = true", "mok = true"), "mok", "unknown field"),
            (("schema_version = 1", "schema_version = 2"), "schema_version", "expected 1"),
            (("memory = \"64M\"", "memory = \"64Q\""), "limits.memory", "not a size"),
            (
                ("org.brahman.Embed", "embed"),
                "flow.output[0].type.interface.name",
                "interface name",
            ),
            (("exec = \"embed-mock\"", "exec = \"\""), "payload.native.exec", "empty"),
        ] {
            let error = refused(&GOOD.replace(change.0, change.1));
            assert_eq!(error.origin, "bad.toml");
            assert!(error.field.contains(field), "{error}");
            assert!(error.expected.contains(words), "{error}");
        }
    }

    #[test]
    fn replicas_are_modules_of_their_own_and_only_where_there_may_be_several() {
        let with = |line: &str| GOOD.replace("mock = true", &format!("mock = true\n{line}"));
        let one = Card::parse("good.toml", GOOD.as_bytes()).expect("a good Card");
        assert_eq!((one.replicas, one.instances()), (1, vec![one.clone()]));
        assert!(
            !String::from_utf8_lossy(&one.to_json()).contains("replicas"),
            "an older reader reads it"
        );
        let three = Card::parse("good.toml", with("replicas = 3").as_bytes())
            .expect("a good Card")
            .instances();
        let labels: Vec<String> = three.iter().map(|card| card.label.to_string()).collect();
        assert_eq!(labels, ["embed-mock@1", "embed-mock@2", "embed-mock@3"]);
        assert_eq!(three[1].socket_name(), "embed-mock@2.sock");
        assert!(three[0].id != three[1].id && three.iter().all(|card| card.replicas == 1));
        assert_eq!(
            serde_json::from_slice::<Card>(&three[2].to_json()).expect("read again"),
            three[2]
        );
        for (line, words) in [
            ("replicas = 0", "expected 1 to 64"),
            ("replicas = 65", "expected 1 to 64"),
            ("replicas = 2\nservice_socket = \"x.sock\"", "of its own"),
        ] {
            let error = refused(&with(line));
            assert!(error.field == "replicas" && error.expected.contains(words), "{error}");
        }
        let catalog = with("replicas = 2").replace("org.brahman.Embed", "org.brahman.Catalog");
        assert!(refused(&catalog).expected.contains("one writer"));
        assert_eq!(
            refused(&GOOD.replace("label = \"embed-mock\"", "label = \"embed-mock@1\"")).field,
            "label"
        );
    }

    #[test]
    fn size_depth_and_count_are_bounded() {
        assert!(refused(&"#".repeat(CARD_BYTES_MAX + 1)).expected.contains("at most"));
        assert!(
            refused(&format!("x = {}{}", "[".repeat(10_000), "]".repeat(10_000)))
                .expected
                .contains("deeper")
        );
        let many: String = (0..65).map(|i| format!("\"com.x{i}\" = 1\n")).collect();
        assert!(refused(&format!("{many}{GOOD}")).expected.contains("at most 64"));
        let long =
            GOOD.replace("label = \"embed-mock\"", &format!("label = \"{}\"", "a".repeat(5000)));
        assert!(refused(&long).expected.contains("at most 4096"));
    }

    #[test]
    fn the_schema_kept_for_editors_is_the_one_generated() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/card.schema.json");
        let text = format!("{:#}\n", json_schema());
        if std::env::var_os("BRAHMAN_BLESS").is_some() {
            std::fs::write(path, &text).expect("docs/ is writable");
        }
        let kept = std::fs::read_to_string(path).expect("docs/card.schema.json is in the tree");
        assert!(
            kept == text,
            "docs/card.schema.json is stale: run `BRAHMAN_BLESS=1 cargo test -p brahman-card schema`"
        );
    }
}
