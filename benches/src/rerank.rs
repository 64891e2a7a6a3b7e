//! Reranking: 200 pairs of a query and a text of 20 to 200 words, beside fastembed's reranker in
//! Rust on the same made-up model.
//!
//! No cross-encoder can be fetched here, so the model is made up: BERT of six layers as wide as
//! MiniLM, with weights from a formula.

use std::path::Path;
use std::time::Instant;

use brahman_card::interface::rerank::RerankOut;
use brahman_sidecar::Connection;
use brahman_tests::made_models::{bytes, number};
use fastembed::{
    RerankInitOptionsUserDefined, TextRerank, TokenizerFiles, UserDefinedRerankingModel,
};
use serde_json::json;

use crate::embed::{environment, texts};
use crate::mesh::Mesh;
use crate::{head, row};

/// Pairs measured.
const PAIRS: usize = 200;
/// Shape of the made-up model.
const LAYERS: usize = 6;
const WIDTH: usize = 384;
const HEADS: usize = 12;
const INNER: usize = 1536;
const WINDOW: usize = 512;
/// Words of a query.
const QUERY: &str =
    "how does the broker choose between several providers of an interface in a context";

pub(crate) async fn run(bin: &Path) {
    head("rerank (made-up BERT of six layers, 384 wide, fp32, CPU, all cores on each side)");
    let shared = brahman_sidecar::place::cache_dir();
    let cache = tempfile::tempdir().unwrap();
    for part in ["models", "onnxruntime"] {
        std::os::unix::fs::symlink(shared.join(part), cache.path().join(part)).unwrap();
    }
    let folder = cache.path().join("cross-encoder");
    write(&folder, &shared.join("models/all-MiniLM-L6-v2"));
    let corpus = texts(PAIRS, 11);
    let (ours, our_rate) = ours(bin, cache.path(), &folder, &corpus).await;
    let (theirs, their_rate) = fastembed_rust(&shared, &folder, &corpus);
    let ratio = our_rate / their_rate;
    row(
        "rerank-real / fastembed (Rust), pairs/s",
        format!("{our_rate:.1} / {their_rate:.1} = {ratio:.2}×"),
        "≥ 2×",
        ratio >= 2.0,
    );
    let apart =
        ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f32::max);
    row(
        "largest difference of scores to fastembed (Rust)",
        format!("{apart:.1e}"),
        "≤ 1e-4",
        apart <= 1e-4,
    );
}

/// Scores by place, and pairs a second.
async fn ours(bin: &Path, cache: &Path, folder: &Path, corpus: &[String]) -> (Vec<f32>, f64) {
    let model = format!("\n[environment]\nBRAHMAN_RERANK_MODEL = \"{}\"\n", folder.display());
    let edit = |card: &str, text: String| if card == "rerank-real" { text + &model } else { text };
    let mesh = Mesh::up_edited(bin, &["broker", "rerank-real"], "prod", cache, |_| {}, edit);
    mesh.ready("rerank-real").await;
    let mut connection = Connection::connect(&mesh.socket()).await.unwrap();
    let started = Instant::now();
    let out: RerankOut = connection
        .call("org.brahman.Rerank.Rerank", &json!({"query": QUERY, "texts": corpus}))
        .await
        .unwrap();
    let rate = corpus.len() as f64 / started.elapsed().as_secs_f64();
    let mut scores = vec![f32::NAN; corpus.len()];
    for one in &out.results {
        scores[one.index as usize] = one.score;
    }
    (scores, rate)
}

fn fastembed_rust(shared: &Path, folder: &Path, corpus: &[String]) -> (Vec<f32>, f64) {
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let files = TokenizerFiles {
        tokenizer_file: read("tokenizer.json"),
        config_file: read("config.json"),
        special_tokens_map_file: read("special_tokens_map.json"),
        tokenizer_config_file: read("tokenizer_config.json"),
    };
    let model = UserDefinedRerankingModel::new(read("model.onnx"), files);
    let options = RerankInitOptionsUserDefined::new()
        .with_environment(environment(shared))
        .with_max_length(WINDOW);
    let mut engine = TextRerank::try_new_from_user_defined(model, options).unwrap();
    let started = Instant::now();
    let ranked = engine.rerank(QUERY.to_owned(), corpus, false, None).unwrap();
    let rate = corpus.len() as f64 / started.elapsed().as_secs_f64();
    let mut scores = vec![f32::NAN; corpus.len()];
    for one in ranked {
        scores[one.index] = one.score;
    }
    (scores, rate)
}

/// The folder of the made-up model, with the tokenizer of a real one.
fn write(folder: &Path, tokenizer: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for name in ["tokenizer.json", "special_tokens_map.json", "tokenizer_config.json"] {
        std::fs::copy(tokenizer.join(name), folder.join(name)).unwrap();
    }
    // Raw numbers, as fastembed gives them.
    let config = json!({
        "architectures": ["BertForSequenceClassification"], "model_type": "bert", "max_position_embeddings": WINDOW, "pad_token_id": 0,
        "num_attention_heads": HEADS, "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let vocabulary: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("tokenizer.json")).unwrap()).unwrap();
    let words = vocabulary["model"]["vocab"].as_object().unwrap().len();
    std::fs::write(folder.join("model.onnx"), MadeBert::default().model(words)).unwrap();
}

/// A graph that grows node by node.
#[derive(Default)]
struct MadeBert {
    graph: Vec<u8>,
    /// Numbers a weight has been given so far.
    state: u32,
    /// Nodes so far, which name what they give.
    nodes: usize,
}

impl MadeBert {
    /// A weight of this shape, its numbers between `-size` and `size`; gives its name.
    fn weight(&mut self, shape: &[usize], size: f32) -> String {
        let count: usize = shape.iter().product();
        let numbers: Vec<f32> = (0..count).map(|_| (self.random() * 2.0 - 1.0) * size).collect();
        self.floats(shape, &numbers)
    }

    fn random(&mut self) -> f32 {
        self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.state >> 8) as f32 / (1 << 24) as f32
    }

    fn floats(&mut self, shape: &[usize], numbers: &[f32]) -> String {
        let raw: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensor(1, shape, &raw)
    }

    fn longs(&mut self, numbers: &[i64]) -> String {
        let raw: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.tensor(7, &[numbers.len()], &raw)
    }

    fn tensor(&mut self, element: u64, shape: &[usize], raw: &[u8]) -> String {
        let name = self.name();
        let dims: Vec<u8> = shape.iter().flat_map(|n| number(1, *n as u64)).collect();
        self.graph.extend(bytes(
            5,
            &[dims, number(2, element), bytes(8, name.as_bytes()), bytes(9, raw)].concat(),
        ));
        name
    }

    fn name(&mut self) -> String {
        self.nodes += 1;
        format!("n{}", self.nodes)
    }

    /// A node; gives the name of its output.
    fn node(&mut self, kind: &str, inputs: &[&str], attributes: &[u8]) -> String {
        let output = self.name();
        self.named_node(kind, inputs, attributes, &output);
        output
    }

    fn named_node(&mut self, kind: &str, inputs: &[&str], attributes: &[u8], output: &str) {
        let inputs: Vec<u8> = inputs.iter().flat_map(|name| bytes(1, name.as_bytes())).collect();
        self.graph.extend(bytes(
            1,
            &[inputs, bytes(2, output.as_bytes()), bytes(4, kind.as_bytes()), attributes.to_vec()]
                .concat(),
        ));
    }

    fn linear(&mut self, input: &str, from: usize, to: usize) -> String {
        let (weight, bias) =
            (self.weight(&[from, to], 1.7 / (from as f32).sqrt()), self.weight(&[to], 0.1));
        let product = self.node("MatMul", &[input, &weight], &[]);
        self.node("Add", &[&product, &bias], &[])
    }

    fn norm(&mut self, input: &str) -> String {
        let (scale, bias) =
            (self.floats(&[WIDTH], &[1.0; WIDTH]), self.floats(&[WIDTH], &[0.0; WIDTH]));
        self.node("LayerNormalization", &[input, &scale, &bias], &int("axis", u64::MAX))
    }

    /// Rows of words to rows of heads.
    fn heads(&mut self, input: &str, permutation: &[u64]) -> String {
        let shape = self.longs(&[0, 0, HEADS as i64, (WIDTH / HEADS) as i64]);
        let apart = self.node("Reshape", &[input, &shape], &[]);
        self.node("Transpose", &[&apart], &ints("perm", permutation))
    }

    fn layer(&mut self, input: &str, mask: &str) -> String {
        let [query, key, value] = [(); 3].map(|()| self.linear(input, WIDTH, WIDTH));
        let (query, key, value) = (
            self.heads(&query, &[0, 2, 1, 3]),
            self.heads(&key, &[0, 2, 3, 1]),
            self.heads(&value, &[0, 2, 1, 3]),
        );
        let scale = self.floats(&[1], &[1.0 / ((WIDTH / HEADS) as f32).sqrt()]);
        let product = self.node("MatMul", &[&query, &key], &[]);
        let scaled = self.node("Mul", &[&product, &scale], &[]);
        let masked = self.node("Add", &[&scaled, mask], &[]);
        let shares = self.node("Softmax", &[&masked], &int("axis", u64::MAX));
        let mixed = self.node("MatMul", &[&shares, &value], &[]);
        let back = self.node("Transpose", &[&mixed], &ints("perm", &[0, 2, 1, 3]));
        let shape = self.longs(&[0, 0, WIDTH as i64]);
        let joined = self.node("Reshape", &[&back, &shape], &[]);
        let out = self.linear(&joined, WIDTH, WIDTH);
        let sum = self.node("Add", &[&out, input], &[]);
        let normed = self.norm(&sum);
        let inner = self.linear(&normed, WIDTH, INNER);
        // The error function's GELU, as exporters write it.
        let (root, one, half) = (
            self.floats(&[1], &[std::f32::consts::SQRT_2]),
            self.floats(&[1], &[1.0]),
            self.floats(&[1], &[0.5]),
        );
        let over = self.node("Div", &[&inner, &root], &[]);
        let erf = self.node("Erf", &[&over], &[]);
        let above = self.node("Add", &[&erf, &one], &[]);
        let times = self.node("Mul", &[&inner, &above], &[]);
        let bent = self.node("Mul", &[&times, &half], &[]);
        let outer = self.linear(&bent, INNER, WIDTH);
        let sum = self.node("Add", &[&outer, &normed], &[]);
        self.norm(&sum)
    }

    /// The whole model: input_ids, attention_mask and token_type_ids to one number a pair.
    fn model(mut self, words: usize) -> Vec<u8> {
        let (table, kinds, places) = (
            self.weight(&[words, WIDTH], 0.5),
            self.weight(&[2, WIDTH], 0.5),
            self.weight(&[WINDOW, WIDTH], 0.1),
        );
        let embedded = self.node("Gather", &[&table, "input_ids"], &[]);
        let of_kind = self.node("Gather", &[&kinds, "token_type_ids"], &[]);
        let both = self.node("Add", &[&embedded, &of_kind], &[]);
        // The first places of the table, as many as there are tokens.
        let shape = self.node("Shape", &["input_ids"], &[]);
        let (one, zero, two) = (self.longs(&[1]), self.longs(&[0]), self.longs(&[2]));
        let width = self.node("Slice", &[&shape, &one, &two], &[]);
        let placed = self.node("Slice", &[&places, &zero, &width, &zero], &[]);
        let sum = self.node("Add", &[&both, &placed], &[]);
        let mut hidden = self.norm(&sum);
        let float = self.node("Cast", &["attention_mask"], &int("to", 1));
        let (whole, far, axes) =
            (self.floats(&[1], &[1.0]), self.floats(&[1], &[-10_000.0]), self.longs(&[1, 2]));
        let padding = self.node("Sub", &[&whole, &float], &[]);
        let away = self.node("Mul", &[&padding, &far], &[]);
        let mask = self.node("Unsqueeze", &[&away, &axes], &[]);
        for _ in 0..LAYERS {
            hidden = self.layer(&hidden, &mask);
        }
        let first = self.scalar(0);
        let cls = self.node("Gather", &[&hidden, &first], &int("axis", 1));
        let pooled = self.linear(&cls, WIDTH, WIDTH);
        let bent = self.node("Tanh", &[&pooled], &[]);
        let (weight, bias) = (self.weight(&[WIDTH, 1], 0.3), self.weight(&[1], 0.1));
        let product = self.node("MatMul", &[&bent, &weight], &[]);
        self.named_node("Add", &[&product, &bias], &[], "logits");
        let free = |name: &str| bytes(1, &bytes(2, name.as_bytes()));
        let port = |name: &str, element: u64, axes: &[Vec<u8>]| {
            let tensor = [number(1, element), bytes(2, &axes.concat())].concat();
            [bytes(1, name.as_bytes()), bytes(2, &bytes(1, &tensor))].concat()
        };
        let any = [free("batch"), free("sequence")];
        let mut graph = self.graph;
        graph.extend(bytes(2, b"made"));
        for name in ["input_ids", "attention_mask", "token_type_ids"] {
            graph.extend(bytes(11, &port(name, 7, &any)));
        }
        graph.extend(bytes(12, &port("logits", 1, &[free("batch"), bytes(1, &number(1, 1))])));
        [number(1, 8), bytes(7, &graph), bytes(8, &[bytes(1, b""), number(2, 17)].concat())]
            .concat()
    }

    /// A number of 64 bits without an axis.
    fn scalar(&mut self, value: i64) -> String {
        self.tensor(7, &[], &value.to_le_bytes())
    }
}

/// An attribute that is a number; -1 is all bits set.
fn int(name: &str, value: u64) -> Vec<u8> {
    bytes(5, &[bytes(1, name.as_bytes()), number(3, value), number(20, 2)].concat())
}

/// An attribute that is a list of numbers.
fn ints(name: &str, values: &[u64]) -> Vec<u8> {
    let values: Vec<u8> = values.iter().flat_map(|value| number(8, *value)).collect();
    bytes(5, &[bytes(1, name.as_bytes()), values, number(20, 7)].concat())
}
