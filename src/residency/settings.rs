//! How models are kept in memory.

use std::path::PathBuf;
use std::time::Duration;

use super::limits::Limits;
use crate::inference::pool::PoolSettings;
use crate::inference::prepared::PreparedStore;
use crate::model::Precision;

/// How models are kept in memory.
#[derive(Debug, Clone)]
pub struct ResidencySettings {
    /// Folder and name of the heavy model.
    pub heavy: (PathBuf, String),
    /// Folder and name of the light model.
    pub light: (PathBuf, String),
    /// Which graph of a bundle is loaded.
    pub precision: Precision,
    /// The light model takes every request that leaves the choice to the server.
    pub use_light_model: bool,
    /// Longest wait for a load.
    pub load_timeout: Duration,
    /// Bounds on memory.
    pub limits: Limits,
    /// Sessions of a model, if memory allows that many.
    pub workers: usize,
    /// Batches and queue.
    pub pool: PoolSettings,
    /// Where prepared weights are kept.
    pub prepared: PreparedStore,
    /// The program that writes prepared weights in a child process.
    pub prepare_program: PathBuf,
    /// How long an evicted heavy model stays away at first.
    pub heavy_retry: Duration,
    /// How long it stays away at most.
    pub heavy_retry_max: Duration,
    /// Time between two readings of the watchdog.
    pub check_interval: Duration,
    /// After how long a model that nobody asks for is unloaded; `None`: never.
    pub idle: Option<Duration>,
    /// The ONNX Runtime library, where it is not in one of the usual places.
    pub onnxruntime_library: Option<PathBuf>,
}
