//! Folders brought into a cache: whole, pinned, by one name each.

use serde_json::json;

use super::place::judge;
use super::*;
use crate::catalogue;
use crate::fetch::Progress;
use crate::graph::tests::{model, port, weight};
use crate::layout::{PoolingMode, Precision};
use crate::manifest;
use crate::protobuf::Message;

/// A folder as exporters make it: it says nothing of pooling.
fn bare(folder: &Path) {
    let any = [None, None];
    let inputs = [port("input_ids", 7, &any), port("attention_mask", 7, &any)];
    let onnx = model(
        &inputs,
        &[port("last_hidden_state", 1, &[None, None, Some(16)])],
        &[weight("w", 1, &[16, 16], None)],
        &["MatMul"],
    );
    let config = json!({"architectures": ["BertModel"], "model_type": "bert", "max_position_embeddings": 64}).to_string();
    fs::create_dir_all(folder.join("onnx")).expect("made");
    for (name, bytes) in [
        ("onnx/model.onnx", &onnx[..]),
        ("tokenizer.json", &b"{}"[..]),
        ("config.json", config.as_bytes()),
    ] {
        fs::write(folder.join(name), bytes).expect("written");
    }
}

fn options(cache: &Path) -> InstallOptions<'_> {
    InstallOptions { cache, name: None, force: false }
}

fn silent() -> impl FnMut(Progress<'_>) {
    |_: Progress<'_>| {}
}

#[test]
fn a_folder_of_a_persons_own_is_kept_as_it_was() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let (folder, cache) = (home.path().join("mine"), home.path().join("cache"));
    bare(&folder);
    fs::write(folder.join("notes.txt"), "not the model's").expect("written");
    let refused = add(&folder, options(&cache), &mut silent()).expect_err("nobody could serve it");
    assert!(
        refused.is_bad_input() && refused.to_string().contains("BRAHMAN_EMBED_POOLING"),
        "{refused}"
    );
    assert!(
        refused.to_string().contains(&folder.display().to_string())
            && !catalogue::folder(&cache, "mine").exists(),
        "{refused}"
    );
    fs::write(folder.join(manifest::FILE), r#"{"pooling": "cls"}"#).expect("written");
    let added = add(&folder, options(&cache), &mut silent()).expect("added");
    assert_eq!(
        (added.name.as_str(), added.files, added.kind, added.is_new),
        ("mine", 3, ModelKind::Embedding, true)
    );
    let again = add(&folder, options(&cache), &mut silent()).expect("it is there already");
    assert_eq!(
        (again.name.as_str(), again.files, again.is_new, again.refusal),
        ("mine", 3, false, None)
    );
    let manifest = read_manifest(&added.path).expect("read").expect("there");
    assert!(manifest.holds(&added.path) && !added.path.join("notes.txt").exists());
    // What becomes of the folder is no matter any more.
    fs::write(folder.join("tokenizer.json"), "{\"other\": 1}").expect("written");
    assert!(manifest.holds(&added.path));
    let refused =
        add(&folder, options(&cache), &mut silent()).expect_err("the name is taken").to_string();
    assert!(refused.contains("--name") && refused.contains("models remove mine"), "{refused}");
    let again = InstallOptions { force: true, ..options(&cache) };
    add(&folder, again, &mut silent()).expect("replaced");
    fs::write(folder.join(manifest::FILE), r#"{"pooling": "cls"}"#).expect("written");
    let other = InstallOptions { name: Some("other"), ..options(&cache) };
    assert_eq!(add(&folder, other, &mut silent()).expect("added").refusal, None);
    let names: Vec<String> =
        manifest::installed(&cache).into_iter().map(|model| model.name).collect();
    assert_eq!(names, ["mine", "other"]);
    assert!(find("mine", &cache).is_ok());
    let (path, _) = remove("mine", &cache, &mut silent()).expect("removed");
    assert!(!path.exists());
    for outcome in [find("mine", &cache).map(drop), remove("mine", &cache, &mut silent()).map(drop)]
    {
        assert!(outcome.expect_err("it is gone").is_absence());
    }
    assert!(matches!(remove("../mine", &cache, &mut silent()), Err(InstallError::Name { .. })));
}

#[test]
fn what_a_person_has_put_into_the_cache_is_not_removed() {
    let cache = tempfile::tempdir().expect("a temporary directory");
    let folder = catalogue::folder(cache.path(), "mine");
    bare(&folder);
    assert!(matches!(
        remove("mine", cache.path(), &mut silent()),
        Err(InstallError::NotOurs { .. })
    ));
    assert!(folder.join("tokenizer.json").exists());
}

#[test]
fn what_the_list_says_fills_what_the_files_leave_open_and_never_overrules_them() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let listed = published::find("bge-small-en-v1.5", None).expect("known");
    assert_eq!(listed.pooling, Some(PoolingMode::Cls));
    bare(home.path());
    let graph = || Manifest {
        name: "x".to_owned(),
        graph: Some("onnx/model.onnx".to_owned()),
        ..Manifest::default()
    };
    let mut manifest = graph();
    assert_eq!(judge(home.path(), &mut manifest, Some(listed)).expect("judged"), None);
    assert_eq!(manifest.pooling.as_deref(), Some("cls"));
    assert_eq!(read_manifest(home.path()).expect("read"), Some(manifest));
    fs::create_dir(home.path().join("1_Pooling")).expect("made");
    for (mode, is_right) in [("cls_token", true), ("mean_tokens", false)] {
        let config = json!({(format!("pooling_mode_{mode}")): true}).to_string();
        fs::write(home.path().join("1_Pooling/config.json"), config).expect("written");
        let mut manifest = graph();
        let outcome = judge(home.path(), &mut manifest, Some(listed));
        assert_eq!(outcome.is_ok(), is_right, "{mode}: {outcome:?}");
        assert_eq!(manifest.pooling, None, "the files say it");
        if let Err(error) = outcome {
            let words = error.to_string();
            assert!(words.contains("pooled by cls") && words.contains("say mean"), "{words}");
        }
    }
}

#[test]
fn a_cross_encoder_is_known_by_its_configuration() {
    let home = tempfile::tempdir().expect("a temporary directory");
    bare(home.path());
    assert!(!is_classifier(home.path()));
    fs::write(
        home.path().join("config.json"),
        r#"{"architectures": ["XLMRobertaForSequenceClassification"]}"#,
    )
    .expect("written");
    assert!(is_classifier(home.path()));
}

/// A graph with a product that can be quantised.
fn multiplying() -> Vec<u8> {
    let weight = Message::default().number(1, 32).number(1, 16).number(2, 1).text(8, "w");
    let numbers: Vec<u8> = (0..512_u16).flat_map(|i| f32::from(i % 7).to_le_bytes()).collect();
    let node = Message::default().text(1, "x").text(1, "w").text(2, "last_hidden_state");
    let graph = Message::default()
        .message(1, &node.text(4, "MatMul"))
        .message(5, &weight.bytes(9, &numbers))
        .bytes(11, &port("input_ids", 7, &[None, None]))
        .bytes(11, &port("attention_mask", 7, &[None, None]))
        .bytes(12, &port("last_hidden_state", 1, &[None, None, Some(16)]));
    Message::default().number(1, 8).message(7, &graph).0
}

#[test]
fn a_model_of_8_bits_is_one_of_its_own_and_says_what_it_was_made_of() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let (folder, cache) = (home.path().join("mine"), home.path().join("cache"));
    bare(&folder);
    let graph = folder.join("onnx/model.onnx");
    fs::write(&graph, multiplying()).expect("written");
    let quantize = |options| quantize(&folder, options, &mut silent());
    let refused = quantize(options(&cache)).expect_err("nobody could serve it");
    assert!(refused.to_string().contains("BRAHMAN_EMBED_POOLING"), "{refused}");
    fs::write(folder.join(manifest::FILE), r#"{"pooling": "cls", "max_tokens": 32}"#)
        .expect("written");
    let made = quantize(options(&cache)).expect("quantised");
    assert_eq!((made.name.as_str(), made.files, made.is_new), ("mine-int8", 3, true));
    let manifest = read_manifest(&made.path).expect("read").expect("there");
    assert_eq!(
        (manifest.graph.as_deref(), manifest.pooling.as_deref(), manifest.max_tokens),
        (Some("model.onnx"), Some("cls"), 32)
    );
    let origin = manifest.made_of.clone().expect("it was made of another");
    assert_eq!((origin.name.as_str(), origin.bits, origin.block_size), ("mine", 8, 16));
    let found = sha256_file(&graph).expect("read").0;
    assert_eq!(origin.sha256, BTreeMap::from([("onnx/model.onnx".to_owned(), found)]));
    let read = ModelFolder::read(&made.path, &Overrides::default()).expect("it can be served");
    assert_eq!((read.plan.precision, read.plan.alone), (Precision::Int8Blocks, None));
    assert_eq!(fs::read(&graph).expect("there"), multiplying(), "its origin stays");

    let again = quantize(options(&cache)).expect("it is there already");
    assert!(!again.is_new && again.refusal.is_none());
    fs::write(made.path.join("model.onnx"), "damaged").expect("written");
    assert!(quantize(options(&cache)).expect("made anew").is_new && manifest.holds(&made.path));
    // The name is that of another now.
    let mut other = multiplying();
    other.extend(Message::default().text(6, "another").0);
    fs::write(&graph, other).expect("written");
    let taken = quantize(options(&cache)).expect_err("the name is taken");
    assert!(taken.is_bad_input() && taken.to_string().contains("--name"), "{taken}");
    let forced = InstallOptions { force: true, ..options(&cache) };
    assert!(quantize(forced).expect("replaced").is_new);
    let onto_itself = super::quantize(&made.path, options(&cache), &mut silent());
    let refused = onto_itself.expect_err("quantised already");
    assert!(matches!(refused, InstallError::Quantize { .. }) && refused.is_bad_input());
    // Under its own name it would take its own place.
    let own_name = InstallOptions { name: Some("mine-int8"), force: true, ..options(&cache) };
    let refused = super::quantize(&made.path, own_name, &mut silent()).expect_err("itself");
    assert!(
        matches!(&refused, InstallError::Itself { other, .. } if other == "mine-int8-int8")
            && refused.is_bad_input(),
        "{refused}"
    );
    let left: Vec<_> = fs::read_dir(cache.join("models"))
        .expect("the models")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(left, ["mine-int8"], "neither a lock nor what was being built");
}
