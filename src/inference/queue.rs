//! Texts that wait for a worker, in fair order (see [`super::fairness`]) and within limits.
//!
//! A request of hundreds of texts does not fill the queue: it may always have a few texts waiting,
//! and more only while the queue is less than half full. The rest comes in as those are answered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::batch::{Padding, form_batch};
use super::fairness::{Flow, Held, Turn, Turns};
use crate::model::Encoding;

/// How many waiting texts are looked at for one batch.
const CANDIDATES: usize = 512;

/// A share of the waiting tokens below which splitting them over idle workers costs more than it
/// saves: smaller runs are slower for each token.
const MIN_SHARED_TOKENS: usize = 96;

/// Part of the bounds that every flow may have waiting while there is room at all.
const PIECE: usize = 32;

/// Part of the bounds over which no flow may have more than that.
const SHARED: usize = 2;

/// Shortest and longest time that a refused client is asked to wait.
const RETRY_AFTER_SECONDS: (f64, f64) = (1.0, 60.0);

/// Why a text came back without logits.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum InferenceError {
    /// Too much waits already.
    #[error("the queue is full; retry in {} s", retry_after.as_secs())]
    QueueFull {
        /// When there will be room, as far as is known now.
        retry_after: Duration,
    },
    /// The model was unloaded before the text's turn.
    #[error("the model was unloaded before the text's turn")]
    Evicted,
    /// The deadline passed before the text's turn.
    #[error("the deadline passed before the text's turn")]
    DeadlinePassed,
    /// Not even this one text fits into what memory is left.
    #[error("there is not enough memory for a run of this text")]
    NoMemory,
    /// The run failed.
    #[error("inference failed")]
    Failed,
}

/// What a worker found out about one text.
#[derive(Debug, Clone)]
pub struct Inferred {
    /// One logit a label.
    pub logits: Box<[f32]>,
    /// From entering the queue until the run began.
    pub queued: Duration,
    /// The run that the text was in.
    pub inference: Duration,
}

/// One text on its way to a worker. The receiving end hears of it exactly once; when it is gone,
/// the job is dropped before it costs anything.
pub struct Job {
    /// The request that it belongs to.
    pub flow: Flow,
    /// What is run.
    pub encoding: Arc<Encoding>,
    /// When the answer is of no use any more.
    pub deadline: Instant,
    /// When it entered the queue.
    pub queued_at: Instant,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Inferred, InferenceError>>,
}

impl Job {
    fn tokens(&self) -> usize {
        self.encoding.len()
    }

    fn is_useless(&self, now: Instant) -> bool {
        self.reply.is_closed() || self.deadline <= now
    }

    /// Sends the answer; whether the client is still there is its own matter.
    pub fn answer(self, answer: Result<Inferred, InferenceError>) {
        let _gone = self.reply.send(answer);
    }
}

/// Bounds of a queue.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    /// Texts that may wait.
    pub max_texts: usize,
    /// Tokens that may wait.
    pub max_tokens: usize,
}

impl QueueLimits {
    /// One part of the bounds, at least one text.
    fn part(self, of: usize) -> Self {
        Self { max_texts: (self.max_texts / of).max(1), max_tokens: (self.max_tokens / of).max(1) }
    }

    fn hold(self, held: Held) -> bool {
        held.texts <= self.max_texts && held.tokens <= self.max_tokens
    }
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<Turn, Job>,
    waiting_tokens: usize,
    turns: Turns,
    idle_workers: usize,
    nudges: u64,
    closed: bool,
}

impl State {
    fn held(&self) -> Held {
        Held { texts: self.waiting.len(), tokens: self.waiting_tokens }
    }
}

/// Until when a worker waits for work.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    until: Instant,
    nudges: u64,
}

impl Patience {
    fn is_over(self, state: &State) -> bool {
        state.nudges != self.nudges || Instant::now() >= self.until
    }
}

/// A bounded queue with many producers and many workers.
pub struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    limits: QueueLimits,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: QueueLimits) -> Self {
        Self { state: Mutex::default(), filled: Condvar::new(), limits }
    }

    /// Puts in texts from the front of `jobs`, all of one flow, as far as they may wait now; what is
    /// left is to be pushed again when some are answered. Returns how many went in, which may be none
    /// while others of the flow wait.
    ///
    /// # Errors
    /// [`InferenceError::QueueFull`] when nothing of the flow waits and there is no room for its
    /// first texts, with the time that the tokens in the way take at `tokens_per_second`;
    /// [`InferenceError::Evicted`] once the queue is closed.
    pub fn push(&self, jobs: &mut VecDeque<Job>, tokens_per_second: f64) -> Result<usize, InferenceError> {
        let Some(flow) = jobs.front().map(|job| job.flow) else { return Ok(0) };
        let mut state = self.lock();
        if state.closed {
            return Err(InferenceError::Evicted);
        }
        let mut admitted = self.admitted(&state, flow, jobs);
        if admitted.is_err() {
            drop_useless(&mut state, usize::MAX);
            admitted = self.admitted(&state, flow, jobs);
        }
        let count = admitted.map_err(|over_tokens| {
            let (shortest, longest) = RETRY_AFTER_SECONDS;
            let seconds = (over_tokens as f64 / tokens_per_second.max(1.0)).ceil().clamp(shortest, longest);
            InferenceError::QueueFull { retry_after: Duration::from_secs_f64(seconds) }
        })?;
        for job in jobs.drain(..count) {
            let turn = state.turns.enter(flow, job.tokens());
            state.waiting_tokens += job.tokens();
            state.waiting.insert(turn, job);
        }
        drop(state);
        match count {
            0 => {}
            1 => self.filled.notify_one(),
            _ => self.filled.notify_all(),
        }
        Ok(count)
    }

    /// How many of the jobs may come in now, or how many waiting tokens are in the way of the first.
    fn admitted(&self, state: &State, flow: Flow, jobs: &VecDeque<Job>) -> Result<usize, usize> {
        let (piece, shared) = (self.limits.part(PIECE), self.limits.part(SHARED));
        let (mut own, mut all) = (state.turns.held(flow), state.held());
        let is_first = own.texts == 0;
        let mut count = 0;
        for job in jobs {
            (own, all) = (own.with(job.tokens()), all.with(job.tokens()));
            // One text is a piece, however long it is, and an empty queue takes any text.
            let is_piece = own.texts == 1 || piece.hold(own);
            let is_alone = all.texts == 1;
            let fits = if is_piece { is_alone || self.limits.hold(all) } else { shared.hold(all) };
            if !fits {
                // The first piece comes in whole or not at all.
                return if is_first && is_piece { Err(self.tokens_in_the_way(all)) } else { Ok(count) };
            }
            count += 1;
        }
        Ok(count)
    }

    /// Tokens that have to be taken before `held` is within the bounds.
    fn tokens_in_the_way(&self, held: Held) -> usize {
        let texts = held.texts.saturating_sub(self.limits.max_texts);
        let tokens_of_texts = texts * held.tokens / held.texts.max(1);
        held.tokens.saturating_sub(self.limits.max_tokens).max(tokens_of_texts)
    }

    /// Waits for work and takes a batch of it; `None` once the queue is closed. A worker that has to
    /// wait gets an empty batch after `patience`, where there is one, or when it is nudged.
    pub fn take(&self, max_batch_tokens: usize, padding: Padding, patience: Option<Patience>) -> Option<Vec<Job>> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            drop_useless(&mut state, CANDIDATES);
            if !state.waiting.is_empty() {
                break;
            }
            if patience.is_some_and(|patience| patience.is_over(&state)) {
                return Some(Vec::new());
            }
            state.idle_workers += 1;
            state = match patience {
                None => self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Patience { until, .. }) => {
                    let left = until.saturating_duration_since(Instant::now());
                    self.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
            state.idle_workers -= 1;
        }
        let share = state.waiting_tokens.div_ceil(state.idle_workers + 1).max(MIN_SHARED_TOKENS);
        let turns: Vec<Turn> = state.waiting.keys().take(CANDIDATES).copied().collect();
        let lengths: Vec<usize> = state.waiting.values().take(CANDIDATES).map(Job::tokens).collect();
        let batch: Vec<Job> = form_batch(&lengths, max_batch_tokens.min(share), padding)
            .into_iter()
            .filter_map(|index| state.waiting.remove(&turns[index]))
            .collect();
        state.waiting_tokens -= batch.iter().map(Job::tokens).sum::<usize>();
        if let Some(first) = turns.first() {
            let next = state.waiting.keys().next().copied();
            state.turns.serve(*first, next, batch.iter().map(|job| (job.flow, job.tokens())));
        }
        let more = !state.waiting.is_empty() && state.idle_workers > 0;
        drop(state);
        if more {
            self.filled.notify_one();
        }
        Some(batch)
    }

    /// Lets workers that have patience stop waiting once.
    pub fn nudge(&self) {
        self.lock().nudges += 1;
        self.filled.notify_all();
    }

    /// How long a worker waits for work: for `time`, or until the next nudge.
    #[must_use]
    pub fn patience(&self, time: Duration) -> Patience {
        Patience { until: Instant::now() + time, nudges: self.lock().nudges }
    }

    /// Puts texts back that a worker took but may not run now; they are due at once.
    pub fn put_back(&self, jobs: Vec<Job>) {
        let mut state = self.lock();
        if state.closed {
            drop(state);
            for job in jobs {
                job.answer(Err(InferenceError::Evicted));
            }
            return;
        }
        for job in jobs {
            state.waiting_tokens += job.tokens();
            let turn = state.turns.enter_again(job.flow, job.tokens());
            state.waiting.insert(turn, job);
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Closes the queue: what waits is answered with [`InferenceError::Evicted`], workers stop after
    /// the batch they are in. Returns how many texts were waiting.
    pub fn close(&self) -> usize {
        let mut state = self.lock();
        state.closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        state.waiting_tokens = 0;
        state.turns = Turns::default();
        drop(state);
        self.filled.notify_all();
        let count = waiting.len();
        for (_, job) in waiting {
            job.answer(Err(InferenceError::Evicted));
        }
        count
    }

    /// What waits now.
    #[must_use]
    pub fn depth(&self) -> Held {
        self.lock().held()
    }

    /// Every change under the lock leaves the state whole, so a panic elsewhere does not poison it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops work whose client has gone, and answers work whose deadline has passed, until `enough` texts
/// of use were seen.
fn drop_useless(state: &mut State, enough: usize) {
    let now = Instant::now();
    let mut of_use = 0;
    let mut useless = Vec::new();
    for (turn, job) in &state.waiting {
        if job.is_useless(now) {
            useless.push(*turn);
        } else {
            of_use += 1;
            if of_use == enough {
                break;
            }
        }
    }
    for turn in useless {
        if let Some(job) = state.waiting.remove(&turn) {
            state.waiting_tokens -= job.tokens();
            state.turns.leave(job.flow, job.tokens());
            job.answer(Err(InferenceError::DeadlinePassed));
        }
    }
}

#[cfg(test)]
mod tests;
