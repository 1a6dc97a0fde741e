//! The fields that are read from a model's `config.json`: those of every Hugging Face export, and
//! the `emotion_server` section that our own bundles add.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(super) struct ConfigJson {
    pub model_type: Option<String>,
    #[serde(default)]
    pub id2label: BTreeMap<String, String>,
    pub problem_type: Option<String>,
    pub max_position_embeddings: Option<usize>,
    pub pad_token_id: Option<i64>,
    #[serde(alias = "n_heads")]
    pub num_attention_heads: Option<u64>,
    #[serde(alias = "dim")]
    pub hidden_size: Option<u64>,
    pub emotion_server: Option<BundleSection>,
}

#[derive(Debug, Deserialize)]
pub(super) struct BundleSection {
    pub format: u32,
    pub name: String,
    pub max_length: usize,
    pub thresholds: Option<BTreeMap<String, f32>>,
    pub probes: Vec<Probe>,
    pub precisions: BTreeMap<String, PrecisionSection>,
    pub files: BTreeMap<String, FileEntry>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PrecisionSection {
    pub graph: String,
    pub probe_tolerance: f32,
    pub memory: MemoryNeed,
    pub activation: ActivationCost,
    pub activation_plain: Option<ActivationCost>,
}

/// A text with the logits that the fp32 model gives for it.
#[derive(Debug, Clone, Deserialize)]
pub struct Probe {
    /// The text.
    pub text: String,
    /// One logit a label.
    pub logits: Vec<f32>,
}

/// Size and hash of one file of a bundle.
#[derive(Debug, Clone, Deserialize)]
pub struct FileEntry {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

/// What a model was measured to need, by way of loading.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct MemoryNeed {
    /// Loaded from its own files, without prepacking.
    pub plain: LoadedBytes,
    /// Loaded from prepared weights.
    pub prepared: LoadedBytes,
    /// Growth of the resident set of the process that writes the prepared weights.
    pub preparing_peak_bytes: u64,
}

/// What ONNX Runtime packs at the load of a packed graph, of the products that were left, in each session.
const LEFT_PRODUCTS_BYTES: u64 = 512 << 10;

impl MemoryNeed {
    /// Loaded with packed layers: the files are as long as the model's own. Sessions are counted as those of weights
    /// that ONNX Runtime prepared, which for the heavy model is 3 MB too much for the first and 2 MB for each other.
    #[must_use]
    pub fn packed(&self) -> LoadedBytes {
        LoadedBytes {
            first_session_bytes: self.prepared.first_session_bytes + LEFT_PRODUCTS_BYTES,
            next_session_bytes: self.prepared.next_session_bytes + LEFT_PRODUCTS_BYTES,
            mapped_bytes: self.plain.mapped_bytes,
        }
    }
}

/// Memory of sessions in one way of loading.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct LoadedBytes {
    /// Unreclaimable bytes of the first session, one short run included.
    pub first_session_bytes: u64,
    /// Unreclaimable bytes of each further session.
    pub next_session_bytes: u64,
    /// File-backed bytes that all sessions share; the kernel can take them back.
    pub mapped_bytes: u64,
}

impl LoadedBytes {
    /// Unreclaimable bytes of `sessions` sessions.
    #[must_use]
    pub fn unreclaimable_bytes(&self, sessions: usize) -> u64 {
        let further = u64::try_from(sessions.saturating_sub(1)).unwrap_or(u64::MAX);
        self.first_session_bytes.saturating_add(self.next_session_bytes.saturating_mul(further))
    }
}

/// Upper bound of what a run of shape `[batch, length]` adds to its session's arena.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct ActivationCost {
    /// Bytes for each of the `batch * length` tokens.
    pub bytes_per_token: u64,
    /// Bytes for each of the `batch * heads * length * length` attention scores.
    pub bytes_per_attention_cell: f64,
    /// Attention heads; filled in from the model's own configuration.
    #[serde(default)]
    pub heads: u64,
}

impl ActivationCost {
    /// Bytes that a run of `batch` texts, each padded to `length` tokens, may take.
    #[must_use]
    pub fn bytes(&self, batch: usize, length: usize) -> u64 {
        let (batch, length) = (batch as u64, length as u64);
        let tokens = batch.saturating_mul(length);
        let cells = tokens.saturating_mul(length).saturating_mul(self.heads);
        let attention_bytes = (cells as f64 * self.bytes_per_attention_cell).ceil() as u64;
        tokens.saturating_mul(self.bytes_per_token).saturating_add(attention_bytes)
    }
}
