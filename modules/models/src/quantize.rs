//! A graph of 32 bits made one of 8 bits whose answers do not depend on their company: each product
//! with a constant matrix becomes a `MatMulNBits` of 8 bits, whose weights have a scale for each
//! block, and which rounds what is computed at the time to 8 bits by blocks of each token.
//!
//! Pure: bytes in, bytes out, the same on every machine. Invariants: what is not quantised stays
//! byte for byte and in its order, weights of files beside the graph aside, which come into it; a
//! weight that anything else uses, or that the graph gives as an output, stays with its products,
//! and so do those of queries and keys; bytes that are no model are an error, and never a panic;
//! nothing here reads a file.

mod blocks;
mod product;
mod tensor;

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

pub use self::blocks::{BITS, BLOCK};
use self::blocks::{Blocks, Matrix};
use self::product::{Node, Product, Uses, node};
use self::tensor::{FLOAT, Tensor, UINT8, external, tensor};
use crate::graph::{BLOCKS, Graph, GraphError};
use crate::protobuf::{Field, FieldSpan, Message, ProtobufError, fields, spans};

/// Most bytes of a graph and its weights that are read: what comes of more is larger than a file of
/// protobuf may be.
pub const SOURCE_BYTES_MAX: u64 = 8 << 30;
/// Largest file that comes out: protobuf's own bound.
const RESULT_BYTES_MAX: usize = (2 << 30) - 1;
/// Products of fewer numbers a row stay: they are heads, whose few numbers are the answer, and they
/// cost next to nothing.
const OUTPUTS_MIN: usize = 16;
/// Operators by which attention is weighed. The products that their inputs are made of, which give
/// queries and keys, stay: a difference there moves the weights of all tokens. Of all-MiniLM-L6-v2
/// the least cosine to 32 bits is 0.9993 with them as they were and 0.9984 without, for texts of
/// one word; a quarter of its matrices is theirs.
const ATTENTION: [&str; 3] = ["Softmax", "MultiHeadAttention", "GroupQueryAttention"];
/// Operators whose answer does not depend on the numbers that go in.
const SHAPES: [&str; 2] = ["Shape", "Size"];
/// Where the operator lives.
const DOMAIN: &str = "com.microsoft";
/// The version of that domain.
const DOMAIN_VERSION: u64 = 1;
/// What the operator rounds a token's numbers to: 4 is 8 bits.
const ACCURACY: usize = 4;
/// Operators of graphs that have been quantised before.
const QUANTIZED: [&str; 9] = [
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    BLOCKS,
    "QAttention",
    "QLinearMatMul",
];

/// Why a graph is not quantised.
#[derive(Debug, Error)]
pub enum QuantizeError {
    /// It is none.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// It is no protobuf.
    #[error(transparent)]
    Protobuf(#[from] ProtobufError),
    /// There are several in the file.
    #[error("no ONNX model: it has {graphs} graphs, expected one")]
    Graphs {
        /// How many.
        graphs: usize,
    },
    /// It has been quantised before.
    #[error("it is quantised already (it has a {operator}), expected a graph of 32 bits")]
    Already {
        /// What says so.
        operator: String,
    },
    /// There is nothing to quantise.
    #[error(
        "it has no product with a constant matrix of float32, which alone is quantised: expected a \
         graph of 32 bits"
    )]
    NoProducts,
    /// Two weights of one name.
    #[error("two weights are called `{tensor}`")]
    Twice {
        /// Their name.
        tensor: String,
    },
    /// A weight whose bytes are not those of its shape.
    #[error("the weight `{tensor}` has {found} bytes, and {expected} by its shape")]
    Length {
        /// Its name.
        tensor: String,
        /// What there are.
        found: usize,
        /// What there should be.
        expected: usize,
    },
    /// A weight of a type whose length is not known.
    #[error(
        "the weight `{tensor}` is of type {kind}, which cannot be read from a file beside the graph"
    )]
    Kind {
        /// Its name.
        tensor: String,
        /// ONNX's number for the type.
        kind: u64,
    },
    /// A weight that should lie beside the graph.
    #[error("the weight `{tensor}` should lie in `{file}` at bytes {begin} to {end}, and does not")]
    External {
        /// Its name.
        tensor: String,
        /// The file, as the graph names it.
        file: String,
        /// Where it should begin.
        begin: usize,
        /// And end.
        end: usize,
    },
    /// A weight within a node or within a graph in the graph that lies beside them.
    #[error(
        "a weight of a node, or of a graph within the graph, lies in `{file}`: expected those of \
         the graph itself alone"
    )]
    Inner {
        /// The file, as the graph names it.
        file: String,
    },
    /// A weight that is no number somewhere.
    #[error("the weight `{tensor}` has numbers that are not finite")]
    NotFinite {
        /// Its name.
        tensor: String,
    },
    /// What goes in is too large.
    #[error("the graph and its weights have {bytes} bytes, expected at most {SOURCE_BYTES_MAX}")]
    LargeSource {
        /// How many they have.
        bytes: u64,
    },
    /// What would come out is too large.
    #[error("the graph of 8 bits would have {bytes} bytes, expected at most {RESULT_BYTES_MAX}")]
    Large {
        /// How many it would have.
        bytes: usize,
    },
}

/// What came of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantizedGraph {
    /// The ONNX file, with all of its weights in it.
    pub onnx: Vec<u8>,
    /// How many matrices have 8 bits now.
    pub matrices: usize,
    /// How many numbers those have together.
    pub numbers: usize,
}

/// What the file holds, taken apart.
#[derive(Default)]
struct Parts<'a> {
    /// Fields of the file in order.
    model: Vec<FieldSpan<'a>>,
    /// Fields of the graph in order, each with what it is.
    graph: Vec<(FieldSpan<'a>, Part<'a>)>,
    /// Whether the file names the operator's domain.
    has_domain: bool,
}

/// A field of the graph.
enum Part<'a> {
    Node(Node<'a>, Option<Product<'a>>),
    Weight(Tensor<'a>),
    Input(&'a [u8]),
    Other,
}

/// A weight of 8 bits: names of its two tensors.
struct BlockNames {
    codes: Vec<u8>,
    scales: Vec<u8>,
    inputs: usize,
    outputs: usize,
    is_transposed: bool,
}

/// Makes a graph of 8 bits. `weights` are the files beside it, by the names that it has for them
/// (without `./`); `tell` is given how many bytes of weights are done, as they are.
///
/// # Errors
/// [`QuantizeError`]: why there is none.
pub fn quantize(
    onnx: &[u8],
    weights: &BTreeMap<String, Vec<u8>>,
    tell: &mut dyn FnMut(u64),
) -> Result<QuantizedGraph, QuantizeError> {
    let whole = Graph::parse(onnx)?;
    if let Some(operator) = QUANTIZED.iter().find(|kind| whole.operators.contains(**kind)) {
        return Err(QuantizeError::Already { operator: (*operator).to_owned() });
    }
    let parts = parts_of(onnx)?;
    let mut uses = Uses::default();
    uses.of_graph(parts.graph.iter().map(|(span, _)| *span), 0)?;
    let names = chosen(&parts, &mut uses)?;
    if names.is_empty() {
        return Err(QuantizeError::NoProducts);
    }
    let bytes = length(onnx, &parts, &names);
    if bytes > RESULT_BYTES_MAX {
        return Err(QuantizeError::Large { bytes });
    }
    let graph = graph_of(&parts, &names, &mut uses, weights, tell)?;
    let onnx = file_of(&parts, &graph);
    // What is not the graph's own was not looked at.
    if let Some(file) = Graph::parse(&onnx)?.weight_files.into_iter().next() {
        return Err(QuantizeError::Inner { file });
    }
    let numbers = names.values().map(|name| name.inputs * name.outputs).sum();
    Ok(QuantizedGraph { onnx, matrices: names.len(), numbers })
}

/// ModelProto: graph = 7, opset_import = 8. OperatorSetIdProto: domain = 1. GraphProto: node = 1,
/// initializer = 5, input = 11. ValueInfoProto: name = 1.
fn parts_of(onnx: &[u8]) -> Result<Parts<'_>, QuantizeError> {
    let mut parts = Parts::default();
    let mut graphs = Vec::new();
    for span in spans(onnx) {
        let span = span?;
        match (span.number, span.field) {
            (7, Field::Bytes(graph)) => graphs.push(graph),
            (8, Field::Bytes(set)) => parts.has_domain |= named(set)? == DOMAIN.as_bytes(),
            _ => {}
        }
        parts.model.push(span);
    }
    let [graph] = graphs[..] else { return Err(QuantizeError::Graphs { graphs: graphs.len() }) };
    for span in spans(graph) {
        let span = span?;
        let part = match (span.number, span.field) {
            (1, Field::Bytes(bytes)) => {
                let node = node(bytes)?;
                let product = node.product();
                Part::Node(node, product)
            }
            (5, Field::Bytes(weight)) => Part::Weight(tensor(weight)?),
            (11, Field::Bytes(port)) => Part::Input(named(port)?),
            _ => Part::Other,
        };
        parts.graph.push((span, part));
    }
    Ok(parts)
}

/// The name of a port, or of a set of operators: it is the first field of both.
fn named(bytes: &[u8]) -> Result<&[u8], ProtobufError> {
    let mut name: &[u8] = &[];
    for field in fields(bytes) {
        if let (1, Field::Bytes(bytes)) = field? {
            name = bytes;
        }
    }
    Ok(name)
}

/// Weights that become ones of 8 bits, by name: matrices of float32 that nothing but products use,
/// all of them in one orientation.
fn chosen<'a>(
    parts: &Parts<'a>,
    uses: &mut Uses<'a>,
) -> Result<BTreeMap<&'a [u8], BlockNames>, QuantizeError> {
    let mut products: BTreeMap<&[u8], (usize, BTreeSet<bool>)> = BTreeMap::new();
    for (_, part) in &parts.graph {
        if let Part::Node(_, Some(product)) = part {
            let (count, orientations) = products.entry(product.weight).or_default();
            *count += 1;
            orientations.insert(product.is_transposed);
        }
    }
    let attention = attention(parts);
    let (mut names, mut seen) = (BTreeMap::new(), BTreeSet::new());
    for (_, part) in &parts.graph {
        let Part::Weight(weight) = part else { continue };
        if !seen.insert(weight.name) {
            return Err(QuantizeError::Twice { tensor: weight.shown() });
        }
        let Some((count, orientations)) = products.get(weight.name) else { continue };
        let (Some([rows, columns]), Some(is_transposed)) =
            (weight.matrix(), orientations.first().copied())
        else {
            continue;
        };
        let (inputs, outputs) = if is_transposed { (columns, rows) } else { (rows, columns) };
        let is_alone = orientations.len() == 1
            && uses.count(weight.name) == *count
            && !attention.contains(weight.name);
        if weight.kind != FLOAT || inputs == 0 || outputs < OUTPUTS_MIN || !is_alone {
            continue;
        }
        let codes = uses.fresh(weight.name, b".int8");
        let scales = uses.fresh(weight.name, b".scales");
        names.insert(weight.name, BlockNames { codes, scales, inputs, outputs, is_transposed });
    }
    Ok(names)
}

/// Weights of the products that give what attention is weighed by: the first that are met from
/// there back.
fn attention<'a>(parts: &Parts<'a>) -> BTreeSet<&'a [u8]> {
    let (mut makers, mut weights, mut waiting) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
    for (_, part) in &parts.graph {
        match part {
            Part::Node(node, product) => {
                makers.extend(node.outputs.iter().map(|output| (*output, (node, product))));
                if ATTENTION.iter().any(|kind| kind.as_bytes() == node.operator) {
                    waiting.push(node);
                }
            }
            Part::Weight(weight) => {
                weights.insert(weight.name);
            }
            _ => {}
        }
    }
    let (mut found, mut seen) = (BTreeSet::new(), BTreeSet::new());
    while let Some(node) = waiting.pop() {
        for input in node.inputs.iter().filter(|input| seen.insert(**input)) {
            let Some((maker, product)) = makers.get(input) else { continue };
            match product {
                Some(product) if weights.contains(product.weight) => {
                    found.insert(product.weight);
                }
                _ if SHAPES.iter().any(|kind| kind.as_bytes() == maker.operator) => {}
                _ => waiting.push(*maker),
            }
        }
    }
    found
}

/// How many bytes will come out, but for some hundred a product.
fn length(onnx: &[u8], parts: &Parts<'_>, names: &BTreeMap<&[u8], BlockNames>) -> usize {
    let mut bytes = onnx.len();
    for (span, part) in &parts.graph {
        let Part::Weight(weight) = part else { continue };
        let more = match names.get(weight.name) {
            Some(name) => {
                bytes -= span.bytes.len();
                blocks::bytes(name.inputs, name.outputs)
            }
            None if weight.external.is_some() => weight.expected().unwrap_or(0),
            None => 0,
        };
        bytes = bytes.saturating_add(more);
    }
    bytes
}

/// The graph's fields anew.
fn graph_of(
    parts: &Parts<'_>,
    names: &BTreeMap<&[u8], BlockNames>,
    uses: &mut Uses<'_>,
    files: &BTreeMap<String, Vec<u8>>,
    tell: &mut dyn FnMut(u64),
) -> Result<Message, QuantizeError> {
    let (mut graph, mut done) = (Message::default(), 0_u64);
    for (span, part) in &parts.graph {
        match part {
            Part::Node(_, Some(product)) if names.contains_key(product.weight) => {
                for node in nodes(product, &names[product.weight], uses) {
                    graph = graph.message(1, &node);
                }
            }
            Part::Weight(weight) => {
                match names.get(weight.name) {
                    Some(name) => {
                        for tensor in tensors(weight, name, files)? {
                            graph = graph.message(5, &tensor);
                        }
                    }
                    None => match external(weight, files)? {
                        Some(tensor) => graph = graph.message(5, &tensor),
                        None => graph = graph.raw(span.bytes),
                    },
                }
                done = done.saturating_add(weight.expected().unwrap_or(0) as u64);
                tell(done);
            }
            // Older files list weights as inputs, too.
            Part::Input(name) if names.contains_key(*name) => {}
            _ => graph = graph.raw(span.bytes),
        }
    }
    Ok(graph)
}

/// The two tensors of a weight.
fn tensors(
    weight: &Tensor<'_>,
    name: &BlockNames,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<[Message; 2], QuantizeError> {
    let matrix = Matrix {
        numbers: weight.floats(files)?,
        inputs: name.inputs,
        outputs: name.outputs,
        is_transposed: name.is_transposed,
    };
    let Some(Blocks { codes, scales }) = matrix.blocks() else {
        return Err(QuantizeError::NotFinite { tensor: weight.shown() });
    };
    let blocks = name.inputs.div_ceil(BLOCK);
    let made = |name: &[u8], kind: u64, dims: &[usize], raw: &[u8]| {
        let dims =
            dims.iter().fold(Message::default(), |tensor, dim| tensor.number(1, *dim as u64));
        dims.number(2, kind).bytes(8, name).bytes(9, raw)
    };
    Ok([
        made(&name.codes, UINT8, &[name.outputs, blocks, BLOCK], &codes),
        made(&name.scales, FLOAT, &[name.outputs, blocks], &scales),
    ])
}

/// The nodes that take a product's place: it, and what is added to it.
fn nodes(product: &Product<'_>, name: &BlockNames, uses: &mut Uses<'_>) -> Vec<Message> {
    let of = |inputs: &[&[u8]], output: &[u8], operator: &str| {
        let node = inputs.iter().fold(Message::default(), |node, input| node.bytes(1, input));
        node.bytes(2, output).bytes(3, product.name).text(4, operator)
    };
    let attribute = |name: &str, value: usize| {
        Message::default().text(1, name).number(3, value as u64).number(20, 2)
    };
    let (output, sum) = match product.bias {
        Some(bias) => {
            let output = uses.fresh(product.output, b".product");
            let sum = of(&[output.as_slice(), bias], product.output, "Add");
            (output, Some(sum))
        }
        None => (product.output.to_vec(), None),
    };
    let taken = [product.input, name.codes.as_slice(), name.scales.as_slice()];
    let mut node = of(&taken, &output, BLOCKS);
    let numbers = [
        ("K", name.inputs),
        ("N", name.outputs),
        ("bits", BITS),
        ("block_size", BLOCK),
        ("accuracy_level", ACCURACY),
    ];
    for (key, value) in numbers {
        node = node.message(5, &attribute(key, value));
    }
    [Some(node.text(7, DOMAIN)), sum].into_iter().flatten().collect()
}

/// The file anew, with the operator's domain named in it.
fn file_of(parts: &Parts<'_>, graph: &Message) -> Vec<u8> {
    let mut model = Message::default();
    for span in &parts.model {
        model = match (span.number, span.field) {
            (7, Field::Bytes(_)) => model.message(7, graph),
            _ => model.raw(span.bytes),
        };
    }
    if !parts.has_domain {
        let set = Message::default().text(1, DOMAIN).number(2, DOMAIN_VERSION);
        model = model.message(8, &set);
    }
    model.0
}

#[cfg(test)]
mod tests;
