//! What is found, what is left alone, and what is written, with the graphs of the shipped models.

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

use super::chain::{Chain, View};
use super::onnx::{Attribute, Graph, Model, Node, ValueInfo};
use super::pack::Plan;
use super::{DOMAIN, GraphError};

fn shipped(model: &str, graph: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx").join(model).join(graph)
}

fn graph() -> Graph {
    Model::read(&shipped("ekman", "int8.onnx")).unwrap().graph.unwrap()
}

fn chains(graph: &Graph) -> Vec<Chain> {
    View::new(graph).unwrap().chains()
}

fn count(graph: &Graph, op_type: &str) -> usize {
    graph.node.iter().filter(|node| node.op_type.as_deref() == Some(op_type)).count()
}

#[test]
fn every_quantized_layer_of_the_shipped_models_is_found() {
    for model in ["goemotions", "ekman"] {
        let graph = Model::read(&shipped(model, "int8.onnx")).unwrap().graph.unwrap();
        let chains = chains(&graph);
        assert_eq!(chains.len(), count(&graph, "QuantizeLinear"), "{model}");
        let products: usize = chains.iter().map(|chain| chain.products.len()).sum();
        assert_eq!(products, count(&graph, "MatMulIntegerToFloat"), "{model}");
        assert_eq!(chains.iter().filter(|chain| chain.has_gelu).count(), count(&graph, "BiasGelu"), "{model}");
        // Query, key and value of every layer are one, but for the last, whose query is of the first token.
        let layers = count(&graph, "MultiHeadAttention");
        assert_eq!(chains.iter().filter(|chain| chain.outputs.len() == 3).count(), layers - 1, "{model}");
        assert_eq!(chains.iter().filter(|chain| chain.outputs.len() == 2).count(), 1, "{model}");
    }
}

#[test]
fn a_packed_graph_has_no_chain_left_and_every_value_it_reads() {
    let folder = tempfile::tempdir().unwrap();
    let (to, weights) = (folder.path().join("model.onnx"), folder.path().join("model.bin"));
    let source = shipped("ekman", "int8.onnx");
    let chains = chains(&graph()).len();
    Plan::of(&source).unwrap().unwrap().write(&to, &weights).unwrap();
    let model = Model::read(&to).unwrap();
    let packed = model.graph.unwrap();
    assert_eq!(packed.node.iter().filter(|node| node.domain.as_deref() == Some(DOMAIN)).count(), chains);
    for op_type in ["QuantizeLinear", "MatMulIntegerToFloat", "BiasGelu", "ReduceMax"] {
        assert_eq!(count(&packed, op_type), 0, "{op_type}");
    }
    let mut known: Vec<&str> = vec![""];
    known.extend(packed.initializer.iter().filter_map(|tensor| tensor.name.as_deref()));
    known.extend(packed.input.iter().filter_map(|input| input.name.as_deref()));
    for node in &packed.node {
        assert!(node.input.iter().all(|input| known.contains(&input.as_str())), "{node:?}");
        known.extend(node.output.iter().map(String::as_str));
    }
    let bytes = fs::metadata(&weights).unwrap().len();
    for place in packed.initializer.iter().filter_map(|tensor| tensor.place()) {
        let is_whole = place.file == "embeddings.bin" || place.offset + place.bytes <= bytes;
        assert!(is_whole && place.offset % 64 == 0, "{place:?}");
    }
    assert!(folder.path().join("embeddings.bin").is_file());
    // It is not packed again.
    assert!(Plan::of(&to).unwrap().is_none());
}

#[test]
fn a_graph_of_blocks_is_left_to_onnx_runtime() {
    assert!(Plan::of(&shipped("ekman", "int4.onnx")).unwrap().is_none());
}

/// The chain of the light model's first attention output: a bias follows its product.
fn biased(graph: &Graph) -> Chain {
    chains(graph).into_iter().find(|chain| chain.outputs.len() == 1 && chain.bias.is_some() && !chain.has_gelu).unwrap()
}

fn maker<'a>(graph: &'a mut Graph, value: &str) -> &'a mut Node {
    graph.node.iter_mut().find(|node| node.output.iter().any(|output| output == value)).unwrap()
}

#[test]
fn a_chain_that_computes_something_else_is_left_alone() {
    type Change = fn(&mut Graph, &Chain);
    let changes: [(&str, Change); 6] = [
        ("columns as the axis", |graph, chain| {
            graph.node[chain.position].attribute = vec![Attribute::int("axis", 1)];
        }),
        ("one more attribute", |graph, chain| {
            graph.node[chain.position].attribute.push(Attribute::int("saturate", 0));
        }),
        ("the range of something else", |graph, chain| {
            let scale = graph.node[chain.position].input[1].clone();
            let first = maker(graph, &scale).input[0].clone();
            let reduced = maker(graph, &first).input[0].clone();
            maker(graph, &reduced).input[0] = "another".to_owned();
        }),
        ("another zero point", |graph, chain| {
            let product = graph.node.iter_mut().find(|node| node.input.get(1) == Some(&chain.products[0].weights));
            product.unwrap().input[4] = "zero_16".to_owned();
        }),
        ("weights that are not constant", |graph, chain| {
            graph.input.push(ValueInfo { name: Some(chain.products[0].weights.clone()), ..ValueInfo::default() });
        }),
        ("codes that are an output", |graph, chain| {
            let codes = graph.node[chain.position].output[0].clone();
            graph.output.push(ValueInfo { name: Some(codes), ..ValueInfo::default() });
        }),
    ];
    for (what, change) in changes {
        let mut changed = graph();
        let (all, chain) = (chains(&changed).len(), biased(&changed));
        change(&mut changed, &chain);
        let left = chains(&changed);
        assert_eq!(left.len(), all - 1, "{what}");
        assert!(left.iter().all(|other| other.position != chain.position), "{what}");
    }
}

#[test]
fn a_product_that_others_read_keeps_its_bias_apart() {
    let mut changed = graph();
    let chain = biased(&changed);
    let add = &changed.node[chain.last[0]];
    let product = add.input.iter().find(|input| Some(*input) != chain.bias.as_ref()).unwrap().clone();
    changed.output.push(ValueInfo { name: Some(product.clone()), ..ValueInfo::default() });
    let found = chains(&changed).into_iter().find(|other| other.position == chain.position).unwrap();
    assert_eq!((found.bias, found.outputs), (None, vec![product]));
}

#[test]
fn a_graph_with_graphs_inside_is_left_alone() {
    let mut changed = graph();
    changed.node[0].attribute.push(Attribute { g: Some(Vec::new()), ..Attribute::int("then_branch", 0) });
    assert!(View::new(&changed).is_none());
}

#[test]
fn a_file_that_would_lose_something_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let refusal = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        match Model::read(&path) {
            Err(GraphError::Invalid { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    };
    let whole = fs::read(shipped("ekman", "int8.onnx")).unwrap();
    assert_eq!(Model::read(&shipped("ekman", "int8.onnx")).unwrap().encode_to_vec().len(), whole.len());
    // Field 100 of the model, a number.
    let with_more = [&whole[..], &[0xa0, 0x06, 1]].concat();
    assert!(refusal(&with_more).contains("fields that are not known"));
    assert!(refusal(&whole[..whole.len() / 2]).contains("not an ONNX model"));
    fs::File::create(&path).unwrap().set_len(65 << 20).unwrap();
    assert!(matches!(Model::read(&path), Err(GraphError::Invalid { what, .. }) if what.contains("too many")));
}
