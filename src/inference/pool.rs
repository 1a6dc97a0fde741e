//! Worker threads that each own one session and run batches from one queue.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ndarray::Array2;

use super::batch::Padding;
use super::fairness::Held;
use super::headroom::{Headroom, Reservation};
use super::queue::{InferenceError, Inferred, Job, Queue, QueueLimits};
use super::session::{InferenceSession, SessionError, Terminator};
use crate::metrics::Metrics;
use crate::model::bundle::ActivationCost;
use crate::model::{Encoding, Role};
use crate::panics::supervise;

/// What a session's arena may keep from run to run where memory is tight: that of batches of up to
/// 130 tokens. Giving it back and taking it again costs a full batch of the heavy model 3 to 7 % more
/// time.
pub const TIGHT_ARENA_BYTES: u64 = 8 << 20;

/// How long a worker waits for work before its session gives its arena back.
const ARENA_PATIENCE: Duration = Duration::from_secs(1);

/// How long a text waits for memory that other runs hold before it is refused.
const MEMORY_WAIT: Duration = Duration::from_millis(500);

/// How often that is looked at.
const MEMORY_POLL: Duration = Duration::from_millis(10);

/// Speed that is assumed before the first run, in tokens a second of one worker.
const ASSUMED_TOKENS_PER_SECOND: u64 = 500;

/// How a pool runs.
#[derive(Debug, Clone, Copy)]
pub struct PoolSettings {
    /// Most tokens of a batch, padding included.
    pub max_batch_tokens: usize,
    /// Activation bytes above which a session gives its arena back right after the run: an arena
    /// keeps the largest batch that it has seen until no work waits.
    pub kept_arena_bytes: u64,
    /// Bounds of its queue.
    pub queue: QueueLimits,
}

struct Shared {
    role: Role,
    queue: Queue,
    headroom: Arc<Headroom>,
    activation: ActivationCost,
    padding: Padding,
    least_rows: usize,
    kept_arena_bytes: u64,
    metrics: Arc<Metrics>,
    max_batch_tokens: AtomicUsize,
    shrink_every_run: AtomicBool,
    tokens_per_second: AtomicU64,
    runs: AtomicU64,
    arenas_given_back: AtomicU64,
    running_workers: AtomicUsize,
}

/// The workers of one loaded model.
pub struct Pool {
    shared: Arc<Shared>,
    settings: PoolSettings,
    workers: Mutex<Vec<(JoinHandle<()>, Terminator)>>,
}

impl Pool {
    /// Starts one worker for each session.
    ///
    /// # Errors
    /// When the system gives no thread; workers already started stop again.
    pub fn start(
        role: Role,
        sessions: Vec<InferenceSession>,
        activation: ActivationCost,
        settings: PoolSettings,
        headroom: Arc<Headroom>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            role,
            queue: Queue::new(settings.queue),
            headroom,
            activation,
            padding: sessions.first().map_or(Padding::Computed, InferenceSession::padding),
            least_rows: sessions.first().map_or(1, InferenceSession::least_rows),
            kept_arena_bytes: settings.kept_arena_bytes,
            metrics,
            max_batch_tokens: AtomicUsize::new(settings.max_batch_tokens),
            shrink_every_run: AtomicBool::new(false),
            tokens_per_second: AtomicU64::new(ASSUMED_TOKENS_PER_SECOND),
            runs: AtomicU64::new(0),
            arenas_given_back: AtomicU64::new(0),
            running_workers: AtomicUsize::new(0),
        });
        let pool = Self { shared, settings, workers: Mutex::default() };
        for session in sessions {
            if let Err(error) = pool.add(session) {
                pool.stop(Duration::ZERO);
                return Err(error);
            }
        }
        Ok(pool)
    }

    /// Adds a worker for one more session. That of a pool that has stopped ends at once.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn add(&self, session: InferenceSession) -> std::io::Result<()> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let terminator = session.terminator();
        let running = Running::new(&self.shared);
        let name = format!("{}-{}", self.shared.role, workers.len());
        let worker = thread::Builder::new().name(name).spawn(move || work(&running.0, session))?;
        workers.push((worker, terminator));
        Ok(())
    }

    /// Puts in texts of one flow as far as they may wait now; see [`Queue::push`].
    ///
    /// # Errors
    /// Those of [`Queue::push`].
    pub fn push(&self, jobs: &mut VecDeque<Job>) -> Result<usize, InferenceError> {
        let one_worker = self.shared.tokens_per_second.load(Ordering::Relaxed);
        self.shared.queue.push(jobs, one_worker as f64 * self.worker_count() as f64)
    }

    /// What waits now.
    #[must_use]
    pub fn depth(&self) -> Held {
        self.shared.queue.depth()
    }

    /// Batches run since the start.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.shared.runs.load(Ordering::Relaxed)
    }

    /// How often a worker has given its session's arena back because no work waited.
    #[must_use]
    pub fn arenas_given_back(&self) -> u64 {
        self.shared.arenas_given_back.load(Ordering::Relaxed)
    }

    /// Number of workers that run.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        self.shared.running_workers.load(Ordering::SeqCst)
    }

    /// Under memory pressure batches are half their usual size and every run gives its
    /// arena back; without it they return to the usual size.
    pub fn set_pressure(&self, pressed: bool) {
        let usual = self.settings.max_batch_tokens;
        self.shared.max_batch_tokens.store(if pressed { (usual / 2).max(1) } else { usual }, Ordering::Relaxed);
        self.shared.shrink_every_run.store(pressed, Ordering::Relaxed);
        if pressed {
            self.give_arenas_back();
        }
    }

    /// Lets each worker give its session's arena back as soon as no work waits.
    pub fn give_arenas_back(&self) {
        self.shared.queue.nudge();
    }

    /// Answers what waits with [`InferenceError::Evicted`], lets runs in flight finish within
    /// `patience`, ends them after it, and drops the sessions. Returns how many texts were waiting.
    pub fn stop(&self, patience: Duration) -> usize {
        let waiting = self.shared.queue.close();
        let until = Instant::now() + patience;
        while self.worker_count() > 0 && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        if self.worker_count() > 0 {
            log::warn!("runs of the {} model took longer than {patience:?}; ending them", self.shared.role);
        }
        let (workers, terminators): (Vec<_>, Vec<_>) = workers.into_iter().unzip();
        for worker in workers {
            while !worker.is_finished() && self.worker_count() > 0 {
                terminators.iter().for_each(Terminator::terminate);
                thread::sleep(Duration::from_millis(5));
            }
            if worker.join().is_err() {
                log::error!("a worker of the {} model ended with a panic", self.shared.role);
            }
        }
        waiting
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// Counts one worker as running until it is dropped, also by a panic: nobody waits for a worker that
/// has ended.
struct Running(Arc<Shared>);

impl Running {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.running_workers.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running_workers.fetch_sub(1, Ordering::SeqCst) == 1 {
            // Without a worker nothing would answer what waits.
            self.0.queue.close();
        }
    }
}

fn work(shared: &Shared, mut session: InferenceSession) {
    // What this session's arena has grown to: a run within it allocates nothing new.
    let mut arena_bytes = 0;
    let mut patience = Some(shared.queue.patience(ARENA_PATIENCE));
    supervise(&format!("a worker of the {} model", shared.role), || {
        let max_batch_tokens = shared.max_batch_tokens.load(Ordering::Relaxed);
        let Some(batch) = shared.queue.take(max_batch_tokens, shared.padding, patience.take()) else {
            return ControlFlow::Break(());
        };
        if batch.is_empty() {
            if let Err(error) = session.give_arena_back() {
                log::warn!("the memory of the {} model's last runs was not given back: {error}", shared.role);
            }
            shared.arenas_given_back.fetch_add(1, Ordering::Relaxed);
            arena_bytes = 0;
            return ControlFlow::Continue(());
        }
        // Begins before the run, so that a nudge during it is not missed.
        patience = Some(shared.queue.patience(ARENA_PATIENCE));
        // A panic about these texts is their failure: however many such texts come, the worker goes on. It is logged
        // where it happens.
        let _failed = catch_unwind(AssertUnwindSafe(|| {
            let Some((batch, reservation)) = reserve(shared, batch, arena_bytes) else { return };
            let needed = activation_bytes(shared, &batch);
            let shrink = needed > shared.kept_arena_bytes || shared.shrink_every_run.load(Ordering::Relaxed);
            run(shared, batch, |encodings| session.run(encodings, shrink));
            arena_bytes = if shrink { 0 } else { arena_bytes.max(needed) };
            drop(reservation);
        }));
        ControlFlow::Continue(())
    });
}

fn activation_bytes(shared: &Shared, batch: &[Job]) -> u64 {
    let longest = batch.iter().map(|job| job.encoding.len()).max().unwrap_or(0);
    shared.activation.bytes(batch.len().max(shared.least_rows), longest)
}

/// Sets memory aside for the batch; takes fewer texts when there is not enough for all of them.
/// A single text waits for running batches to give theirs back, and is refused after that.
fn reserve(shared: &Shared, mut batch: Vec<Job>, arena_bytes: u64) -> Option<(Vec<Job>, Reservation)> {
    let until = Instant::now() + MEMORY_WAIT;
    loop {
        let needed = activation_bytes(shared, &batch).saturating_sub(arena_bytes);
        let reservation = if batch.len() == 1 && shared.role == Role::Light {
            shared.headroom.reserve_with_spare(needed)
        } else {
            shared.headroom.reserve(needed)
        };
        if let Some(reservation) = reservation {
            return Some((batch, reservation));
        }
        if batch.len() > 1 {
            let rest = batch.split_off(batch.len().div_ceil(2));
            shared.queue.put_back(rest);
        } else if batch.iter().all(|job| job.reply.is_closed() || job.deadline <= Instant::now()) {
            refuse(batch, &InferenceError::DeadlinePassed);
            return None;
        } else if Instant::now() < until {
            thread::sleep(MEMORY_POLL);
        } else {
            log::warn!(
                "no memory for a run of one text on the {} model: it needs {needed} bytes, {} are free",
                shared.role,
                shared.headroom.unreserved_bytes()
            );
            refuse(batch, &InferenceError::NoMemory);
            return None;
        }
    }
}

/// Runs the batch with `infer` and answers each of its texts.
fn run<F>(shared: &Shared, batch: Vec<Job>, infer: F)
where
    F: FnOnce(&[&Encoding]) -> Result<Array2<f32>, SessionError>,
{
    let started = Instant::now();
    let encodings: Vec<&Encoding> = batch.iter().map(|job| job.encoding.as_ref()).collect();
    let longest = encodings.iter().map(|encoding| encoding.len()).max().unwrap_or(0);
    let tokens: usize = encodings.iter().map(|encoding| encoding.len()).sum();
    // A session is whole after a panic: ours happen before or after the library's call, not within it.
    // The panic itself is logged where it happens.
    let result = catch_unwind(AssertUnwindSafe(|| infer(&encodings)));
    let inference = started.elapsed();
    shared.runs.fetch_add(1, Ordering::Relaxed);
    shared.metrics.queued(shared.role, batch.iter().map(|job| started.duration_since(job.queued_at)));
    let padding_tokens = longest * batch.len() - tokens;
    let (computed, left_out) = match shared.padding {
        Padding::Computed => (padding_tokens, 0),
        Padding::LeftOut => (0, padding_tokens),
    };
    shared.metrics.batch(shared.role, batch.len(), tokens, (computed, left_out), inference);
    match result {
        Ok(Ok(logits)) => {
            remember_speed(shared, tokens, inference);
            for (job, row) in batch.into_iter().zip(logits.rows()) {
                let queued = started.duration_since(job.queued_at);
                job.answer(Ok(Inferred { logits: row.iter().copied().collect(), queued, inference }));
            }
        }
        Ok(Err(SessionError::Terminated)) => refuse(batch, &InferenceError::Evicted),
        Ok(Err(
            error @ (SessionError::Stopped
            | SessionError::Load { .. }
            | SessionError::NoRoom { .. }
            | SessionError::Foreign { .. }
            | SessionError::Run { .. }),
        )) => {
            log::error!("a batch of {} texts on the {} model failed: {error}", batch.len(), shared.role);
            refuse(batch, &InferenceError::Failed);
        }
        Err(_panic) => {
            log::error!("a batch of {} texts on the {} model failed with a panic", batch.len(), shared.role);
            refuse(batch, &InferenceError::Failed);
        }
    }
}

fn refuse(batch: Vec<Job>, why: &InferenceError) {
    batch.into_iter().for_each(|job| job.answer(Err(why.clone())));
}

/// A moving average over about eight runs, for `Retry-After`.
fn remember_speed(shared: &Shared, tokens: usize, inference: Duration) {
    let now = tokens as f64 / inference.as_secs_f64().max(1e-6);
    let before = shared.tokens_per_second.load(Ordering::Relaxed) as f64;
    shared.tokens_per_second.store((before * 0.875 + now * 0.125) as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
