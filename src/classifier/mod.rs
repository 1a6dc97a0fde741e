//! The one door between the wire and the models: a query goes in, one answer a text comes out.

mod gate;
mod query;
mod windows;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::LogitsCache;
use crate::host::threads::run_blocking;
pub use crate::inference::fairness::{ClientId, Flow};
use crate::inference::queue::InferenceError;
use crate::logging::TEXTS_TARGET;
use crate::metrics::Metrics;
use crate::model::tokenizer::EncodedText;
use crate::model::{LongText, Role, TokenizerError, TruncationSide};
use crate::residency::{FallbackReason, Lease, ReadyModel, Residency, Unavailable, Wanted};
use gate::Gate;
pub use query::{Answer, ClassifyError, ModelInfo, Query, TextInput, Timing};

/// Texts that are tokenized in one go before another request gets its turn.
const TEXTS_AT_ONCE: usize = 16;

/// Their bytes, but for a single text of more.
const BYTES_AT_ONCE: usize = 16 << 10;

/// Bytes of text up to which a request is tokenized where it is: that takes less time than another
/// thread needs to wake up.
const TOKENIZED_AT_ONCE_BYTES: usize = 512;

/// How long to wait for memory to tokenize in.
const MEMORY_WAIT: Duration = Duration::from_secs(1);

/// Time between two looks for it.
const MEMORY_POLL: Duration = Duration::from_millis(20);

/// How often a text is sent on when its model is unloaded under it.
const MOST_MOVES: usize = 4;

/// Answers queries.
#[derive(Clone)]
pub struct Classifier {
    residency: Arc<Residency>,
    cache: Arc<LogitsCache>,
    metrics: Arc<Metrics>,
    tokenizers: Gate,
}

impl Classifier {
    /// A classifier over the models that `residency` keeps; `tokenizers` requests are tokenized at a
    /// time, but for those of one short text.
    #[must_use]
    pub fn new(residency: Arc<Residency>, cache: Arc<LogitsCache>, metrics: Arc<Metrics>, tokenizers: usize) -> Self {
        Self { residency, cache, metrics, tokenizers: Gate::new(tokenizers) }
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
                        what: "there is not enough memory to read this text now".to_owned(),
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
        let Some(encoded) = self.tokenize(lease, query, open).await? else { return Ok(true) };
        let tokenization = started.elapsed();
        self.metrics.tokenized(lease.role, tokenization);
        let mut windows = Vec::new();
        let mut of_text = Vec::new();
        for (index, text) in open.iter().zip(encoded) {
            let first = windows.len();
            windows.extend(text.windows);
            of_text.push((*index, first..windows.len(), text.truncated));
        }
        let windows = self.infer(lease, windows, query.flow, query.deadline).await?;
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

    /// Tokenizes off the threads that serve HTTP, a few texts at a time; but one short text here. `None` where there was
    /// no memory for it.
    async fn tokenize(
        &self,
        lease: &Lease,
        query: &Query,
        open: &[usize],
    ) -> Result<Option<Vec<EncodedText>>, ClassifyError> {
        let mut encoded = Vec::with_capacity(open.len());
        let (long_text, side) = (query.long_text, query.truncation_side);
        if let [only] = open
            && query.texts[*only].bytes() <= TOKENIZED_AT_ONCE_BYTES
        {
            let text = encode(&lease.model, &query.texts[*only], long_text, side);
            return Ok(Some(vec![text.map_err(|error| text_error(*only, &error))?]));
        }
        let (mut rest, mut no_memory_since) = (open, None);
        while !rest.is_empty() {
            let (some, later) = rest.split_at(tokenized_at_once(rest.iter().map(|index| query.texts[*index].bytes())));
            let texts: Vec<(usize, TextInput)> =
                some.iter().map(|index| (*index, query.texts[*index].clone())).collect();
            let bytes: usize = texts.iter().map(|(_, text)| text.bytes()).sum();
            let pass =
                tokio::time::timeout_at(query.deadline.into(), self.tokenizers.enter(query.flow, bytes / 4)).await;
            let pass = pass.map_err(|_elapsed| ClassifyError::DeadlinePassed)?;
            let (model, headroom, role) = (Arc::clone(&lease.model), Arc::clone(self.residency.headroom()), lease.role);
            let task = run_blocking(move || {
                let _until_done = pass;
                // Set aside on this thread: what only waits for its turn takes no memory yet.
                let longest = texts.iter().map(|(_, text)| text.bytes()).max().unwrap_or(0);
                let needed = model.tokenizer.memory_bytes(longest, long_text);
                let reservation = match role {
                    Role::Heavy => headroom.reserve(needed),
                    Role::Light => headroom.reserve_with_spare(needed),
                };
                let Some(_reserved) = reservation else { return Ok(None) };
                let encode = |(index, text): (usize, TextInput)| {
                    encode(&model, &text, long_text, side).map_err(|error| text_error(index, &error))
                };
                texts.into_iter().map(encode).collect::<Result<Vec<_>, _>>().map(Some)
            });
            let done = tokio::time::timeout_at(query.deadline.into(), task).await;
            let some = done.map_err(|_elapsed| ClassifyError::DeadlinePassed)?.map_err(|error| {
                log::error!("texts were not tokenized: {error}");
                ClassifyError::Internal
            })??;
            match some {
                Some(some) => {
                    encoded.extend(some);
                    (rest, no_memory_since) = (later, None);
                }
                None if no_memory_since.get_or_insert_with(Instant::now).elapsed() < MEMORY_WAIT => {
                    tokio::time::sleep(MEMORY_POLL).await;
                }
                None => return Ok(None),
            }
        }
        Ok(Some(encoded))
    }
}

/// How many of the texts to tokenize in one go, at least one.
fn tokenized_at_once(bytes: impl Iterator<Item = usize>) -> usize {
    let mut all_bytes = 0;
    let fits = bytes.take(TEXTS_AT_ONCE).take_while(|bytes| {
        all_bytes += bytes;
        all_bytes <= BYTES_AT_ONCE
    });
    fits.count().max(1)
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
