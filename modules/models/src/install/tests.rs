//! Folders brought into a cache: whole, pinned, by one name each.

use serde_json::json;

use super::place::judge;
use super::*;
use crate::catalogue;
use crate::fetch::Progress;
use crate::graph::tests::{model, port, weight};
use crate::layout::PoolingMode;
use crate::manifest;

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
