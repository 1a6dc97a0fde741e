//! ONNX graphs as files: read, rewritten with packed layers, and written, without ONNX Runtime.
//!
//! A quantized linear layer of our exports is a chain of up to ten nodes. [`chain`] finds such chains by how their
//! nodes hang together, [`pack`] puts one node of the domain [`DOMAIN`] in each one's place, with the weights in the
//! order that the kernels read, and [`function`] says in standard operators what that node computes, so that any
//! ONNX Runtime runs the written file. What is not known is left as it is.

pub mod chain;
mod function;
pub mod onnx;
pub mod pack;
mod tensor;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

/// The domain of packed layers.
pub const DOMAIN: &str = "emotion_server";

/// The kinds of packed layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operator {
    /// The operator's name.
    pub name: &'static str,
    /// Outputs, of the same width each.
    pub outputs: usize,
    /// Whether GELU follows the bias.
    pub has_gelu: bool,
}

/// Every packed layer: one output with GELU and without, two outputs, and three.
pub const OPERATORS: [Operator; 4] = [
    Operator { name: "Int8Linear", outputs: 1, has_gelu: false },
    Operator { name: "Int8LinearGelu", outputs: 1, has_gelu: true },
    Operator { name: "Int8Linear2", outputs: 2, has_gelu: false },
    Operator { name: "Int8Linear3", outputs: 3, has_gelu: false },
];

/// Attributes of every packed layer: see [`emotion_kernels::Scheme`].
pub const ATTRIBUTES: [&str; 4] = ["zero_point", "step_of_largest", "step_of_smallest", "least"];

/// Why a graph was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// A file cannot be read or written.
    #[error("cannot read or write {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A graph or its weights are not what they must be.
    #[error("{path}: {what}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}
