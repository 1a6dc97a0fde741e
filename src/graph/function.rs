//! What a packed layer computes, in standard operators: a model-local function of the same name.

use super::onnx::{Attribute, Function, Node, OperatorSet, UINT8};
use super::{ATTRIBUTES, DOMAIN, Operator};

const MICROSOFT: &str = "com.microsoft";

/// The function of an operator, for a model that imports version `opset` of the standard operators.
///
/// The weights are put back in the order of `MatMulIntegerToFloat`; the offsets are what it computes itself.
pub(super) fn function(operator: Operator, opset: i64) -> Function {
    let node = |op_type: &str, input: &[&str], output: &str| Node::new("", op_type, input, &[output]);
    let constant = |output: &str, attribute: Attribute| node("Constant", &[], output).with(attribute);
    let last = if operator.has_gelu {
        Node::new(MICROSOFT, "BiasGelu", &["product", "bias"], &["all"])
    } else {
        node("Add", &["product", "bias"], "all")
    };
    let outputs: Vec<String> = (0..operator.outputs).map(|index| format!("y{index}")).collect();
    let output_names: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let split = match operator.outputs {
        1 => Node::new("", "Identity", &["all"], &output_names),
        count => Node::new("", "Split", &["all"], &output_names)
            .with(Attribute::int("axis", 1))
            .with(Attribute::int("num_outputs", count as i64)),
    };
    let nodes = vec![
        constant("zero_wide", Attribute::int_of("value_int", "zero_point")),
        constant("step_of_largest", Attribute::float_of("value_float", "step_of_largest")),
        constant("step_of_smallest", Attribute::float_of("value_float", "step_of_smallest")),
        constant("least", Attribute::float_of("value_float", "least")),
        constant("one", Attribute::float("value_float", 1.0)),
        constant("axis", Attribute::ints("value_ints", &[1])),
        constant("rest", Attribute::ints("value_ints", &[-1])),
        node("Cast", &["zero_wide"], "zero").with(Attribute::int("to", i64::from(UINT8))),
        node("Mul", &["x", "evenness"], "evened"),
        node("ReduceMax", &["evened", "axis"], "largest").with(Attribute::int("keepdims", 0)),
        node("ReduceMin", &["evened", "axis"], "smallest").with(Attribute::int("keepdims", 0)),
        node("Mul", &["largest", "step_of_largest"], "from_largest"),
        node("Mul", &["smallest", "step_of_smallest"], "from_smallest"),
        node("Max", &["from_largest", "from_smallest", "least"], "row_scale"),
        node("Shape", &["row_scale"], "rows"),
        node("Expand", &["zero", "rows"], "zeros"),
        node("QuantizeLinear", &["evened", "row_scale", "zeros"], "codes").with(Attribute::int("axis", 0)),
        node("Transpose", &["weights"], "by_input").with(Attribute::ints("perm", &[1, 3, 0, 2])),
        node("Shape", &["evenness"], "inputs"),
        node("Concat", &["inputs", "rest"], "shape").with(Attribute::int("axis", 0)),
        node("Reshape", &["by_input", "shape"], "matrix"),
        Node::new(MICROSOFT, "MatMulIntegerToFloat", &["codes", "matrix", "one", "scales", "zero"], &["sums"]),
        node("Unsqueeze", &["row_scale", "axis"], "row_scales"),
        node("Mul", &["sums", "row_scales"], "product"),
        last,
        split,
    ];
    let import = |domain: &str, version| OperatorSet { domain: Some(domain.to_owned()), version: Some(version) };
    Function {
        name: Some(operator.name.to_owned()),
        domain: Some(DOMAIN.to_owned()),
        input: ["x", "weights", "scales", "offsets", "bias", "evenness"].map(str::to_owned).to_vec(),
        output: outputs,
        attribute: ATTRIBUTES.map(str::to_owned).to_vec(),
        node: nodes,
        opset_import: vec![import("", opset), import(MICROSOFT, 1)],
        ..Function::default()
    }
}
