//! What is known of a plain ONNX export from the hub by its file names and its `config.json` alone.

use std::path::{Path, PathBuf};

use super::bundle::{ActivationCost, BundleError, LoadedBytes, MemoryNeed, Precision};
use super::config_json::ConfigJson;

/// Fewest tokens that a model must be able to read, special tokens included.
pub(super) const LEAST_MAX_LENGTH: usize = 8;

/// File names of plain exports, by which precision they hold.
pub(super) const GRAPHS: [(&str, Precision); 8] = [
    ("onnx/model_quantized.onnx", Precision::Int8),
    ("model_quantized.onnx", Precision::Int8),
    ("onnx/model_int8.onnx", Precision::Int8),
    ("model_int8.onnx", Precision::Int8),
    ("onnx/model_q4.onnx", Precision::Int4),
    ("model_q4.onnx", Precision::Int4),
    ("model.onnx", Precision::Fp32),
    ("onnx/model.onnx", Precision::Fp32),
];

/// The graph of the wanted precision, else the unquantized one, else any.
pub(super) fn find_graph(directory: &Path, wanted: Precision) -> Option<(PathBuf, Precision)> {
    let mut present: Vec<_> = GRAPHS
        .iter()
        .map(|(name, precision)| (directory.join(name), *precision))
        .filter(|(path, _)| path.is_file())
        .collect();
    present.sort_by_key(|(_, precision)| match precision {
        found if *found == wanted => 0,
        Precision::Fp32 => 1,
        Precision::Int8 | Precision::Int4 => 2,
    });
    present.into_iter().next()
}

/// Positions of roberta-like models start after the padding id, so that many fewer tokens fit.
pub(super) fn max_length_of_positions(config_path: &Path, config: &ConfigJson) -> Result<usize, BundleError> {
    let positions = config.max_position_embeddings.unwrap_or(512);
    let reserved = match config.model_type.as_deref() {
        Some("roberta" | "xlm-roberta" | "camembert" | "mpnet") => {
            usize::try_from(config.pad_token_id.unwrap_or(1)).unwrap_or(1) + 1
        }
        _ => 0,
    };
    positions.checked_sub(reserved).filter(|length| *length >= LEAST_MAX_LENGTH).ok_or_else(|| BundleError::Invalid {
        path: config_path.to_path_buf(),
        what: format!("max_position_embeddings of {positions} leaves no room for a text"),
    })
}

/// What plain exports were seen to need, as multiples of their file: 132 MB anonymous and 150 MB
/// resident without prepacking for a file of 125 MB, 310 MB while the prepared form is written.
pub(super) fn memory_need(weight_bytes: u64) -> MemoryNeed {
    const MIB: u64 = 1 << 20;
    MemoryNeed {
        plain: LoadedBytes {
            first_session_bytes: weight_bytes + weight_bytes / 10 + 16 * MIB,
            next_session_bytes: weight_bytes + weight_bytes / 10 + 8 * MIB,
            mapped_bytes: weight_bytes / 8,
        },
        prepared: LoadedBytes {
            first_session_bytes: 24 * MIB,
            next_session_bytes: 12 * MIB,
            mapped_bytes: weight_bytes,
        },
        preparing_peak_bytes: weight_bytes * 5 / 2 + 32 * MIB,
    }
}

/// Floats alive at once in one layer: the feed-forward's inner width (4 times the hidden one), its
/// input, output and residual, and the packed projections, each once as float and once quantized.
pub(super) fn activation_cost(config: &ConfigJson) -> ActivationCost {
    ActivationCost {
        bytes_per_token: config.hidden_size.unwrap_or(768).saturating_mul(4 * 16),
        bytes_per_attention_cell: 12.0,
        heads: 0,
    }
}
