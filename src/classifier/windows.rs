//! From the tokens of a query's windows to their logits: out of the cache, or through a run.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::oneshot;

use super::{Classifier, ClassifyError};
use crate::cache::{CacheKey, Flight, Lookup};
use crate::inference::fairness::Flow;
use crate::inference::queue::{InferenceError, Job};
use crate::model::Encoding;
use crate::residency::Lease;

/// Windows of a query up to which others that ask the same text wait for its run. The texts of a
/// larger query have late turns, which nobody else should have to wait for.
const MOST_SHARED: usize = 16;

/// How often a query looks for room in the queue while none of its own texts is answered.
const ROOM_POLL: Duration = Duration::from_millis(20);

/// A window and its logits, or why it has none.
pub(super) struct Window {
    pub(super) key: CacheKey,
    pub(super) logits: Result<Arc<[f32]>, InferenceError>,
    pub(super) from_cache: bool,
    pub(super) queue: Duration,
    pub(super) inference: Duration,
}

impl Window {
    fn new(key: &CacheKey, logits: Result<Arc<[f32]>, InferenceError>, from_cache: bool) -> Self {
        Self { key: key.clone(), logits, from_cache, queue: Duration::ZERO, inference: Duration::ZERO }
    }

    /// The same figures for another text with the same tokens.
    fn of_equal_text(&self, key: CacheKey) -> Self {
        Self { key, logits: self.logits.clone(), ..*self }
    }
}

/// A window that is to be run, with the right to tell others of it.
type Run<'cache> = (usize, Option<Flight<'cache>>);

impl Classifier {
    /// Logits of each window: from the cache, from a run that another query has begun, or from a
    /// run of its own. Equal windows are run once.
    pub(super) async fn infer(
        &self,
        lease: &Lease,
        encodings: Vec<Encoding>,
        flow: Flow,
        deadline: Instant,
    ) -> Result<Vec<Window>, ClassifyError> {
        let keys: Vec<CacheKey> =
            encodings.into_iter().map(|encoding| CacheKey::new(lease.role, &lease.model.bundle, encoding)).collect();
        let mut first_with_key: HashMap<&CacheKey, usize> = HashMap::with_capacity(keys.len());
        let mut same_as: Vec<Option<usize>> = Vec::with_capacity(keys.len());
        let mut results: Vec<Option<Window>> = keys.iter().map(|_| None).collect();
        let mut runs: Vec<Run<'_>> = Vec::new();
        let mut awaited = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            if let Some(first) = first_with_key.get(key) {
                same_as.push(Some(*first));
                continue;
            }
            same_as.push(None);
            first_with_key.insert(key, index);
            match if keys.len() > MOST_SHARED {
                self.cache.look_alone(key)
            } else {
                self.cache.look(key, flow.client())
            } {
                Lookup::Hit(logits) => results[index] = Some(Window::new(key, Ok(logits), true)),
                Lookup::Miss(flight) => runs.push((index, flight)),
                Lookup::InFlight => awaited.push(index),
            }
            self.metrics.cache_lookup(results[index].is_some());
        }
        let own = self.run(lease, &keys, runs, flow, deadline);
        let others = try_join_all(awaited.iter().map(|index| self.wait_or_run(lease, &keys, *index, flow, deadline)));
        // Its own first: a full queue is told at once, not when others are done.
        let (own, others) = tokio::try_join!(own, others)?;
        for (index, window) in own.into_iter().chain(awaited.into_iter().zip(others)) {
            results[index] = Some(window);
        }
        let mut windows: Vec<Window> = Vec::with_capacity(keys.len());
        for ((result, same), key) in results.into_iter().zip(same_as).zip(keys) {
            let window = match (result, same) {
                (Some(window), _) => window,
                (None, Some(first)) => windows[first].of_equal_text(key),
                (None, None) => return Err(ClassifyError::Internal),
            };
            windows.push(window);
        }
        Ok(windows)
    }

    /// Runs the windows at `runs` and puts their logits into the cache, each as soon as it has them.
    /// Those that the queue has no room for yet follow as others are answered.
    async fn run<'cache>(
        &'cache self,
        lease: &Lease,
        keys: &[CacheKey],
        runs: Vec<Run<'cache>>,
        flow: Flow,
        deadline: Instant,
    ) -> Result<Vec<(usize, Window)>, ClassifyError> {
        let queued_at = Instant::now();
        if queued_at >= deadline {
            return Err(ClassifyError::DeadlinePassed);
        }
        let job = |(index, flight): Run<'cache>| {
            let (reply, receiver) = oneshot::channel();
            let encoding = Arc::clone(keys[index].encoding());
            (Job { flow, encoding, deadline, queued_at, reply }, async move { ((index, flight), receiver.await) })
        };
        let (mut jobs, mut replies): (VecDeque<_>, FuturesUnordered<_>) = runs.into_iter().map(job).unzip();
        let mut in_queue = 0;
        let mut done = Vec::with_capacity(replies.len());
        while !replies.is_empty() {
            match lease.model.pool.push(&mut jobs) {
                Ok(count) => in_queue += count,
                Err(InferenceError::QueueFull { .. }) if !done.is_empty() => {}
                Err(InferenceError::QueueFull { retry_after }) => return Err(ClassifyError::QueueFull { retry_after }),
                Err(error) => jobs.drain(..).for_each(|job| job.answer(Err(error.clone()))),
            }
            let now = Instant::now();
            let until = if jobs.is_empty() { deadline } else { deadline.min(now + ROOM_POLL) };
            match tokio::time::timeout_at(until.into(), replies.next()).await {
                Ok(None) => break,
                Err(_elapsed) if Instant::now() >= deadline => return Err(ClassifyError::DeadlinePassed),
                Err(_no_answer_yet) => {}
                Ok(Some(((index, flight), reply))) => {
                    // Where the queue was closed, some never were in it.
                    in_queue = usize::saturating_sub(in_queue, 1);
                    let key = &keys[index];
                    // Only a panic lets go of a text without an answer; to try it again would be to panic again.
                    let inferred = reply.unwrap_or(Err(InferenceError::Failed));
                    if let Err(InferenceError::QueueFull { retry_after }) = inferred {
                        // It made room for another client's text. A query that has begun waits with it.
                        if in_queue == 0 && done.is_empty() {
                            return Err(ClassifyError::QueueFull { retry_after });
                        }
                        let (again, reply) = job((index, flight));
                        jobs.push_back(again);
                        replies.push(reply);
                        continue;
                    }
                    let (queue, inference) =
                        inferred.as_ref().map_or_else(|_| Default::default(), |it| (it.queued, it.inference));
                    let logits: Result<Arc<[f32]>, _> = inferred.map(|inferred| inferred.logits.into());
                    match (flight, &logits) {
                        (Some(flight), Ok(logits)) => flight.land(Arc::clone(logits)),
                        (None, Ok(logits)) => self.cache.put(key, Arc::clone(logits)),
                        (_, Err(_)) => {}
                    }
                    done.push((index, Window { queue, inference, ..Window::new(key, logits, false) }));
                }
            }
        }
        Ok(done)
    }

    /// Waits for a window that another query computes; computes it when that one gives up.
    async fn wait_or_run(
        &self,
        lease: &Lease,
        keys: &[CacheKey],
        index: usize,
        flow: Flow,
        deadline: Instant,
    ) -> Result<Window, ClassifyError> {
        let key = &keys[index];
        match tokio::time::timeout_at(deadline.into(), self.cache.wait(key, flow.client())).await {
            Err(_elapsed) => Err(ClassifyError::DeadlinePassed),
            Ok(Ok(logits)) => Ok(Window::new(key, Ok(logits), true)),
            Ok(Err(flight)) => {
                let mut done = self.run(lease, keys, vec![(index, flight)], flow, deadline).await?;
                done.pop().map(|(_, window)| window).ok_or(ClassifyError::Internal)
            }
        }
    }
}
