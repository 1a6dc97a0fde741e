//! The JSON part of requests and replies.

use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::json::{Name, Object, Text};
use crate::api::{request, schema};

/// A request; fields and parameters that are not known here are passed by.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["I am so happy that you came!"]}]}))]
pub(in crate::api) struct InferRequest {
    #[schema(value_type = Option<String>)]
    pub id: Option<Name>,
    #[schema(value_type = Option<RequestParameters>)]
    pub parameters: Option<Object<RequestParameters>>,
    #[schema(value_type = Vec<InputTensor>, min_items = 1, max_items = 1)]
    pub inputs: Vec<Object<InputTensor>>,
    #[schema(value_type = Option<Vec<RequestedOutput>>)]
    pub outputs: Option<Vec<Object<RequestedOutput>>>,
}

/// What holds for the whole request.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(in crate::api) struct RequestParameters {
    /// Outputs come as raw tensors unless they say otherwise.
    pub binary_data_output: Option<bool>,
}

/// An input: its elements are in `data`, or after the JSON.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::api) struct InputTensor {
    /// `text`
    #[schema(value_type = String, pattern = "^text$")]
    pub name: Name,
    /// `[n]` or `[n, 1]` for n texts
    #[schema(min_items = 1, max_items = 2)]
    pub shape: Vec<i64>,
    /// `BYTES`
    #[schema(value_type = String, pattern = "^BYTES$")]
    pub datatype: Name,
    #[schema(value_type = Option<InputParameters>)]
    pub parameters: Option<Object<InputParameters>>,
    #[schema(required = false, schema_with = schema::flat_or_nested_texts)]
    pub data: Option<FlatTexts>,
}

/// What holds for one input.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(in crate::api) struct InputParameters {
    /// Bytes of this tensor after the JSON.
    pub binary_data_size: Option<usize>,
}

/// An output that is asked for.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::api) struct RequestedOutput {
    /// `scores` or `labels`
    #[schema(value_type = String, pattern = "^(scores|labels)$")]
    pub name: Name,
    #[schema(value_type = Option<OutputParameters>)]
    pub parameters: Option<Object<OutputParameters>>,
}

/// How an output is to be written.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
pub(in crate::api) struct OutputParameters {
    /// As a raw tensor after the JSON.
    pub binary_data: Option<bool>,
    /// The highest `k` scores as `score:index:label` rather than all of them as numbers.
    #[serde(default, deserialize_with = "request::whole_number")]
    #[schema(minimum = 0, maximum = 1_000_000)]
    pub classification: Option<usize>,
}

/// The reply.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct InferReply {
    pub model_name: String,
    pub model_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub id: Option<Arc<str>>,
    pub outputs: Vec<OutputTensor>,
}

/// An output: its elements are in `data`, or after the JSON.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct OutputTensor {
    pub name: &'static str,
    pub shape: Vec<usize>,
    pub datatype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<BinarySize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Elements>,
}

/// How many bytes of the raw part belong to an output.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct BinarySize {
    pub binary_data_size: usize,
}

/// Elements of an output, row by row.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(in crate::api) enum Elements {
    Fp32(Vec<f32>),
    Bytes(Vec<String>),
}

impl Elements {
    /// The datatype's name in the protocol.
    pub(super) fn datatype(&self) -> &'static str {
        match self {
            Self::Fp32(_) => "FP32",
            Self::Bytes(_) => "BYTES",
        }
    }
}

/// Texts of a tensor, whose lists may be nested in any way.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::api) struct FlatTexts(pub Vec<Text>);

impl<'de> Deserialize<'de> for FlatTexts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut texts = Vec::new();
        deserializer.deserialize_seq(Nested(&mut texts))?;
        Ok(Self(texts))
    }
}

/// Puts a text, or all texts of a list, behind those already there.
struct Nested<'a>(&'a mut Vec<Text>);

impl<'de> DeserializeSeed<'de> for Nested<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nested<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("texts in a list")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.push(Text(text.into()));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Nested(self.0))?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_lists_are_read_row_by_row() {
        for (json, texts) in [
            ("[]", vec![]),
            (r#"["a","b"]"#, vec!["a", "b"]),
            (r#"[["a"],["b"]]"#, vec!["a", "b"]),
            (r#"[[["a","b"],["c"]],"d"]"#, vec!["a", "b", "c", "d"]),
        ] {
            let found = serde_json::from_str::<FlatTexts>(json).unwrap().0;
            assert_eq!(found.iter().map(|Text(text)| &**text).collect::<Vec<_>>(), texts, "{json}");
        }
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for json in ["1", "\"a\"", "[1]", "[[null]]", "[{\"a\":\"b\"}]", "[true]"] {
            assert!(serde_json::from_str::<FlatTexts>(json).is_err(), "{json}");
        }
    }
}
