//! What was once said on the wire still holds: IDL texts and messages of earlier versions, kept in
//! `corpus/`.
//!
//! `corpus/idl` has every interface as it stood when its text was still written by hand,
//! `corpus/json` requests and replies, a line each. Neither is ever changed: lines and files are
//! only added.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use brahman_card::interface::{
    self, Interface, Method, broker, catalog, embed, index, ingest, init, profiles, rerank, score,
    service, storage,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use varlink_parser::{IDL, VStruct, VStructOrEnum, VType, VTypeExt};

fn corpus(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    files
}

/// The interface that a file of the corpus is named after.
fn interface_of(file: &Path) -> &'static Interface {
    let name = file.file_stem().and_then(|stem| stem.to_str()).expect("a name");
    interface::known(name).unwrap_or_else(|| panic!("{name} is gone"))
}

fn fields_of<'a>(idl: &'a IDL<'a>, ty: &'a VTypeExt<'a>) -> Option<&'a VStruct<'a>> {
    match ty {
        VTypeExt::Plain(VType::Struct(fields)) => Some(fields),
        VTypeExt::Plain(VType::Typename(name)) => match &idl.typedefs[name].elt {
            VStructOrEnum::VStruct(fields) => Some(fields),
            VStructOrEnum::VEnum(_) => None,
        },
        _ => None,
    }
}

/// Fails unless the new type is the old one, type names aside, with optional fields added at most.
fn compare(place: &str, old: (&IDL<'_>, &VTypeExt<'_>), new: (&IDL<'_>, &VTypeExt<'_>)) {
    if let (Some(before), Some(now)) = (fields_of(old.0, old.1), fields_of(new.0, new.1)) {
        return compare_fields(place, (old.0, before), (new.0, now));
    }
    match (old.1, new.1) {
        (VTypeExt::Array(before), VTypeExt::Array(now))
        | (VTypeExt::Dict(before), VTypeExt::Dict(now))
        | (VTypeExt::Option(before), VTypeExt::Option(now)) => {
            compare(place, (old.0, before), (new.0, now));
        }
        (VTypeExt::Plain(before), VTypeExt::Plain(now)) => {
            let is_same = matches!(
                (before, now),
                (VType::Bool, VType::Bool)
                    | (VType::Int, VType::Int)
                    | (VType::Float, VType::Float)
                    | (VType::String, VType::String)
                    | (VType::Object, VType::Object)
            );
            assert!(is_same, "{place}: another type");
        }
        _ => panic!("{place}: another shape"),
    }
}

fn compare_fields(place: &str, old: (&IDL<'_>, &VStruct<'_>), new: (&IDL<'_>, &VStruct<'_>)) {
    for field in &old.1.elts {
        assert!(
            new.1.elts.iter().any(|now| now.name == field.name),
            "{place}.{} is gone",
            field.name
        );
    }
    for field in &new.1.elts {
        let place = format!("{place}.{}", field.name);
        match old.1.elts.iter().find(|one| one.name == field.name) {
            Some(one) => compare(&place, (old.0, &one.vtype), (new.0, &field.vtype)),
            None => assert!(
                matches!(field.vtype, VTypeExt::Option(_)),
                "{place} is new, and not optional"
            ),
        }
    }
}

#[test]
fn every_interface_has_what_it_had() {
    let files = corpus("idl");
    assert!(files.len() >= 9, "{} texts", files.len());
    for file in files {
        let interface = interface_of(&file);
        let before = fs::read_to_string(&file).expect("a text");
        let old =
            IDL::try_from(before.as_str()).unwrap_or_else(|e| panic!("{}: {e}", interface.name));
        let new =
            IDL::try_from(interface.idl()).unwrap_or_else(|e| panic!("{e}\n{}", interface.idl()));
        for (name, method) in &old.methods {
            let now = new
                .methods
                .get(name)
                .unwrap_or_else(|| panic!("{}.{name} is gone", interface.name));
            compare_fields(
                &format!("{}.{name} (in)", interface.name),
                (&old, &method.input),
                (&new, &now.input),
            );
            compare_fields(
                &format!("{}.{name} (out)", interface.name),
                (&old, &method.output),
                (&new, &now.output),
            );
        }
        for (name, error) in &old.errors {
            let now =
                new.errors.get(name).unwrap_or_else(|| panic!("{}.{name} is gone", interface.name));
            compare_fields(
                &format!("{}.{name}", interface.name),
                (&old, &error.parm),
                (&new, &now.parm),
            );
        }
    }
}

#[test]
fn every_text_is_one_that_systemd_parses_and_says_what_its_facts_say() {
    for interface in interface::ALL {
        let text = interface.idl();
        let idl = IDL::try_from(text).unwrap_or_else(|e| panic!("{}: {e}\n{text}", interface.name));
        assert_eq!(idl.name, interface.name);
        assert!(!text.contains("[][]"), "{}: a list of lists", interface.name);
        assert!(
            !text.lines().any(|line| line.starts_with(' ') && line.contains('#')),
            "{}: a comment between fields",
            interface.name
        );
        assert_eq!(
            idl.method_keys,
            interface.methods.iter().map(|method| method.name).collect::<Vec<_>>()
        );
        for method in interface.methods {
            assert_eq!(
                idl.methods[method.name].input.elts.is_empty(),
                method.takes_nothing,
                "{}.{}",
                interface.name,
                method.name
            );
        }
        for error in idl.errors.values().filter(|_| interface.name != service::INTERFACE.name) {
            let fields: Vec<&str> = error.parm.elts.iter().map(|field| field.name).collect();
            assert_eq!(
                fields.get(..2),
                Some(&["message", "retryable"][..]),
                "{}.{}",
                interface.name,
                error.name
            );
        }
    }
}

/// Reads JSON as a type and writes it again.
type Reading = fn(&str) -> serde_json::Result<String>;

fn again<T: Serialize + DeserializeOwned>(json: &str) -> serde_json::Result<String> {
    serde_json::to_string(&serde_json::from_str::<T>(json)?)
}

fn readings<M: Method>() -> (&'static str, (Reading, Reading)) {
    (M::NAME, (again::<M::In>, again::<M::Out>))
}

macro_rules! methods {
    ($($interface:ident: $($method:ident)*;)*) => {
        BTreeMap::from([$($(readings::<$interface::method::$method>()),*),*])
    };
}

#[test]
fn messages_of_earlier_versions_are_read_and_written_to_the_byte() {
    let methods = methods! {
        broker: Resolve Watch Explain GetContext SetContext Status;
        catalog: List Get Commit Location Abandon Lineage Sample Resync ResyncMissing Adopt
            MarkStale ClearStale Delete Copy Rename Pin Unpin Snapshot Watch;
        embed: EmbedText EmbedFile EmbedBulk Tokenize Info;
        index: Create Refresh Migrate Search SearchBulk Get List Stats Delete Generations Promote
            Rollback Unpin Move Compact Doctor EvalAutogen EvalList Trial Trials Best CompactTrials
            Autotune AgentStatus AgentEnqueue Snapshot;
        ingest: Files Explain Postgres Mysql Watch Unwatch Watches Runs Cancel;
        init: List Start Stop Restart Reload Check Logs Attach Update Watch Shutdown;
        profiles: Activate Deactivate Active List Define Remove Vram Preload Unload Loaded;
        rerank: Rerank Info;
        score: Info Logprobs ScoreMatrix ScoreMemory ScoreIncremental ScoreFinetune Weights
            ResetWeights;
        service: GetInfo GetInterfaceDescription;
        storage: Buckets AddBucket RemoveBucket GetObject PutObject Health Scrub Errors FlushErrors
            CompactErrors;
    };
    assert_eq!(
        methods.len(),
        interface::ALL.iter().map(|interface| interface.methods.len()).sum::<usize>(),
        "methods of the table"
    );
    let mut lines = 0;
    for file in corpus("json") {
        let interface = interface_of(&file);
        for line in fs::read_to_string(&file).expect("messages").lines() {
            let said: BTreeMap<String, Box<RawValue>> =
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            for (key, json) in said {
                let (method, side) = key.split_once('.').expect("a method and a side");
                let name = format!("{}.{method}", interface.name);
                let (takes, gives) =
                    methods.get(name.as_str()).unwrap_or_else(|| panic!("{name} is gone"));
                let reading = if side == "in" { takes } else { gives };
                assert_eq!(
                    reading(json.get()).unwrap_or_else(|e| panic!("{name} {side}: {e}: {json}")),
                    json.get(),
                    "{name} {side}"
                );
                if side == "in" && !interface.takes_nothing(method) {
                    let mut more: Map<String, Value> =
                        serde_json::from_str(json.get()).expect("an object");
                    more.insert("no_such_parameter".into(), 1.into());
                    let refusal = reading(&Value::Object(more).to_string())
                        .expect_err("what is unknown is refused");
                    assert!(refusal.to_string().contains("no_such_parameter"), "{name}: {refusal}");
                }
                lines += 1;
            }
        }
    }
    assert!(lines >= 100, "{lines} messages");
}
