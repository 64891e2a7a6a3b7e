//! Plans of made-up folders: each layout right, or refused by its name.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::graph::tests::{model, port, weight};
use crate::safetensors::tests::file as tensors;

/// A folder that is written file by file.
struct Folder(TempDir);

impl Folder {
    /// With a graph of a vector a token, a tokenizer, and BERT's configuration.
    fn bert() -> Self {
        let folder = Self(tempfile::tempdir().expect("a temporary directory"));
        let any = [None, None];
        let inputs = [
            port("input_ids", 7, &any),
            port("attention_mask", 7, &any),
            port("token_type_ids", 7, &any),
        ];
        let onnx = model(
            &inputs,
            &[port("last_hidden_state", 1, &[None, None, Some(16)])],
            &[weight("w", 1, &[16, 16], None)],
            &["MatMul"],
        );
        folder.file("model.onnx", &onnx);
        folder.file("tokenizer.json", b"{}");
        folder.json("config.json", json!({"architectures": ["BertModel"], "model_type": "bert", "max_position_embeddings": 64}));
        folder
    }

    /// The same as sentence-transformers has it: these modules behind the transformer.
    fn sentence(modules: &[(&str, &str)]) -> Self {
        let folder = Self::bert();
        folder.modules(modules);
        folder
    }

    fn modules(&self, modules: &[(&str, &str)]) {
        let kind = |name: &str| {
            if name.contains('.') {
                name.to_owned()
            } else {
                format!("sentence_transformers.models.{name}")
            }
        };
        let mut list = vec![
            json!({"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}),
        ];
        list.extend(modules.iter().enumerate().map(
            |(i, (name, path))| json!({"idx": i + 1, "name": i, "path": path, "type": kind(name)}),
        ));
        self.json("modules.json", Value::Array(list));
    }

    fn file(&self, name: &str, bytes: &[u8]) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, bytes).expect("written");
    }

    fn json(&self, name: &str, value: Value) {
        self.file(name, value.to_string().as_bytes());
    }

    fn pooled_by(&self, modes: &[&str]) {
        let modes = modes.iter().map(|mode| (format!("pooling_mode_{mode}"), Value::Bool(true)));
        self.json("1_Pooling/config.json", Value::Object(modes.collect()));
    }

    fn plan(&self) -> ModelPlan {
        self.with(&Overrides::default()).expect("a plan").plan
    }

    fn refusal(&self) -> String {
        brahman_card::chain(&self.with(&Overrides::default()).expect_err("a refusal"))
    }

    fn with(&self, overrides: &Overrides) -> Result<ModelFolder, LayoutError> {
        ModelFolder::read(self.0.path(), overrides)
    }
}

const MEAN: [(&str, &str); 2] = [("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")];

#[test]
fn what_was_once_assumed_is_told_from_all_else() {
    let folder = Folder::sentence(&MEAN);
    folder.pooled_by(&["mean_tokens"]);
    let plan = folder.plan();
    assert_eq!(plan.pooling.as_ref().map(Pooling::name).as_deref(), Some("mean"));
    assert!(plan.is_as_once_assumed() && plan.is_normalized() && plan.strip);
    assert_eq!(
        (plan.window.tokens, plan.window.source.as_str()),
        (64, "max_position_embeddings in config.json")
    );
    // Each of these changes vectors.
    let changes: [(&str, Value); 4] = [
        ("1_Pooling/config.json", json!({"pooling_mode_cls_token": true})),
        ("config_sentence_transformers.json", json!({"prompts": {"document": "passage: "}})),
        ("sentence_bert_config.json", json!({"max_seq_length": 32, "do_lower_case": true})),
        ("tokenizer_config.json", json!({"truncation_side": "left"})),
    ];
    for (name, value) in changes {
        let folder = Folder::sentence(&MEAN);
        folder.pooled_by(&["mean_tokens"]);
        folder.json(name, value);
        let changed = folder.plan();
        assert!(!changed.is_as_once_assumed(), "{name}");
        assert_ne!(changed.recipe(), plan.recipe(), "{name}");
    }
    // A prompt for queries alone leaves the vectors of documents as they were.
    folder.json(
        "config_sentence_transformers.json",
        json!({"prompts": {"query": "query: ", "document": ""}}),
    );
    assert!(folder.plan().is_as_once_assumed());
}

#[test]
fn every_pooling_is_read_in_the_order_of_sentence_transformers() {
    let folder = Folder::sentence(&MEAN);
    for (modes, name) in [
        (&["cls_token"][..], "cls"),
        (&["max_tokens"], "max"),
        (&["mean_sqrt_len_tokens"], "mean_sqrt_len"),
        (&["weightedmean_tokens"], "weightedmean"),
        (&["lasttoken"], "lasttoken"),
        (&["mean_tokens", "cls_token"], "cls+mean"),
        (&["lasttoken", "mean_tokens", "max_tokens"], "max+mean+lasttoken"),
    ] {
        folder.pooled_by(modes);
        assert_eq!(folder.plan().pooling.expect("pooled").name(), name);
    }
    folder.json("1_Pooling/config.json", json!({"pooling_mode": "cls", "include_prompt": false}));
    let pooling = folder.plan().pooling.expect("pooled");
    assert_eq!((pooling.name().as_str(), pooling.include_prompt), ("cls", false));
    for (config, words) in [
        (json!({"pooling_mode_attention": true}), "`attention`"),
        (json!({"pooling_mode_mean_tokens": false}), "`none`"),
        (json!({"pooling_mode": "median"}), "`median`"),
    ] {
        folder.json("1_Pooling/config.json", config);
        let said = folder.refusal();
        assert!(
            said.contains(words) && said.contains("weightedmean") && said.contains("1_Pooling"),
            "{said}"
        );
    }
}

#[test]
fn a_folder_that_does_not_say_how_to_pool_is_refused_with_what_may_be_said() {
    let folder = Folder::bert();
    let said = folder.refusal();
    assert!(
        ["BRAHMAN_EMBED_POOLING", "brahman.json", "cls", "lasttoken"]
            .iter()
            .all(|word| said.contains(word)),
        "{said}"
    );
    let plan = folder
        .with(&Overrides { pooling: Some("cls".to_owned()), graph: None })
        .expect("a plan")
        .plan;
    assert_eq!(plan.pooling.as_ref().map(Pooling::name).as_deref(), Some("cls"));
    assert!(
        plan.overrides
            .iter()
            .any(|line| line.contains("cls") && line.contains("BRAHMAN_EMBED_POOLING")),
        "{:?}",
        plan.overrides
    );
    assert!(plan.is_normalized() && !plan.strip);
    folder.json(
        "brahman.json",
        json!({"pooling": "cls+mean", "normalize": false, "dimensions": [8, 4]}),
    );
    let plan = folder.plan();
    assert_eq!(plan.pooling.as_ref().map(Pooling::name).as_deref(), Some("cls+mean"));
    assert_eq!((plan.is_normalized(), plan.dimensions.as_slice()), (false, &[4, 8][..]));
    folder.json("brahman.json", json!({"pooling": "middle"}));
    assert!(folder.refusal().contains("`middle`"));
    folder.json("brahman.json", json!({"poling": "cls"}));
    assert!(folder.refusal().contains("poling"), "a slip is not ignored");
    // A pooling of its own is enough.
    let folder = Folder::bert();
    folder.pooled_by(&["mean_tokens"]);
    assert!(folder.plan().is_as_once_assumed());
}

#[test]
fn dense_layers_and_layer_norms_are_read_with_their_weights() {
    let folder = Folder::sentence(&[
        ("Pooling", "1_Pooling"),
        ("Dense", "2_Dense"),
        ("LayerNorm", "3_LayerNorm"),
        ("Normalize", "4_Normalize"),
    ]);
    folder.pooled_by(&["mean_tokens"]);
    assert!(folder.refusal().contains("Dense module whose config.json"));
    let config = |function: &str| json!({"in_features": 16, "out_features": 2, "bias": true, "activation_function": function});
    folder.json("2_Dense/config.json", config("torch.nn.modules.activation.Tanh"));
    assert!(folder.refusal().contains("Dense module has no model.safetensors"));
    folder.file("2_Dense/pytorch_model.bin", b"PK");
    assert!(folder.refusal().contains("pickle"));
    folder.file(
        "2_Dense/model.safetensors",
        &tensors(&[("linear.weight", &[2, 16], &[0.5; 32]), ("linear.bias", &[2], &[1.0, 2.0])]),
    );
    assert!(folder.refusal().contains("LayerNorm module whose config.json"));
    folder.json("3_LayerNorm/config.json", json!({"dimension": 2}));
    folder.file(
        "3_LayerNorm/model.safetensors",
        &tensors(&[("norm.weight", &[2], &[1.0; 2]), ("norm.bias", &[2], &[0.0; 2])]),
    );
    let plan = folder.plan();
    let [Stage::Dense(dense), Stage::LayerNorm(norm), Stage::Normalize] = &plan.stages[..] else {
        panic!("{:?}", plan.stages)
    };
    assert_eq!(
        (dense.inputs, dense.outputs, dense.activation, dense.bias.as_slice()),
        (16, 2, Activation::Tanh, &[1.0, 2.0][..])
    );
    assert_eq!(norm.weight.len(), 2);
    assert_eq!(plan.dim(16), Ok(2));
    assert_eq!(
        plan.dim(32),
        Err(DimError::Part { path: "2_Dense".to_owned(), takes: 16, gets: 32 })
    );
    folder.json("2_Dense/config.json", config("torch.nn.modules.activation.Softmax"));
    assert!(folder.refusal().contains("torch.nn.modules.activation.Softmax"));
    folder.json(
        "2_Dense/config.json",
        json!({"in_features": 8, "out_features": 2, "activation_function": "torch.nn.modules.linear.Identity"}),
    );
    let said = folder.refusal();
    assert!(said.contains("[2, 16]") && said.contains("[2, 8]"), "{said}");
}

#[test]
fn modules_that_are_not_known_are_refused_by_their_type() {
    for kind in
        ["WeightedLayerPooling", "CNN", "custom_st.Normalize", "sentence_transformers.models.LSTM"]
    {
        let folder = Folder::sentence(&[("Pooling", "1_Pooling"), (kind, "2_x")]);
        folder.pooled_by(&["mean_tokens"]);
        let said = folder.refusal();
        assert!(said.contains(kind) && said.contains("Normalize"), "{said}");
    }
    let folder = Folder::sentence(&[("Pooling", "../elsewhere")]);
    assert!(folder.refusal().contains("inside"));
    let raw = Folder::sentence(&[("Pooling", "1_Pooling")]);
    raw.pooled_by(&["mean_tokens"]);
    assert!(!raw.plan().is_normalized());
}

#[test]
fn a_graph_is_found_by_a_written_order_and_its_weights_beside_it() {
    let folder = Folder::sentence(&MEAN);
    folder.pooled_by(&["mean_tokens"]);
    let inputs = [port("input_ids", 7, &[None, None]), port("attention_mask", 7, &[None, None])];
    let output = [port("last_hidden_state", 1, &[None, None, Some(16)])];
    let onnx = |file: &str| model(&inputs, &output, &[weight("w", 1, &[4], Some(file))], &[]);
    fs::remove_file(folder.0.path().join("model.onnx")).expect("removed");
    assert!(folder.refusal().contains("no model at"));
    folder.file("onnx/model.onnx", &onnx("model.onnx_data"));
    let said = folder.refusal();
    assert!(
        said.contains("onnx/model.onnx_data"),
        "weights are looked for beside the graph: {said}"
    );
    folder.file("onnx/model.onnx_data", b"numbers");
    let read = folder.with(&Overrides::default()).expect("a plan");
    assert_eq!(read.plan.graph, "onnx/model.onnx");
    assert_eq!(
        (read.weights[0].0.as_str(), &*read.weights[0].1),
        ("model.onnx_data", &b"numbers"[..])
    );
    assert!(
        read.digests.len() == 3 && read.digests[2].starts_with("model.onnx_data\0"),
        "{:?}",
        read.digests
    );
    for bad in ["../model.onnx_data", "/etc/passwd", "sub/weights", ".hidden"] {
        folder.file("onnx/model.onnx", &onnx(bad));
        let said = folder.refusal();
        assert!(said.contains(bad) && said.contains("external data"), "{said}");
    }
    fs::remove_file(folder.0.path().join("onnx/model.onnx")).expect("removed");
    folder.file("onnx/model_fp16.onnx", &onnx("model.onnx_data"));
    assert_eq!(folder.plan().graph, "onnx/model_fp16.onnx", "the only one");
    folder.file("onnx/model_int8.onnx", &onnx("model.onnx_data"));
    let said = folder.refusal();
    assert!(
        said.contains("`onnx/model_fp16.onnx`, `onnx/model_int8.onnx`")
            && said.contains("BRAHMAN_EMBED_GRAPH"),
        "{said}"
    );
    let named = Overrides { graph: Some("onnx/model_int8.onnx".to_owned()), pooling: None };
    assert_eq!(folder.with(&named).expect("a plan").plan.graph, "onnx/model_int8.onnx");
    let elsewhere = Overrides { graph: Some("../model.onnx".to_owned()), pooling: None };
    assert!(matches!(folder.with(&elsewhere), Err(LayoutError::Outside { .. })));
}

#[test]
fn a_window_that_the_graph_does_not_bear_is_refused_with_both_numbers() {
    let folder = Folder::sentence(&MEAN);
    folder.pooled_by(&["mean_tokens"]);
    let inputs = [port("input_ids", 7, &[None, None]), port("attention_mask", 7, &[None, None])];
    let table = weight("embeddings.position_embeddings.weight", 1, &[66, 16], None);
    folder.file(
        "model.onnx",
        &model(&inputs, &[port("last_hidden_state", 1, &[None, None, Some(16)])], &[table], &[]),
    );
    assert_eq!(folder.plan().positions, Some(66));
    folder.json("brahman.json", json!({"max_tokens": 5000}));
    let said = folder.refusal();
    assert!(said.contains("5000") && said.contains("66"), "{said}");
    folder.json("brahman.json", json!({}));
    folder.json(
        "config.json",
        json!({"model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 1}),
    );
    let plan = folder.plan();
    assert_eq!(
        (plan.window.tokens, plan.positions, plan.first_position, plan.pad_id),
        (64, Some(64), 2, 1)
    );
    folder.json("config.json", json!({"model_type": "bert"}));
    assert!(folder.refusal().contains("max_tokens"), "nothing says the window");
}

#[test]
fn prompts_and_dimensions_are_those_of_the_folder() {
    let folder = Folder::sentence(&MEAN);
    folder.pooled_by(&["mean_tokens"]);
    folder.json(
        "config_sentence_transformers.json",
        json!({"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "query", "similarity_fn_name": "cosine",
               "truncate_dim": 8, "matryoshka_dimensions": [8, 4]}),
    );
    let plan = folder.plan();
    assert_eq!(plan.prompts.usual(), Some(("query", "query: ")));
    assert_eq!(plan.prompts.document(), Some(("passage", "passage: ")));
    assert_eq!(
        (plan.truncate_dim, plan.dimensions.as_slice(), plan.similarity.as_deref()),
        (Some(8), &[4, 8][..], Some("cosine"))
    );
    assert_eq!(plan.dim(16), Ok(8));
    assert_eq!(plan.dim(4), Err(DimError::Cut { cut: 8, full: 4 }));
    folder.json("brahman.json", json!({"dim": 999}));
    assert_eq!(folder.plan().dim(16), Err(DimError::Said { said: 999, gives: 8 }));
    folder.json(
        "config_sentence_transformers.json",
        json!({"prompts": {}, "default_prompt_name": "query"}),
    );
    assert!(folder.refusal().contains("`query`"));
}

#[test]
fn a_pin_holds_for_every_file_that_is_read() {
    let folder = Folder::sentence(&MEAN);
    folder.pooled_by(&["mean_tokens"]);
    folder.json("brahman.json", json!({"sha256": {"1_Pooling/config.json": "00"}}));
    let said = folder.refusal();
    assert!(said.contains("1_Pooling/config.json is damaged"), "{said}");
    folder.json("brahman.json", json!({"sha256": {"model.onnx": "00"}}));
    assert!(folder.refusal().contains("model.onnx is damaged"));
}

#[test]
fn what_goes_alone_says_why() {
    let folder = Folder::sentence(&MEAN);
    folder.pooled_by(&["mean_tokens"]);
    let output = [port("last_hidden_state", 1, &[None, None, Some(16)])];
    let any = [None, None];
    let both = [port("input_ids", 7, &any), port("attention_mask", 7, &any)];
    folder.file(
        "model.onnx",
        &model(&both, &output, &[weight("w", 3, &[64, 64], None)], &["DynamicQuantizeLinear"]),
    );
    let plan = folder.plan();
    assert_eq!(plan.precision, Precision::Int8Dynamic);
    assert!(plan.alone.is_some_and(|why| why.contains("int8")) && !plan.is_as_once_assumed());
    folder.file("model.onnx", &model(&[port("input_ids", 7, &any)], &output, &[], &[]));
    assert!(folder.plan().alone.is_some_and(|why| why.contains("attention_mask")));
}

#[test]
fn a_language_model_is_told_from_an_embedding_model() {
    let folder = Folder::bert();
    assert!(!is_language_model(folder.0.path()));
    let any = [None, None];
    folder.file(
        "model.onnx",
        &model(
            &[port("input_ids", 7, &any)],
            &[port("logits", 1, &[None, None, Some(100)])],
            &[],
            &[],
        ),
    );
    assert!(is_language_model(folder.0.path()));
    assert!(folder.refusal().contains("logits"));
    folder.file(
        "model.onnx",
        &model(&[port("input_ids", 7, &any)], &[port("logits", 1, &[None, Some(2)])], &[], &[]),
    );
    assert!(!is_language_model(folder.0.path()), "a classifier");
    assert!(!is_language_model(&folder.0.path().join("nothing")));
}
