//! Loads one model: checks that it fits, finds or makes its prepared weights, opens its sessions,
//! and asks the probes whether the logits are right.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::{Arc, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::opening::{More, Opened, needed};
use super::slot::{Slot, SlotState, State};
use super::{FallbackReason, ReadyModel, Residency, SHORT_BAR};
use crate::inference::pool::Pool;
use crate::inference::prepared::{self, DAMAGED_EXIT_CODE, Form};
use crate::inference::runtime::{self, RuntimeError};
use crate::inference::session::{LoadStop, SessionError, Weights};
use crate::model::bundle::ActivationCost;
use crate::model::{Bundle, BundleError, Role, TokenizerError};
use crate::panics::MustFinish;

/// Longest time that writing prepared weights may take.
const PREPARE_PATIENCE: Duration = Duration::from_secs(180);

/// Smaller batches than this are slower for each token, and save little.
const LEAST_BATCH_TOKENS: usize = 128;

/// Which part of the load timeout the light model waits for the heavy one's weights to be prepared.
const LIGHT_WAIT_PART: u32 = 4;

/// Why a model was not loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("it needs {needed_mb} MB beside what is held now, and that does not fit")]
    DoesNotFit { needed_mb: u64 },
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(
        "the probe text {text:?} gives a logit that is {difference:.3} away from what it must be ({tolerance:.3} is allowed): the weights are damaged, or this CPU computes them wrongly"
    )]
    Probe { text: String, difference: f32, tolerance: f32 },
    #[error("{}", crate::host::threads::REFUSED)]
    Thread(#[source] std::io::Error),
    #[error("the loader stopped with a panic; this is a defect of the server")]
    Panic,
}

/// Why the child process wrote no prepared weights.
enum NotPrepared {
    /// The bundle's files are not what their hashes say.
    Damaged,
    /// Anything else, which the plain files do not suffer from.
    Because(String),
}

impl Residency {
    /// Enters `loading` and starts the thread that loads; enters `barred` where that is impossible.
    pub(super) fn start_load(self: &Arc<Self>, slot: &Slot, state: &mut SlotState, why: &'static str) {
        let stop = Arc::new(LoadStop::default());
        slot.enter(state, State::Loading(Arc::clone(&stop)), why);
        let residency = Arc::clone(self);
        let role = slot.role;
        let thread = thread::Builder::new().name(format!("load-{role}")).spawn(move || residency.load_now(role, &stop));
        if let Err(error) = thread {
            let chain = chain(&LoadError::Thread(error));
            log::error!("the {role} model {} was not loaded: {chain}", slot.name);
            state.last_error = Some(chain);
            let until = Some(Instant::now() + SHORT_BAR);
            slot.enter(state, State::Barred { until, reason: FallbackReason::LoadFailed }, "load_failed");
        }
    }

    fn load_now(self: Arc<Self>, role: Role, stop: &LoadStop) {
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| self.load_model(role, stop))).unwrap_or(Err(LoadError::Panic));
        // Otherwise the role would stay in `loading`.
        let must = MustFinish("the end of a load");
        let slot = self.slot(role);
        let mut state = slot.lock();
        match result {
            Ok((model, more)) => {
                self.metrics.load(role, model.weights, started.elapsed());
                log::info!(
                    "{role} model {} loaded in {:.2} s: {} {}, {} workers, revision {}",
                    slot.name,
                    started.elapsed().as_secs_f64(),
                    model.weights,
                    model.bundle.precision,
                    model.pool.worker_count(),
                    model.bundle.revision()
                );
                state.last_error = None;
                let model = Arc::new(model);
                let joined = Arc::downgrade(&model);
                slot.enter(&mut state, State::Ready(model), "loaded");
                drop(state);
                drop(must);
                self.open_more(role, &joined, &more);
            }
            Err(error) => {
                super::reclaim::trim();
                let (reason, bar) = match &error {
                    LoadError::DoesNotFit { .. } => (FallbackReason::DoesNotFit, SHORT_BAR),
                    LoadError::Session(SessionError::Stopped) => {
                        (FallbackReason::MemoryLimit, state.next_bar(started.elapsed(), &self.settings))
                    }
                    LoadError::Bundle(_)
                    | LoadError::Runtime(_)
                    | LoadError::Session(_)
                    | LoadError::Tokenizer(_)
                    | LoadError::Probe { .. }
                    | LoadError::Thread(_)
                    | LoadError::Panic => (FallbackReason::LoadFailed, SHORT_BAR),
                };
                self.metrics.load(role, reason.as_str(), started.elapsed());
                let chain = chain(&error);
                log::error!("the {role} model {} was not loaded: {chain}", slot.name);
                state.last_error = Some(chain);
                let until = Some(Instant::now() + bar);
                slot.enter(&mut state, State::Barred { until, reason }, reason.as_str());
                drop(state);
            }
        }
        self.read_memory();
    }

    /// A model that answers, and the sessions that are still to join it.
    fn load_model(self: &Arc<Self>, role: Role, stop: &LoadStop) -> Result<(ReadyModel, More), LoadError> {
        let settings = &self.settings;
        let bundle = Bundle::open(&self.slot(role).directory, settings.precision)?;
        let environment = runtime::environment(settings.onnxruntime_library.as_deref())?;
        let weights = self.choose_weights(role, &bundle, None, stop)?;
        let open = |weights: &Weights| self.open_sessions(environment, role, &bundle, weights, stop);
        let loaded = match open(&weights) {
            // A damaged or outdated prepared file is no reason to fail: make it anew, or do without.
            Err(error) if weights != Weights::Plain && error.may_be_the_files() => {
                log::warn!("the prepared weights of {} cannot be used: {}", bundle.name, chain(&error));
                if let Err(error) = settings.prepared.discard(&bundle) {
                    log::warn!("cannot remove them: {error}");
                }
                let again = self.choose_weights(role, &bundle, Some(&weights), stop)?;
                open(&again).or_else(|error| match again {
                    Weights::Packed(_) | Weights::Prepacked(_) if error.may_be_the_files() => open(&Weights::Plain),
                    Weights::Packed(_) | Weights::Prepacked(_) | Weights::Plain => Err(error),
                })
            }
            result => result,
        };
        let Opened { sessions, count, tokenizer, weights, admitted } = loaded.or_else(|error| {
            // What does not load or gives wrong logits is mostly damaged; the hashes tell which file is.
            if error.may_be_the_files() {
                bundle.verify_hashes()?;
            }
            Err(error)
        })?;
        let activation = if weights == Weights::Plain { bundle.activation_plain } else { bundle.activation };
        let mut pool_settings = settings.pool;
        pool_settings.max_batch_tokens =
            bounded_batch(settings.pool.max_batch_tokens, count, &activation, admitted.left_bytes);
        // Where there is room for twice what all workers may need at once, sessions keep it while they work.
        let arenas_bytes = activation.bytes(1, pool_settings.max_batch_tokens) * count as u64;
        let free_bytes = settings.limits.free_bytes(&self.read_memory().0);
        if admitted.left_bytes.min(free_bytes) / 2 >= arenas_bytes {
            pool_settings.kept_arena_bytes = u64::MAX;
        }
        if pool_settings.max_batch_tokens < settings.pool.max_batch_tokens {
            log::info!(
                "{role} model {}: batches of {} tokens at most, so that its weights stay in memory beside them",
                bundle.name,
                pool_settings.max_batch_tokens
            );
        }
        if let Weights::Prepacked(graph) = &weights
            && let Some((file, plain_from)) = prepared::plain_weights(graph)
            && let Err(error) = super::reclaim::drop_from_page_cache(&file, plain_from)
        {
            log::debug!("{} stays in the page cache: {error}", file.display());
        }
        let bundle = Arc::new(bundle);
        let more = More { bundle: Arc::clone(&bundle), weights, count: count - sessions.len(), _admitted: admitted };
        let pool = Pool::start(
            role,
            sessions,
            activation,
            pool_settings,
            Arc::clone(&self.headroom),
            Arc::clone(&self.metrics),
        )
        .map_err(LoadError::Thread)?;
        let model = ReadyModel::new(bundle, tokenizer, pool, more.weights.as_str());
        Ok((model, more))
    }

    /// Prepared weights that are there; else those that a child process makes now; else none.
    /// Those that were `refused` do not count as there: shipped ones cannot be removed.
    fn choose_weights(
        self: &Arc<Self>,
        role: Role,
        bundle: &Bundle,
        refused: Option<&Weights>,
        stop: &LoadStop,
    ) -> Result<Weights, LoadError> {
        let find = || {
            let found = self.settings.prepared.find(bundle);
            found.filter(|weights| Some(weights) != refused)
        };
        if let Some(weights) = find() {
            return Ok(weights);
        }
        // No time is spent on weights that would not be loaded then.
        let form = Form::of(bundle);
        let need = match form {
            Form::Packed => bundle.memory.packed(),
            Form::Prepacked => bundle.memory.prepared,
        };
        let prepared = if self.admit(role, &needed(bundle, need), 1).is_some() {
            self.prepare_in_child(role, bundle, form, stop)
        } else {
            Err(NotPrepared::Because("the model would not fit with them".to_owned()))
        };
        if stop.is_stopped() {
            return Err(SessionError::Stopped.into());
        }
        let why = match prepared {
            // They may lie where refused ones lay before.
            Ok(()) => return Ok(self.settings.prepared.find(bundle).unwrap_or(Weights::Plain)),
            Err(NotPrepared::Damaged) => {
                bundle.verify_hashes()?;
                "its files seemed damaged".to_owned()
            }
            Err(NotPrepared::Because(why)) => why,
        };
        log::warn!(
            "no prepared weights for {}: {why}; loading its own files without prepacking, which is slower",
            bundle.name
        );
        Ok(Weights::Plain)
    }

    /// Writes the prepared weights in a process of its own: its memory goes back whole, and when it
    /// needs too much it is the one that the kernel ends. The kernel also ends it with the thread that started it,
    /// so that thread waits for it.
    fn prepare_in_child(&self, role: Role, bundle: &Bundle, form: Form, stop: &LoadStop) -> Result<(), NotPrepared> {
        let settings = &self.settings;
        let _alone = self.alone_in_preparing(role)?;
        super::prepare_check::check(settings.prepared.directory(), bundle, form, &self.read_memory().0)
            .map_err(NotPrepared::Because)?;
        let started = Instant::now();
        let mut command = Command::new(&settings.prepare_program);
        command
            .arg("prepare")
            .arg("--bundle")
            .arg(&bundle.directory)
            .args(["--model-precision", settings.precision.as_str()])
            .arg("--model-cache-dir")
            .arg(settings.prepared.directory())
            .arg("--end-with")
            .arg(std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if let Some(library) = &settings.onnxruntime_library {
            command.arg("--onnxruntime-library").arg(library);
        }
        let mut child = command.spawn().map_err(|error| {
            NotPrepared::Because(format!("{} cannot be started: {error}", settings.prepare_program.display()))
        })?;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if started.elapsed() < PREPARE_PATIENCE && !stop.is_stopped() => {
                    thread::sleep(Duration::from_millis(10))
                }
                waited => {
                    let _gone = child.kill();
                    let _reaped = child.wait();
                    return Err(NotPrepared::Because(match waited {
                        Err(error) => format!("the process that writes them cannot be watched: {error}"),
                        Ok(_) if stop.is_stopped() => "memory ran short".to_owned(),
                        Ok(_) => format!("writing them took longer than {} s", PREPARE_PATIENCE.as_secs()),
                    }));
                }
            }
        };
        if status.success() {
            log::info!("prepared weights of {} written in {:.1} s", bundle.name, started.elapsed().as_secs_f64());
            Ok(())
        } else if status.code() == Some(i32::from(DAMAGED_EXIT_CODE)) {
            Err(NotPrepared::Damaged)
        } else {
            Err(NotPrepared::Because(format!("the process that writes them ended with {status}")))
        }
    }

    /// One at a time: two that fit each by itself need not fit together. The light model does not wait
    /// to the end, as it is the one that answers while the heavy one is prepared on a slow machine.
    fn alone_in_preparing(&self, role: Role) -> Result<MutexGuard<'_, ()>, NotPrepared> {
        if role == Role::Heavy {
            return Ok(self.preparing.lock().unwrap_or_else(PoisonError::into_inner));
        }
        let until = Instant::now() + self.settings.load_timeout / LIGHT_WAIT_PART;
        loop {
            match self.preparing.try_lock() {
                Ok(alone) => return Ok(alone),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(Duration::from_millis(10)),
                Err(TryLockError::WouldBlock) => {
                    return Err(NotPrepared::Because("those of the heavy model are still being written".to_owned()));
                }
            }
        }
    }
}

impl LoadError {
    /// Whether other files of the same model might do better.
    fn may_be_the_files(&self) -> bool {
        match self {
            Self::DoesNotFit { .. }
            | Self::Session(SessionError::Stopped | SessionError::NoRoom { .. })
            | Self::Thread(_) => false,
            Self::Bundle(_)
            | Self::Runtime(_)
            | Self::Session(_)
            | Self::Tokenizer(_)
            | Self::Probe { .. }
            | Self::Panic => true,
        }
    }
}

/// Most tokens of a batch where memory is tight: activations of all workers together take at most
/// twice what is left beside the weights, since texts read a part of the embeddings only.
fn bounded_batch(wanted: usize, workers: usize, activation: &ActivationCost, left_bytes: u64) -> usize {
    let mut tokens = wanted;
    while tokens / 2 >= LEAST_BATCH_TOKENS
        && activation.bytes(1, tokens).saturating_mul(workers as u64) / 2 > left_bytes
    {
        tokens /= 2;
    }
    tokens
}

/// The error with all its sources, for the log.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
