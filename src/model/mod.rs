//! What one model is: its bundle on disk, its tokenizer, its labels and how logits become scores.

pub mod activation;
pub mod bundle;
mod config_json;
mod plain_export;
pub mod tokenizer;
mod verify;

pub use activation::Activation;
pub use bundle::{Bundle, BundleError, Precision, Role};
pub use tokenizer::{Encoding, LongText, TextTokenizer, TokenizerError, TruncationSide};
