//! safetensors → ONNX for a BERT encoder, without any machine-learning framework.
//!
//! Both formats are simple: safetensors is a JSON header and raw tensors, ONNX a protobuf of nodes
//! and raw tensors. The graph is the encoder as BERT defines it, with query, key and value in one
//! matrix product. The same input gives the same bytes on every machine, so the result can be named
//! by its checksum.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::protobuf::Message;
use crate::safetensors::{self, TensorsError};

/// MiniLM-L6's shape.
const LAYERS: usize = 6;
const HIDDEN: usize = 384;
const HEADS: usize = 12;
const EPSILON: f32 = 1e-12;
/// ONNX operator set: 17 brought LayerNormalization. ONNX Runtime 1.24 reads it.
const OPSET: u64 = 17;

/// Why weights are not made into a graph.
#[derive(Debug, Error)]
pub enum ConvertError {
    /// The weights' file is no safetensors.
    #[error(transparent)]
    Weights(#[from] TensorsError),
    /// The model is of another kind.
    #[error("no tensor {name}")]
    Absent {
        /// What it should have.
        name: String,
    },
    /// A table of embeddings is of another width.
    #[error("{name} has shape {found:?}, expected n × {HIDDEN}")]
    Table {
        /// The tensor.
        name: String,
        /// As it is.
        found: Vec<usize>,
    },
    /// The model is of another size.
    #[error("{name} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// As it is.
        found: Vec<usize>,
        /// As MiniLM-L6 has it.
        expected: Vec<usize>,
    },
}

/// Tensors of a safetensors file.
struct Weights<'a> {
    tensors: BTreeMap<String, (Vec<usize>, &'a [u8])>,
}

impl<'a> Weights<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, ConvertError> {
        let floats =
            safetensors::parse(bytes)?.into_iter().filter(|(_, tensor)| tensor.dtype == "F32");
        let tensors = floats
            .map(|(name, tensor)| {
                (name.trim_start_matches("bert.").to_owned(), (tensor.shape, tensor.raw))
            })
            .collect();
        Ok(Self { tensors })
    }

    fn get(&self, name: &str, shape: &[usize]) -> Result<&'a [u8], ConvertError> {
        let (found, raw) =
            self.tensors.get(name).ok_or_else(|| ConvertError::Absent { name: name.to_owned() })?;
        if found != shape && !shape.is_empty() {
            return Err(ConvertError::Shape {
                name: name.to_owned(),
                found: found.clone(),
                expected: shape.to_owned(),
            });
        }
        Ok(raw)
    }

    /// A linear layer's matrix as ONNX's MatMul wants it: inputs by outputs.
    fn transposed(
        &self,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Vec<u8>, ConvertError> {
        let raw = self.get(name, &[outputs, inputs])?;
        let mut out = Vec::with_capacity(raw.len());
        for i in 0..inputs {
            for o in 0..outputs {
                let at = (o * inputs + i) * 4;
                out.extend_from_slice(&raw[at..at + 4]);
            }
        }
        Ok(out)
    }
}

/// ONNX's type numbers.
const FLOAT: u64 = 1;
const INT64: u64 = 7;

/// An attribute of a node.
enum Attribute {
    Int(u64),
    Ints(Vec<u64>),
    Float(f32),
}

/// The graph while it is written.
struct Graph {
    nodes: Message,
    tensors: Message,
    count: usize,
}

impl Graph {
    fn tensor(&mut self, name: &str, kind: u64, dims: &[usize], raw: &[u8]) -> String {
        let mut tensor = Message::default();
        for dim in dims {
            tensor = tensor.number(1, *dim as u64);
        }
        tensor = tensor.number(2, kind).text(8, name).bytes(9, raw);
        self.tensors = std::mem::take(&mut self.tensors).message(5, &tensor);
        name.to_owned()
    }

    fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) -> String {
        self.tensor(
            name,
            FLOAT,
            dims,
            &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
        )
    }

    fn ints(&mut self, name: &str, dims: &[usize], values: &[i64]) -> String {
        self.tensor(
            name,
            INT64,
            dims,
            &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
        )
    }

    fn node_of(
        &mut self,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, Attribute)],
    ) {
        let mut node = Message::default();
        for input in inputs {
            node = node.text(1, input);
        }
        for output in outputs {
            node = node.text(2, output);
        }
        self.count += 1;
        node = node.text(3, &format!("{op}_{}", self.count)).text(4, op);
        for (name, value) in attributes {
            let attribute = Message::default().text(1, name);
            let attribute = match value {
                Attribute::Float(f) => attribute.float(2, *f).number(20, 1),
                Attribute::Int(i) => attribute.number(3, *i).number(20, 2),
                Attribute::Ints(all) => {
                    all.iter().fold(attribute, |a, i| a.number(8, *i)).number(20, 7)
                }
            };
            node = node.message(5, &attribute);
        }
        self.nodes = std::mem::take(&mut self.nodes).message(1, &node);
    }

    fn node(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        let output = format!("{op}_{}_out", self.count + 1);
        self.node_of(op, inputs, &[&output], attributes);
        output
    }

    fn norm(&mut self, w: &Weights<'_>, x: &str, name: &str) -> Result<String, ConvertError> {
        let scale = self.tensor(
            &format!("{name}.weight"),
            FLOAT,
            &[HIDDEN],
            w.get(&format!("{name}.weight"), &[HIDDEN])?,
        );
        let bias = self.tensor(
            &format!("{name}.bias"),
            FLOAT,
            &[HIDDEN],
            w.get(&format!("{name}.bias"), &[HIDDEN])?,
        );
        let attributes =
            [("axis", Attribute::Int(u64::MAX)), ("epsilon", Attribute::Float(EPSILON))];
        Ok(self.node("LayerNormalization", &[x, &scale, &bias], &attributes))
    }

    fn linear(
        &mut self,
        w: &Weights<'_>,
        x: &str,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<String, ConvertError> {
        let matrix = w.transposed(&format!("{name}.weight"), outputs, inputs)?;
        let matrix = self.tensor(&format!("{name}.weight"), FLOAT, &[inputs, outputs], &matrix);
        let bias = self.tensor(
            &format!("{name}.bias"),
            FLOAT,
            &[outputs],
            w.get(&format!("{name}.bias"), &[outputs])?,
        );
        let product = self.node("MatMul", &[x, &matrix], &[]);
        Ok(self.node("Add", &[&product, &bias], &[]))
    }

    fn embedding(
        &mut self,
        w: &Weights<'_>,
        name: &str,
        ids: &str,
    ) -> Result<String, ConvertError> {
        let name = format!("embeddings.{name}.weight");
        let Some(shape) = w.tensors.get(&name).map(|(shape, _)| shape.clone()) else {
            return Err(ConvertError::Absent { name });
        };
        if shape.len() != 2 || shape[1] != HIDDEN {
            return Err(ConvertError::Table { name, found: shape });
        }
        let table = self.tensor(&name, FLOAT, &shape, w.get(&name, &shape)?);
        Ok(self.node("Gather", &[&table, ids], &[]))
    }

    /// Sums of word, type and place of each token, normalised.
    fn embeddings(&mut self, w: &Weights<'_>) -> Result<String, ConvertError> {
        let (zero, one) = (self.ints("zero", &[], &[0]), self.ints("one", &[], &[1]));
        let words = self.embedding(w, "word_embeddings", "input_ids")?;
        let types = self.embedding(w, "token_type_embeddings", "token_type_ids")?;
        let shape = self.node("Shape", &["input_ids"], &[]);
        let width = self.node("Gather", &[&shape, &one], &[]);
        let places = self.node("Range", &[&zero, &width, &one], &[]);
        let places = self.embedding(w, "position_embeddings", &places)?;
        let sum = self.node("Add", &[&words, &types], &[]);
        let sum = self.node("Add", &[&sum, &places], &[]);
        self.norm(w, &sum, "embeddings.LayerNorm")
    }

    /// What all layers use.
    fn constants(&mut self) -> Constants {
        // Padding is pushed far down before the softmax.
        let mask = self.node("Cast", &["attention_mask"], &[("to", Attribute::Int(FLOAT))]);
        let axes = self.ints("mask_axes", &[2], &[1, 2]);
        let mask = self.node("Unsqueeze", &[&mask, &axes], &[]);
        let whole = self.floats("whole", &[], &[1.0]);
        let mask = self.node("Sub", &[&whole, &mask], &[]);
        let low = self.floats("low", &[], &[-10_000.0]);
        let mask = self.node("Mul", &[&mask, &low], &[]);
        let head = HIDDEN / HEADS;
        Constants {
            mask,
            whole,
            split_heads: self.ints("split_heads", &[4], &[0, 0, HEADS as i64, head as i64]),
            join_heads: self.ints("join_heads", &[3], &[0, 0, HIDDEN as i64]),
            thirds: self.ints("thirds", &[3], &[HIDDEN as i64; 3]),
            scale: self.floats("scale", &[], &[1.0 / (head as f32).sqrt()]),
            sqrt2: self.floats("sqrt2", &[], &[std::f32::consts::SQRT_2]),
            half: self.floats("half", &[], &[0.5]),
        }
    }

    /// Query, key and value of a layer, as one product: their matrices side by side.
    fn queries(
        &mut self,
        w: &Weights<'_>,
        c: &Constants,
        base: &str,
        x: &str,
    ) -> Result<[String; 3], ConvertError> {
        let parts = ["query", "key", "value"].map(|part| format!("{base}.attention.self.{part}"));
        let mut rows = Vec::new();
        let columns: Vec<Vec<u8>> = parts
            .iter()
            .map(|p| w.transposed(&format!("{p}.weight"), HIDDEN, HIDDEN))
            .collect::<Result<_, ConvertError>>()?;
        for row in 0..HIDDEN {
            for column in &columns {
                rows.extend_from_slice(&column[row * HIDDEN * 4..(row + 1) * HIDDEN * 4]);
            }
        }
        let bias: Vec<u8> = parts
            .iter()
            .map(|p| w.get(&format!("{p}.bias"), &[HIDDEN]))
            .collect::<Result<Vec<_>, ConvertError>>()?
            .concat();
        let matrix = self.tensor(
            &format!("{base}.attention.qkv.weight"),
            FLOAT,
            &[HIDDEN, 3 * HIDDEN],
            &rows,
        );
        let bias = self.tensor(&format!("{base}.attention.qkv.bias"), FLOAT, &[3 * HIDDEN], &bias);
        let qkv = self.node("MatMul", &[x, &matrix], &[]);
        let qkv = self.node("Add", &[&qkv, &bias], &[]);
        let [q, k, v] = ["q", "k", "v"].map(|part| format!("{base}.{part}"));
        self.node_of("Split", &[&qkv, &c.thirds], &[&q, &k, &v], &[("axis", Attribute::Int(2))]);
        let mut heads = |x: &str, order: &[u64]| {
            let apart = self.node("Reshape", &[x, &c.split_heads], &[]);
            self.node("Transpose", &[&apart], &[("perm", Attribute::Ints(order.to_vec()))])
        };
        Ok([heads(&q, &[0, 2, 1, 3]), heads(&k, &[0, 2, 3, 1]), heads(&v, &[0, 2, 1, 3])])
    }

    /// The first half of a layer: each token takes from the others what its query asks for.
    fn attention(
        &mut self,
        w: &Weights<'_>,
        c: &Constants,
        base: &str,
        x: &str,
    ) -> Result<String, ConvertError> {
        let [q, k, v] = self.queries(w, c, base, x)?;
        let scores = self.node("MatMul", &[&q, &k], &[]);
        let scores = self.node("Mul", &[&scores, &c.scale], &[]);
        let scores = self.node("Add", &[&scores, &c.mask], &[]);
        let weights = self.node("Softmax", &[&scores], &[("axis", Attribute::Int(u64::MAX))]);
        let mixed = self.node("MatMul", &[&weights, &v], &[]);
        let mixed =
            self.node("Transpose", &[&mixed], &[("perm", Attribute::Ints(vec![0, 2, 1, 3]))]);
        let mixed = self.node("Reshape", &[&mixed, &c.join_heads], &[]);
        let attended =
            self.linear(w, &mixed, &format!("{base}.attention.output.dense"), HIDDEN, HIDDEN)?;
        let sum = self.node("Add", &[&attended, x], &[]);
        self.norm(w, &sum, &format!("{base}.attention.output.LayerNorm"))
    }

    /// The second half: each token by itself, through a wider layer.
    fn feed_forward(
        &mut self,
        w: &Weights<'_>,
        c: &Constants,
        base: &str,
        x: &str,
    ) -> Result<String, ConvertError> {
        let inner = 4 * HIDDEN;
        let h = self.linear(w, x, &format!("{base}.intermediate.dense"), inner, HIDDEN)?;
        // GELU by the error function, in the form that ONNX Runtime fuses.
        let e = self.node("Div", &[&h, &c.sqrt2], &[]);
        let e = self.node("Erf", &[&e], &[]);
        let e = self.node("Add", &[&e, &c.whole], &[]);
        let e = self.node("Mul", &[&h, &e], &[]);
        let h = self.node("Mul", &[&e, &c.half], &[]);
        let h = self.linear(w, &h, &format!("{base}.output.dense"), HIDDEN, inner)?;
        let sum = self.node("Add", &[&h, x], &[]);
        self.norm(w, &sum, &format!("{base}.output.LayerNorm"))
    }

    /// The whole file, with inputs and output declared.
    fn file(self) -> Vec<u8> {
        let mut graph = Message(self.nodes.0).text(2, "minilm-l6");
        graph.0.extend(self.tensors.0);
        for input in ["input_ids", "attention_mask", "token_type_ids"] {
            graph = graph.message(11, &value(input, INT64, &["batch", "sequence"]));
        }
        graph =
            graph.message(12, &value("last_hidden_state", FLOAT, &["batch", "sequence", "384"]));
        let opset = Message::default().text(1, "").number(2, OPSET);
        Message::default().number(1, 8).text(2, "brahman").message(7, &graph).message(8, &opset).0
    }
}

/// Names of tensors and of a node that all layers use.
struct Constants {
    /// What is added to scores: 0, or far below for padding.
    mask: String,
    whole: String,
    split_heads: String,
    join_heads: String,
    thirds: String,
    scale: String,
    sqrt2: String,
    half: String,
}

/// An input or output: its name, type and dimensions, by number or by name.
fn value(name: &str, kind: u64, dims: &[&str]) -> Message {
    let mut shape = Message::default();
    for dim in dims {
        shape = match dim.parse::<u64>() {
            Ok(n) => shape.message(1, &Message::default().number(1, n)),
            Err(_) => shape.message(1, &Message::default().text(2, dim)),
        };
    }
    let tensor = Message::default().number(1, kind).message(2, &shape);
    Message::default().text(1, name).message(2, &Message::default().message(1, &tensor))
}

/// The ONNX model of a MiniLM-L6 encoder: input_ids, attention_mask, token_type_ids →
/// last_hidden_state.
///
/// # Errors
/// [`ConvertError`]: what the weights lack.
pub fn bert(safetensors: &[u8]) -> Result<Vec<u8>, ConvertError> {
    let w = Weights::parse(safetensors)?;
    let mut graph = Graph { nodes: Message::default(), tensors: Message::default(), count: 0 };
    let mut x = graph.embeddings(&w)?;
    let constants = graph.constants();
    for layer in 0..LAYERS {
        let base = format!("encoder.layer.{layer}");
        x = graph.attention(&w, &constants, &base, &x)?;
        x = graph.feed_forward(&w, &constants, &base, &x)?;
    }
    graph.node_of("Identity", &[&x], &["last_hidden_state"], &[]);
    Ok(graph.file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_safetensors_is_refused_by_what_is_wrong() {
        let file =
            |header: &str| [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        let outside = file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#);
        let misshapen =
            [file(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#), vec![0; 8]]
                .concat();
        for (bytes, words) in [
            (&b"abc"[..], "shorter than its header"),
            (&[0xff; 16], "longer than the file"),
            (&file("{}"), "no tensor"),
            (&outside, "outside the file"),
            (&misshapen, "8 bytes for shape [3]"),
        ] {
            let error = bert(bytes).expect_err("no model").to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
