//! Embedding models made up on the spot, in the layouts of real ones, and what their vectors have
//! to be, in 64 bits.
//!
//! The graph looks each token's vector up in a table and does nothing else, so that what is tested
//! is everything around it: tokens, prompts, pooling, dense layers, scaling. Numbers come from a
//! formula: the same on every machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// Numbers of a token's vector.
pub const HIDDEN: usize = 8;
/// Tokens that a made-up model takes.
pub const WINDOW: usize = 12;
/// A word whose vector is no number.
pub const VOID: &str = "void";

/// The vocabulary: a token's id is its place.
pub(crate) const VOCABULARY: [&str; 18] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "river", "stone", "bread", "music", "winter", "garden",
    "paper", "card", "mesh", "query", "passage", ":", "silver", VOID,
];

/// A made-up model.
#[derive(Clone, Debug, Default)]
pub struct MadeModel {
    /// Pooling modes as `1_Pooling/config.json` has them, without `pooling_mode_`; no such file if
    /// empty.
    pub pooling: Vec<&'static str>,
    /// A dense layer to so many numbers, with a hyperbolic tangent behind it.
    pub dense: Option<usize>,
    /// Whether there is no Normalize module.
    pub raw: bool,
    /// Prompts by name.
    pub prompts: BTreeMap<String, String>,
    /// Whether prompts are not pooled.
    pub excludes_prompt: bool,
    /// Lengths that the model says it was trained for.
    pub dimensions: Vec<usize>,
    /// Whether the table lies in a file beside the graph.
    pub external: bool,
    /// Whether the graph lies in `onnx/`.
    pub nested: bool,
    /// Whether the table's numbers have 16 bits, and so the output's. [`Self::vector`] is then as
    /// near as those are.
    pub half: bool,
    /// Changes the table's numbers.
    pub seed: u32,
}

impl MadeModel {
    /// A model with these modes.
    #[must_use]
    pub fn pooled_by(pooling: &[&'static str]) -> Self {
        Self { pooling: pooling.to_vec(), ..Self::default() }
    }

    /// Writes the model's folder.
    pub fn write(&self, folder: &Path) {
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, bytes).expect("written");
        };
        let json = |name: &str, value: Value| file(name, value.to_string().as_bytes());
        let graph = if self.nested { "onnx/model.onnx" } else { "model.onnx" };
        file(graph, &self.onnx());
        if self.external {
            file(&format!("{graph}_data"), &self.table_bytes());
        }
        file("tokenizer.json", &tokenizer());
        json(
            "config.json",
            json!({"architectures": ["BertModel"], "model_type": "bert", "max_position_embeddings": WINDOW}),
        );
        let mut config = json!({"prompts": self.prompts, "default_prompt_name": null, "similarity_fn_name": "cosine"});
        if !self.dimensions.is_empty() {
            config["matryoshka_dimensions"] = json!(self.dimensions);
        }
        json("config_sentence_transformers.json", config);
        if self.pooling.is_empty() {
            return;
        }
        let mut modules = vec![("Transformer", String::new()), ("Pooling", "1_Pooling".to_owned())];
        let mut pooling =
            json!({"word_embedding_dimension": HIDDEN, "include_prompt": !self.excludes_prompt});
        for mode in &self.pooling {
            pooling[format!("pooling_mode_{mode}")] = true.into();
        }
        json("1_Pooling/config.json", pooling);
        if let Some(outputs) = self.dense {
            let inputs = HIDDEN * self.pooling.len();
            let function = "torch.nn.modules.activation.Tanh";
            json(
                "2_Dense/config.json",
                json!({"in_features": inputs, "out_features": outputs, "bias": true, "activation_function": function}),
            );
            file(
                "2_Dense/model.safetensors",
                &safetensors(&self.matrix(outputs, inputs), &self.bias(outputs), outputs, inputs),
            );
            modules.push(("Dense", "2_Dense".to_owned()));
        }
        if !self.raw {
            modules.push(("Normalize", format!("{}_Normalize", modules.len())));
        }
        let list = modules.iter().enumerate().map(|(i, (kind, path))| {
            json!({"idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")})
        });
        json("modules.json", list.collect());
    }

    /// The vector of a text with this prompt before it, as sentence-transformers defines it.
    #[must_use]
    pub fn vector(&self, prompt: &str, text: &str) -> Vec<f64> {
        let tokens: Vec<Vec<f64>> =
            ids(&format!("{prompt}{text}")).into_iter().map(|id| self.row(id)).collect();
        let skip =
            if self.excludes_prompt && !prompt.is_empty() { ids(prompt).len() - 1 } else { 0 };
        let body = &tokens[skip..];
        let over = |weight: &dyn Fn(usize) -> f64, divisor: f64| -> Vec<f64> {
            (0..HIDDEN)
                .map(|j| {
                    body.iter()
                        .enumerate()
                        .map(|(i, token)| token[j] * weight(i + skip))
                        .sum::<f64>()
                        / divisor
                })
                .collect()
        };
        let count = body.len() as f64;
        let mut vector = Vec::new();
        // In the order of sentence-transformers.
        for mode in [
            "cls_token",
            "max_tokens",
            "mean_tokens",
            "mean_sqrt_len_tokens",
            "weightedmean_tokens",
            "lasttoken",
        ] {
            if !self.pooling.contains(&mode) {
                continue;
            }
            vector.extend(match mode {
                "cls_token" => tokens[0].clone(),
                "lasttoken" => tokens[tokens.len() - 1].clone(),
                "max_tokens" => (0..HIDDEN)
                    .map(|j| body.iter().map(|token| token[j]).fold(f64::NEG_INFINITY, f64::max))
                    .collect(),
                "mean_tokens" => over(&|_| 1.0, count),
                "mean_sqrt_len_tokens" => over(&|_| 1.0, count.sqrt()),
                _ => over(&|i| (i + 1) as f64, (skip..tokens.len()).map(|i| (i + 1) as f64).sum()),
            });
        }
        if let Some(outputs) = self.dense {
            let (matrix, bias) = (self.matrix(outputs, vector.len()), self.bias(outputs));
            let row = |o: usize| {
                matrix[o * vector.len()..(o + 1) * vector.len()]
                    .iter()
                    .zip(&vector)
                    .map(|(w, x)| f64::from(*w) * x)
                    .sum::<f64>()
            };
            vector = (0..outputs).map(|o| (row(o) + f64::from(bias[o])).tanh()).collect();
        }
        if !self.raw {
            let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
            vector.iter_mut().for_each(|x| *x /= norm);
        }
        vector
    }

    fn number(&self, i: usize, j: usize) -> f32 {
        ((i * 31 + j * 17) as f64 * 0.7 + f64::from(self.seed)).sin() as f32
    }

    fn row(&self, id: usize) -> Vec<f64> {
        (0..HIDDEN)
            .map(|j| if VOCABULARY[id] == VOID { f64::NAN } else { f64::from(self.number(id, j)) })
            .collect()
    }

    fn table_bytes(&self) -> Vec<u8> {
        let numbers = (0..VOCABULARY.len()).flat_map(|id| self.row(id));
        if self.half {
            numbers.flat_map(|x| half_bits(x as f32).to_le_bytes()).collect()
        } else {
            numbers.flat_map(|x| (x as f32).to_le_bytes()).collect()
        }
    }

    fn matrix(&self, outputs: usize, inputs: usize) -> Vec<f32> {
        (0..outputs * inputs).map(|at| self.number(at / inputs + 100, at % inputs) * 0.5).collect()
    }

    fn bias(&self, outputs: usize) -> Vec<f32> {
        (0..outputs).map(|o| self.number(o + 200, 0) * 0.1).collect()
    }

    /// input_ids, attention_mask → last_hidden_state: a `Gather` from the table.
    fn onnx(&self) -> Vec<u8> {
        let (element, size) = if self.half { (10, 2) } else { (1, 4) };
        let mut table = [
            number(1, VOCABULARY.len() as u64),
            number(1, HIDDEN as u64),
            number(2, element),
            bytes(8, b"table"),
        ]
        .concat();
        if self.external {
            let length = (VOCABULARY.len() * HIDDEN * size).to_string();
            for (key, value) in
                [("location", "model.onnx_data"), ("offset", "0"), ("length", &length)]
            {
                table.extend(bytes(
                    13,
                    &[bytes(1, key.as_bytes()), bytes(2, value.as_bytes())].concat(),
                ));
            }
            table.extend(number(14, 1));
        } else {
            table.extend(bytes(9, &self.table_bytes()));
        }
        let node = [
            bytes(1, b"table"),
            bytes(1, b"input_ids"),
            bytes(2, b"last_hidden_state"),
            bytes(3, b"look"),
            bytes(4, b"Gather"),
        ]
        .concat();
        let free = |name: &str| bytes(1, &bytes(2, name.as_bytes()));
        let port = |name: &str, element: u64, axes: &[Vec<u8>]| {
            let tensor = [number(1, element), bytes(2, &axes.concat())].concat();
            [bytes(1, name.as_bytes()), bytes(2, &bytes(1, &tensor))].concat()
        };
        let any = [free("batch"), free("sequence")];
        let hidden = [free("batch"), free("sequence"), bytes(1, &number(1, HIDDEN as u64))];
        let graph = [
            bytes(1, &node),
            bytes(2, b"made"),
            bytes(5, &table),
            bytes(11, &port("input_ids", 7, &any)),
            bytes(11, &port("attention_mask", 7, &any)),
            bytes(12, &port("last_hidden_state", element, &hidden)),
        ]
        .concat();
        [number(1, 8), bytes(7, &graph), bytes(8, &[bytes(1, b""), number(2, 17)].concat())]
            .concat()
    }
}

/// A number between -1 and 1 in 16 bits (IEEE), its last digits cut off; one too small for that is
/// 0.
fn half_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let exponent = (bits >> 23) & 0xff;
    if x.is_nan() {
        return 0x7e00;
    }
    // 127 and 15 are where the two count exponents from.
    match exponent.checked_sub(112) {
        Some(exponent @ 1..) => sign | ((exponent << 10) | ((bits >> 13) & 0x3ff)) as u16,
        _ => sign,
    }
}

/// Ids of a text, special tokens included and cut to the window, as its tokenizer gives them.
fn ids(text: &str) -> Vec<usize> {
    let id = |word: &str| VOCABULARY.iter().position(|known| *known == word).unwrap_or(1);
    let spaced = text.replace(':', " : ");
    let words = spaced.split_whitespace().map(id).take(WINDOW - 2);
    std::iter::once(2).chain(words).chain([3]).collect()
}

fn tokenizer() -> Vec<u8> {
    let vocab: BTreeMap<&str, usize> =
        VOCABULARY.iter().enumerate().map(|(id, word)| (*word, id)).collect();
    let special = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    let tokens = |token: &str| json!({"id": token, "ids": [vocab[token]], "tokens": [token]});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "decoder": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]"), text("A", 0), special("[SEP]")],
            "pair": [special("[CLS]"), text("A", 0), special("[SEP]"), text("B", 1)],
            "special_tokens": {"[CLS]": tokens("[CLS]"), "[SEP]": tokens("[SEP]")},
        },
        "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": vocab},
    })
    .to_string()
    .into_bytes()
}

fn safetensors(weight: &[f32], bias: &[f32], outputs: usize, inputs: usize) -> Vec<u8> {
    let raw = |numbers: &[f32]| numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let (weight, bias) = (raw(weight), raw(bias));
    let header = json!({
        "linear.weight": {"dtype": "F32", "shape": [outputs, inputs], "data_offsets": [0, weight.len()]},
        "linear.bias": {"dtype": "F32", "shape": [outputs], "data_offsets": [weight.len(), weight.len() + bias.len()]},
    })
    .to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &weight, &bias].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A field of protobuf that is a number.
#[must_use]
pub fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

/// A field of protobuf that is a text or a message.
#[must_use]
pub fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}
