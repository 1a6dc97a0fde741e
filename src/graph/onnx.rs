//! The messages of `onnx.proto` that are looked into; what is not stays bytes, and is written as it was read.

use std::fs;
use std::path::Path;

use prost::Message;

use super::GraphError;

/// Larger files hold weights inside, and would be in memory twice.
const MOST_BYTES: u64 = 64 << 20;

/// `TensorProto.DataType` of float32.
pub const FLOAT: i32 = 1;
/// `TensorProto.DataType` of uint8.
pub const UINT8: i32 = 2;
/// `TensorProto.DataType` of int8.
pub const INT8: i32 = 3;
/// `TensorProto.DataType` of int32.
pub const INT32: i32 = 6;
/// `TensorProto.DataType` of int64.
pub const INT64: i32 = 7;
/// `TensorProto.DataLocation` of tensors in a file of their own.
pub const EXTERNAL: i32 = 1;

/// `ModelProto`
#[derive(Clone, PartialEq, Message)]
pub struct Model {
    /// Version of the format.
    #[prost(int64, optional, tag = "1")]
    pub ir_version: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub(super) producer_name: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub(super) producer_version: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub(super) domain: Option<String>,
    #[prost(int64, optional, tag = "5")]
    pub(super) model_version: Option<i64>,
    #[prost(string, optional, tag = "6")]
    pub(super) doc_string: Option<String>,
    /// The graph.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
    /// Versions of the operators.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSet>,
    #[prost(bytes = "vec", repeated, tag = "14")]
    pub(super) metadata_props: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "20")]
    pub(super) training_info: Vec<Vec<u8>>,
    /// Model-local functions.
    #[prost(message, repeated, tag = "25")]
    pub functions: Vec<Function>,
    #[prost(bytes = "vec", repeated, tag = "26")]
    pub(super) configuration: Vec<Vec<u8>>,
}

/// `OperatorSetIdProto`
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSet {
    /// Empty for the standard operators.
    #[prost(string, optional, tag = "1")]
    pub domain: Option<String>,
    /// Version.
    #[prost(int64, optional, tag = "2")]
    pub version: Option<i64>,
}

/// `GraphProto`
#[derive(Clone, PartialEq, Message)]
pub struct Graph {
    /// Nodes, each behind those that it reads.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    #[prost(string, optional, tag = "2")]
    pub(super) name: Option<String>,
    /// Constants.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<Tensor>,
    #[prost(string, optional, tag = "10")]
    pub(super) doc_string: Option<String>,
    /// Inputs.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfo>,
    /// Outputs.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfo>,
    /// Types of other values, where they are given.
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfo>,
    #[prost(bytes = "vec", repeated, tag = "14")]
    pub(super) quantization_annotation: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "15")]
    pub(super) sparse_initializer: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "16")]
    pub(super) metadata_props: Vec<Vec<u8>>,
}

/// `ValueInfoProto`
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfo {
    /// The value.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(super) of_type: Option<Vec<u8>>,
    #[prost(string, optional, tag = "3")]
    pub(super) doc_string: Option<String>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub(super) metadata_props: Vec<Vec<u8>>,
}

/// `NodeProto`
#[derive(Clone, PartialEq, Message)]
pub struct Node {
    /// Values read; an empty name is an input left out.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Values computed.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// Name, for people.
    #[prost(string, optional, tag = "3")]
    pub name: Option<String>,
    /// The operator.
    #[prost(string, optional, tag = "4")]
    pub op_type: Option<String>,
    /// Settings of the operator.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<Attribute>,
    #[prost(string, optional, tag = "6")]
    pub(super) doc_string: Option<String>,
    /// The operator's domain; empty for the standard operators.
    #[prost(string, optional, tag = "7")]
    pub domain: Option<String>,
    #[prost(string, optional, tag = "8")]
    pub(super) overload: Option<String>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub(super) metadata_props: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "10")]
    pub(super) device_configurations: Vec<Vec<u8>>,
}

/// `AttributeProto`
#[derive(Clone, PartialEq, Message)]
pub struct Attribute {
    /// Name.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// One float.
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    /// One integer.
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub(super) s: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "5")]
    pub(super) t: Option<Vec<u8>>,
    /// A graph inside, as of `If`.
    #[prost(bytes = "vec", optional, tag = "6")]
    pub g: Option<Vec<u8>>,
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub(super) floats: Vec<f32>,
    /// Integers.
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub(super) strings: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "10")]
    pub(super) tensors: Vec<Vec<u8>>,
    /// Graphs inside.
    #[prost(bytes = "vec", repeated, tag = "11")]
    pub graphs: Vec<Vec<u8>>,
    #[prost(string, optional, tag = "13")]
    pub(super) doc_string: Option<String>,
    #[prost(bytes = "vec", optional, tag = "14")]
    pub(super) tp: Option<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "15")]
    pub(super) type_protos: Vec<Vec<u8>>,
    /// `AttributeType`: which of the fields it is.
    #[prost(int32, optional, tag = "20")]
    pub of_type: Option<i32>,
    /// In a function's body: the attribute of the function whose value this takes.
    #[prost(string, optional, tag = "21")]
    pub ref_attr_name: Option<String>,
    #[prost(bytes = "vec", optional, tag = "22")]
    pub(super) sparse_tensor: Option<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "23")]
    pub(super) sparse_tensors: Vec<Vec<u8>>,
}

/// `TensorProto`
#[derive(Clone, PartialEq, Message)]
pub struct Tensor {
    /// Shape.
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    /// `DataType`
    #[prost(int32, optional, tag = "2")]
    pub data_type: Option<i32>,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(super) segment: Option<Vec<u8>>,
    /// Elements, where they are not raw.
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// Elements of the smaller integers, where they are not raw.
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub(super) string_data: Vec<Vec<u8>>,
    /// Elements, where they are not raw.
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    /// Name.
    #[prost(string, optional, tag = "8")]
    pub name: Option<String>,
    /// Elements, little-endian.
    #[prost(bytes = "vec", optional, tag = "9")]
    pub raw_data: Option<Vec<u8>>,
    #[prost(double, repeated, tag = "10")]
    pub(super) double_data: Vec<f64>,
    #[prost(uint64, repeated, tag = "11")]
    pub(super) uint64_data: Vec<u64>,
    #[prost(string, optional, tag = "12")]
    pub(super) doc_string: Option<String>,
    /// Where the elements lie, when that is another file.
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<Entry>,
    /// `DataLocation`
    #[prost(int32, optional, tag = "14")]
    pub data_location: Option<i32>,
    #[prost(bytes = "vec", repeated, tag = "16")]
    pub(super) metadata_props: Vec<Vec<u8>>,
}

/// `StringStringEntryProto`
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    /// Key.
    #[prost(string, optional, tag = "1")]
    pub key: Option<String>,
    /// Value.
    #[prost(string, optional, tag = "2")]
    pub value: Option<String>,
}

/// `FunctionProto`
#[derive(Clone, PartialEq, Message)]
pub struct Function {
    /// Name of the operator that it computes.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// Inputs.
    #[prost(string, repeated, tag = "4")]
    pub input: Vec<String>,
    /// Outputs.
    #[prost(string, repeated, tag = "5")]
    pub output: Vec<String>,
    /// Names of attributes without a default.
    #[prost(string, repeated, tag = "6")]
    pub attribute: Vec<String>,
    /// Body.
    #[prost(message, repeated, tag = "7")]
    pub node: Vec<Node>,
    #[prost(string, optional, tag = "8")]
    pub(super) doc_string: Option<String>,
    /// Versions of the body's operators.
    #[prost(message, repeated, tag = "9")]
    pub opset_import: Vec<OperatorSet>,
    /// Domain of the operator that it computes.
    #[prost(string, optional, tag = "10")]
    pub domain: Option<String>,
    #[prost(bytes = "vec", repeated, tag = "11")]
    pub(super) attribute_proto: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "12")]
    pub(super) value_info: Vec<Vec<u8>>,
    #[prost(string, optional, tag = "13")]
    pub(super) overload: Option<String>,
    #[prost(bytes = "vec", repeated, tag = "14")]
    pub(super) metadata_props: Vec<Vec<u8>>,
}

impl Model {
    /// Reads a model's file.
    ///
    /// # Errors
    /// [`GraphError::Invalid`] when it is no model, too large to be a graph without its weights, or has fields that
    /// are not known here: they would be lost when it is written.
    pub fn read(path: &Path) -> Result<Self, GraphError> {
        let failed = |source| GraphError::File { path: path.to_path_buf(), source };
        let invalid = |what: String| GraphError::Invalid { path: path.to_path_buf(), what };
        let bytes = fs::metadata(path).map_err(failed)?.len();
        if bytes > MOST_BYTES {
            return Err(invalid(format!("{bytes} bytes are too many for a graph without weights")));
        }
        let bytes = fs::read(path).map_err(failed)?;
        let model = Self::decode(&bytes[..]).map_err(|error| invalid(format!("it is not an ONNX model: {error}")))?;
        if model.encoded_len() != bytes.len() {
            return Err(invalid("it has fields that are not known here".to_owned()));
        }
        Ok(model)
    }

    /// Writes the model's file.
    ///
    /// # Errors
    /// [`GraphError::File`]
    pub fn write(&self, path: &Path) -> Result<(), GraphError> {
        fs::write(path, self.encode_to_vec()).map_err(|source| GraphError::File { path: path.to_path_buf(), source })
    }

    /// The version of a domain's operators.
    #[must_use]
    pub fn opset(&self, domain: &str) -> Option<i64> {
        let set = self.opset_import.iter().find(|set| set.domain.as_deref().unwrap_or_default() == domain)?;
        set.version
    }
}

impl Node {
    /// A node of one operator.
    #[must_use]
    pub fn new(domain: &str, op_type: &str, input: &[&str], output: &[&str]) -> Self {
        Self {
            op_type: Some(op_type.to_owned()),
            domain: (!domain.is_empty()).then(|| domain.to_owned()),
            input: input.iter().map(|name| (*name).to_owned()).collect(),
            output: output.iter().map(|name| (*name).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// The same node with one more attribute.
    #[must_use]
    pub fn with(mut self, attribute: Attribute) -> Self {
        self.attribute.push(attribute);
        self
    }

    /// Whether it is of this operator.
    #[must_use]
    pub fn is(&self, domain: &str, op_type: &str) -> bool {
        self.op_type.as_deref() == Some(op_type) && self.domain.as_deref().unwrap_or_default() == domain
    }

    /// The value of its only attribute, an integer of this name.
    #[must_use]
    pub fn only_integer(&self, name: &str) -> Option<i64> {
        match &self.attribute[..] {
            [only] if only.name.as_deref() == Some(name) => only.i,
            _ => None,
        }
    }
}

impl Attribute {
    const FLOAT: i32 = 1;
    const INT: i32 = 2;
    const INTS: i32 = 7;

    /// One float.
    #[must_use]
    pub fn float(name: &str, value: f32) -> Self {
        Self { f: Some(value), ..Self::of(name, Self::FLOAT) }
    }

    /// One integer.
    #[must_use]
    pub fn int(name: &str, value: i64) -> Self {
        Self { i: Some(value), ..Self::of(name, Self::INT) }
    }

    /// Integers.
    #[must_use]
    pub fn ints(name: &str, values: &[i64]) -> Self {
        Self { ints: values.to_vec(), ..Self::of(name, Self::INTS) }
    }

    /// In a function's body: the float that the function's attribute `of` holds.
    #[must_use]
    pub fn float_of(name: &str, of: &str) -> Self {
        Self { ref_attr_name: Some(of.to_owned()), ..Self::of(name, Self::FLOAT) }
    }

    /// In a function's body: the integer that the function's attribute `of` holds.
    #[must_use]
    pub fn int_of(name: &str, of: &str) -> Self {
        Self { ref_attr_name: Some(of.to_owned()), ..Self::of(name, Self::INT) }
    }

    fn of(name: &str, of_type: i32) -> Self {
        Self { name: Some(name.to_owned()), of_type: Some(of_type), ..Self::default() }
    }
}

impl Entry {
    /// A key with its value.
    #[must_use]
    pub fn new(key: &str, value: &str) -> Self {
        Self { key: Some(key.to_owned()), value: Some(value.to_owned()) }
    }
}
