//! What a graph is fed with, and which of its outputs is taken. Pure.

use serde_json::Value;

use super::GraphFlaw;
use super::folder::number;
use super::plan::{InputPlan, InputRole, OutputPlan, OutputStage, Precision};
use crate::graph::{BLOCKS, Element, Graph, Port};

/// Outputs that are taken if the graph has them, the first one winning, and what they are.
const OUTPUTS: [(&str, OutputStage); 3] = [
    ("sentence_embedding", OutputStage::Sentence),
    ("last_hidden_state", OutputStage::Tokens),
    ("token_embeddings", OutputStage::Tokens),
];
/// Operators that scale by what is computed at the time.
const DYNAMIC: [&str; 6] = [
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "ConvInteger",
];
/// Bits of a weight in blocks that are called 8-bit ones: all of them have so many.
const EIGHT: u64 = 8;
/// ONNX's numbers for integers of 8 bits.
const BYTES: [u64; 2] = [2, 3];

/// Inputs, and what their axes allow.
pub(super) struct InputPorts {
    pub(super) inputs: Vec<InputPlan>,
    /// Width of a row, if the graph takes no other.
    pub(super) fixed_width: Option<usize>,
    /// Whether the graph takes one row and no more.
    pub(super) is_single: bool,
}

pub(super) fn inputs(graph: &Graph) -> Result<InputPorts, GraphFlaw> {
    let mut ports = InputPorts { inputs: Vec::new(), fixed_width: None, is_single: false };
    for port in &graph.inputs {
        let role = match port.name.as_str() {
            "input_ids" => InputRole::Ids,
            "attention_mask" => InputRole::Mask,
            "token_type_ids" => InputRole::Types,
            "position_ids" => InputRole::Positions,
            _ => return Err(GraphFlaw::Input { name: port.name.clone() }),
        };
        let is_narrow = match port.element {
            Element::Int64 => false,
            Element::Int32 => true,
            other => {
                return Err(GraphFlaw::InputType {
                    name: port.name.clone(),
                    element: other.name(),
                });
            }
        };
        if port.rank().is_some_and(|rank| rank != 2) {
            return Err(GraphFlaw::InputShape { name: port.name.clone(), shape: port.shape() });
        }
        match port.fixed(0) {
            None => {}
            Some(1) => ports.is_single = true,
            Some(_) => {
                return Err(GraphFlaw::InputShape { name: port.name.clone(), shape: port.shape() });
            }
        }
        if let Some(width) = port.fixed(1) {
            if ports.fixed_width.is_some_and(|other| other != width) {
                return Err(GraphFlaw::InputShape { name: port.name.clone(), shape: port.shape() });
            }
            ports.fixed_width = Some(width);
        }
        ports.inputs.push(InputPlan { name: port.name.clone(), role, is_narrow });
    }
    let has = |role| ports.inputs.iter().any(|input| input.role == role);
    if !has(InputRole::Ids) {
        return Err(GraphFlaw::NoIds);
    }
    if ports.fixed_width.is_some() && !has(InputRole::Mask) {
        return Err(GraphFlaw::Unmasked);
    }
    Ok(ports)
}

/// A model's architecture, and what it says to be for: `BertForSequenceClassification`,
/// `SequenceClassification`.
pub(super) fn purpose(config: &Value) -> Option<(&str, &str)> {
    let name = config
        .get("architectures")
        .and_then(Value::as_array)
        .and_then(|all| all.first())
        .and_then(Value::as_str)?;
    name.rsplit_once("For").map(|(_, head)| (name, head))
}

/// What a model is for if not for embedding, by the ending of its architecture's name.
fn other_purpose(config: &Value) -> Option<String> {
    let (name, head) = purpose(config)?;
    (head != "TextEncoding" && head != "FeatureExtraction").then(|| name.to_owned())
}

/// Whether an output of this name is an embedding model's.
pub(super) fn is_known_output(name: &str) -> bool {
    OUTPUTS.iter().any(|(known, _)| *known == name)
}

/// The output that is taken; `named` is what was said outside the model's files.
pub(super) fn output(
    graph: &Graph,
    config: &Value,
    named: Option<&str>,
) -> Result<OutputPlan, GraphFlaw> {
    let names = || graph.outputs.iter().map(|port| port.name.clone()).collect::<Vec<_>>();
    let (port, stage) = match named {
        Some(name) => {
            let port = graph
                .output(name)
                .ok_or_else(|| GraphFlaw::NoOutput { name: name.to_owned(), there: names() })?;
            let known = OUTPUTS.iter().find(|(known, _)| *known == name).map(|(_, stage)| *stage);
            (port, known.map_or_else(|| stage_of(port), Ok)?)
        }
        None => {
            match OUTPUTS.iter().find_map(|(name, stage)| Some((graph.output(name)?, *stage))) {
                Some((port, stage)) => {
                    // Its shape may say otherwise.
                    if port.rank().is_some_and(|rank| {
                        rank != if stage == OutputStage::Tokens { 3 } else { 2 }
                    }) {
                        return Err(GraphFlaw::OutputShape {
                            name: port.name.clone(),
                            shape: port.shape(),
                        });
                    }
                    (port, stage)
                }
                None => only_output(graph, config)?,
            }
        }
    };
    let element = match port.element {
        Element::Float32 | Element::Float16 | Element::Bfloat16 => port.element,
        other => {
            return Err(GraphFlaw::OutputType { name: port.name.clone(), element: other.name() });
        }
    };
    let hidden = port.rank().and_then(|rank| port.fixed(rank.checked_sub(1)?));
    Ok(OutputPlan { name: port.name.clone(), stage, element, hidden })
}

/// The only output of a graph, if it is none of a classifier, of a language model or of a
/// question's answers.
fn only_output<'a>(graph: &'a Graph, config: &Value) -> Result<(&'a Port, OutputStage), GraphFlaw> {
    let names: Vec<String> = graph.outputs.iter().map(|port| port.name.clone()).collect();
    let [port] = &graph.outputs[..] else { return Err(GraphFlaw::Outputs { there: names }) };
    let architecture = other_purpose(config);
    if port.name.contains("logits") || port.name.contains("score") || architecture.is_some() {
        let kind = architecture.unwrap_or_else(|| "a classifier or a language model".to_owned());
        return Err(GraphFlaw::OtherPurpose { name: port.name.clone(), shape: port.shape(), kind });
    }
    let stage = stage_of(port)?;
    let last = port.rank().and_then(|rank| port.fixed(rank.checked_sub(1)?));
    let is_vocabulary =
        stage == OutputStage::Tokens && last.is_some() && last == number(config, "vocab_size");
    if last == Some(1) || is_vocabulary {
        let kind = if is_vocabulary {
            "a language model: a number for each token of the vocabulary"
        } else {
            "a classifier: one number"
        };
        return Err(GraphFlaw::OtherPurpose {
            name: port.name.clone(),
            shape: port.shape(),
            kind: kind.to_owned(),
        });
    }
    Ok((port, stage))
}

fn stage_of(port: &Port) -> Result<OutputStage, GraphFlaw> {
    match port.rank() {
        Some(2) => Ok(OutputStage::Sentence),
        Some(3) => Ok(OutputStage::Tokens),
        _ => Err(GraphFlaw::OutputShape { name: port.name.clone(), shape: port.shape() }),
    }
}

pub(super) fn precision(graph: &Graph) -> Precision {
    let numbers = |codes: &[u64]| {
        codes
            .iter()
            .filter_map(|code| graph.weights.get(code))
            .fold(0_usize, |sum, n| sum.saturating_add(*n))
    };
    let (wide, half, brain, bytes) =
        (numbers(&[1]), numbers(&[10]), numbers(&[16]), numbers(&BYTES));
    let has = |kind: &str| graph.operators.contains(kind);
    if DYNAMIC.iter().any(|kind| has(kind)) {
        Precision::Int8Dynamic
    } else if has(BLOCKS) {
        if graph.block_bits.iter().all(|bits| *bits == EIGHT) {
            Precision::Int8Blocks
        } else {
            Precision::Blocks
        }
    } else if bytes > wide.max(half).max(brain) {
        Precision::Int8
    } else if half > wide.max(brain) {
        Precision::Fp16
    } else if brain > wide {
        Precision::Bf16
    } else {
        Precision::Fp32
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::graph::tests::{bytes, model, number, port, weight};

    fn graph(inputs: &[Vec<u8>], outputs: &[Vec<u8>]) -> Graph {
        Graph::parse(&model(inputs, outputs, &[], &[])).expect("a model")
    }

    fn ids() -> Vec<u8> {
        port("input_ids", 7, &[None, None])
    }

    #[test]
    fn inputs_are_fed_by_their_names_and_types() {
        let fed = graph(
            &[
                ids(),
                port("attention_mask", 6, &[None, None]),
                port("position_ids", 7, &[None, None]),
            ],
            &[],
        );
        let ports = inputs(&fed).unwrap_or_else(|e| panic!("{e}"));
        let roles: Vec<_> =
            ports.inputs.iter().map(|input| (input.role, input.is_narrow)).collect();
        assert_eq!(
            roles,
            [(InputRole::Ids, false), (InputRole::Mask, true), (InputRole::Positions, false)]
        );
        let fixed = graph(
            &[
                port("input_ids", 7, &[Some(1), Some(32)]),
                port("attention_mask", 7, &[Some(1), Some(32)]),
            ],
            &[],
        );
        let ports = inputs(&fixed).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((ports.fixed_width, ports.is_single), (Some(32), true));
    }

    #[test]
    fn an_input_that_no_text_gives_is_refused_by_its_name() {
        for (bad, words) in [
            (
                port("past_key_values.0.key", 1, &[None, Some(2), None, Some(8)]),
                "past_key_values.0.key",
            ),
            (port("task_id", 7, &[]), "task_id"),
            (port("pixel_values", 1, &[None, Some(3)]), "pixel_values"),
            (port("attention_mask", 1, &[None, None]), "float32"),
            (port("attention_mask", 7, &[None, None, None]), "[?, ?, ?]"),
            (port("attention_mask", 7, &[Some(4), None]), "[4, ?]"),
        ] {
            let Err(flaw) = inputs(&graph(&[ids(), bad], &[])) else { panic!("{words}") };
            assert!(flaw.to_string().contains(words), "{flaw}");
        }
        assert!(matches!(inputs(&graph(&[], &[])), Err(GraphFlaw::NoIds)));
        assert!(matches!(
            inputs(&graph(&[port("input_ids", 7, &[None, Some(16)])], &[])),
            Err(GraphFlaw::Unmasked)
        ));
    }

    #[test]
    fn outputs_are_taken_by_name_and_rank() {
        let tokens = |name: &str| port(name, 1, &[None, None, Some(16)]);
        let sentence = |name: &str| port(name, 1, &[None, Some(16)]);
        let taken = |outputs: &[Vec<u8>], named: Option<&str>| {
            output(
                &graph(&[ids()], outputs),
                &json!({"architectures": ["BertModel"], "vocab_size": 100}),
                named,
            )
            .map(|o| (o.name, o.stage))
        };
        let both = [tokens("token_embeddings"), sentence("sentence_embedding")];
        assert_eq!(
            taken(&both, None).expect("one"),
            ("sentence_embedding".to_owned(), OutputStage::Sentence)
        );
        assert_eq!(taken(&both, Some("token_embeddings")).expect("one").1, OutputStage::Tokens);
        assert_eq!(
            taken(&[sentence("pooler_output"), tokens("last_hidden_state")], None).expect("one").0,
            "last_hidden_state"
        );
        assert_eq!(
            taken(&[tokens("hidden")], None).expect("the only one"),
            ("hidden".to_owned(), OutputStage::Tokens)
        );
        for (outputs, words) in [
            (vec![tokens("a"), tokens("b")], "`a`, `b`"),
            (vec![sentence("logits")], "logits"),
            (vec![port("relevance", 1, &[None, Some(1)])], "classifier"),
            (vec![port("all", 1, &[None, None, Some(100)])], "vocabulary"),
            (vec![port("hidden", 11, &[None, None, Some(16)])], "float64"),
            (vec![port("hidden", 1, &[None, Some(2), None, Some(16)])], "[?, 2, ?, 16]"),
        ] {
            let flaw = taken(&outputs, None).expect_err(words);
            assert!(flaw.to_string().contains(words), "{flaw}");
        }
        let flaw = taken(&both, Some("no_such")).expect_err("not there");
        assert!(
            flaw.to_string().contains("no_such") && flaw.to_string().contains("token_embeddings"),
            "{flaw}"
        );
    }

    #[test]
    fn a_model_for_something_else_is_refused_by_what_it_is_for() {
        for name in [
            "BertForSequenceClassification",
            "BertForMaskedLM",
            "Qwen2ForCausalLM",
            "BertForQuestionAnswering",
        ] {
            let only = graph(&[ids()], &[port("out", 1, &[None, None, Some(16)])]);
            let flaw = output(&only, &json!({"architectures": [name]}), None).expect_err(name);
            assert!(flaw.to_string().contains(name), "{flaw}");
            // Its hidden states are another matter.
            let hidden = graph(&[ids()], &[port("last_hidden_state", 1, &[None, None, Some(16)])]);
            assert!(output(&hidden, &json!({"architectures": [name]}), None).is_ok(), "{name}");
        }
    }

    #[test]
    fn precision_is_what_the_weights_and_operators_are() {
        let of = |weights: &[Vec<u8>], operators: &[&str]| {
            precision(&Graph::parse(&model(&[ids()], &[], weights, operators)).expect("a model"))
        };
        let w = |element: u8| weight("w", element, &[64, 64], None);
        assert_eq!(of(&[w(1)], &["MatMul"]), Precision::Fp32);
        assert_eq!(of(&[w(10)], &["MatMul"]), Precision::Fp16);
        assert_eq!(of(&[w(16)], &["MatMul"]), Precision::Bf16);
        assert_eq!(of(&[w(3)], &["QLinearMatMul"]), Precision::Int8);
        assert_eq!(
            of(&[w(3)], &["DynamicQuantizeLinear", "MatMulInteger"]),
            Precision::Int8Dynamic
        );
        assert_eq!(of(&[w(2)], &["MatMulNBits"]), Precision::Blocks);
        let in_blocks = |bits: &[u8]| {
            let node = |bits: u8| {
                let attribute = [bytes(1, b"bits"), number(3, bits)].concat();
                bytes(1, &[bytes(4, BLOCKS.as_bytes()), bytes(5, &attribute)].concat())
            };
            let nodes: Vec<u8> = bits.iter().flat_map(|bits| node(*bits)).collect();
            precision(&Graph::parse(&bytes(7, &nodes)).expect("a model"))
        };
        assert_eq!(in_blocks(&[8, 8]), Precision::Int8Blocks);
        assert_eq!(in_blocks(&[8, 4]), Precision::Blocks, "not all of them");
    }
}
