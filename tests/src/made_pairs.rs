//! Cross-encoders made up on the spot, in the layouts of real ones, and what their scores have to
//! be, in 64 bits.
//!
//! The graph adds up a vector for each token (and for which of the two texts it is of), bends the
//! sum, and makes a number or two of it: what is tested is everything around it, and a query that
//! changes how two texts compare. Numbers come from a formula: the same on every machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::made_models::{VOCABULARY, VOID, bytes, number};

/// Numbers of a token's vector.
const HIDDEN: usize = 8;
/// Tokens that a query and a text may have together.
pub const PAIR_WINDOW: usize = 16;

/// A made-up cross-encoder.
#[derive(Clone, Debug, Default)]
pub struct MadePairModel {
    /// Whether it gives two numbers a pair (not relevant, relevant) and not one.
    pub two: bool,
    /// Whether it is as XLM-R: two marks between the texts, and nothing that tells a token's text.
    pub roberta: bool,
    /// The last word of `sentence_transformers.activation_fn` in `config.json`, if it says one.
    pub activation: Option<&'static str>,
    /// Whether `brahman.json` says that texts alone are cut.
    pub only_second: bool,
    /// Changes its numbers.
    pub seed: u32,
}

impl MadePairModel {
    /// Writes the model's folder.
    pub fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).expect("made");
        let file = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).expect("written");
        file("model.onnx", &self.onnx());
        file("tokenizer.json", &self.tokenizer());
        // Special tokens and padding stand where BERT's do.
        let mut config = if self.roberta {
            json!({
                "architectures": ["XLMRobertaForSequenceClassification"], "model_type": "xlm-roberta", "pad_token_id": 0,
                "max_position_embeddings": PAIR_WINDOW + 1,
            })
        } else {
            json!({"architectures": ["BertForSequenceClassification"], "model_type": "bert", "max_position_embeddings": PAIR_WINDOW})
        };
        if let Some(activation) = self.activation {
            config["sentence_transformers"] = json!({"activation_fn": format!("torch.nn.modules.{activation}"), "version": "4.1.0"});
        }
        file("config.json", config.to_string().as_bytes());
        file(
            "tokenizer_config.json",
            json!({"model_max_length": PAIR_WINDOW}).to_string().as_bytes(),
        );
        if self.only_second {
            file("brahman.json", br#"{"truncation": "only_second"}"#);
        }
    }

    /// The score of a text beside a query, as transformers and sentence-transformers define it.
    #[must_use]
    pub fn score(&self, query: &str, text: &str) -> f64 {
        let (ids, types) = self.pair(query, text);
        let mut sum = [0.0; HIDDEN];
        for (id, kind) in ids.iter().zip(&types) {
            for (j, s) in sum.iter_mut().enumerate() {
                let of_type =
                    if self.roberta { 0.0 } else { f64::from(self.number(300 + kind, j)) };
                *s += self.table(*id, j) + of_type;
            }
        }
        let logits: Vec<f64> = (0..self.labels())
            .map(|label| {
                (0..HIDDEN).map(|j| sum[j].tanh() * f64::from(self.weight(j, label))).sum::<f64>()
                    + self.bias(label)
            })
            .collect();
        let relevance = if self.two { logits[1] - logits[0] } else { logits[0] };
        if self.activation.is_some_and(|name| name.ends_with("Identity")) {
            relevance
        } else {
            1.0 / (1.0 + (-relevance).exp())
        }
    }

    /// How many tokens query and text have together.
    #[must_use]
    pub fn tokens(&self, query: &str, text: &str) -> usize {
        words(query).len() + words(text).len() + if self.roberta { 4 } else { 3 }
    }

    fn labels(&self) -> usize {
        if self.two { 2 } else { 1 }
    }

    /// Ids of a pair and which text each is of, cut to the window by Hugging Face's rule.
    fn pair(&self, query: &str, text: &str) -> (Vec<usize>, Vec<usize>) {
        let (mut query, mut text) = (words(query), words(text));
        let room = PAIR_WINDOW - if self.roberta { 4 } else { 3 };
        // One token at a time off the longer of the two, as it was first defined; of equals off the
        // one that was the shorter, so that the other keeps the odd one.
        let is_query_longer = query.len() > text.len();
        while query.len() + text.len() > room {
            if self.only_second
                || text.len() > query.len()
                || (text.len() == query.len() && is_query_longer)
            {
                text.pop();
            } else {
                query.pop();
            }
        }
        let between: &[usize] = if self.roberta { &[3, 3] } else { &[3] };
        let first: Vec<usize> =
            std::iter::once(2).chain(query).chain(between.iter().copied()).collect();
        let second: Vec<usize> = text.into_iter().chain([3]).collect();
        let types = std::iter::repeat_n(0, first.len())
            .chain(std::iter::repeat_n(1, second.len()))
            .collect();
        ([first, second].concat(), types)
    }

    fn number(&self, i: usize, j: usize) -> f32 {
        ((i * 37 + j * 13) as f64 * 0.9 + f64::from(self.seed)).sin() as f32 * 0.3
    }

    fn table(&self, id: usize, j: usize) -> f64 {
        if VOCABULARY[id] == VOID { f64::NAN } else { f64::from(self.number(id, j)) }
    }

    fn weight(&self, j: usize, label: usize) -> f32 {
        self.number(400 + j, label) * 8.0
    }

    fn bias(&self, label: usize) -> f64 {
        f64::from(self.number(500, label))
    }

    /// input_ids, attention_mask (and token_type_ids) → logits.
    fn onnx(&self) -> Vec<u8> {
        let floats =
            |numbers: &[f32]| numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let tensor = |name: &str, element: u64, dims: &[usize], raw: &[u8]| {
            let dims: Vec<u8> = dims.iter().flat_map(|n| number(1, *n as u64)).collect();
            bytes(5, &[dims, number(2, element), bytes(8, name.as_bytes()), bytes(9, raw)].concat())
        };
        let table: Vec<f32> = (0..VOCABULARY.len())
            .flat_map(|id| (0..HIDDEN).map(move |j| (id, j)))
            .map(|(id, j)| self.table(id, j) as f32)
            .collect();
        let kinds: Vec<f32> = (0..2)
            .flat_map(|kind| (0..HIDDEN).map(move |j| (kind, j)))
            .map(|(kind, j)| self.number(300 + kind, j))
            .collect();
        let labels = self.labels();
        let weight: Vec<f32> = (0..HIDDEN)
            .flat_map(|j| (0..labels).map(move |l| (j, l)))
            .map(|(j, l)| self.weight(j, l))
            .collect();
        let bias: Vec<f32> = (0..labels).map(|label| self.bias(label) as f32).collect();
        let attribute = |name: &str, value: u64| {
            bytes(5, &[bytes(1, name.as_bytes()), number(3, value), number(20, 2)].concat())
        };
        let node = |inputs: &[&str], output: &str, kind: &str, attributes: &[u8]| {
            let inputs: Vec<u8> =
                inputs.iter().flat_map(|name| bytes(1, name.as_bytes())).collect();
            bytes(
                1,
                &[
                    inputs,
                    bytes(2, output.as_bytes()),
                    bytes(4, kind.as_bytes()),
                    attributes.to_vec(),
                ]
                .concat(),
            )
        };
        let free = |name: &str| bytes(1, &bytes(2, name.as_bytes()));
        let port = |name: &str, element: u64, axes: &[Vec<u8>]| {
            let tensor = [number(1, element), bytes(2, &axes.concat())].concat();
            [bytes(1, name.as_bytes()), bytes(2, &bytes(1, &tensor))].concat()
        };
        let any = [free("batch"), free("sequence")];
        let mut nodes = vec![node(&["table", "input_ids"], "words", "Gather", &[])];
        let mut inputs = vec![
            bytes(11, &port("input_ids", 7, &any)),
            bytes(11, &port("attention_mask", 7, &any)),
        ];
        let summed = if self.roberta {
            "words"
        } else {
            inputs.push(bytes(11, &port("token_type_ids", 7, &any)));
            nodes.push(node(&["kinds", "token_type_ids"], "of_kind", "Gather", &[]));
            nodes.push(node(&["words", "of_kind"], "both", "Add", &[]));
            "both"
        };
        nodes.extend([
            node(&["attention_mask"], "mask", "Cast", &attribute("to", 1)),
            node(&["mask", "last"], "wide_mask", "Unsqueeze", &[]),
            // What is no number would be one still after a product with 0, so padding is a token
            // that has some.
            node(&[summed, "wide_mask"], "masked", "Mul", &[]),
            node(&["masked", "middle"], "sum", "ReduceSum", &attribute("keepdims", 0)),
            node(&["sum"], "bent", "Tanh", &[]),
            node(&["bent", "weight"], "product", "MatMul", &[]),
            node(&["product", "bias"], "logits", "Add", &[]),
        ]);
        let logits = [free("batch"), bytes(1, &number(1, labels as u64))];
        let graph = [
            nodes.concat(),
            bytes(2, b"made"),
            tensor("table", 1, &[VOCABULARY.len(), HIDDEN], &floats(&table)),
            tensor("kinds", 1, &[2, HIDDEN], &floats(&kinds)),
            tensor("weight", 1, &[HIDDEN, labels], &floats(&weight)),
            tensor("bias", 1, &[labels], &floats(&bias)),
            tensor("last", 7, &[1], &2_i64.to_le_bytes()),
            tensor("middle", 7, &[1], &1_i64.to_le_bytes()),
            inputs.concat(),
            bytes(12, &port("logits", 1, &logits)),
        ]
        .concat();
        [number(1, 8), bytes(7, &graph), bytes(8, &[bytes(1, b""), number(2, 17)].concat())]
            .concat()
    }

    fn tokenizer(&self) -> Vec<u8> {
        let vocab: BTreeMap<&str, usize> =
            VOCABULARY.iter().enumerate().map(|(id, word)| (*word, id)).collect();
        let special =
            |token: &str, kind: u32| json!({"SpecialToken": {"id": token, "type_id": kind}});
        let text = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
        let tokens = |token: &str| json!({"id": token, "ids": [vocab[token]], "tokens": [token]});
        let kind = u32::from(!self.roberta);
        let mut pair = vec![special("[CLS]", 0), text("A", 0), special("[SEP]", 0)];
        pair.extend(self.roberta.then(|| special("[SEP]", 0)));
        pair.extend([text("B", kind), special("[SEP]", kind)]);
        let whole: Value = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "decoder": null,
            "added_tokens": [{
                "id": 0, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true,
            }],
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [special("[CLS]", 0), text("A", 0), special("[SEP]", 0)],
                "pair": pair,
                "special_tokens": {"[CLS]": tokens("[CLS]"), "[SEP]": tokens("[SEP]")},
            },
            "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": vocab},
        });
        whole.to_string().into_bytes()
    }
}

/// Ids of a text's words.
fn words(text: &str) -> Vec<usize> {
    text.split_whitespace()
        .map(|word| VOCABULARY.iter().position(|known| *known == word).unwrap_or(1))
        .collect()
}
