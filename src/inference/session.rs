//! One ONNX Runtime session with one intra-op thread, and the tensors that go in and out of it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ndarray::{Array2, Axis, s};
use ort::environment::Environment;
use ort::session::builder::{GraphOptimizationLevel, LoadCanceler, SessionBuilder};
use ort::session::{RunOptions, Session, SessionInputValue};
use ort::value::Tensor;

use super::batch::Padding;
use super::linear_operator;
use crate::model::{Bundle, Encoding, Precision};

/// Key in the graph's metadata that says that its padding takes part in nothing but attention.
const PADDING_FREE: &str = "padding_free";

/// Where a session's weights come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weights {
    /// The packed form written by [`super::prepared`]; all sessions map the same pages.
    Packed(PathBuf),
    /// The prepacked form written by [`super::prepared`]; all sessions map the same pages.
    Prepacked(PathBuf),
    /// The bundle's own files without prepacking: slower, but nothing has to be written.
    Plain,
}

impl Weights {
    /// The way of loading as it is named in logs and metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Packed(_) | Self::Prepacked(_) => "prepared",
            Self::Plain => "plain",
        }
    }

    /// The graph's file.
    #[must_use]
    pub fn graph<'a>(&'a self, bundle: &'a Bundle) -> &'a Path {
        match self {
            Self::Packed(path) | Self::Prepacked(path) => path,
            Self::Plain => &bundle.graph,
        }
    }
}

/// Why a session could not be made or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// ONNX Runtime refused the graph.
    #[error("ONNX Runtime cannot load {path}: {message}")]
    Load {
        /// The graph's file.
        path: PathBuf,
        /// What ONNX Runtime said.
        message: String,
    },
    /// The system refused what the graph needs.
    #[error(
        "the system gives no more room for {path}: {message}; \
         `ulimit -v`, `ulimit -n` or vm.max_map_count is too low, or memory is short"
    )]
    NoRoom {
        /// The graph's file.
        path: PathBuf,
        /// What ONNX Runtime said.
        message: String,
    },
    /// The graph is not one of a text classifier with this bundle's labels.
    #[error("{path} is not the graph of this model: {what}")]
    Foreign {
        /// The graph's file.
        path: PathBuf,
        /// What is wrong and what would be right.
        what: String,
    },
    /// A run failed.
    #[error("a run of {path} failed: {message}")]
    Run {
        /// The graph's file.
        path: PathBuf,
        /// What ONNX Runtime said.
        message: String,
    },
    /// A load was stopped from outside.
    #[error("the load was stopped because memory ran short")]
    Stopped,
    /// A run was ended from outside.
    #[error("the run was ended because its model is being unloaded")]
    Terminated,
}

/// Stops a load of several sessions from another thread.
#[derive(Debug, Default)]
pub struct LoadStop {
    stopped: AtomicBool,
    /// Of all sessions that were begun; those that are open are left alone.
    begun: Mutex<Vec<LoadCanceler>>,
}

impl LoadStop {
    /// Stops the sessions that are being loaded, and all that follow.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        for error in begun.iter().filter_map(|session| session.cancel().err()) {
            log::warn!("a load could not be stopped: {}", error.message());
        }
    }

    /// Whether the load has to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// A load that `stop` will cancel from now on.
    fn watch(&self, canceler: LoadCanceler) -> Result<(), SessionError> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).push(canceler);
        if self.is_stopped() { Err(SessionError::Stopped) } else { Ok(()) }
    }
}

#[derive(Debug, Clone, Copy)]
enum Input {
    Ids,
    Mask,
    TypeIds,
}

impl Input {
    fn name(self) -> &'static str {
        match self {
            Self::Ids => "input_ids",
            Self::Mask => "attention_mask",
            Self::TypeIds => "token_type_ids",
        }
    }
}

/// A loaded graph that one thread runs.
pub struct InferenceSession {
    session: Session,
    graph: PathBuf,
    inputs: Vec<Input>,
    output: String,
    labels: usize,
    pad_token_id: i64,
    padding: Padding,
    least_rows: usize,
    run: Arc<RunOptions>,
    run_and_shrink: Arc<RunOptions>,
}

/// Ends the run that a session is in, from another thread.
#[derive(Clone)]
pub struct Terminator([Arc<RunOptions>; 2]);

impl Terminator {
    /// Ends the run in flight, if there is one, at its next kernel.
    pub fn terminate(&self) {
        for options in &self.0 {
            if let Err(error) = options.terminate() {
                log::warn!("a run could not be ended: {}", error.message());
            }
        }
    }
}

impl InferenceSession {
    /// Loads the bundle's graph and checks its inputs and outputs.
    ///
    /// # Errors
    /// [`SessionError::Load`] when ONNX Runtime refuses the file, [`SessionError::Foreign`] when it
    /// is another kind of model, [`SessionError::Stopped`] when `stop` said so.
    pub fn load(
        environment: &Environment,
        bundle: &Bundle,
        weights: &Weights,
        stop: &LoadStop,
    ) -> Result<Self, SessionError> {
        let graph = weights.graph(bundle).to_path_buf();
        let load_error = |error: ort::Error| load_error(&graph, &error);
        let mut builder = builder(environment, weights).map_err(load_error)?;
        stop.watch(builder.canceler())?;
        let session = match builder.commit_from_file(&graph) {
            Err(_) if stop.is_stopped() => return Err(SessionError::Stopped),
            result => result.map_err(load_error)?,
        };
        let shrinking = || -> ort::Result<RunOptions> {
            let mut options = RunOptions::new()?;
            options.set("memory.enable_memory_arena_shrinkage", "cpu:0")?;
            Ok(options)
        };
        let inputs = known_inputs(&session, &graph)?;
        let left_out = session.metadata().is_ok_and(|metadata| metadata.custom(PADDING_FREE).is_some());
        let output = logits_output(&session, &graph, bundle.labels.len())?;
        let padding = if left_out { Padding::LeftOut } else { Padding::Computed };
        Ok(Self {
            inputs,
            output,
            labels: bundle.labels.len(),
            pad_token_id: bundle.pad_token_id,
            padding,
            least_rows: least_rows(bundle.precision, padding),
            run: Arc::new(RunOptions::new().map_err(load_error)?),
            run_and_shrink: Arc::new(shrinking().map_err(load_error)?),
            session,
            graph,
        })
    }

    /// What the graph does with padding.
    #[must_use]
    pub fn padding(&self) -> Padding {
        self.padding
    }

    /// Rows that a run computes at least, however few texts it is given.
    #[must_use]
    pub fn least_rows(&self) -> usize {
        self.least_rows
    }

    /// A handle that ends this session's runs from another thread.
    #[must_use]
    pub fn terminator(&self) -> Terminator {
        Terminator([Arc::clone(&self.run), Arc::clone(&self.run_and_shrink)])
    }

    /// Gives back the memory that earlier runs needed. ONNX Runtime does that at the end of a run
    /// only, so this is the shortest run there is: one token.
    ///
    /// # Errors
    /// Those of [`Self::run`].
    pub fn give_arena_back(&mut self) -> Result<(), SessionError> {
        self.run(&[&Encoding { input_ids: [0].into(), type_ids: [].into() }], true).map(drop)
    }

    /// Logits of shape `[batch, labels]`. The batch is padded on the right to its longest text;
    /// with `shrink_arena` the memory that the run needed is given back after it.
    ///
    /// # Errors
    /// [`SessionError::Run`]; [`SessionError::Foreign`] when the logits are not of that shape or
    /// not finite; [`SessionError::Terminated`].
    pub fn run(&mut self, batch: &[&Encoding], shrink_arena: bool) -> Result<Array2<f32>, SessionError> {
        if let [only] = batch
            && self.least_rows > 1
        {
            let company = Encoding { input_ids: only.input_ids.iter().copied().take(1).collect(), type_ids: [].into() };
            return Ok(self.run_all(&[*only, &company], shrink_arena)?.slice_move(s![..1, ..]));
        }
        self.run_all(batch, shrink_arena)
    }

    fn run_all(&mut self, batch: &[&Encoding], shrink_arena: bool) -> Result<Array2<f32>, SessionError> {
        let length = batch.iter().map(|encoding| encoding.len()).max().unwrap_or(0);
        let graph = &self.graph;
        let run_error = |error: ort::Error| {
            if error.message().contains("terminate flag") {
                SessionError::Terminated
            } else {
                SessionError::Run { path: graph.clone(), message: first_line(&error) }
            }
        };
        let mut values = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let tensor = padded(*input, batch, length, self.pad_token_id);
            let value = Tensor::from_array(tensor).map_err(run_error)?;
            values.push((input.name(), SessionInputValue::from(value)));
        }
        let options = if shrink_arena { &self.run_and_shrink } else { &self.run };
        let outputs = self.session.run_with_options(values, options).map_err(run_error)?;
        let logits = outputs[self.output.as_str()].try_extract_array::<f32>().map_err(run_error)?;
        let shape = logits.shape().to_vec();
        if shape != [batch.len(), self.labels] {
            return Err(SessionError::Foreign {
                path: self.graph.clone(),
                what: format!("its logits have the shape {shape:?}, but config.json names {} labels", self.labels),
            });
        }
        if logits.iter().any(|logit| !logit.is_finite()) {
            return Err(SessionError::Run {
                path: self.graph.clone(),
                message: "a logit is not a finite number".to_owned(),
            });
        }
        logits.into_dimensionality().map_or_else(
            |error| Err(SessionError::Run { path: self.graph.clone(), message: error.to_string() }),
            |logits| Ok(logits.to_owned()),
        )
    }
}

/// Options that every session shares. ONNX Runtime does not read CPU quotas: one thread a session,
/// as many sessions as the quota has cores, and none of them spins.
fn builder(environment: &Environment, weights: &Weights) -> ort::Result<SessionBuilder> {
    let builder = exact_products(Session::builder(environment)?)?
        .with_intra_threads(1)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        .with_memory_pattern(false)?
        .with_operators(linear_operator::domain()?)?;
    Ok(match weights {
        // The few products that are left unpacked are faster prepacked.
        Weights::Packed(_) => builder,
        // The prepacked graph is already optimized: doing it again finds nothing more to do.
        Weights::Prepacked(_) => builder.with_optimization_level(GraphOptimizationLevel::Disable)?,
        Weights::Plain => builder.with_prepacking(false)?,
    })
}

/// Without VNNI the fast 8-bit product adds pairs in 16 bits, which can overflow: the light model's
/// logits were up to 0.14 off that way, and 0.036 with the exact product.
fn exact_products(builder: SessionBuilder) -> ort::Result<SessionBuilder> {
    if cfg!(target_arch = "x86_64") && !has_vnni() { Ok(builder.with_precise_qmm()?) } else { Ok(builder) }
}

/// Without VNNI a 4-bit product of one row sums in another order than one of several, and the last
/// layer reads one row a text: a text that is alone gets one token for company, so that its logits are
/// the same bits as in any batch. Where padding is left out, that costs one token, and attention over
/// a second row. Graphs that compute padding have as many rows as tokens.
fn least_rows(precision: Precision, padding: Padding) -> usize {
    if precision == Precision::Int4 && padding == Padding::LeftOut && !has_vnni() { 2 } else { 1 }
}

fn has_vnni() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Loads the graph with prepacking and saves the result, weights apart, at `path`.
///
/// # Errors
/// [`SessionError::Load`] when ONNX Runtime cannot load or write.
pub fn save_prepacked(environment: &Environment, bundle: &Bundle, path: &Path) -> Result<(), SessionError> {
    let weights_file = path.with_extension("bin").file_name().unwrap_or_default().to_string_lossy().into_owned();
    let save = || -> ort::Result<Session> {
        exact_products(Session::builder(environment)?)?
            .with_intra_threads(1)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_optimized_model_path(path)?
            .with_config_entry("session.optimized_model_external_initializers_file_name", weights_file)?
            .with_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")?
            .with_config_entry("session.save_external_prepacked_constant_initializers", "1")?
            .commit_from_file(&bundle.graph)
    };
    match save() {
        Ok(_) => Ok(()),
        Err(error) => Err(load_error(&bundle.graph, &error)),
    }
}

/// What the system says, or the C++ library, where there are no more mappings, memory, threads or files.
const NO_ROOM: [&str; 4] =
    ["bad_alloc", "Cannot allocate memory", "Resource temporarily unavailable", "Too many open files"];

fn load_error(graph: &Path, error: &ort::Error) -> SessionError {
    let (path, message) = (graph.to_path_buf(), first_line(error));
    if NO_ROOM.iter().any(|words| message.contains(words)) {
        SessionError::NoRoom { path, message }
    } else {
        SessionError::Load { path, message }
    }
}

fn known_inputs(session: &Session, graph: &Path) -> Result<Vec<Input>, SessionError> {
    let inputs = session
        .inputs()
        .iter()
        .map(|input| match input.name() {
            "input_ids" => Ok(Input::Ids),
            "attention_mask" => Ok(Input::Mask),
            "token_type_ids" => Ok(Input::TypeIds),
            other => Err(SessionError::Foreign {
                path: graph.to_path_buf(),
                what: format!(
                    "it wants the input {other:?}; a text classifier has input_ids, attention_mask and token_type_ids"
                ),
            }),
        })
        .collect::<Result<Vec<_>, _>>()?;
    if !inputs.iter().any(|input| matches!(input, Input::Ids)) {
        return Err(SessionError::Foreign {
            path: graph.to_path_buf(),
            what: "it has no input named input_ids".to_owned(),
        });
    }
    Ok(inputs)
}

fn logits_output(session: &Session, graph: &Path, labels: usize) -> Result<String, SessionError> {
    let Some(output) = session.outputs().iter().find(|output| output.name() == "logits") else {
        let found: Vec<_> = session.outputs().iter().map(|output| output.name().to_owned()).collect();
        return Err(SessionError::Foreign {
            path: graph.to_path_buf(),
            what: format!("it has no output named logits, only {}", found.join(", ")),
        });
    };
    let width = output.dtype().tensor_shape().and_then(|shape| shape.last().copied());
    if let Some(width) = width.filter(|width| *width > 0 && usize::try_from(*width) != Ok(labels)) {
        return Err(SessionError::Foreign {
            path: graph.to_path_buf(),
            what: format!("its logits are {width} wide, but config.json names {labels} labels"),
        });
    }
    Ok(output.name().to_owned())
}

fn padded(input: Input, batch: &[&Encoding], length: usize, pad_token_id: i64) -> Array2<i64> {
    let fill = if matches!(input, Input::Ids) { pad_token_id } else { 0 };
    let mut tensor = Array2::from_elem((batch.len(), length), fill);
    for (mut row, encoding) in tensor.axis_iter_mut(Axis(0)).zip(batch) {
        match input {
            Input::Ids => row.iter_mut().zip(&encoding.input_ids).for_each(|(cell, id)| *cell = i64::from(*id)),
            Input::Mask => row.iter_mut().take(encoding.len()).for_each(|cell| *cell = 1),
            Input::TypeIds => row.iter_mut().zip(&encoding.type_ids).for_each(|(cell, id)| *cell = i64::from(*id)),
        }
    }
    tensor
}

fn first_line(error: &ort::Error) -> String {
    error.message().lines().next().unwrap_or("no message").to_owned()
}
