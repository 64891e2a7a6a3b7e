//! What an ONNX file says of itself: inputs, outputs, operators, and the files that its weights lie
//! in. The weights are skipped.
//!
//! Pure: bytes in, values out. Invariants: nothing is read beyond what the bytes hold; bytes that
//! are no protobuf are an error, and never a panic; nesting is bounded. Field numbers are those of
//! onnx.proto3.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::protobuf::{Field, ProtobufError, fields, packed};

/// Graphs in graphs (the branches of an `If`) that are gone into: real models have one or two.
pub(crate) const DEPTH_MAX: usize = 16;
/// The operator whose weights have few bits, in blocks with a scale each.
pub(crate) const BLOCKS: &str = "MatMulNBits";
/// Bits of its weights where a node does not say how many.
const BLOCK_BITS: u64 = 4;

/// Why a file is no ONNX model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GraphError {
    /// It is no protobuf.
    #[error(transparent)]
    Protobuf(#[from] ProtobufError),
    /// There is no graph in it.
    #[error("no ONNX model: it has no graph")]
    NoGraph,
    /// Graphs in graphs without end.
    #[error("graphs lie in each other more than {DEPTH_MAX} deep")]
    Deep,
}

/// The type of a tensor's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32 bits, as most models give their output.
    Float32,
    /// 16 bits, IEEE.
    Float16,
    /// 16 bits, the upper half of 32.
    Bfloat16,
    /// 32 bits, signed.
    Int32,
    /// 64 bits, signed.
    Int64,
    /// Any other, by ONNX's number for it.
    Other(u64),
}

impl Element {
    fn of(code: u64) -> Self {
        match code {
            1 => Self::Float32,
            6 => Self::Int32,
            7 => Self::Int64,
            10 => Self::Float16,
            16 => Self::Bfloat16,
            other => Self::Other(other),
        }
    }

    /// Its name, as ONNX has it.
    #[must_use]
    pub fn name(self) -> String {
        let name = match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Other(2) => "uint8",
            Self::Other(3) => "int8",
            Self::Other(8) => "string",
            Self::Other(9) => "bool",
            Self::Other(11) => "float64",
            Self::Other(code) => return format!("type {code}"),
        };
        name.to_owned()
    }
}

/// An input or an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name in the graph.
    pub name: String,
    /// What it is made of.
    pub element: Element,
    /// Its axes, a number where one is fixed; `None` if the graph does not say how many there are.
    pub axes: Option<Vec<Option<usize>>>,
}

impl Port {
    /// How many axes it has, if the graph says so.
    #[must_use]
    pub fn rank(&self) -> Option<usize> {
        self.axes.as_ref().map(Vec::len)
    }

    /// The length of an axis, counted from 0, if that is fixed.
    #[must_use]
    pub fn fixed(&self, axis: usize) -> Option<usize> {
        self.axes.as_ref().and_then(|axes| axes.get(axis).copied().flatten())
    }

    /// Its shape, for people: `[?, ?, 384]`.
    #[must_use]
    pub fn shape(&self) -> String {
        let Some(axes) = &self.axes else { return "of any shape".to_owned() };
        let lengths: Vec<String> =
            axes.iter().map(|axis| axis.map_or("?".to_owned(), |n| n.to_string())).collect();
        format!("[{}]", lengths.join(", "))
    }
}

/// What is known of one ONNX file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    /// What has to be given, in order; weights that older files list as inputs are left out.
    pub inputs: Vec<Port>,
    /// What comes out, in order.
    pub outputs: Vec<Port>,
    /// Kinds of operators in it and in the functions it calls.
    pub operators: BTreeSet<String>,
    /// Bits that weights in blocks have (`MatMulNBits`), each number once.
    pub block_bits: BTreeSet<u64>,
    /// Files beside it in which its weights lie, as it names them, in order and each once.
    pub weight_files: Vec<String>,
    /// How many weights there are of each type, by ONNX's number.
    pub weights: BTreeMap<u64, usize>,
    /// Shapes of the weights that hold a row for each position, by name.
    pub positions: BTreeMap<String, Vec<usize>>,
}

impl Graph {
    /// Reads an ONNX file.
    ///
    /// # Errors
    /// [`GraphError`]: why it is none.
    pub fn parse(onnx: &[u8]) -> Result<Self, GraphError> {
        let mut reading = Reading::default();
        let mut graph = None;
        for field in fields(onnx) {
            match field? {
                (7, Field::Bytes(bytes)) => graph = Some(bytes),
                // Functions: FunctionProto.node is 7.
                (25, Field::Bytes(function)) => {
                    for field in fields(function) {
                        if let (7, Field::Bytes(node)) = field? {
                            reading.node(node, 1)?;
                        }
                    }
                }
                _ => {}
            }
        }
        let (inputs, outputs, names) = reading.graph(graph.ok_or(GraphError::NoGraph)?, 0)?;
        let inputs = inputs.into_iter().filter(|port| !names.contains(&port.name)).collect();
        let Reading { operators, block_bits, weight_files, weights, positions } = reading;
        Ok(Self {
            inputs,
            outputs,
            operators,
            block_bits,
            weight_files: weight_files.into_iter().collect(),
            weights,
            positions,
        })
    }

    /// An input by its name.
    #[must_use]
    pub fn input(&self, name: &str) -> Option<&Port> {
        self.inputs.iter().find(|port| port.name == name)
    }

    /// An output by its name.
    #[must_use]
    pub fn output(&self, name: &str) -> Option<&Port> {
        self.outputs.iter().find(|port| port.name == name)
    }
}

/// What has been found so far.
#[derive(Default)]
struct Reading {
    operators: BTreeSet<String>,
    block_bits: BTreeSet<u64>,
    weight_files: BTreeSet<String>,
    weights: BTreeMap<u64, usize>,
    positions: BTreeMap<String, Vec<usize>>,
}

/// Inputs and outputs of a graph, and the names of its weights.
type Ports = (Vec<Port>, Vec<Port>, BTreeSet<String>);

impl Reading {
    /// GraphProto: node = 1, initializer = 5, input = 11, output = 12.
    fn graph(&mut self, bytes: &[u8], depth: usize) -> Result<Ports, GraphError> {
        if depth > DEPTH_MAX {
            return Err(GraphError::Deep);
        }
        let (mut inputs, mut outputs, mut names) = (Vec::new(), Vec::new(), BTreeSet::new());
        for field in fields(bytes) {
            match field? {
                (1, Field::Bytes(node)) => self.node(node, depth + 1)?,
                (5, Field::Bytes(tensor)) => {
                    names.insert(self.tensor(tensor)?);
                }
                (11, Field::Bytes(port)) => inputs.push(port_of(port)?),
                (12, Field::Bytes(port)) => outputs.push(port_of(port)?),
                _ => {}
            }
        }
        Ok((inputs, outputs, names))
    }

    /// NodeProto: op_type = 4, attribute = 5. AttributeProto: name = 1, i = 3, t = 5, g = 6,
    /// tensors = 10, graphs = 11.
    fn node(&mut self, bytes: &[u8], depth: usize) -> Result<(), GraphError> {
        if depth > DEPTH_MAX {
            return Err(GraphError::Deep);
        }
        let (mut operator, mut bits) = (String::new(), BLOCK_BITS);
        for field in fields(bytes) {
            match field? {
                (4, Field::Bytes(kind)) => operator = text(kind),
                (5, Field::Bytes(attribute)) => {
                    let (mut name, mut number) = (&[][..], None);
                    for field in fields(attribute) {
                        match field? {
                            (1, Field::Bytes(bytes)) => name = bytes,
                            (3, Field::Number(n)) => number = Some(n),
                            (5 | 10, Field::Bytes(tensor)) => {
                                self.tensor(tensor)?;
                            }
                            (6 | 11, Field::Bytes(graph)) => {
                                self.graph(graph, depth + 1)?;
                            }
                            _ => {}
                        }
                    }
                    if let (b"bits", Some(n)) = (name, number) {
                        bits = n;
                    }
                }
                _ => {}
            }
        }
        if operator == BLOCKS {
            self.block_bits.insert(bits);
        }
        if !operator.is_empty() {
            self.operators.insert(operator);
        }
        Ok(())
    }

    /// TensorProto: dims = 1, data_type = 2, name = 8, external_data = 13 (key = 1, value = 2).
    /// Gives its name.
    fn tensor(&mut self, bytes: &[u8]) -> Result<String, GraphError> {
        let (mut name, mut kind, mut dims) = (String::new(), 0, Vec::new());
        for field in fields(bytes) {
            match field? {
                (1, Field::Number(n)) => dims.push(n),
                // Written together, as protobuf's own libraries do.
                (1, Field::Bytes(together)) => dims.extend(packed(together)?),
                (2, Field::Number(n)) => kind = n,
                (8, Field::Bytes(bytes)) => name = text(bytes),
                (13, Field::Bytes(entry)) => {
                    let (mut key, mut value) = (String::new(), String::new());
                    for field in fields(entry) {
                        match field? {
                            (1, Field::Bytes(bytes)) => key = text(bytes),
                            (2, Field::Bytes(bytes)) => value = text(bytes),
                            _ => {}
                        }
                    }
                    if key == "location" {
                        self.weight_files
                            .insert(value.strip_prefix("./").unwrap_or(&value).to_owned());
                    }
                }
                _ => {}
            }
        }
        let dims: Vec<usize> =
            dims.into_iter().map(|n| usize::try_from(n).unwrap_or(usize::MAX)).collect();
        let numbers = dims.iter().fold(1_usize, |product, n| product.saturating_mul(*n));
        let all = self.weights.entry(kind).or_default();
        *all = all.saturating_add(numbers);
        if dims.len() == 2 && name.contains("position_embeddings") {
            self.positions.insert(name.clone(), dims);
        }
        Ok(name)
    }
}

/// ValueInfoProto: name = 1, type = 2. TypeProto: tensor_type = 1 {elem_type = 1, shape = 2 {dim =
/// 1 {dim_value = 1}}}.
fn port_of(bytes: &[u8]) -> Result<Port, GraphError> {
    let mut port = Port { name: String::new(), element: Element::Other(0), axes: None };
    for field in fields(bytes) {
        match field? {
            (1, Field::Bytes(name)) => port.name = text(name),
            (2, Field::Bytes(kind)) => {
                for field in fields(kind) {
                    let (1, Field::Bytes(tensor)) = field? else { continue };
                    for field in fields(tensor) {
                        match field? {
                            (1, Field::Number(code)) => port.element = Element::of(code),
                            (2, Field::Bytes(shape)) => port.axes = Some(axes_of(shape)?),
                            _ => {}
                        }
                    }
                }
            }
            _ => {}
        }
    }
    Ok(port)
}

fn axes_of(shape: &[u8]) -> Result<Vec<Option<usize>>, GraphError> {
    let mut axes = Vec::new();
    for field in fields(shape) {
        let (1, Field::Bytes(axis)) = field? else { continue };
        let mut length = None;
        for field in fields(axis) {
            if let (1, Field::Number(n)) = field? {
                length = usize::try_from(n).ok().filter(|n| *n > 0 && *n <= i64::MAX as usize);
            }
        }
        axes.push(length);
    }
    Ok(axes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Protobuf, as much of it as a test needs.
    pub(crate) fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
        let mut out = vec![field << 3 | 2];
        let mut length = value.len();
        while length >= 0x80 {
            out.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(value);
        out
    }

    pub(crate) fn number(field: u8, value: u8) -> Vec<u8> {
        assert!(value < 0x80, "one byte");
        vec![field << 3, value]
    }

    /// An input or output; `None` is an axis of any length.
    pub(crate) fn port(name: &str, element: u8, axes: &[Option<u8>]) -> Vec<u8> {
        let axis = |n: &Option<u8>| bytes(1, &n.map_or_else(|| bytes(2, b"n"), |n| number(1, n)));
        let shape: Vec<u8> = axes.iter().flat_map(axis).collect();
        let tensor = [number(1, element), bytes(2, &shape)].concat();
        [bytes(1, name.as_bytes()), bytes(2, &bytes(1, &tensor))].concat()
    }

    /// A weight without its numbers; `file` is where they lie.
    pub(crate) fn weight(name: &str, element: u8, dims: &[u8], file: Option<&str>) -> Vec<u8> {
        let mut out: Vec<u8> = dims.iter().flat_map(|n| number(1, *n)).collect();
        out.extend([number(2, element), bytes(8, name.as_bytes())].concat());
        if let Some(file) = file {
            out.extend(bytes(13, &[bytes(1, b"location"), bytes(2, file.as_bytes())].concat()));
        }
        out
    }

    /// A model of one graph.
    pub(crate) fn model(
        inputs: &[Vec<u8>],
        outputs: &[Vec<u8>],
        weights: &[Vec<u8>],
        operators: &[&str],
    ) -> Vec<u8> {
        let mut graph: Vec<u8> =
            operators.iter().flat_map(|kind| bytes(1, &bytes(4, kind.as_bytes()))).collect();
        graph.extend(weights.iter().flat_map(|weight| bytes(5, weight)));
        graph.extend(inputs.iter().flat_map(|port| bytes(11, port)));
        graph.extend(outputs.iter().flat_map(|port| bytes(12, port)));
        [number(1, 8), bytes(7, &graph)].concat()
    }

    #[test]
    fn ports_weights_and_operators_are_read_by_name() {
        let onnx = model(
            &[port("input_ids", 7, &[None, None]), port("table", 1, &[Some(4)])],
            &[port("last_hidden_state", 10, &[None, None, Some(16)])],
            &[
                weight("table", 1, &[4], None),
                weight("a.position_embeddings.weight", 1, &[64, 16], Some("./model.onnx_data")),
                weight("b", 10, &[2, 3], Some("model.onnx_data")),
            ],
            &["MatMul", "DynamicQuantizeLinear"],
        );
        let graph = Graph::parse(&onnx).expect("a model");
        assert_eq!(
            graph.inputs.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(),
            ["input_ids"],
            "a weight is no input"
        );
        assert_eq!((graph.inputs[0].element, graph.inputs[0].rank()), (Element::Int64, Some(2)));
        let output = graph.output("last_hidden_state").expect("there");
        assert_eq!(
            (output.element, output.fixed(2), output.shape().as_str()),
            (Element::Float16, Some(16), "[?, ?, 16]")
        );
        assert_eq!(graph.weight_files, ["model.onnx_data"], "each once");
        assert!(graph.operators.contains("DynamicQuantizeLinear"));
        assert_eq!(graph.positions["a.position_embeddings.weight"], [64, 16]);
        assert_eq!((graph.weights[&1], graph.weights[&10]), (4 + 64 * 16, 6));
    }

    #[test]
    fn what_is_no_model_is_refused_and_never_a_panic() {
        let whole = model(
            &[port("input_ids", 7, &[None, None])],
            &[],
            &[weight("b", 10, &[2, 3], None)],
            &["MatMul"],
        );
        for end in 0..whole.len() {
            let _ = Graph::parse(&whole[..end]);
        }
        assert_eq!(Graph::parse(b""), Err(GraphError::NoGraph));
        assert!(Graph::parse(b"version https://git-lfs.github.com/spec/v1").is_err());
        let mut deep = bytes(4, b"If");
        for _ in 0..40 {
            deep = [bytes(4, b"If"), bytes(5, &bytes(6, &bytes(1, &deep)))].concat();
        }
        assert_eq!(Graph::parse(&bytes(7, &bytes(1, &deep))), Err(GraphError::Deep));
    }
}
