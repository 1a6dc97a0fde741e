//! Every setting: its flag, its environment variable, its default and its range.
//!
//! A flag wins over its variable. A value out of range stops the start with a message that names it.

mod guard;

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::inference::pool::{PoolSettings, TIGHT_ARENA_BYTES};
use crate::inference::prepared::PreparedStore;
use crate::inference::queue::QueueLimits;
use crate::model::Precision;
pub use guard::GuardArgs;

pub use crate::host::cpu_quota;
use crate::residency::ResidencySettings;
use crate::residency::limits::Limits;

const MIB: u64 = 1 << 20;

/// Threads that serve HTTP at most. One parses and writes thousands of requests a second, far more than
/// the models of as many cores answer.
const MOST_HTTP_WORKERS: usize = 8;

/// Workers of a model at most, unless INFERENCE_THREADS says otherwise: each has a session with memory of
/// its own, 5 MB of the shipped heavy model and up to 7 MB more in a full run.
const MOST_WORKERS: usize = 32;

/// Tokens that may wait for each text that may wait: long texts are rare.
const QUEUED_TOKENS_PER_TEXT: usize = 64;

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{setting}: {what}")]
pub struct ConfigError {
    /// The environment variable of the setting.
    pub setting: &'static str,
    /// What is wrong and what would be right.
    pub what: String,
}

/// Which models are loaded at start rather than by the first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preload {
    /// None: the first request loads.
    None,
    /// The light one.
    Light,
    /// The heavy one.
    Heavy,
    /// Both.
    Both,
}

/// Settings of the models, shared by all commands that load them.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// Folder with one folder a model; without it `onnx` here, or beside or above the program
    #[arg(long, env = "MODEL_DIR", value_name = "DIR")]
    pub model_dir: Option<PathBuf>,

    /// Folder name of the model that answers while memory allows
    #[arg(long, env = "HEAVY_MODEL", value_name = "NAME", default_value = "goemotions")]
    pub heavy_model: String,

    /// Folder name of the model that answers when the heavy one may not
    #[arg(long, env = "LIGHT_MODEL", value_name = "NAME", default_value = "ekman")]
    pub light_model: String,

    /// Which weights of a bundle to load; int4 takes half the disk and is slower
    #[arg(long, env = "MODEL_PRECISION", value_enum, default_value = "int8")]
    pub model_precision: Precision,

    /// true to let the light model answer everything; the heavy one is never loaded
    #[arg(long, env = "USE_LIGHT_MODEL", value_name = "BOOL", default_value = "false", num_args = 0..=1,
          default_missing_value = "true", action = clap::ArgAction::Set, value_parser = clap::builder::BoolishValueParser::new())]
    pub use_light_model: bool,

    /// Longest wait for a model's load in seconds, 1 to 3600; past it the light model answers and the load goes on
    #[arg(long, env = "MODEL_LOAD_TIMEOUT", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub model_load_timeout: u64,

    /// Most resident memory of the process in MB, 32 to 1000000; over it the heavy model is unloaded [default: no bound but those of the container and the machine]
    #[arg(long, env = "MODEL_MEMORY_LIMIT", value_name = "MB", value_parser = clap::value_parser!(u64).range(32..=1_000_000))]
    pub model_memory_limit: Option<u64>,

    /// Where prepared weights are written [default: emotion-server in the user's cache folder]
    #[arg(long, env = "MODEL_CACHE_DIR", value_name = "DIR")]
    pub model_cache_dir: Option<PathBuf>,

    /// Folder of weights that `prepare` wrote ahead of time, only read; MODEL_CACHE_DIR is looked in first [default: none]
    #[arg(long, env = "PREPARED_DIR", value_name = "DIR")]
    pub prepared_dir: Option<PathBuf>,

    /// After how many seconds a model that nobody asks for is unloaded; 0 is never
    #[arg(long, env = "MODEL_IDLE_SECONDS", value_name = "SECONDS", default_value_t = 0)]
    pub model_idle_seconds: u64,

    /// How many seconds the heavy model stays away after it was unloaded for want of memory, 1 to 86400; doubles each time it happens again soon
    #[arg(long, env = "HEAVY_RETRY_SECONDS", value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub heavy_retry_seconds: u64,

    /// How many seconds it stays away at most, 1 to 86400
    #[arg(long, env = "HEAVY_RETRY_MAX_SECONDS", value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub heavy_retry_max_seconds: u64,

    /// Milliseconds between two readings of the memory watchdog, 10 to 60000
    #[arg(long, env = "MEMORY_CHECK_INTERVAL_MS", value_name = "MS", default_value_t = 250, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub memory_check_interval_ms: u64,

    /// Workers of a model, 1 to 256, each with one session and one thread [default: the CPU quota, at most 32, fewer where memory is short]
    #[arg(long, env = "INFERENCE_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub inference_threads: Option<u16>,

    /// Most tokens that are run together, padding counted, 16 to 65536; a longer text runs alone
    #[arg(long, env = "MAX_BATCH_TOKENS", value_name = "TOKENS", default_value_t = 128, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub max_batch_tokens: u32,

    /// Texts that may wait for a worker, 1 to 1000000; of more, those of the client that has most waiting are refused with 429
    #[arg(long, env = "MAX_QUEUE", value_name = "TEXTS", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_queue: u32,

    /// Memory for answers that are kept, in MB, 0 to 65536; 0 keeps none
    #[arg(long, env = "CACHE_MB", value_name = "MB", default_value_t = 8, value_parser = clap::value_parser!(u64).range(0..=65_536))]
    pub cache_mb: u64,

    /// The ONNX Runtime library [default: beside the program, in `lib` of a folder above it, or /usr/local/lib]
    #[arg(long, env = "ONNXRUNTIME_LIBRARY", value_name = "FILE")]
    pub onnxruntime_library: Option<PathBuf>,
}

impl ModelArgs {
    /// The models' folder: the one given, or the first of the usual ones that is there.
    ///
    /// # Errors
    /// Names MODEL_DIR when there is none.
    pub fn model_directory(&self) -> Result<PathBuf, ConfigError> {
        let error = |what| ConfigError { setting: "MODEL_DIR", what };
        if let Some(directory) = &self.model_dir {
            return if directory.is_dir() {
                Ok(directory.clone())
            } else {
                Err(error(format!("{} is not a folder; it must hold one folder a model", directory.display())))
            };
        }
        let program = env::current_exe().unwrap_or_default();
        std::iter::once(Path::new("."))
            .chain(program.ancestors().skip(1))
            .map(|folder| folder.join("onnx"))
            .find(|folder| folder.is_dir())
            .ok_or_else(|| error("no folder named onnx is here, beside the program or above it; set it to the folder that holds the models".to_owned()))
    }

    /// Folder of prepared weights.
    #[must_use]
    pub fn cache_directory(&self) -> PathBuf {
        let from = |variable: &str| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        self.model_cache_dir
            .clone()
            .or_else(|| from("XDG_CACHE_HOME").map(|folder| folder.join("emotion-server")))
            .or_else(|| from("HOME").map(|folder| folder.join(".cache").join("emotion-server")))
            .unwrap_or_else(|| env::temp_dir().join("emotion-server"))
    }

    /// Checks what needs the file system and puts the settings into the residency's terms.
    ///
    /// # Errors
    /// Names the setting whose folder or file is not there.
    pub fn residency_settings(&self) -> Result<ResidencySettings, ConfigError> {
        let directory = self.model_directory()?;
        let model = |setting, name: &String| {
            let folder = directory.join(name);
            if folder.join("config.json").is_file() {
                return Ok((folder, name.clone()));
            }
            Err(ConfigError {
                setting,
                what: format!(
                    "{} has no config.json; models there: {}",
                    folder.display(),
                    models_in(&directory).join(", ")
                ),
            })
        };
        if let Some(library) = self.onnxruntime_library.as_ref().filter(|library| !library.is_file()) {
            let what = format!("{} is not a file; it must be the ONNX Runtime library", library.display());
            return Err(ConfigError { setting: "ONNXRUNTIME_LIBRARY", what });
        }
        if let Some(folder) = self.prepared_dir.as_ref().filter(|folder| !folder.is_dir()) {
            let what = format!("{} is not a folder; it must hold what `prepare` wrote", folder.display());
            return Err(ConfigError { setting: "PREPARED_DIR", what });
        }
        let max_queue = self.max_queue as usize;
        Ok(ResidencySettings {
            // An image that is to use the light model alone need not hold the heavy one.
            heavy: if self.use_light_model {
                (directory.join(&self.heavy_model), self.heavy_model.clone())
            } else {
                model("HEAVY_MODEL", &self.heavy_model)?
            },
            light: model("LIGHT_MODEL", &self.light_model)?,
            precision: self.model_precision,
            use_light_model: self.use_light_model,
            load_timeout: Duration::from_secs(self.model_load_timeout),
            limits: Limits { resident_bytes: self.model_memory_limit.map(|mb| mb * MIB) },
            workers: self.inference_threads.map_or_else(|| cpu_quota().min(MOST_WORKERS), usize::from),
            pool: PoolSettings {
                kept_arena_bytes: TIGHT_ARENA_BYTES,
                max_batch_tokens: self.max_batch_tokens as usize,
                queue: QueueLimits { max_texts: max_queue, max_tokens: max_queue * QUEUED_TOKENS_PER_TEXT },
            },
            prepared: PreparedStore::new(self.cache_directory()).with_shipped(self.prepared_dir.clone()),
            prepare_program: env::current_exe().unwrap_or_else(|_| PathBuf::from("emotion-server")),
            heavy_retry: Duration::from_secs(self.heavy_retry_seconds.min(self.heavy_retry_max_seconds)),
            heavy_retry_max: Duration::from_secs(self.heavy_retry_max_seconds),
            check_interval: Duration::from_millis(self.memory_check_interval_ms),
            idle: (self.model_idle_seconds > 0).then(|| Duration::from_secs(self.model_idle_seconds)),
            onnxruntime_library: self.onnxruntime_library.clone(),
        })
    }
}

/// Settings of the server.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Address to listen on; 0.0.0.0 for all
    #[arg(long, env = "HOST", default_value = "127.0.0.1")]
    pub host: String,

    /// Port to listen on, 0 to 65535; 0 takes a free one
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub port: u16,

    /// Models to load at start rather than by the first request
    #[arg(long, env = "PRELOAD_MODELS", value_enum, default_value = "none")]
    pub preload_models: Preload,

    /// Longest time for an answer in milliseconds, 1 to 3600000; a request may ask for less with X-Request-Timeout-Ms
    #[arg(long, env = "REQUEST_TIMEOUT_MS", value_name = "MS", default_value_t = 90_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub request_timeout_ms: u64,

    /// Largest request body in bytes, 1024 to 1073741824, after decompression
    #[arg(long, env = "MAX_BODY_BYTES", value_name = "BYTES", default_value_t = 2_097_152, value_parser = clap::value_parser!(u64).range(1024..=1_073_741_824))]
    pub max_body_bytes: u64,

    /// Most texts in one request, 1 to 100000
    #[arg(long, env = "MAX_TEXTS", value_name = "TEXTS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_texts: u32,

    /// Seconds that an idle connection is kept open, 1 to 3600; above the idle time of balancers
    #[arg(long, env = "KEEP_ALIVE_SECONDS", value_name = "SECONDS", default_value_t = 75, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub keep_alive_seconds: u64,

    /// Most connections that may be open, 1 to 100000; from 7/8 of them on, each new one closes the one that has waited longest for its client [default: two for each MB of memory, at most 4096]
    #[arg(long, env = "MAX_CONNECTIONS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_connections: Option<u32>,

    /// Seconds in which a request's head must have arrived, 1 to 3600
    #[arg(long, env = "HEADER_TIMEOUT_SECONDS", value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub header_timeout_seconds: u64,

    /// Seconds in which a request's body must have arrived, 1 to 3600
    #[arg(long, env = "BODY_TIMEOUT_SECONDS", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub body_timeout_seconds: u64,

    /// Seconds for which new requests are still answered after a stop was asked for, 0 to 3600: the time that balancers take to notice
    #[arg(long, env = "DRAIN_SECONDS", value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub drain_seconds: u64,

    /// Seconds from the wish to stop to the end, 1 to 3600, DRAIN_SECONDS included; requests that take longer are cut
    #[arg(long, env = "SHUTDOWN_TIMEOUT", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub shutdown_timeout: u64,

    /// Who may ask, and what is written down.
    #[command(flatten)]
    pub guard: GuardArgs,

    /// Settings of the models.
    #[command(flatten)]
    pub models: ModelArgs,
}

impl ServeArgs {
    /// How long requests in flight may take once new ones are no longer answered.
    ///
    /// # Errors
    /// Names DRAIN_SECONDS when it leaves no time.
    pub fn time_to_finish(&self) -> Result<Duration, ConfigError> {
        match self.shutdown_timeout.checked_sub(self.drain_seconds) {
            Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
            _ => Err(ConfigError {
                setting: "DRAIN_SECONDS",
                what: format!("{} must be less than SHUTDOWN_TIMEOUT, {}", self.drain_seconds, self.shutdown_timeout),
            }),
        }
    }
}

/// Threads that serve HTTP: as many as the CPU quota has cores, but a bounded number.
#[must_use]
pub fn http_workers() -> usize {
    cpu_quota().min(MOST_HTTP_WORKERS)
}

/// Names of the folders in `directory` that hold a model.
#[must_use]
pub fn models_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter(|entry| entry.path().join("config.json").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn parse(arguments: &[&str]) -> Result<ServeArgs, String> {
        let arguments = std::iter::once("test").chain(arguments.iter().copied());
        Command::try_parse_from(arguments).map(|command| command.serve).map_err(|error| error.to_string())
    }

    #[test]
    fn a_value_out_of_range_is_refused_by_name_and_with_its_range() {
        for (flag, value, range) in [
            ("--port", "70000", "0..=65535"),
            ("--model-load-timeout", "0", "1..=3600"),
            ("--max-batch-tokens", "8", "16..=65536"),
            ("--memory-check-interval-ms", "1", "10..=60000"),
            ("--model-precision", "int7", "int8, int4"),
            ("--use-light-model", "perhaps", "--use-light-model"),
        ] {
            let error = parse(&[flag, value]).unwrap_err();
            assert!(error.contains(flag) && error.contains(range), "{error}");
        }
    }

    #[test]
    fn the_light_model_flag_needs_no_value() {
        assert!(parse(&["--use-light-model"]).unwrap().models.use_light_model);
        assert!(!parse(&["--use-light-model", "0"]).unwrap().models.use_light_model);
    }

    #[test]
    fn a_drain_that_leaves_no_time_to_finish_is_named() {
        let error = parse(&["--drain-seconds", "30"]).unwrap().time_to_finish().unwrap_err();
        assert_eq!(error.setting, "DRAIN_SECONDS");
        assert_eq!(parse(&["--drain-seconds", "29"]).unwrap().time_to_finish(), Ok(Duration::from_secs(1)));
    }

    #[test]
    fn a_key_file_without_keys_does_not_leave_the_server_open() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let guard = || parse(&["--api-key-file", file.path().to_str().unwrap()]).unwrap().guard.guard(512).map(|_| ());
        assert_eq!(guard().unwrap_err().setting, "API_KEY_FILE");
        std::fs::write(file.path(), "one\n").unwrap();
        assert_eq!(guard(), Ok(()));
    }

    #[test]
    fn a_missing_models_folder_is_named() {
        let error = parse(&["--model-dir", "/nowhere"]).unwrap().models.residency_settings().unwrap_err();
        assert_eq!(error.setting, "MODEL_DIR");
    }

    #[test]
    fn a_missing_folder_of_prepared_weights_is_named() {
        let models = concat!(env!("CARGO_MANIFEST_DIR"), "/onnx");
        let arguments = parse(&["--model-dir", models, "--prepared-dir", "/nowhere"]).unwrap();
        let error = arguments.models.residency_settings().unwrap_err();
        assert_eq!(error.setting, "PREPARED_DIR");
    }

    #[test]
    fn a_model_that_is_not_there_is_named_with_those_that_are() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("ekman")).unwrap();
        std::fs::write(folder.path().join("ekman/config.json"), "{}").unwrap();
        let arguments = parse(&["--model-dir", folder.path().to_str().unwrap()]).unwrap();
        let error = arguments.models.residency_settings().unwrap_err();
        assert_eq!(error.setting, "HEAVY_MODEL");
        assert!(error.what.contains("models there: ekman"), "{error}");
    }
}
