use tokio::sync::oneshot;

use super::*;
use crate::inference::fairness::{ClientId, Flow};

type Reply = oneshot::Receiver<Result<Inferred, InferenceError>>;

fn shared() -> Arc<Shared> {
    Arc::new(Shared {
        role: Role::Heavy,
        queue: Queue::new(QueueLimits { max_texts: 100, max_tokens: 10_000 }),
        headroom: Arc::new(Headroom::default()),
        activation: ActivationCost { bytes_per_token: 1000, bytes_per_attention_cell: 0.0, heads: 12 },
        padding: Padding::Computed,
        least_rows: 1,
        kept_arena_bytes: 0,
        metrics: Arc::new(Metrics::new()),
        max_batch_tokens: AtomicUsize::new(512),
        shrink_every_run: AtomicBool::new(false),
        tokens_per_second: AtomicU64::new(ASSUMED_TOKENS_PER_SECOND),
        runs: AtomicU64::new(0),
        arenas_given_back: AtomicU64::new(0),
        running_workers: AtomicUsize::new(0),
    })
}

fn job(patience: Duration) -> (Job, Reply) {
    let (reply, receiver) = oneshot::channel();
    let encoding = Arc::new(Encoding { input_ids: [7; 10].into(), type_ids: Box::default() });
    let now = Instant::now();
    (Job { flow: Flow::of(ClientId::of(&())), encoding, deadline: now + patience, queued_at: now, reply }, receiver)
}

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn a_panic_in_a_run_fails_its_texts_and_the_worker_goes_on() {
    let shared = shared();
    let (batch, mut replies): (Vec<_>, Vec<_>) = [job(LONG), job(LONG)].into_iter().unzip();
    run(&shared, batch, |_| panic!("as a defect does"));
    assert!(replies.iter_mut().all(|reply| reply.try_recv().unwrap().unwrap_err() == InferenceError::Failed));
    let (next, mut reply) = job(LONG);
    run(&shared, vec![next], |_| Ok(ndarray::array![[0.5, 0.25]]));
    assert_eq!(*reply.try_recv().unwrap().unwrap().logits, [0.5, 0.25]);
}

#[test]
fn the_last_worker_that_ends_with_a_panic_is_counted_out_and_leaves_nothing_waiting() {
    let shared = shared();
    let running = Running::new(&shared);
    let (waiting, mut reply) = job(LONG);
    shared.queue.push(&mut [waiting].into(), 100.0).unwrap();
    let worker = thread::spawn(move || {
        let _running = running;
        panic!("as a defect does");
    });
    assert!(worker.join().is_err());
    assert_eq!(shared.running_workers.load(Ordering::SeqCst), 0);
    assert_eq!(reply.try_recv().unwrap().unwrap_err(), InferenceError::Evicted);
}

/// What `reserve` does with the job while all memory is held, and after it was given back.
fn reserved_late(job: Job) -> bool {
    let shared = shared();
    shared.headroom.update(0, 0);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| reserve(&shared, vec![job], 0).is_some());
        thread::sleep(MEMORY_WAIT / 5);
        shared.headroom.update(u64::MAX, 0);
        waiting.join().unwrap()
    })
}

#[test]
fn a_text_that_waits_for_memory_is_given_up_when_nobody_wants_it_any_more() {
    let (wanted, _reply) = job(LONG);
    assert!(reserved_late(wanted), "memory came in time");
    let (abandoned, reply) = job(LONG);
    drop(reply);
    assert!(!reserved_late(abandoned), "its client has gone");
    let (late, mut reply) = job(MEMORY_POLL);
    assert!(!reserved_late(late), "its deadline passed");
    assert_eq!(reply.try_recv().unwrap().unwrap_err(), InferenceError::DeadlinePassed);
}

#[test]
fn a_lone_text_reserves_the_rows_that_its_run_computes() {
    let mut shared = shared();
    let lone = [job(LONG).0];
    let one_row = activation_bytes(&shared, &lone);
    Arc::get_mut(&mut shared).unwrap().least_rows = 2;
    assert_eq!(activation_bytes(&shared, &lone), 2 * one_row);
}
