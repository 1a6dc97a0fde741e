//! A model's folder on disk: our own bundle, or a plain ONNX export from the hub.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Activation;
pub use super::config_json::{ActivationCost, FileEntry, LoadedBytes, MemoryNeed, Probe};
use super::config_json::{BundleSection, ConfigJson};
use super::plain_export::{self, LEAST_MAX_LENGTH, max_length_of_positions};
use super::verify::{check_sizes, hexadecimal};

/// The part a model plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Answers while memory allows.
    Heavy,
    /// Answers when the heavy one may not.
    Light,
}

impl Role {
    /// Both roles, the heavy one first.
    pub const ALL: [Self; 2] = [Self::Heavy, Self::Light];

    /// The role's name on the wire and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Heavy => "heavy",
            Self::Light => "light",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Numeric format of a model's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 8-bit weights, one scale a column; activations are quantized per row.
    Int8,
    /// 4-bit weights in blocks: half the disk and page cache, slower.
    Int4,
    /// Unquantized; only plain exports have it.
    #[value(skip)]
    Fp32,
}

impl Precision {
    /// The precision's name on the wire, in file names and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Int4 => "int4",
            Self::Fp32 => "fp32",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a folder cannot be used as a model. Each message names the file and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file that must be there cannot be read.
    #[error("cannot read {path}: it is needed to load the model in this folder")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// `config.json` is not what a model's configuration looks like.
    #[error("{path} is not a model configuration")]
    Config {
        /// The file.
        path: PathBuf,
        /// Where parsing stopped.
        #[source]
        source: serde_json::Error,
    },
    /// A value in `config.json` cannot be right.
    #[error("{path}: {what}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong and what would be right.
        what: String,
    },
    /// A file has another length than its bundle says.
    #[error(
        "{path} has {found} bytes but the bundle says {expected}: it was cut short or belongs to another model; copy the folder again"
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Bytes on disk.
        found: u64,
        /// Bytes in `config.json`.
        expected: u64,
    },
    /// A file has another content than its bundle says.
    #[error(
        "{path} has SHA-256 {found} but the bundle says {expected}: it is damaged or belongs to another model; copy the folder again"
    )]
    Hash {
        /// The file.
        path: PathBuf,
        /// Hash of what is on disk.
        found: String,
        /// Hash in `config.json`.
        expected: String,
    },
    /// The precision asked for is not in the folder.
    #[error("{path} has no {precision} graph; it has {available}")]
    NoSuchPrecision {
        /// The folder.
        path: PathBuf,
        /// The precision asked for.
        precision: Precision,
        /// What is there instead.
        available: String,
    },
}

/// Everything that is known of a model before its graph is loaded.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The model's name: the bundle's own, or the folder's.
    pub name: String,
    /// The folder.
    pub directory: PathBuf,
    /// The graph file to load.
    pub graph: PathBuf,
    /// Precision of that graph.
    pub precision: Precision,
    /// Labels in the order of the logits.
    pub labels: Arc<[Arc<str>]>,
    /// Whether a text may carry several labels (sigmoid) or one (softmax).
    pub multi_label: bool,
    /// Tuned threshold of each label, in the order of `labels`; empty for single-label models.
    pub thresholds: Vec<f32>,
    /// Most tokens that the model reads, special tokens included.
    pub max_length: usize,
    /// Id that fills short texts of a batch.
    pub pad_token_id: i64,
    /// Texts with known logits; empty for a plain export.
    pub probes: Vec<Probe>,
    /// Greatest difference from a probe's logits.
    pub probe_tolerance: f32,
    /// What sessions need.
    pub memory: MemoryNeed,
    /// What runs need.
    pub activation: ActivationCost,
    /// What runs need without prepacking, where weights are repacked in each run.
    pub activation_plain: ActivationCost,
    /// SHA-256 over the bundle's description, in hexadecimal. It changes with every file of it.
    pub hash: String,
    /// Files with their sizes and hashes; empty for a plain export.
    pub files: Vec<(PathBuf, FileEntry)>,
    /// Whether this is one of our bundles, not a plain export.
    pub is_native: bool,
}

impl Bundle {
    /// Reads the folder's description and checks that its files are there and of the right size.
    ///
    /// # Errors
    /// [`BundleError`] names the file and what is wrong with it.
    pub fn open(directory: &Path, precision: Precision) -> Result<Self, BundleError> {
        let config_path = directory.join("config.json");
        let config_bytes = read(&config_path)?;
        let config: ConfigJson = serde_json::from_slice(&config_bytes)
            .map_err(|source| BundleError::Config { path: config_path.clone(), source })?;
        let labels = labels_in_order(&config_path, &config)?;
        match &config.emotion_server {
            Some(section) => Self::native(directory, &config_path, &config_bytes, &config, section, labels, precision),
            None => Self::plain_export(directory, &config_path, &config_bytes, &config, labels, precision),
        }
    }

    fn native(
        directory: &Path,
        config_path: &Path,
        config_bytes: &[u8],
        config: &ConfigJson,
        section: &BundleSection,
        labels: Arc<[Arc<str>]>,
        precision: Precision,
    ) -> Result<Self, BundleError> {
        let invalid = |what: String| BundleError::Invalid { path: config_path.to_path_buf(), what };
        if section.format != 1 {
            return Err(invalid(format!(
                "bundle format {} is not known here, only 1: update the server",
                section.format
            )));
        }
        let Some(chosen) = section.precisions.get(precision.as_str()) else {
            return Err(BundleError::NoSuchPrecision {
                path: directory.to_path_buf(),
                precision,
                available: section.precisions.keys().cloned().collect::<Vec<_>>().join(", "),
            });
        };
        let multi_label = is_multi_label(config, labels.len());
        let thresholds = match (&section.thresholds, multi_label) {
            (Some(by_label), true) => labels
                .iter()
                .map(|label| {
                    by_label
                        .get(&**label)
                        .copied()
                        .ok_or_else(|| invalid(format!("thresholds lack the label {label:?}")))
                })
                .collect::<Result<_, _>>()?,
            (None, true) => vec![0.5; labels.len()],
            (_, false) => Vec::new(),
        };
        if let Some(probe) = section.probes.iter().find(|probe| probe.logits.len() != labels.len()) {
            return Err(invalid(format!(
                "id2label has {} labels, but the probe {:?} has {} logits: one of the two is of another model",
                labels.len(),
                probe.text,
                probe.logits.len()
            )));
        }
        check_thresholds(&labels, section.thresholds.as_ref()).map_err(invalid)?;
        let needed = [chosen.graph.as_str(), "tokenizer.json"];
        if let Some(name) = needed.iter().find(|name| !section.files.contains_key(**name)) {
            return Err(invalid(format!("files lacks {name:?}")));
        }
        let most = max_length_of_positions(config_path, config)?;
        let max_length = section.max_length;
        if !(LEAST_MAX_LENGTH..=most).contains(&max_length) {
            return Err(invalid(format!(
                "max_length is {max_length}, but it must be from {LEAST_MAX_LENGTH} to {most}"
            )));
        }
        let other_precisions: Vec<_> = section
            .precisions
            .iter()
            .filter(|(name, _)| *name != precision.as_str())
            .map(|(name, _)| name.clone())
            .collect();
        let files: Vec<_> = section
            .files
            .iter()
            .filter(|(name, _)| !other_precisions.iter().any(|other| name.starts_with(&format!("{other}."))))
            .map(|(name, entry)| (directory.join(name), entry.clone()))
            .collect();
        check_sizes(&files)?;
        Ok(Self {
            name: section.name.clone(),
            directory: directory.to_path_buf(),
            graph: directory.join(&chosen.graph),
            precision,
            labels,
            multi_label,
            thresholds,
            max_length,
            pad_token_id: config.pad_token_id.unwrap_or(0),
            probes: section.probes.clone(),
            probe_tolerance: chosen.probe_tolerance,
            memory: chosen.memory,
            activation: with_heads(chosen.activation, config),
            activation_plain: with_heads(chosen.activation_plain.unwrap_or(chosen.activation), config),
            hash: hexadecimal(&Sha256::digest(config_bytes)),
            files,
            is_native: true,
        })
    }

    fn plain_export(
        directory: &Path,
        config_path: &Path,
        config_bytes: &[u8],
        config: &ConfigJson,
        labels: Arc<[Arc<str>]>,
        precision: Precision,
    ) -> Result<Self, BundleError> {
        let Some((graph, precision)) = plain_export::find_graph(directory, precision) else {
            return Err(BundleError::Invalid {
                path: directory.to_path_buf(),
                what: format!(
                    "no ONNX graph found; a plain export has one of {}",
                    plain_export::GRAPHS.map(|(name, _)| name).join(", ")
                ),
            });
        };
        let tokenizer_path = directory.join("tokenizer.json");
        let metadata =
            |path: &Path| fs::metadata(path).map_err(|source| BundleError::Read { path: path.to_path_buf(), source });
        metadata(&tokenizer_path)?;
        let graph_metadata = metadata(&graph)?;
        let external_data = graph.with_extension("onnx_data");
        let weight_bytes = graph_metadata.len() + fs::metadata(&external_data).map_or(0, |data| data.len());
        let multi_label = is_multi_label(config, labels.len());
        let name = directory.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
        let mut hasher = Sha256::new();
        hasher.update(config_bytes);
        hasher.update(graph.as_os_str().as_encoded_bytes());
        hasher.update(weight_bytes.to_le_bytes());
        if let Ok(modified) = graph_metadata.modified() {
            hasher.update(format!("{modified:?}"));
        }
        Ok(Self {
            name,
            directory: directory.to_path_buf(),
            graph,
            precision,
            thresholds: if multi_label { vec![0.5; labels.len()] } else { Vec::new() },
            labels,
            multi_label,
            max_length: max_length_of_positions(config_path, config)?,
            pad_token_id: config.pad_token_id.unwrap_or(0),
            probes: Vec::new(),
            probe_tolerance: 0.0,
            memory: plain_export::memory_need(weight_bytes),
            activation: with_heads(plain_export::activation_cost(config), config),
            activation_plain: with_heads(plain_export::activation_cost(config), config),
            hash: hexadecimal(&hasher.finalize()),
            files: Vec::new(),
            is_native: false,
        })
    }

    /// The first 12 digits of the bundle's hash.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.hash[..12]
    }

    /// The function that this model's scores are made with.
    #[must_use]
    pub fn activation_function(&self) -> Activation {
        if self.multi_label { Activation::Sigmoid } else { Activation::Softmax }
    }

    /// The tokenizer's file.
    #[must_use]
    pub fn tokenizer_path(&self) -> PathBuf {
        self.directory.join("tokenizer.json")
    }

    /// Hashes every file of the bundle. Reads all of its weights.
    ///
    /// # Errors
    /// The first file whose content is not what the bundle says.
    pub fn verify_hashes(&self) -> Result<(), BundleError> {
        super::verify::check_hashes(&self.files)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, BundleError> {
    fs::read(path).map_err(|source| BundleError::Read { path: path.to_path_buf(), source })
}

fn labels_in_order(config_path: &Path, config: &ConfigJson) -> Result<Arc<[Arc<str>]>, BundleError> {
    let count = config.id2label.len();
    if count == 0 {
        return Err(BundleError::Invalid {
            path: config_path.to_path_buf(),
            what: "id2label is missing or empty: this is not a text classification model".to_owned(),
        });
    }
    let mut seen = BTreeSet::new();
    if let Some(label) = config.id2label.values().find(|label| !seen.insert(*label)) {
        return Err(BundleError::Invalid {
            path: config_path.to_path_buf(),
            what: format!("id2label has the label {label:?} twice"),
        });
    }
    (0..count)
        .map(|id| {
            config.id2label.get(&id.to_string()).map(|label| Arc::from(label.as_str())).ok_or_else(|| {
                BundleError::Invalid {
                    path: config_path.to_path_buf(),
                    what: format!("id2label has {count} labels but none with the id {id}: ids must run from 0"),
                }
            })
        })
        .collect()
}

/// Says which threshold cannot be right.
fn check_thresholds(labels: &[Arc<str>], thresholds: Option<&BTreeMap<String, f32>>) -> Result<(), String> {
    for (label, threshold) in thresholds.into_iter().flatten() {
        if !labels.iter().any(|known| **known == **label) {
            return Err(format!("thresholds has the label {label:?}, which id2label has not"));
        }
        if !(0.0..=1.0).contains(threshold) {
            return Err(format!("the threshold of {label:?} is {threshold}, but it must be from 0 to 1"));
        }
    }
    Ok(())
}

/// `transformers` takes the sigmoid for multi-label models and for a single output, softmax otherwise.
fn is_multi_label(config: &ConfigJson, labels: usize) -> bool {
    config.problem_type.as_deref() == Some("multi_label_classification") || labels == 1
}

fn with_heads(cost: ActivationCost, config: &ConfigJson) -> ActivationCost {
    ActivationCost { heads: config.num_attention_heads.unwrap_or(12), ..cost }
}
