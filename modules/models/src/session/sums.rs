//! Weighted sums of what a graph gives each token, added to the graph: weights go in, sums come
//! out, and where the graph runs on a GPU its tokens' vectors stay there.
//!
//! Nothing of the graph is written anew: a message that stands behind another one is merged with
//! it, as protobuf has it, and lists within are joined. So a second model of two operators is put
//! behind the bytes of the first. Pure; whether the runtime takes it, it says when it opens the
//! graph.

use std::collections::BTreeSet;

use crate::protobuf::{Field, Message, ProtobufError, fields};

/// ONNX's number for 32 bits.
const FLOAT: u64 = 1;
/// ONNX's number for an attribute that is a whole number.
const INT: u64 = 2;
/// What our names begin with: only those of a graph that do as well can be in the way.
const PREFIX: &str = "brahman.";

/// A graph with sums.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SummedGraph {
    /// The ONNX file's bytes.
    pub(super) onnx: Vec<u8>,
    /// Name of the input that takes weights, of the shape rows, sums, tokens.
    pub(super) weights: String,
    /// Name of the output that gives the sums, of the shape rows, sums, numbers of a vector.
    pub(super) sums: String,
}

/// Adds sums of `output`, which is a vector a token of 32 or of 16 bits.
///
/// # Errors
/// [`ProtobufError`]: the file is no model.
pub(super) fn with_sums(onnx: &[u8], output: &str) -> Result<SummedGraph, ProtobufError> {
    let taken = names(onnx)?;
    let free = |name: &str| {
        let mut free = format!("{PREFIX}{name}");
        while taken.contains(free.as_bytes()) {
            free.push('_');
        }
        free
    };
    let (weights, vectors, sums) = (free("pooling"), free("hidden"), free("pooled"));
    // AttributeProto: name = 1, i = 3, type = 20.
    let to = Message::default().text(1, "to").number(3, FLOAT).number(20, INT);
    // NodeProto: input = 1, output = 2, op_type = 4, attribute = 5.
    let cast = Message::default().text(1, output).text(2, &vectors).text(4, "Cast").message(5, &to);
    let product =
        Message::default().text(1, &weights).text(1, &vectors).text(2, &sums).text(4, "MatMul");
    // GraphProto: node = 1, input = 11, output = 12.
    let graph = Message::default()
        .message(1, &cast)
        .message(1, &product)
        .message(11, &port(&weights, Some(3)))
        .message(12, &port(&sums, None));
    // ModelProto: graph = 7.
    let behind = Message::default().message(7, &graph);
    Ok(SummedGraph { onnx: [onnx, &behind.0].concat(), weights, sums })
}

/// ValueInfoProto: name = 1, type = 2. TypeProto: tensor_type = 1 {elem_type = 1, shape = 2 {dim =
/// 1}}. Its axes are of any length, and of no said number where `axes` is none.
fn port(name: &str, axes: Option<usize>) -> Message {
    let mut tensor = Message::default().number(1, FLOAT);
    if let Some(axes) = axes {
        let shape =
            (0..axes).fold(Message::default(), |shape, _| shape.message(1, &Message::default()));
        tensor = tensor.message(2, &shape);
    }
    let kind = Message::default().message(1, &tensor);
    Message::default().text(1, name).message(2, &kind)
}

/// Names of values in a model's graph that begin as ours do. GraphProto: node = 1 {input = 1,
/// output = 2}, initializer = 5 {name = 8}, input = 11, output = 12, value_info = 13, each {name =
/// 1}.
fn names(onnx: &[u8]) -> Result<BTreeSet<&[u8]>, ProtobufError> {
    let mut names = BTreeSet::new();
    for field in fields(onnx) {
        let (7, Field::Bytes(graph)) = field? else { continue };
        for field in fields(graph) {
            let (message, numbers): (&[u8], &[u64]) = match field? {
                (1, Field::Bytes(node)) => (node, &[1, 2][..]),
                (5, Field::Bytes(weight)) => (weight, &[8][..]),
                (11..=13, Field::Bytes(port)) => (port, &[1][..]),
                _ => continue,
            };
            for field in fields(message) {
                let (number, Field::Bytes(name)) = field? else { continue };
                if numbers.contains(&number) && name.starts_with(PREFIX.as_bytes()) {
                    names.insert(name);
                }
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::tests::{bytes, model, port};
    use crate::graph::{Element, Graph};

    fn hidden() -> Vec<u8> {
        model(
            &[port("input_ids", 7, &[None, None])],
            &[port("last_hidden_state", 10, &[None, None, Some(16)])],
            &[],
            &["Gather"],
        )
    }

    #[test]
    fn a_graph_keeps_its_ports_and_has_sums_beside_them() {
        let onnx = hidden();
        let SummedGraph { onnx: summed, weights, sums } =
            with_sums(&onnx, "last_hidden_state").expect("a model");
        assert_eq!((weights.as_str(), sums.as_str()), ("brahman.pooling", "brahman.pooled"));
        assert_eq!(summed[..onnx.len()], onnx, "not one byte is another");
        // What stands behind is a graph of its own until a reader merges the two.
        let added = Graph::parse(&summed[onnx.len()..]).expect("a model");
        let input = added.input(&weights).expect("there");
        assert_eq!((input.element, input.rank()), (Element::Float32, Some(3)));
        assert_eq!((input.fixed(0), input.fixed(2)), (None, None));
        assert_eq!(added.output(&sums).map(|port| port.element), Some(Element::Float32));
        assert_eq!(added.operators.iter().collect::<Vec<_>>(), ["Cast", "MatMul"]);
    }

    #[test]
    fn names_that_a_graph_has_are_left_to_it() {
        let node = bytes(1, &bytes(2, b"brahman.pooling"));
        let again = bytes(13, &bytes(1, b"brahman.pooled"));
        let onnx = [hidden(), bytes(7, &[node, again].concat())].concat();
        let SummedGraph { onnx: summed, weights, sums } =
            with_sums(&onnx, "last_hidden_state").expect("a model");
        assert_eq!((weights.as_str(), sums.as_str()), ("brahman.pooling_", "brahman.pooled_"));
        let twice = with_sums(&summed, "last_hidden_state").expect("a model");
        assert_eq!(
            (twice.weights.as_str(), twice.sums.as_str()),
            ("brahman.pooling__", "brahman.pooled__")
        );
        assert!(with_sums(b"version https://git-lfs", "x").is_err());
    }
}
