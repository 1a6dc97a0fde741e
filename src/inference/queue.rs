//! Texts that wait for a worker, in fair order and within limits.
//!
//! Fairness: each request is a flow of its own. A text is due at a virtual time, which is that of
//! the text now being served plus its tokens; the texts of one request are due one after the other.
//! So a request of one text waits for at most as many tokens of any other request as it has itself,
//! and a request of hundreds gets the same share as everyone else while others wait. A long text
//! is due as if it had [`MOST_TOKENS_AHEAD`] tokens: it waits for that much of each other request
//! and not for twenty short ones, and who comes after it waits for one run of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::batch::{Padding, form_batch};
use crate::model::Encoding;

/// How many waiting texts are looked at for one batch.
const CANDIDATES: usize = 512;

/// A share of the waiting tokens below which splitting them over idle workers costs more than it
/// saves: smaller runs are slower for each token.
const MIN_SHARED_TOKENS: usize = 96;

/// Tokens after which a longer text is due no later.
const MOST_TOKENS_AHEAD: usize = 128;

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

#[derive(Default)]
struct State {
    waiting: BTreeMap<(u64, u64), Job>,
    waiting_tokens: usize,
    virtual_time: u64,
    sequence: u64,
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

/// Depth of a queue at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Texts waiting.
    pub texts: usize,
    /// Their tokens.
    pub tokens: usize,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: QueueLimits) -> Self {
        Self { state: Mutex::default(), filled: Condvar::new(), limits }
    }

    /// Puts in all texts of one request, or none of them.
    ///
    /// # Errors
    /// [`InferenceError::QueueFull`] with the time that the waiting tokens take at
    /// `tokens_per_second`; [`InferenceError::Evicted`] once the queue is closed.
    pub fn push(&self, jobs: Vec<Job>, tokens_per_second: f64) -> Result<(), InferenceError> {
        let tokens: usize = jobs.iter().map(|job| job.encoding.len()).sum();
        let mut state = self.lock();
        if state.closed {
            return Err(InferenceError::Evicted);
        }
        let is_full = state.waiting.len() + jobs.len() > self.limits.max_texts
            || state.waiting_tokens + tokens > self.limits.max_tokens;
        // A request larger than the whole queue is let in when nothing waits, else it never could be.
        if is_full && !state.waiting.is_empty() {
            let seconds = (state.waiting_tokens as f64 / tokens_per_second.max(1.0)).ceil().clamp(1.0, 60.0);
            return Err(InferenceError::QueueFull { retry_after: Duration::from_secs_f64(seconds) });
        }
        let mut turn = state.virtual_time;
        let count = jobs.len();
        for job in jobs {
            let tokens = job.encoding.len();
            state.sequence += 1;
            let key = (turn.saturating_add(tokens.min(MOST_TOKENS_AHEAD) as u64), state.sequence);
            turn = turn.saturating_add(tokens as u64);
            state.waiting.insert(key, job);
        }
        state.waiting_tokens += tokens;
        drop(state);
        if count == 1 {
            self.filled.notify_one()
        } else {
            self.filled.notify_all()
        }
        Ok(())
    }

    /// Waits for work and takes a batch of it; `None` once the queue is closed. A worker that has to
    /// wait gets an empty batch after `patience`, where there is one, or when it is nudged.
    pub fn take(&self, max_batch_tokens: usize, padding: Padding, patience: Option<Patience>) -> Option<Vec<Job>> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            drop_useless(&mut state);
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
        let keys: Vec<_> = state.waiting.keys().take(CANDIDATES).copied().collect();
        let lengths: Vec<_> = state.waiting.values().take(CANDIDATES).map(|job| job.encoding.len()).collect();
        let batch: Vec<Job> = form_batch(&lengths, max_batch_tokens.min(share), padding)
            .into_iter()
            .filter_map(|index| state.waiting.remove(&keys[index]))
            .collect();
        let taken: usize = batch.iter().map(|job| job.encoding.len()).sum();
        state.waiting_tokens -= taken;
        if let Some((due, _)) = keys.first() {
            state.virtual_time = state.virtual_time.max(*due);
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
            state.waiting_tokens += job.encoding.len();
            state.sequence += 1;
            let key = (state.virtual_time, state.sequence);
            state.waiting.insert(key, job);
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
    pub fn depth(&self) -> Depth {
        let state = self.lock();
        Depth { texts: state.waiting.len(), tokens: state.waiting_tokens }
    }

    /// Every change under the lock leaves the state whole, so a panic elsewhere does not poison it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops work whose client has gone, and answers work whose deadline has passed.
fn drop_useless(state: &mut State) {
    let now = Instant::now();
    let useless: Vec<_> = state
        .waiting
        .iter()
        .filter(|(_, job)| job.reply.is_closed() || job.deadline <= now)
        .map(|(key, _)| *key)
        .collect();
    for key in useless {
        if let Some(job) = state.waiting.remove(&key) {
            state.waiting_tokens -= job.encoding.len();
            job.answer(Err(InferenceError::DeadlinePassed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Receiver = oneshot::Receiver<Result<Inferred, InferenceError>>;

    fn job(tokens: usize) -> (Job, Receiver) {
        let (reply, receiver) = oneshot::channel();
        let encoding = Arc::new(Encoding { input_ids: vec![7; tokens].into(), type_ids: Box::default() });
        let now = Instant::now();
        (Job { encoding, deadline: now + Duration::from_secs(60), queued_at: now, reply }, receiver)
    }

    fn push(queue: &Queue, lengths: &[usize]) -> Vec<Receiver> {
        let (jobs, receivers): (Vec<_>, Vec<_>) = lengths.iter().map(|tokens| job(*tokens)).unzip();
        queue.push(jobs, 100.0).unwrap();
        receivers
    }

    fn queue() -> Queue {
        Queue::new(QueueLimits { max_texts: 1000, max_tokens: 100_000 })
    }

    fn lengths(batch: &[Job]) -> Vec<usize> {
        batch.iter().map(|job| job.encoding.len()).collect()
    }

    #[test]
    fn a_small_request_passes_a_large_one_that_came_before() {
        let queue = queue();
        let _large = push(&queue, &[50; 200]);
        assert_eq!(lengths(&queue.take(100, Padding::Computed, None).unwrap()), [50, 50]);
        let _small = push(&queue, &[20]);
        // One more text of the large request at most is due before it.
        let next: Vec<_> = (0..2).flat_map(|_| lengths(&queue.take(100, Padding::Computed, None).unwrap())).collect();
        assert!(next.contains(&20), "{next:?}");
    }

    #[test]
    fn a_stream_of_short_texts_does_not_starve_a_long_one() {
        let queue = queue();
        let mut receivers = push(&queue, &[500]);
        let mut served_before = 0;
        loop {
            receivers.extend(push(&queue, &[10]));
            let batch = lengths(&queue.take(512, Padding::Computed, None).unwrap());
            if batch.contains(&500) {
                break;
            }
            served_before += batch.iter().sum::<usize>();
            assert!(
                served_before <= MOST_TOKENS_AHEAD,
                "the long text still waits after {served_before} tokens of others"
            );
        }
    }

    #[test]
    fn work_whose_client_has_gone_is_dropped() {
        let queue = queue();
        drop(push(&queue, &[10, 10]));
        let _kept = push(&queue, &[11]);
        assert_eq!(lengths(&queue.take(512, Padding::Computed, None).unwrap()), [11]);
        assert_eq!(queue.depth(), Depth::default());
    }

    #[test]
    fn work_whose_deadline_passed_is_answered_without_a_run() {
        let queue = queue();
        let (mut late, mut receiver) = job(10);
        late.deadline = Instant::now();
        queue.push(vec![late], 100.0).unwrap();
        let _kept = push(&queue, &[11]);
        assert_eq!(lengths(&queue.take(512, Padding::Computed, None).unwrap()), [11]);
        assert_eq!(receiver.try_recv().unwrap().unwrap_err(), InferenceError::DeadlinePassed);
    }

    #[test]
    fn a_full_queue_refuses_whole_requests_and_says_how_long_it_will_take() {
        let queue = Queue::new(QueueLimits { max_texts: 3, max_tokens: 1000 });
        let _waiting = push(&queue, &[100, 100]);
        let (jobs, _receivers): (Vec<_>, Vec<_>) = [job(5), job(5)].into_iter().unzip();
        let refused = queue.push(jobs, 100.0).unwrap_err();
        assert_eq!(refused, InferenceError::QueueFull { retry_after: Duration::from_secs(2) });
        assert_eq!(queue.depth(), Depth { texts: 2, tokens: 200 });
    }

    #[test]
    fn closing_answers_what_waits_and_refuses_what_comes() {
        let queue = queue();
        let mut receivers = push(&queue, &[10]);
        assert_eq!(queue.close(), 1);
        assert_eq!(receivers[0].try_recv().unwrap().unwrap_err(), InferenceError::Evicted);
        assert_eq!(queue.push(vec![job(5).0], 100.0).unwrap_err(), InferenceError::Evicted);
        assert!(queue.take(512, Padding::Computed, None).is_none());
    }

    #[test]
    fn a_worker_with_patience_waits_for_its_time_or_a_nudge_and_work_comes_first() {
        let queue = queue();
        let none: [usize; 0] = [];
        let over = queue.patience(Duration::ZERO);
        assert_eq!(lengths(&queue.take(512, Padding::Computed, Some(over)).unwrap()), none);
        let _receivers = push(&queue, &[7]);
        assert_eq!(lengths(&queue.take(512, Padding::Computed, Some(over)).unwrap()), [7]);
        // A nudge between two waits counts too.
        let long = queue.patience(Duration::from_secs(3600));
        queue.nudge();
        assert_eq!(lengths(&queue.take(512, Padding::Computed, Some(long)).unwrap()), none);
        std::thread::scope(|scope| {
            let long = queue.patience(Duration::from_secs(3600));
            let queue = &queue;
            let waiting = scope.spawn(move || queue.take(512, Padding::Computed, Some(long)).unwrap().len());
            queue.nudge();
            assert_eq!(waiting.join().unwrap(), 0);
        });
    }
}
