//! Folders as exporters leave them: what is read where, and what the fingerprint covers.

use super::*;

#[test]
fn a_configuration_is_read_where_it_lies() {
    let folder = tempfile::tempdir().expect("a folder");
    let write =
        |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    let read = || Config::read(folder.path()).expect("read");
    assert!(matches!(Config::read(folder.path()), Err(FolderError::Missing { .. })));
    write(
        GENAI,
        r#"{"model": {"context_length": 77, "bos_token_id": 1, "decoder": {"filename": "m.onnx", "hidden_size": 8}}}"#,
    );
    assert_eq!(
        (read().window(folder.path()), read().number(&["hidden_size"]), read().bos()),
        (Some(77), Some(8), None)
    );
    assert_eq!(graph(folder.path(), None).expect("one"), "m.onnx");
    write(
        "config.json",
        r#"{"bos_token_id": 2, "text_config": {"max_position_embeddings": 33, "num_attention_heads": 4}}"#,
    );
    assert_eq!(
        (read().window(folder.path()), read().number(&["num_attention_heads"]), read().bos()),
        (Some(33), Some(4), Some(2))
    );
    write("config.json", "{}");
    assert_eq!(read().window(folder.path()), None);
    write("tokenizer_config.json", r#"{"model_max_length": 1000000000000000019884624838656}"#);
    assert_eq!(read().window(folder.path()), None);
    write("tokenizer_config.json", r#"{"model_max_length": 512}"#);
    assert_eq!(read().window(folder.path()), Some(512));
    std::fs::create_dir(folder.path().join("onnx")).expect("made");
    assert_eq!(
        graph(folder.path(), None).expect("none"),
        "model.onnx",
        "which is said to be missing"
    );
    write("onnx/model_fp16.onnx", "");
    assert_eq!(graph(folder.path(), None).expect("one"), "onnx/model_fp16.onnx");
    write("onnx/model_q4.onnx", "");
    assert!(matches!(
        graph(folder.path(), None),
        Err(FolderError::SeveralGraphs { there, .. }) if there.len() == 2
    ));
    assert_eq!(
        graph(folder.path(), Some("onnx/model_q4.onnx".to_owned())).expect("named"),
        "onnx/model_q4.onnx"
    );
    write("onnx/model.onnx", "");
    assert_eq!(graph(folder.path(), None).expect("one"), "onnx/model.onnx");
}

#[test]
fn weights_under_any_name_are_part_of_the_fingerprint() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    ["model.onnx", "tokenizer.json", "config.json", "README.md", ".gitattributes", "LICENSE"]
        .iter()
        .for_each(|name| write(name, "x"));
    let all = || beside(folder.path()).expect("read");
    assert!(all().is_empty(), "a graph that holds its weights has the fingerprint that it had");
    let mut seen = std::collections::BTreeSet::from([all()]);
    for name in [
        "model.onnx_data",
        "model.onnx.data",
        "weights",
        "part-0.bin",
        "deep/er/shard.1",
        "w.safetensors",
    ] {
        for content in ["a", "b"] {
            write(name, content);
            assert!(seen.insert(all()), "{name}");
        }
    }
    // A link is what it leads to.
    std::fs::remove_file(folder.path().join("weights")).expect("removed");
    let elsewhere = tempfile::NamedTempFile::new().expect("a file");
    std::os::unix::fs::symlink(elsewhere.path(), folder.path().join("weights")).expect("linked");
    for content in ["c", "d"] {
        std::fs::write(elsewhere.path(), content).expect("written");
        assert!(seen.insert(all()), "a link");
    }
}
