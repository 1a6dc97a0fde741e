//! Texts that wait for a worker, in fair order (see [`super::shares`]) and within limits.
//!
//! A request of hundreds of texts does not fill the queue: it may always have a few texts waiting,
//! and more only while the queue is less than half full. The rest comes in as those are answered.
//!
//! A client may fill the queue while it is alone. When the queue is full, a client that holds less
//! of it pushes out texts of the one that holds most, the youngest of its largest request first. So
//! nobody who holds less than an equal part of the queue is ever refused.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::batch::{Padding, form_batch};
use super::fairness::{ClientId, Flow, Held};
use super::shares::{Place, Shares};
use crate::model::Encoding;

/// How many waiting texts are looked at for one batch.
const CANDIDATES: usize = 512;

/// A share of the waiting tokens below which splitting them over idle workers costs more than it
/// saves: smaller runs are slower for each token.
const MIN_SHARED_TOKENS: usize = 96;

/// 1/PIECE of the bounds is what every flow may have waiting while there is room at all.
const PIECE: usize = 32;

/// Above 1/SHARED of the bounds, a flow may queue only its PIECE.
const SHARED: usize = 2;

/// Shortest and longest time that a refused client is asked to wait.
const RETRY_AFTER_SECONDS: (f64, f64) = (1.0, 60.0);

/// Why a text came back without logits.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum InferenceError {
    /// Too much waits already, or this client has to make room for others.
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
    waiting: Shares<Job>,
    idle_workers: usize,
    nudges: u64,
    closed: bool,
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
            drop_useless(&mut state);
            admitted = self.admitted(&state, flow, jobs);
        }
        let mut pushed_out = Vec::new();
        while let Err(wanted) = admitted {
            let Some(job) = self.push_out(&mut state, flow.client(), wanted) else {
                if state.waiting.held_in(flow).texts > 0 {
                    return Ok(0);
                }
                let over_tokens = self.tokens_in_the_way(wanted.all);
                return Err(InferenceError::QueueFull { retry_after: retry_after(over_tokens, tokens_per_second) });
            };
            pushed_out.push(job);
            admitted = self.admitted(&state, flow, jobs);
        }
        let count = admitted.unwrap_or_default();
        for job in jobs.drain(..count) {
            state.waiting.enter(flow, job.tokens(), job);
        }
        drop(state);
        for job in pushed_out {
            let retry_after = retry_after(job.tokens(), tokens_per_second);
            job.answer(Err(InferenceError::QueueFull { retry_after }));
        }
        match count {
            0 => {}
            1 => self.filled.notify_one(),
            _ => self.filled.notify_all(),
        }
        Ok(count)
    }

    /// How many of the jobs may come in now, or what there is no room for.
    fn admitted(&self, state: &State, flow: Flow, jobs: &VecDeque<Job>) -> Result<usize, Wanted> {
        let (piece, shared) = (self.limits.part(PIECE), self.limits.part(SHARED));
        let (mut own, mut all) = (state.waiting.held_in(flow), state.waiting.held());
        let is_first = own.texts == 0;
        let (mut count, mut more, mut wanted) = (0, Held::default(), None);
        for tokens in jobs.iter().map(Job::tokens) {
            (own, all, more) = (own.with(tokens), all.with(tokens), more.with(tokens));
            // One text is a piece, however long it is, and an empty queue takes any text.
            let is_piece = own.texts == 1 || piece.hold(own);
            let is_alone = all.texts == 1;
            let fits = if is_piece { is_alone || self.limits.hold(all) } else { shared.hold(all) };
            if fits && wanted.is_none() {
                count += 1;
            } else if is_piece && (is_first || (count == 0 && wanted.is_none())) {
                // The first piece comes in whole or not at all.
                wanted = Some(Wanted { more, all });
            } else {
                break;
            }
        }
        wanted.map_or(Ok(count), Err)
    }

    /// Takes out a text that has to make room for what `client` wants to bring in: one of the client
    /// that holds most, if that is more than `client` would hold. `None` when others do not hold
    /// enough to make all the room that is wanted, in texts and in tokens: nobody goes in vain.
    fn push_out(&self, state: &mut State, client: ClientId, wanted: Wanted) -> Option<Job> {
        let own = state.waiting.clients().find(|(other, _)| *other == client).map(|(_, held)| held);
        let own = own.unwrap_or_default();
        let others_hold = |size: fn(Held) -> usize, needed: usize| {
            let would_hold = size(own) + size(wanted.more);
            let excess = |(_, held): (ClientId, Held)| size(held).saturating_sub(would_hold);
            state.waiting.clients().map(excess).sum::<usize>() >= needed
        };
        let texts_needed = wanted.all.texts.saturating_sub(self.limits.max_texts);
        let tokens_needed = wanted.all.tokens.saturating_sub(self.limits.max_tokens);
        if !others_hold(|held| held.texts, texts_needed) || !others_hold(|held| held.tokens, tokens_needed) {
            return None;
        }
        let size: fn(Held) -> usize = if texts_needed > 0 { |held| held.texts } else { |held| held.tokens };
        let (largest, _) = state.waiting.clients().max_by_key(|(_, held)| size(*held))?;
        let youngest = state.waiting.flows_of(largest).max_by_key(|(held, place)| (size(*held), place.flow))?.1;
        state.waiting.remove(&youngest)
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
        let candidates = loop {
            if state.closed {
                return None;
            }
            let candidates = useful_candidates(&mut state);
            if !candidates.is_empty() {
                break candidates;
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
        };
        let share = state.waiting.held().tokens.div_ceil(state.idle_workers + 1).max(MIN_SHARED_TOKENS);
        let lengths: Vec<usize> = candidates.iter().map(|place| place.tokens).collect();
        let chosen = form_batch(&lengths, max_batch_tokens.min(share), padding);
        let chosen: Vec<Place> = chosen.into_iter().map(|index| candidates[index]).collect();
        let batch = state.waiting.serve(&chosen);
        let more = state.waiting.held().texts > 0 && state.idle_workers > 0;
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
        // The first one goes in last, to stand in front again.
        for job in jobs.into_iter().rev() {
            state.waiting.put_back(job.flow, job.tokens(), job);
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Closes the queue: what waits is answered with [`InferenceError::Evicted`], workers stop after
    /// the batch they are in. Returns how many texts were waiting.
    pub fn close(&self) -> usize {
        let mut state = self.lock();
        state.closed = true;
        let mut waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.filled.notify_all();
        let places: Vec<Place> = waiting.all().map(|(place, _)| place).collect();
        for job in places.iter().filter_map(|place| waiting.remove(place)) {
            job.answer(Err(InferenceError::Evicted));
        }
        places.len()
    }

    /// What waits now.
    #[must_use]
    pub fn depth(&self) -> Held {
        self.lock().waiting.held()
    }

    /// Every change under the lock leaves the state whole, so a panic elsewhere does not poison it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a flow has no room for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    /// Its texts that should come in.
    more: Held,
    /// What would wait then.
    all: Held,
}

fn retry_after(tokens: usize, tokens_per_second: f64) -> Duration {
    let (shortest, longest) = RETRY_AFTER_SECONDS;
    Duration::from_secs_f64((tokens as f64 / tokens_per_second.max(1.0)).ceil().clamp(shortest, longest))
}

/// Drops work whose client has gone, and answers work whose deadline has passed.
fn drop_useless(state: &mut State) {
    let now = Instant::now();
    let useless = state.waiting.all().filter(|(_, job)| job.is_useless(now)).map(|(place, _)| place).collect();
    drop_at(state, useless);
}

fn drop_at(state: &mut State, places: Vec<Place>) {
    for job in places.iter().filter_map(|place| state.waiting.remove(place)) {
        job.answer(Err(InferenceError::DeadlinePassed));
    }
}

/// The texts for one batch, when those of no use among them are dropped.
fn useful_candidates(state: &mut State) -> Vec<Place> {
    loop {
        let now = Instant::now();
        let (useless, useful): (Vec<_>, Vec<_>) =
            state.waiting.candidates(CANDIDATES).into_iter().partition(|(_, job)| job.is_useless(now));
        let useless: Vec<Place> = useless.into_iter().map(|(place, _)| place).collect();
        if useless.is_empty() {
            return useful.into_iter().map(|(place, _)| place).collect();
        }
        drop_at(state, useless);
    }
}

#[cfg(test)]
mod tests;
