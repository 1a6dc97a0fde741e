//! The one door between the wire and the models: a query goes in, one answer a text comes out.

mod query;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::cache::{CacheKey, Flight, LogitsCache, Lookup};
use crate::inference::queue::{InferenceError, Inferred, Job};
use crate::logging::TEXTS_TARGET;
use crate::metrics::Metrics;
use crate::model::tokenizer::EncodedText;
use crate::model::{Encoding, LongText, Role, TokenizerError, TruncationSide};
use crate::residency::{FallbackReason, Lease, ReadyModel, Residency, Unavailable, Wanted};
pub use query::{Answer, ClassifyError, ModelInfo, Query, TextInput, Timing};

/// Texts that are tokenized in one go before another request gets its turn.
const TOKENIZED_AT_ONCE: usize = 16;

/// Bytes of text up to which a request is tokenized where it is: that takes less time than another
/// thread needs to wake up.
const TOKENIZED_AT_ONCE_BYTES: usize = 512;

/// How often a text is sent on when its model is unloaded under it.
const MOST_MOVES: usize = 4;

/// Answers queries.
#[derive(Clone)]
pub struct Classifier {
    residency: Arc<Residency>,
    cache: Arc<LogitsCache>,
    metrics: Arc<Metrics>,
}

/// A window that waits for its logits, or has them.
struct Window {
    key: CacheKey,
    logits: Result<Arc<[f32]>, InferenceError>,
    from_cache: bool,
    queue: Duration,
    inference: Duration,
}

impl Classifier {
    /// A classifier over the models that `residency` keeps.
    #[must_use]
    pub fn new(residency: Arc<Residency>, cache: Arc<LogitsCache>, metrics: Arc<Metrics>) -> Self {
        Self { residency, cache, metrics }
    }

    /// The models behind this classifier.
    #[must_use]
    pub fn residency(&self) -> &Arc<Residency> {
        &self.residency
    }

    /// Bytes of all answers that are kept.
    #[must_use]
    pub fn cache_bytes(&self) -> u64 {
        self.cache.bytes()
    }

    /// One answer a text, in order. All windows of a text are answered by the same model; texts of
    /// one query may be answered by different ones when a model goes in between.
    ///
    /// # Errors
    /// [`ClassifyError`]: the first that stands in the way of a full reply.
    pub async fn classify(&self, query: Query) -> Result<Vec<Answer>, ClassifyError> {
        for text in &query.texts {
            // Silent unless LOG_TEXTS is set; quoted, so that a text cannot feign a line.
            log::info!(target: TEXTS_TARGET, "{text:?}");
        }
        let mut answers: Vec<Option<Answer>> = query.texts.iter().map(|_| None).collect();
        let mut wanted = query.wanted;
        let mut forced = None;
        for _ in 0..MOST_MOVES {
            let open: Vec<usize> = (0..answers.len()).filter(|index| answers[*index].is_none()).collect();
            if open.is_empty() {
                break;
            }
            let mut lease = self.residency.acquire(wanted, query.deadline).await.map_err(|unavailable| {
                if Instant::now() >= query.deadline { ClassifyError::DeadlinePassed } else { unavailable.into() }
            })?;
            lease.fallback = lease.fallback.or(forced);
            let found_no_memory = self.answer_with(&lease, &query, &open, &mut answers).await?;
            if found_no_memory {
                if lease.role == Role::Light || matches!(wanted, Wanted::Heavy { strict: true }) {
                    return Err(ClassifyError::Unavailable(Unavailable {
                        what: "there is not enough memory for a run of this text now".to_owned(),
                        retry_after: Duration::from_secs(2),
                    }));
                }
                (wanted, forced) = (Wanted::Light, Some(FallbackReason::MemoryLimit));
            }
        }
        // Each round that leaves a text open means that a model was unloaded under it.
        answers.into_iter().collect::<Option<Vec<_>>>().ok_or_else(|| {
            ClassifyError::Unavailable(Unavailable {
                what: "models are being unloaded faster than they answer; try again shortly".to_owned(),
                retry_after: Duration::from_secs(5),
            })
        })
    }

    /// Answers the open texts with one model. Texts that it did not get to stay open; tells whether
    /// that was for want of memory.
    async fn answer_with(
        &self,
        lease: &Lease,
        query: &Query,
        open: &[usize],
        answers: &mut [Option<Answer>],
    ) -> Result<bool, ClassifyError> {
        let started = Instant::now();
        let encoded = self.tokenize(lease, query, open).await?;
        let tokenization = started.elapsed();
        self.metrics.tokenized(lease.role, tokenization);
        let mut windows = Vec::new();
        let mut of_text = Vec::new();
        for (index, text) in open.iter().zip(encoded) {
            let first = windows.len();
            windows.extend(text.windows);
            of_text.push((*index, first..windows.len(), text.truncated));
        }
        let windows = self.infer(lease, windows, query.deadline).await?;
        let bundle = &lease.model.bundle;
        let model = ModelInfo {
            name: self.residency.name_of(lease.role).into(),
            role: lease.role,
            precision: bundle.precision.as_str(),
            revision: bundle.revision().into(),
        };
        let thresholds: Arc<[f32]> = bundle.thresholds.as_slice().into();
        let mut no_memory = false;
        for (index, range, truncated) in of_text {
            let mine = &windows[range];
            let failure = mine.iter().find_map(|window| window.logits.as_ref().err());
            match failure {
                None => {}
                Some(InferenceError::Evicted) => continue,
                Some(InferenceError::NoMemory) => {
                    no_memory = true;
                    continue;
                }
                Some(InferenceError::DeadlinePassed) => return Err(ClassifyError::DeadlinePassed),
                Some(InferenceError::QueueFull { retry_after }) => {
                    return Err(ClassifyError::QueueFull { retry_after: *retry_after });
                }
                Some(InferenceError::Failed) => return Err(ClassifyError::Internal),
            }
            if let Some(reason) = lease.fallback {
                self.metrics.fallback(reason.as_str());
            }
            answers[index] = Some(Answer {
                labels: Arc::clone(&bundle.labels),
                windows: mine
                    .iter()
                    .filter_map(|window| Some((window.logits.clone().ok()?, window.key.encoding().len())))
                    .collect(),
                activation: bundle.activation_function(),
                thresholds: Arc::clone(&thresholds),
                model: model.clone(),
                fallback: lease.fallback,
                truncated,
                tokens: mine.iter().map(|window| window.key.encoding().len()).sum(),
                cached: mine.iter().all(|window| window.from_cache),
                timing: Timing {
                    tokenization,
                    queue: mine.iter().map(|window| window.queue).max().unwrap_or_default(),
                    inference: mine.iter().map(|window| window.inference).max().unwrap_or_default(),
                },
            });
        }
        Ok(no_memory)
    }

    /// Tokenizes off the threads that serve HTTP, a few texts at a time; but one short text here.
    async fn tokenize(&self, lease: &Lease, query: &Query, open: &[usize]) -> Result<Vec<EncodedText>, ClassifyError> {
        let mut encoded = Vec::with_capacity(open.len());
        let (long_text, side) = (query.long_text, query.truncation_side);
        if let [only] = open
            && query.texts[*only].bytes() <= TOKENIZED_AT_ONCE_BYTES
        {
            let text = encode(&lease.model, &query.texts[*only], long_text, side);
            return Ok(vec![text.map_err(|error| text_error(*only, &error))?]);
        }
        for some in open.chunks(TOKENIZED_AT_ONCE) {
            let texts: Vec<(usize, TextInput)> =
                some.iter().map(|index| (*index, query.texts[*index].clone())).collect();
            let model = Arc::clone(&lease.model);
            let task = tokio::task::spawn_blocking(move || {
                let encode = |(index, text): (usize, TextInput)| {
                    encode(&model, &text, long_text, side).map_err(|error| text_error(index, &error))
                };
                texts.into_iter().map(encode).collect::<Result<Vec<_>, _>>()
            });
            encoded.extend(task.await.map_err(|error| {
                log::error!("tokenizing ended early: {error}");
                ClassifyError::Internal
            })??);
        }
        Ok(encoded)
    }

    /// Logits of each window: from the cache, from a run that another request has begun, or from a
    /// run of its own. Equal windows are run once.
    async fn infer(
        &self,
        lease: &Lease,
        encodings: Vec<Encoding>,
        deadline: Instant,
    ) -> Result<Vec<Window>, ClassifyError> {
        let keys: Vec<CacheKey> =
            encodings.into_iter().map(|encoding| CacheKey::new(lease.role, &lease.model.bundle, encoding)).collect();
        let mut first_with_key: HashMap<&CacheKey, usize> = HashMap::with_capacity(keys.len());
        let mut same_as: Vec<Option<usize>> = Vec::with_capacity(keys.len());
        let mut results: Vec<Option<Window>> = keys.iter().map(|_| None).collect();
        let mut runs: Vec<(usize, Option<Flight<'_>>)> = Vec::new();
        let mut awaited = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            if let Some(first) = first_with_key.get(key) {
                same_as.push(Some(*first));
                continue;
            }
            same_as.push(None);
            first_with_key.insert(key, index);
            match self.cache.look(key) {
                Lookup::Hit(logits) => results[index] = Some(window(key, Ok(logits), true)),
                Lookup::Miss(flight) => runs.push((index, flight)),
                Lookup::InFlight => awaited.push(index),
            }
            self.metrics.cache_lookup(results[index].is_some());
        }
        let own = self.run(lease, &keys, runs, deadline);
        let others = join_all(awaited.iter().map(|index| self.wait_or_run(lease, &keys, *index, deadline)));
        let (own, others) = tokio::join!(own, others);
        for (index, window) in own?.into_iter().chain(awaited.into_iter().zip(others)) {
            results[index] = Some(window);
        }
        let mut windows: Vec<Window> = Vec::with_capacity(keys.len());
        for ((result, same), key) in results.into_iter().zip(same_as).zip(keys) {
            let window = match (result, same) {
                (Some(window), _) => window,
                (None, Some(first)) => Window { key, logits: windows[first].logits.clone(), ..windows[first].plain() },
                (None, None) => return Err(ClassifyError::Internal),
            };
            windows.push(window);
        }
        Ok(windows)
    }

    /// Runs the windows at `runs` and puts their logits into the cache.
    async fn run(
        &self,
        lease: &Lease,
        keys: &[CacheKey],
        runs: Vec<(usize, Option<Flight<'_>>)>,
        deadline: Instant,
    ) -> Result<Vec<(usize, Window)>, ClassifyError> {
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let queued_at = Instant::now();
        let (jobs, replies): (Vec<_>, Vec<_>) = runs
            .iter()
            .map(|(index, _)| {
                let (reply, receiver) = oneshot::channel();
                (Job { encoding: Arc::clone(keys[*index].encoding()), deadline, queued_at, reply }, receiver)
            })
            .unzip();
        if let Err(error) = lease.model.pool.push(jobs) {
            if let InferenceError::QueueFull { retry_after } = error {
                return Err(ClassifyError::QueueFull { retry_after });
            }
            return Ok(runs
                .into_iter()
                .map(|(index, _)| (index, window(&keys[index], Err(error.clone()), false)))
                .collect());
        }
        let mut done = Vec::with_capacity(runs.len());
        for ((index, flight), reply) in runs.into_iter().zip(replies) {
            let inferred = match tokio::time::timeout_at(deadline.into(), reply).await {
                Err(_elapsed) => Err(InferenceError::DeadlinePassed),
                Ok(Err(_worker_gone)) => Err(InferenceError::Evicted),
                Ok(Ok(inferred)) => inferred,
            };
            let (queue, inference) = inferred.as_ref().map_or_else(|_| Default::default(), times);
            let logits: Result<Arc<[f32]>, _> = inferred.map(|inferred| inferred.logits.into());
            if let (Some(flight), Ok(logits)) = (flight, &logits) {
                flight.land(Arc::clone(logits));
            }
            done.push((index, Window { queue, inference, ..window(&keys[index], logits, false) }));
        }
        Ok(done)
    }

    /// Waits for a window that another request computes; computes it when that one gives up.
    async fn wait_or_run(&self, lease: &Lease, keys: &[CacheKey], index: usize, deadline: Instant) -> Window {
        let key = &keys[index];
        match tokio::time::timeout_at(deadline.into(), self.cache.wait(key)).await {
            Err(_elapsed) => window(key, Err(InferenceError::DeadlinePassed), false),
            Ok(Ok(logits)) => window(key, Ok(logits), true),
            Ok(Err(flight)) => match self.run(lease, keys, vec![(index, flight)], deadline).await {
                Ok(mut done) => {
                    done.pop().map_or_else(|| window(key, Err(InferenceError::Failed), false), |(_, window)| window)
                }
                Err(ClassifyError::QueueFull { retry_after }) => {
                    window(key, Err(InferenceError::QueueFull { retry_after }), false)
                }
                Err(
                    ClassifyError::Text { .. }
                    | ClassifyError::Unavailable(_)
                    | ClassifyError::DeadlinePassed
                    | ClassifyError::Internal,
                ) => window(key, Err(InferenceError::Failed), false),
            },
        }
    }
}

impl Window {
    /// The same figures for another text with the same tokens.
    fn plain(&self) -> Self {
        Self {
            key: self.key.clone(),
            logits: self.logits.clone(),
            from_cache: self.from_cache,
            queue: self.queue,
            inference: self.inference,
        }
    }
}

fn window(key: &CacheKey, logits: Result<Arc<[f32]>, InferenceError>, from_cache: bool) -> Window {
    Window { key: key.clone(), logits, from_cache, queue: Duration::ZERO, inference: Duration::ZERO }
}

fn times(inferred: &Inferred) -> (Duration, Duration) {
    (inferred.queued, inferred.inference)
}

fn encode(
    model: &ReadyModel,
    text: &TextInput,
    long_text: LongText,
    side: TruncationSide,
) -> Result<EncodedText, TokenizerError> {
    match text {
        TextInput::Single(text) => model.tokenizer.encode(text, long_text, side),
        TextInput::Pair(first, second) => model.tokenizer.encode_pair(first, second, long_text, side),
    }
}

fn text_error(index: usize, error: &TokenizerError) -> ClassifyError {
    match error {
        TokenizerError::TooLong { .. } | TokenizerError::TooManyWindows { .. } => {
            ClassifyError::Text { index, what: error.to_string() }
        }
        TokenizerError::Load { .. } | TokenizerError::Encode(_) => {
            log::error!("text {index} was not tokenized: {}", crate::residency::loader::chain(error));
            ClassifyError::Internal
        }
    }
}
