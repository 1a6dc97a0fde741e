//! What is asked of the models, and what comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::inference::fairness::Flow;
use crate::model::{Activation, LongText, Role, TruncationSide};
use crate::residency::{FallbackReason, Unavailable, Wanted};

/// One text, or two that are read together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextInput {
    /// One text.
    Single(Arc<str>),
    /// Two texts, joined by the tokenizer's template for pairs.
    Pair(Arc<str>, Arc<str>),
}

impl TextInput {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Single(text) => text.len(),
            Self::Pair(first, second) => first.len() + second.len(),
        }
    }
}

/// What a request asks.
#[derive(Debug, Clone)]
pub struct Query {
    /// The texts; the answers come in the same order.
    pub texts: Vec<TextInput>,
    /// Which model.
    pub wanted: Wanted,
    /// What to do with texts over the model's length.
    pub long_text: LongText,
    /// Which end is cut.
    pub truncation_side: TruncationSide,
    /// When the answer is of no use any more.
    pub deadline: Instant,
    /// Whose turn its texts take: a flow of its own, or that of the stream which it belongs to.
    pub flow: Flow,
}

impl Query {
    /// Bytes of all texts.
    pub(crate) fn bytes(&self) -> usize {
        self.texts.iter().map(TextInput::bytes).sum()
    }
}

/// Which model answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Labels in the order of the logits.
    pub labels: Arc<[Arc<str>]>,
    /// Logits of each window, with its tokens.
    pub windows: Vec<(Arc<[f32]>, usize)>,
    /// The model's own way from logits to scores.
    pub activation: Activation,
    /// Tuned threshold of each label; empty for single-label models.
    pub thresholds: Arc<[f32]>,
    /// The model.
    pub model: ModelInfo,
    /// Why it answered instead of the heavy one.
    pub fallback: Option<FallbackReason>,
    /// Whether some of the text was left out.
    pub truncated: bool,
    /// Tokens that the model saw, special tokens included.
    pub tokens: usize,
    /// Whether every window came from the cache or from another request's run.
    pub cached: bool,
    /// Where the time went.
    pub timing: Timing,
}

/// The model that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// Its name.
    pub name: Arc<str>,
    /// The part it plays.
    pub role: Role,
    /// Precision of its weights.
    pub precision: &'static str,
    /// First 12 digits of its bundle's hash.
    pub revision: Arc<str>,
}

/// Where the time of one text went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// Tokenizing the texts of its request.
    pub tokenization: Duration,
    /// Waiting for a worker.
    pub queue: Duration,
    /// The run that it was in.
    pub inference: Duration,
}

impl Answer {
    /// One score a label: `activation` of each window, averaged with the windows' tokens as weights.
    #[must_use]
    pub fn scores_with(&self, activation: Activation) -> Vec<f32> {
        let all_tokens: usize = self.windows.iter().map(|(_, tokens)| tokens).sum();
        let mut mean = vec![0.0; self.labels.len()];
        for (logits, tokens) in &self.windows {
            let mut scores = logits.to_vec();
            activation.apply(&mut scores);
            if self.windows.len() == 1 {
                return scores;
            }
            let weight = *tokens as f32 / all_tokens as f32;
            mean.iter_mut().zip(scores).for_each(|(mean, score)| *mean += weight * score);
        }
        mean
    }

    /// One score a label, the way the model was trained.
    #[must_use]
    pub fn scores(&self) -> Vec<f32> {
        self.scores_with(self.activation)
    }
}

/// Why a query was not answered.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ClassifyError {
    /// A text cannot be read as asked.
    #[error("{what}")]
    Text {
        /// Position of the text in the query.
        index: usize,
        /// What is wrong and what would be right.
        what: String,
    },
    /// Too much waits already.
    #[error("too many texts are waiting; try again in {} s", retry_after.as_secs())]
    QueueFull {
        /// When there will be room.
        retry_after: Duration,
    },
    /// No model may run now.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The deadline passed.
    #[error("the answer was not ready before the request's deadline")]
    DeadlinePassed,
    /// A run failed, or the server is broken in another way. The log says more.
    #[error("the model failed on this text; the server's log says why")]
    Internal,
}
