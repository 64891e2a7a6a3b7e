//! Nodes that are products with a matrix, and what names a graph uses.

use std::collections::{BTreeMap, BTreeSet};

use super::QuantizeError;
use crate::graph::{DEPTH_MAX, GraphError};
use crate::protobuf::{Field, FieldSpan, ProtobufError, fields, spans};

/// The domain of a fused product.
const FUSED: &[u8] = b"com.microsoft";
/// Attributes of the operators that are products, each with a usual value that scales nothing.
const MATMUL_TAKES: &[&str] = &[];
const GEMM_TAKES: &[&str] = &["alpha", "beta", "transA", "transB"];
const FUSED_TAKES: &[&str] = &["alpha", "transA", "transB", "transBatchA", "transBatchB"];

/// A node that is a product with a matrix, and may add something to it.
pub(super) struct Product<'a> {
    pub(super) name: &'a [u8],
    pub(super) input: &'a [u8],
    /// The matrix's name; whether it is constant is not known here.
    pub(super) weight: &'a [u8],
    /// Whether a row of the matrix is an output's numbers.
    pub(super) is_transposed: bool,
    /// What is added.
    pub(super) bias: Option<&'a [u8]>,
    pub(super) output: &'a [u8],
}

/// A node, as it stands.
#[derive(Default)]
pub(super) struct Node<'a> {
    pub(super) inputs: Vec<&'a [u8]>,
    pub(super) outputs: Vec<&'a [u8]>,
    name: &'a [u8],
    pub(super) operator: &'a [u8],
    domain: &'a [u8],
    attributes: Vec<(&'a [u8], AttributeValue)>,
    /// Whether it says which of several operators of its name is meant.
    is_overload: bool,
}

/// The value of an attribute.
#[derive(Clone, Copy, PartialEq)]
enum AttributeValue {
    Float(f32),
    Int(u64),
    Other,
}

/// NodeProto: input = 1, output = 2, name = 3, op_type = 4, attribute = 5, domain = 7, overload =
/// 8.
/// AttributeProto: name = 1, f = 2, i = 3, doc_string = 13, type = 20.
pub(super) fn node(bytes: &[u8]) -> Result<Node<'_>, ProtobufError> {
    let mut node = Node::default();
    for field in fields(bytes) {
        match field? {
            (1, Field::Bytes(name)) => node.inputs.push(name),
            (2, Field::Bytes(name)) => node.outputs.push(name),
            (3, Field::Bytes(name)) => node.name = name,
            (4, Field::Bytes(operator)) => node.operator = operator,
            (5, Field::Bytes(attribute)) => {
                let (mut name, mut value) = (&[][..], AttributeValue::Other);
                for field in fields(attribute) {
                    match field? {
                        (1, Field::Bytes(bytes)) => name = bytes,
                        (2, Field::Fixed(bytes)) => {
                            let float = <[u8; 4]>::try_from(bytes).ok().map(f32::from_le_bytes);
                            value = float.map_or(AttributeValue::Other, AttributeValue::Float);
                        }
                        (3, Field::Number(n)) => value = AttributeValue::Int(n),
                        _ => {}
                    }
                }
                node.attributes.push((name, value));
            }
            (7, Field::Bytes(domain)) => node.domain = domain,
            (8, Field::Bytes(overload)) => node.is_overload = !overload.is_empty(),
            _ => {}
        }
    }
    Ok(node)
}

impl<'a> Node<'a> {
    /// The product that it is, if it is one: a `MatMul`, a `Gemm` or a `FusedMatMul` that scales
    /// nothing and turns nothing but the matrix round.
    pub(super) fn product(&self) -> Option<Product<'a>> {
        let is_plain = self.domain.is_empty() || self.domain == b"ai.onnx";
        let (takes, inputs_max) = match self.operator {
            b"MatMul" if is_plain => (MATMUL_TAKES, 2),
            b"Gemm" if is_plain => (GEMM_TAKES, 3),
            b"FusedMatMul" if self.domain == FUSED => (FUSED_TAKES, 2),
            _ => return None,
        };
        let one = AttributeValue::Float(1.0);
        let mut is_transposed = false;
        for (name, value) in &self.attributes {
            let is_usual = match *name {
                b"transB" => {
                    is_transposed = *value == AttributeValue::Int(1);
                    is_transposed || *value == AttributeValue::Int(0)
                }
                b"alpha" | b"beta" => *value == one,
                _ => *value == AttributeValue::Int(0),
            };
            if !is_usual || !takes.iter().any(|known| known.as_bytes() == *name) {
                return None;
            }
        }
        let (&[input, weight, ..], &[output]) = (&self.inputs[..], &self.outputs[..]) else {
            return None;
        };
        if self.inputs.len() > inputs_max || self.is_overload || input.is_empty() {
            return None;
        }
        // An input that is left out has an empty name.
        let bias = self.inputs.get(2).copied().filter(|name| !name.is_empty());
        Some(Product { name: self.name, input, weight, is_transposed, bias, output })
    }
}

/// Names that a graph, and the graphs in it, have in use.
#[derive(Default)]
pub(super) struct Uses<'a> {
    /// By how many inputs of nodes, and as how many outputs of graphs.
    counts: BTreeMap<&'a [u8], usize>,
    /// Names that something new cannot have.
    given: BTreeSet<Vec<u8>>,
}

impl<'a> Uses<'a> {
    /// Notes those of a graph. GraphProto: node = 1, initializer = 5, input = 11, output = 12.
    pub(super) fn of_graph(
        &mut self,
        graph: impl IntoIterator<Item = FieldSpan<'a>>,
        depth: usize,
    ) -> Result<(), QuantizeError> {
        if depth > DEPTH_MAX {
            return Err(GraphError::Deep.into());
        }
        for span in graph {
            match (span.number, span.field) {
                (1, Field::Bytes(bytes)) => self.of_node(bytes, depth)?,
                // TensorProto: name = 8. ValueInfoProto: name = 1.
                (5, Field::Bytes(bytes)) => {
                    self.named(bytes, 8)?;
                }
                (11, Field::Bytes(bytes)) => {
                    self.named(bytes, 1)?;
                }
                (12, Field::Bytes(bytes)) => {
                    let name = self.named(bytes, 1)?;
                    self.used(name);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// NodeProto: input = 1, output = 2, attribute = 5. AttributeProto: g = 6, graphs = 11.
    fn of_node(&mut self, bytes: &'a [u8], depth: usize) -> Result<(), QuantizeError> {
        for field in fields(bytes) {
            match field? {
                (1, Field::Bytes(name)) => {
                    self.given.insert(name.to_vec());
                    self.used(name);
                }
                (2, Field::Bytes(name)) => {
                    self.given.insert(name.to_vec());
                }
                (5, Field::Bytes(attribute)) => {
                    for field in fields(attribute) {
                        if let (6 | 11, Field::Bytes(graph)) = field? {
                            let inner: Vec<FieldSpan<'a>> =
                                spans(graph).collect::<Result<_, _>>()?;
                            self.of_graph(inner, depth + 1)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Notes the name in a field of a message.
    fn named(&mut self, bytes: &'a [u8], number: u64) -> Result<&'a [u8], ProtobufError> {
        let mut name: &'a [u8] = &[];
        for field in fields(bytes) {
            if let (found, Field::Bytes(bytes)) = field?
                && found == number
            {
                name = bytes;
            }
        }
        self.given.insert(name.to_vec());
        Ok(name)
    }

    fn used(&mut self, name: &'a [u8]) {
        *self.counts.entry(name).or_default() += 1;
    }

    /// By how many a name is used.
    pub(super) fn count(&self, name: &[u8]) -> usize {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// A name that nothing has yet, from another's and an end; from now on it is given.
    pub(super) fn fresh(&mut self, name: &[u8], end: &[u8]) -> Vec<u8> {
        let mut fresh = [name, end].concat();
        // So many names are given and no more, so that it ends.
        while !self.given.insert(fresh.clone()) {
            fresh.push(b'_');
        }
        fresh
    }
}
