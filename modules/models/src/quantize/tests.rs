//! Graphs made up on the spot, quantised: what becomes of each node and each weight.

use super::*;

/// Numbers of a made-up matrix: between -1 and 1, and no two rows alike.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 + 11) % 257) as f32 / 128.0 - 1.0).collect()
}

fn raw(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// A weight up to its numbers.
fn head(name: &str, kind: u64, dims: &[usize]) -> Message {
    let dims = dims.iter().fold(Message::default(), |tensor, dim| tensor.number(1, *dim as u64));
    dims.number(2, kind).text(8, name)
}

fn floats(name: &str, dims: &[usize]) -> Message {
    head(name, FLOAT, dims).bytes(9, &raw(&numbers(dims.iter().product())))
}

/// A weight in a file beside the graph.
fn beside(name: &str, kind: u64, dims: &[usize], offset: usize) -> Message {
    let entry = |key: &str, value: &str| Message::default().text(1, key).text(2, value);
    head(name, kind, dims)
        .message(13, &entry("location", "./all.bin"))
        .message(13, &entry("offset", &offset.to_string()))
        .number(14, 1)
}

fn int(name: &str, value: u64) -> Message {
    Message::default().text(1, name).number(3, value).number(20, 2)
}

fn float(name: &str, value: f32) -> Message {
    Message::default().text(1, name).float(2, value).number(20, 1)
}

fn node(operator: &str, inputs: &[&str], output: &str, attributes: &[Message]) -> Message {
    let node = inputs.iter().fold(Message::default(), |node, input| node.text(1, input));
    let node = node.text(2, output).text(3, "a node").text(4, operator);
    attributes.iter().fold(node, |node, attribute| node.message(5, attribute))
}

fn port(name: &str) -> Message {
    Message::default().text(1, name)
}

/// A file of one graph with a few fields that nobody here knows.
fn file(nodes: &[Message], weights: &[Message], inputs: &[&str], outputs: &[&str]) -> Vec<u8> {
    let mut graph = Message::default();
    for node in nodes {
        graph = graph.message(1, node);
    }
    graph = graph.text(2, "made up");
    for weight in weights {
        graph = graph.message(5, weight);
    }
    for name in inputs {
        graph = graph.message(11, &port(name));
    }
    for name in outputs {
        graph = graph.message(12, &port(name));
    }
    let set = Message::default().text(1, "").number(2, 17);
    let model = Message::default().number(1, 8).text(2, "a test").message(7, &graph);
    model.message(8, &set).text(6, "said").0
}

/// What a node is, read again.
#[derive(Debug, PartialEq)]
struct ReadNode {
    operator: String,
    domain: String,
    inputs: Vec<String>,
    output: String,
    numbers: BTreeMap<String, u64>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn graph_in(onnx: &[u8]) -> &[u8] {
    let graph = fields(onnx).find_map(|field| match field {
        Ok((7, Field::Bytes(graph))) => Some(graph),
        _ => None,
    });
    graph.expect("a graph")
}

fn nodes_in(onnx: &[u8]) -> Vec<ReadNode> {
    let mut nodes = Vec::new();
    for field in fields(graph_in(onnx)) {
        let (1, Field::Bytes(bytes)) = field.expect("a field") else { continue };
        let mut node = ReadNode {
            operator: String::new(),
            domain: String::new(),
            inputs: Vec::new(),
            output: String::new(),
            numbers: BTreeMap::new(),
        };
        for field in fields(bytes) {
            match field.expect("a field") {
                (1, Field::Bytes(name)) => node.inputs.push(text(name)),
                (2, Field::Bytes(name)) => node.output = text(name),
                (4, Field::Bytes(name)) => node.operator = text(name),
                (7, Field::Bytes(name)) => node.domain = text(name),
                (5, Field::Bytes(attribute)) => {
                    let all: Vec<_> =
                        fields(attribute).collect::<Result<_, _>>().expect("an attribute");
                    if let [(1, Field::Bytes(key)), (3, Field::Number(n)), ..] = all[..] {
                        node.numbers.insert(text(key), n);
                    }
                }
                _ => {}
            }
        }
        nodes.push(node);
    }
    nodes
}

/// Weights by name: dims, and the bytes that are in the graph.
fn weights_in(onnx: &[u8]) -> BTreeMap<String, (Vec<u64>, Vec<u8>)> {
    let mut weights = BTreeMap::new();
    for field in fields(graph_in(onnx)) {
        let (5, Field::Bytes(bytes)) = field.expect("a field") else { continue };
        let read = tensor(bytes).expect("a weight");
        assert!(read.external.is_none(), "all are in the graph");
        let raw = fields(bytes).find_map(|field| match field {
            Ok((9, Field::Bytes(raw))) => Some(raw.to_vec()),
            _ => None,
        });
        weights.insert(read.shown(), (read.dims, raw.unwrap_or_default()));
    }
    weights
}

fn made(onnx: &[u8]) -> Result<QuantizedGraph, QuantizeError> {
    quantize(onnx, &BTreeMap::new(), &mut |_| {})
}

/// The numbers that a weight of 8 bits stands for: of each input those of all outputs.
fn restored(
    weights: &BTreeMap<String, (Vec<u64>, Vec<u8>)>,
    name: &str,
    inputs: usize,
) -> Vec<f32> {
    let (dims, codes) = &weights[&format!("{name}.int8")];
    let (_, scales) = &weights[&format!("{name}.scales")];
    let (scales, _) = scales.as_chunks::<4>();
    let (outputs, blocks) = (scales.len() / inputs.div_ceil(BLOCK), inputs.div_ceil(BLOCK));
    assert_eq!(*dims, [outputs as u64, blocks as u64, BLOCK as u64]);
    let value = |input: usize, output: usize| {
        let at = output * blocks + input / BLOCK;
        let code = f32::from(codes[at * BLOCK + input % BLOCK]);
        (code - 128.0) * f32::from_le_bytes(scales[at])
    };
    (0..inputs)
        .flat_map(|input| (0..outputs).map(move |output| (input, output)))
        .map(|(input, output)| value(input, output))
        .collect()
}

#[track_caller]
fn near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    // The largest number is 1, so that half a step is at most this.
    let most = 0.501 / 127.0;
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= most, "{found}, expected {expected}");
    }
}

#[test]
fn a_product_becomes_one_of_8_bits_and_the_rest_stays_byte_for_byte() {
    let gather = node("Gather", &["table", "ids"], "x", &[]);
    let product = node("MatMul", &["x", "w"], "y", &[]);
    let onnx = file(
        &[gather, product, node("Relu", &["y"], "z", &[])],
        &[floats("table", &[5, 40]), floats("w", &[40, 17])],
        &["ids"],
        &["z"],
    );
    let quantized = made(&onnx).expect("quantised");
    assert_eq!((quantized.matrices, quantized.numbers), (1, 40 * 17));
    let nodes = nodes_in(&quantized.onnx);
    let operators: Vec<&str> = nodes.iter().map(|node| node.operator.as_str()).collect();
    assert_eq!(operators, ["Gather", "MatMulNBits", "Relu"]);
    let product = &nodes[1];
    assert_eq!(product.inputs, ["x", "w.int8", "w.scales"]);
    assert_eq!((product.output.as_str(), product.domain.as_str()), ("y", DOMAIN));
    let expected = [("K", 40), ("N", 17), ("accuracy_level", 4), ("bits", 8), ("block_size", 16)];
    let expected = BTreeMap::from(expected.map(|(key, n)| (key.to_owned(), n)));
    assert_eq!(product.numbers, expected);
    let weights = weights_in(&quantized.onnx);
    near(&restored(&weights, "w", 40), &numbers(40 * 17));
    assert!(!weights.contains_key("w"));
    assert_eq!(weights["table"].1, raw(&numbers(5 * 40)), "a table stays");
    // All but the product, its weight and the domain is as it was, in its order.
    let is_old = |bytes: &[u8]| onnx.windows(bytes.len()).any(|window| window == bytes);
    let fresh = spans(graph_in(&quantized.onnx)).filter(|span| {
        let span = span.as_ref().expect("a field");
        !is_old(span.bytes)
    });
    assert_eq!(fresh.count(), 3, "the node and two weights");
    let model: Vec<_> = spans(&quantized.onnx).collect::<Result<_, _>>().expect("a file");
    let domains = model.iter().filter(|span| span.number == 8).count();
    assert!(domains == 2 && model.iter().filter(|span| span.number != 7).count() == 5);
    let read = Graph::parse(&quantized.onnx).expect("a model");
    assert_eq!(read.block_bits, BTreeSet::from([8]));
    // Once is enough.
    let again = made(&quantized.onnx).expect_err("quantised already");
    assert!(matches!(&again, QuantizeError::Already { operator } if operator == BLOCKS), "{again}");
    assert_eq!(made(&onnx).expect("quantised"), quantized, "the same every time");
}

#[test]
fn a_gemm_keeps_what_it_adds_and_turns_its_matrix_round() {
    let usual = [float("alpha", 1.0), float("beta", 1.0), int("transB", 1)];
    let onnx = file(
        &[
            node("Gemm", &["x", "w", "b"], "y", &usual),
            node("Gemm", &["y", "v"], "z", &[]),
            node("Gemm", &["z", "u", "b"], "out", &[float("alpha", 0.5)]),
        ],
        &[
            floats("w", &[16, 33]),
            floats("v", &[16, 16]),
            floats("u", &[16, 16]),
            floats("b", &[16]),
        ],
        &["x"],
        &["out"],
    );
    let quantized = made(&onnx).expect("quantised");
    let nodes = nodes_in(&quantized.onnx);
    let operators: Vec<&str> = nodes.iter().map(|node| node.operator.as_str()).collect();
    assert_eq!(operators, ["MatMulNBits", "Add", "MatMulNBits", "Gemm"], "one that scales stays");
    assert_eq!((nodes[0].numbers["K"], nodes[0].numbers["N"]), (33, 16));
    assert_eq!((nodes[0].output.as_str(), nodes[1].output.as_str()), ("y.product", "y"));
    assert_eq!(nodes[1].inputs, ["y.product", "b"]);
    let given = numbers(16 * 33);
    let turned: Vec<f32> =
        (0..33).flat_map(|i| (0..16).map(move |o| o * 33 + i)).map(|at| given[at]).collect();
    let weights = weights_in(&quantized.onnx);
    near(&restored(&weights, "w", 33), &turned);
    near(&restored(&weights, "v", 16), &numbers(256));
    assert!(weights.contains_key("u") && !weights.contains_key("w"));
}

#[test]
fn a_weight_that_is_used_otherwise_stays_with_its_products() {
    let (w, small) = (floats("w", &[16, 16]), floats("small", &[16, 2]));
    let twice = [node("MatMul", &["x", "w"], "y", &[]), node("MatMul", &["y", "w"], "z", &[])];
    let onnx = file(&twice, &[w], &["x", "w"], &["z"]);
    let quantized = made(&onnx).expect("quantised");
    assert_eq!((quantized.matrices, weights_in(&quantized.onnx).len()), (1, 2), "once for both");
    let inputs = fields(graph_in(&quantized.onnx))
        .filter(|field| matches!(field, Ok((11, Field::Bytes(_)))))
        .count();
    assert_eq!(inputs, 1, "what is no more is no input");
    let w = || floats("w", &[16, 16]);
    let branch = Message::default().message(1, &node("Relu", &["w"], "r", &[]));
    let branches = Message::default().text(1, "then_branch").message(6, &branch);
    let product = || node("MatMul", &["x", "w"], "y", &[]);
    for (nodes, outputs) in [
        // An output of the graph.
        (vec![product()], vec!["y", "w"]),
        // A table, too.
        (vec![product(), node("Gather", &["w", "ids"], "t", &[])], vec!["y"]),
        // Turned round elsewhere.
        (vec![product(), node("Gemm", &["y", "w"], "t", &[int("transB", 1)])], vec!["t"]),
        // Within a branch.
        (vec![product(), node("If", &["c"], "t", &[branches])], vec!["y"]),
        // What is no constant, and a head's few outputs.
        (vec![node("MatMul", &["x", "x"], "y", &[])], vec!["y"]),
        (vec![node("MatMul", &["x", "small"], "y", &[])], vec!["y"]),
    ] {
        let small = floats("small", &[16, 2]);
        let refused = made(&file(&nodes, &[w(), small], &["x"], &outputs)).expect_err("nothing");
        assert!(matches!(refused, QuantizeError::NoProducts), "{refused}");
    }
    // Beside one that is quantised, it stays.
    let nodes = [product(), node("MatMul", &["y", "small"], "z", &[])];
    let quantized = made(&file(&nodes, &[w(), small], &["x"], &["z"])).expect("quantised");
    assert_eq!(quantized.matrices, 1);
    assert!(weights_in(&quantized.onnx).contains_key("small"));
    // Names that are in use are not given twice.
    let nodes = [product(), node("Relu", &["y"], "w.int8", &[])];
    let quantized = made(&file(&nodes, &[w()], &["x"], &["w.int8"])).expect("quantised");
    assert_eq!(nodes_in(&quantized.onnx)[0].inputs, ["x", "w.int8_", "w.scales"]);
}

#[test]
fn weights_come_in_from_beside_the_graph_and_in_every_way_of_writing() {
    let nodes = [
        node("MatMul", &["x", "far"], "y", &[]),
        node("MatMul", &["y", "singly"], "z", &[]),
        node("Add", &["z", "bias"], "out", &[]),
    ];
    let given = numbers(256);
    let singly = given
        .iter()
        .fold(head("singly", FLOAT, &[16, 16]), |tensor, number| tensor.float(4, *number));
    let far = beside("far", FLOAT, &[16, 16], 8);
    let bias = beside("bias", FLOAT, &[2], 0);
    let bytes = [raw(&[3.0, 4.0]), raw(&given)].concat();
    let files = |bytes: &[u8]| BTreeMap::from([("all.bin".to_owned(), bytes.to_vec())]);
    let onnx = file(&nodes, &[far, singly, bias], &["x"], &["out"]);
    let mut told = Vec::new();
    let quantized =
        quantize(&onnx, &files(&bytes), &mut |bytes| told.push(bytes)).expect("quantised");
    let weights = weights_in(&quantized.onnx);
    near(&restored(&weights, "far", 16), &given);
    near(&restored(&weights, "singly", 16), &given);
    assert_eq!(weights["bias"].1, raw(&[3.0, 4.0]));
    assert_eq!(told, [1024, 2048, 2056]);
    for bytes in [&bytes[..1024], &[]] {
        let refused = quantize(&onnx, &files(bytes), &mut |_| {}).expect_err("cut").to_string();
        assert!(refused.contains("`far`") && refused.contains("`all.bin`"), "{refused}");
    }
    let refused = made(&onnx).expect_err("there is no such file");
    assert!(matches!(refused, QuantizeError::External { begin: 8, end: 1032, .. }), "{refused}");
    // What lies beside a node's own weight is not looked for.
    let value = Message::default().text(1, "value").message(5, &beside("c", FLOAT, &[2], 0));
    let nodes = [node("MatMul", &["x", "w"], "y", &[]), node("Constant", &[], "c", &[value])];
    let refused = made(&file(&nodes, &[floats("w", &[16, 16])], &["x"], &["y"]));
    assert!(matches!(refused, Err(QuantizeError::Inner { .. })), "{refused:?}");
}

#[test]
fn what_is_damaged_is_refused_and_never_a_panic() {
    let nodes = || [node("MatMul", &["x", "w"], "y", &[])];
    let whole = file(&nodes(), &[floats("w", &[16, 16])], &["x"], &["y"]);
    for end in 0..whole.len() {
        let _ = made(&whole[..end]);
    }
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x55;
        let _ = made(&flipped);
    }
    let refused = |weights: &[Message]| {
        made(&file(&nodes(), weights, &["x"], &["y"])).expect_err("damaged").to_string()
    };
    let short = head("w", FLOAT, &[16, 16]).bytes(9, &raw(&numbers(255)));
    let huge = head("w", FLOAT, &[1 << 40, 1 << 40]).bytes(9, &raw(&numbers(4)));
    let mut bad = numbers(256);
    bad[7] = f32::NAN;
    let bad = head("w", FLOAT, &[16, 16]).bytes(9, &raw(&bad));
    for (weights, words) in [
        (vec![short], "1020 bytes, and 1024"),
        (vec![huge], "expected at most"),
        (vec![bad], "not finite"),
        (vec![floats("w", &[16, 16]), floats("w", &[16, 16])], "two weights"),
        (vec![head("w", 10, &[16, 16]).bytes(9, &[0; 512])], "of 32 bits"),
    ] {
        let said = refused(&weights);
        assert!(said.contains(words), "{said}");
    }
    let two = [whole.as_slice(), whole.as_slice()].concat();
    assert!(matches!(made(&two), Err(QuantizeError::Graphs { graphs: 2 })));
    assert!(matches!(made(b""), Err(QuantizeError::Graph(GraphError::NoGraph))));
    let mut deep = Message::default().message(1, &nodes()[0]);
    for _ in 0..40 {
        let attribute = Message::default().text(1, "then_branch").message(6, &deep);
        deep = Message::default().message(1, &node("If", &["c"], "t", &[attribute]));
    }
    let deep = Message::default().message(7, &deep).0;
    assert!(matches!(made(&deep), Err(QuantizeError::Graph(GraphError::Deep))));
}

#[test]
fn products_that_give_queries_and_keys_stay() {
    let nodes = [
        node("MatMul", &["x", "before"], "h", &[]),
        node("MatMul", &["h", "wq"], "q", &[]),
        node("Add", &["q", "bias"], "qb", &[]),
        // What is only measured is not what attention is made of.
        node("Shape", &["h"], "s", &[]),
        node("Reshape", &["qb", "s"], "qr", &[]),
        node("MatMul", &["h", "wk"], "k", &[]),
        node("MatMul", &["qr", "k"], "scores", &[]),
        node("Softmax", &["scores"], "p", &[]),
        node("MatMul", &["h", "wv"], "v", &[]),
        node("MatMul", &["p", "v"], "y", &[]),
    ];
    let weights = ["before", "wq", "wk", "wv"].map(|name| floats(name, &[16, 16]));
    let quantized = made(&file(&nodes, &weights, &["x"], &["y"])).expect("quantised");
    let names: Vec<String> = weights_in(&quantized.onnx).into_keys().collect();
    let expected = ["before.int8", "before.scales", "wk", "wq", "wv.int8", "wv.scales"];
    assert_eq!(names, expected);
    // One that feeds itself ends, too.
    let circle = [
        node("Softmax", &["a"], "b", &[]),
        node("Relu", &["b"], "a", &[]),
        node("MatMul", &["x", "before"], "y", &[]),
    ];
    let weights = [floats("before", &[16, 16])];
    assert!(made(&file(&circle, &weights, &["x"], &["y"])).is_ok());
}
