//! The ONNX Runtime library: found, loaded once, with its log lines going to ours.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;

/// File name of the version that this server is built for.
pub const LIBRARY_FILE: &str = "libonnxruntime.so.1.32.0";

/// Version of ONNX Runtime that prepared weights are keyed by.
pub const LIBRARY_VERSION: &str = "1.32.0";

/// Why ONNX Runtime cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// It is in none of the usual places.
    #[error(
        "the ONNX Runtime library {LIBRARY_FILE} was found in none of these: {looked_in}; \
         run `make setup`, or set ONNXRUNTIME_LIBRARY to its path"
    )]
    NotFound {
        /// Folders, comma separated.
        looked_in: String,
    },
    /// The file is there but cannot be loaded.
    #[error("cannot load the ONNX Runtime library {path}: {what}")]
    Load {
        /// The file.
        path: PathBuf,
        /// What the loader said.
        what: String,
    },
}

static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

/// The process's one ONNX Runtime environment; loads the library at the first call, from
/// `explicit` or from the usual places.
///
/// # Errors
/// [`RuntimeError`] when the library is not found or not usable; a later call tries again.
pub fn environment(explicit: Option<&Path>) -> Result<&'static Environment, RuntimeError> {
    // The lock guards no data: it only keeps two threads from starting the library twice.
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = ENVIRONMENT.get() {
        return Ok(environment);
    }
    let path = match explicit {
        Some(path) => path.to_path_buf(),
        None => find_library()?,
    };
    let failed = |what: String| RuntimeError::Load { path: path.clone(), what };
    let environment = ort::init_from(&path)
        .map_err(|error| failed(error.to_string()))?
        .with_name("emotion-server")
        .with_telemetry(false)
        .with_logger(Arc::new(log_line))
        .build()
        .map_err(|error| failed(error.to_string()))?;
    Ok(ENVIRONMENT.get_or_init(|| environment))
}

fn log_line(level: LogLevel, _category: &str, _id: &str, location: &str, message: &str) {
    let level = match level {
        LogLevel::Verbose => log::Level::Trace,
        LogLevel::Info => log::Level::Debug,
        LogLevel::Warning => log::Level::Debug,
        LogLevel::Error | LogLevel::Fatal => log::Level::Warn,
    };
    log::log!(target: "onnxruntime", level, "{message} ({location})");
}

/// Next to the program, in `lib` of any folder above it, or where system libraries are.
fn find_library() -> Result<PathBuf, RuntimeError> {
    let mut folders = Vec::new();
    if let Ok(program) = env::current_exe() {
        for (height, folder) in program.ancestors().skip(1).enumerate() {
            if height == 0 {
                folders.push(folder.to_path_buf());
            }
            folders.push(folder.join("lib"));
        }
    }
    folders.extend(["/usr/local/lib", "/usr/lib"].map(PathBuf::from));
    folders.iter().map(|folder| folder.join(LIBRARY_FILE)).find(|path| path.is_file()).ok_or_else(|| {
        RuntimeError::NotFound {
            looked_in: folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", "),
        }
    })
}
