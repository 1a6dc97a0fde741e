//! A model that is in memory and answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::inference::pool::Pool;
use crate::model::{Bundle, TextTokenizer};

/// Everything that one loaded model needs to answer.
pub struct ReadyModel {
    /// What the model is.
    pub bundle: Arc<Bundle>,
    /// Its tokenizer.
    pub tokenizer: TextTokenizer,
    /// Its workers.
    pub pool: Pool,
    /// `prepared` or `plain`.
    pub weights: &'static str,
    started: Instant,
    last_used_ms: AtomicU64,
}

impl ReadyModel {
    pub(super) fn new(bundle: Arc<Bundle>, tokenizer: TextTokenizer, pool: Pool, weights: &'static str) -> Self {
        Self { bundle, tokenizer, pool, weights, started: Instant::now(), last_used_ms: AtomicU64::new(0) }
    }

    /// Remembers that a request asked for this model now.
    pub(super) fn touch(&self) {
        self.last_used_ms.store(self.age_ms(), Ordering::Relaxed);
    }

    /// How long nobody has asked for it.
    pub(super) fn idle(&self) -> Duration {
        Duration::from_millis(self.age_ms().saturating_sub(self.last_used_ms.load(Ordering::Relaxed)))
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
