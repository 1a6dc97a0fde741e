//! Prepared weights: a graph whose weights lie as runs read them, written to disk once.
//!
//! ONNX Runtime repacks weights for the instruction set it finds, into anonymous memory that cannot
//! be given back. Weights that are already packed on disk are mapped instead: all sessions share
//! their pages and the kernel may take them back at any time. There are two forms of them.
//!
//! Packed: our own layers in the graph, see [`crate::graph`]. One model's files fit every processor
//! that has a fast kernel, and every version of ONNX Runtime.
//!
//! Prepacked: the graph as ONNX Runtime saves it after it repacked the weights, for what cannot be
//! packed. The files fit one version of ONNX Runtime and one instruction set, so both are in their
//! folder's name.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use emotion_kernels::InstructionSet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::layout::set_plain_apart;
use super::runtime::{self, LIBRARY_VERSION, RuntimeError};
use super::session::{SessionError, Weights, save_prepacked};
use crate::graph::GraphError;
use crate::graph::pack::Plan;
use crate::model::{Bundle, BundleError};

const GRAPH: &str = "model.onnx";
const WEIGHTS: &str = "model.bin";
const COMPLETE: &str = "complete.json";

/// Largest file of that name that is read.
const MAX_COMPLETE_BYTES: u64 = 64 << 10;

/// What `prepare` ends with when the bundle's files are damaged (`EX_DATAERR` of sysexits.h): who
/// started it must not load them in another way.
pub const DAMAGED_EXIT_CODE: u8 = 65;

/// How long a process waits for another one that writes the same folder.
const LOCK_PATIENCE: Duration = Duration::from_secs(120);

/// Why weights were not prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The cache directory cannot be written.
    #[error("cannot write prepared weights to {path}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process holds the lock for too long.
    #[error("another process has been writing {path} for more than {} s", LOCK_PATIENCE.as_secs())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The bundle is damaged.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The packed graph cannot be written.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// ONNX Runtime cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// ONNX Runtime cannot load or save the graph.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// How weights are prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Layers of our own, packed without ONNX Runtime.
    Packed,
    /// As ONNX Runtime saves them.
    Prepacked,
}

impl Form {
    /// The form that a bundle's weights are prepared in on this processor.
    #[must_use]
    pub fn of(bundle: &Bundle) -> Self {
        if plan(bundle).is_some() { Self::Packed } else { Self::Prepacked }
    }

    fn folder_name(self, bundle: &Bundle) -> String {
        let (name, precision, revision) = (safe_name(&bundle.name), bundle.precision, bundle.revision());
        match self {
            Self::Packed => format!("{name}-{precision}-{revision}-packed1"),
            Self::Prepacked => {
                format!("{name}-{precision}-{revision}-prepacked1-ort{LIBRARY_VERSION}-{}", instruction_set())
            }
        }
    }

    fn weights(self, graph: PathBuf) -> Weights {
        match self {
            Self::Packed => Weights::Packed(graph),
            Self::Prepacked => Weights::Prepacked(graph),
        }
    }
}

/// What a finished folder holds.
#[derive(Debug, Serialize, Deserialize)]
struct Complete {
    /// File names and lengths in bytes.
    files: BTreeMap<String, u64>,
    /// Offset in the weights file from which bytes are read only while loading.
    plain_from: Option<u64>,
}

/// Prepared weights of all models: a folder that is written to, and maybe one that came with the program.
#[derive(Debug, Clone)]
pub struct PreparedStore {
    directory: PathBuf,
    shipped: Option<PathBuf>,
}

impl PreparedStore {
    /// A store in `directory`, which is made when it is first written to.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, shipped: None }
    }

    /// Looks in `shipped` too, for what was prepared ahead of time; it is only read. A container image
    /// holds such a folder, and cannot write to it when it meets a processor that it was not made for.
    #[must_use]
    pub fn with_shipped(self, shipped: Option<PathBuf>) -> Self {
        Self { shipped, ..self }
    }

    /// The folder that is written to.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The prepared weights of this bundle, when they are there and whole. What was written here comes
    /// before what was shipped: it is written only where that is missing or does not load.
    #[must_use]
    pub fn find(&self, bundle: &Bundle) -> Option<Weights> {
        let forms = [Form::Packed, Form::Prepacked].into_iter();
        forms.filter(|form| *form != Form::Packed || InstructionSet::best().is_fast()).find_map(|form| {
            let name = form.folder_name(bundle);
            let places = [Some(&self.directory), self.shipped.as_ref()].into_iter().flatten();
            let graph = places.map(|place| place.join(&name)).find_map(|folder| whole(&folder))?;
            Some(form.weights(graph))
        })
    }

    /// Writes the prepared form of the bundle in this process. Another process that does the same at
    /// this moment is waited for. Hashes are checked first. ONNX Runtime is loaded from `library`, or
    /// from the usual places, only where it is needed.
    ///
    /// # Errors
    /// [`PrepareError`]; nothing half written is left under the final name.
    pub fn write(&self, library: Option<&Path>, bundle: &Bundle) -> Result<Weights, PrepareError> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source| PrepareError::Write { path, source }
        };
        fs::create_dir_all(&self.directory).map_err(failed(&self.directory))?;
        let plan = plan(bundle);
        let form = if plan.is_some() { Form::Packed } else { Form::Prepacked };
        let folder = self.directory.join(form.folder_name(bundle));
        let lock_path = beside(&folder, "lock");
        let lock = File::create(&lock_path).map_err(failed(&lock_path))?;
        wait_for_lock(&lock, &folder)?;
        if let Some(graph) = whole(&folder) {
            return Ok(form.weights(graph));
        }
        bundle.verify_hashes()?;
        let unfinished = beside(&folder, "unfinished");
        remove_folder(&unfinished).map_err(failed(&unfinished))?;
        remove_folder(&folder).map_err(failed(&folder))?;
        fs::create_dir(&unfinished).map_err(failed(&unfinished))?;
        let graph = unfinished.join(GRAPH);
        let written = match plan {
            Some(plan) => plan.write(&graph, &unfinished.join(WEIGHTS)).map(|()| None).map_err(PrepareError::from),
            None => prepack(library, bundle, &graph),
        };
        let written = written
            .and_then(|plain_from| seal(&unfinished, plain_from).map_err(failed(&unfinished)))
            .and_then(|()| fs::rename(&unfinished, &folder).map_err(failed(&folder)));
        if let Err(error) = written {
            if let Err(left) = remove_folder(&unfinished) {
                log::warn!("cannot remove {}: {left}", unfinished.display());
            }
            return Err(error);
        }
        Ok(form.weights(folder.join(GRAPH)))
    }

    /// Removes the bundle's prepared form from the folder that is written to.
    ///
    /// # Errors
    /// What the system says.
    pub fn discard(&self, bundle: &Bundle) -> io::Result<()> {
        [Form::Packed, Form::Prepacked]
            .into_iter()
            .try_for_each(|form| remove_folder(&self.directory.join(form.folder_name(bundle))))
    }
}

/// How the bundle's graph is packed, where that is possible and this processor has a fast kernel for it.
fn plan(bundle: &Bundle) -> Option<Plan> {
    if !InstructionSet::best().is_fast() {
        return None;
    }
    Plan::of(&bundle.graph).unwrap_or_else(|error| {
        log::debug!("{} cannot be packed: {error}", bundle.name);
        None
    })
}

/// Lets ONNX Runtime save the graph, and puts what runs read together. Returns where the rest begins.
fn prepack(library: Option<&Path>, bundle: &Bundle, graph: &Path) -> Result<Option<u64>, PrepareError> {
    save_prepacked(runtime::environment(library)?, bundle, graph)?;
    // A graph of another form is used as ONNX Runtime wrote it.
    Ok(set_plain_apart(graph, &graph.with_file_name(WEIGHTS))
        .inspect_err(|error| {
            log::warn!("the prepared weights of {} stay as ONNX Runtime lays them out: {error}", bundle.name)
        })
        .ok())
}

/// The weights file of a prepared graph, and the offset from which bytes are read only while loading.
#[must_use]
pub fn plain_weights(graph: &Path) -> Option<(PathBuf, u64)> {
    let folder = graph.parent()?;
    Some((folder.join(WEIGHTS), complete(folder)?.plain_from?))
}

/// The graph of a finished folder whose files have the lengths that they had.
fn whole(folder: &Path) -> Option<PathBuf> {
    let complete = complete(folder)?;
    for (name, bytes) in &complete.files {
        let found = fs::metadata(folder.join(name)).map_or(0, |metadata| metadata.len());
        if found != *bytes {
            log::warn!(
                "prepared weights {} have {found} bytes instead of {bytes}; preparing again",
                folder.join(name).display()
            );
            return None;
        }
    }
    Some(folder.join(GRAPH))
}

/// The folder's name with an ending, in the same place.
fn beside(folder: &Path, ending: &str) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_os_string();
    name.push(".");
    name.push(ending);
    folder.with_file_name(name)
}

/// Waits until this process holds the lock; it is let go when the file is closed, also by a crash.
fn wait_for_lock(lock: &File, folder: &Path) -> Result<(), PrepareError> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(Duration::from_millis(50)),
            Err(TryLockError::WouldBlock) => return Err(PrepareError::Locked { path: folder.to_path_buf() }),
            Err(TryLockError::Error(source)) => return Err(PrepareError::Write { path: folder.to_path_buf(), source }),
        }
    }
}

fn complete(folder: &Path) -> Option<Complete> {
    let path = folder.join(COMPLETE);
    // A pipe would never end, a device perhaps neither.
    if !fs::metadata(&path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_COMPLETE_BYTES).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Flushes every file to the disk and writes down their lengths.
fn seal(folder: &Path, plain_from: Option<u64>) -> io::Result<()> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        File::open(entry.path())?.sync_all()?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len());
    }
    let path = folder.join(COMPLETE);
    fs::write(&path, serde_json::to_vec_pretty(&Complete { files, plain_from })?)?;
    File::open(&path)?.sync_all()
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn safe_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

/// Short name of the vector extensions that decide how weights are packed.
fn instruction_set() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpu.lines().find(|line| line.starts_with("flags") || line.starts_with("Features")).unwrap_or_default();
    let mut vector: Vec<_> = flags
        .split_whitespace()
        .filter(|flag| ["avx", "amx", "fma", "asimd", "sve", "i8mm", "bf16"].iter().any(|kind| flag.starts_with(kind)))
        .collect();
    vector.sort_unstable();
    let hash = Sha256::digest(vector.join(" "));
    format!("{}-{:02x}{:02x}{:02x}{:02x}", std::env::consts::ARCH, hash[0], hash[1], hash[2], hash[3])
}
