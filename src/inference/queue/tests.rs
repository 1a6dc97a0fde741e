use std::sync::Barrier;
use std::thread;

use proptest::prelude::*;

use super::super::fairness::{ClientId, MOST_COST_TOKENS};
use super::*;

type Receiver = oneshot::Receiver<Result<Inferred, InferenceError>>;

fn job(flow: Flow, tokens: usize) -> (Job, Receiver) {
    let (reply, receiver) = oneshot::channel();
    let encoding = Arc::new(Encoding { input_ids: vec![7; tokens].into(), type_ids: Box::default() });
    let now = Instant::now();
    (Job { flow, encoding, deadline: now + Duration::from_secs(60), queued_at: now, reply }, receiver)
}

fn jobs(lengths: &[usize]) -> (VecDeque<Job>, Vec<Receiver>) {
    let flow = Flow::of(ClientId::of(&()));
    lengths.iter().map(|tokens| job(flow, *tokens)).unzip()
}

/// A request that fits whole.
fn push(queue: &Queue, lengths: &[usize]) -> Vec<Receiver> {
    let (mut jobs, receivers) = jobs(lengths);
    assert_eq!(queue.push(&mut jobs, 100.0), Ok(lengths.len()));
    receivers
}

fn client(name: usize) -> ClientId {
    ClientId::of(&name)
}

/// Texts of a new request of this client.
fn jobs_of(name: usize, lengths: &[usize]) -> (VecDeque<Job>, Vec<Receiver>) {
    let flow = Flow::of(client(name));
    lengths.iter().map(|tokens| job(flow, *tokens)).unzip()
}

/// How many of the texts had to make room.
fn refused(receivers: &mut [Receiver]) -> usize {
    let is_refused = |reply: &mut Receiver| matches!(reply.try_recv(), Ok(Err(InferenceError::QueueFull { .. })));
    receivers.iter_mut().filter_map(|reply| is_refused(reply).then_some(())).count()
}

fn queue() -> Queue {
    Queue::new(QueueLimits { max_texts: 1000, max_tokens: 100_000 })
}

fn take(queue: &Queue, max_batch_tokens: usize) -> Vec<usize> {
    lengths(&queue.take(max_batch_tokens, Padding::Computed, None).unwrap())
}

fn lengths(batch: &[Job]) -> Vec<usize> {
    batch.iter().map(Job::tokens).collect()
}

#[test]
fn a_small_request_passes_a_large_one_that_came_before() {
    let queue = queue();
    let _large = push(&queue, &[50; 200]);
    assert_eq!(take(&queue, 100), [50, 50]);
    let _small = push(&queue, &[20]);
    assert_eq!(take(&queue, 100), [20]);
}

#[test]
fn a_short_text_does_not_wait_for_the_long_texts_of_others() {
    let queue = queue();
    let _long: Vec<_> = (0..50).map(|_| push(&queue, &[400])).collect();
    assert_eq!(take(&queue, 512), [400]);
    let _short = push(&queue, &[20]);
    assert_eq!(take(&queue, 512), [20]);
}

#[test]
fn a_stream_of_short_texts_does_not_starve_a_long_one() {
    let queue = queue();
    let mut receivers = push(&queue, &[500]);
    let mut served_before = 0;
    loop {
        receivers.extend(push(&queue, &[10]));
        let batch = take(&queue, 512);
        if batch.contains(&500) {
            break;
        }
        served_before += batch.iter().sum::<usize>();
        // Two flows share at any time.
        assert!(served_before <= 2 * MOST_COST_TOKENS, "the long text still waits after {served_before} tokens");
    }
}

#[test]
fn a_large_request_leaves_half_of_the_queue_to_others() {
    let queue = Queue::new(QueueLimits { max_texts: 64, max_tokens: 10_000 });
    let (mut large, _replies) = jobs(&[10; 200]);
    assert_eq!(queue.push(&mut large, 100.0), Ok(32));
    assert_eq!(queue.push(&mut large, 100.0), Ok(0), "it waits for its own texts");
    let (mut second, _replies_too) = jobs(&[10; 200]);
    assert_eq!(queue.push(&mut second, 100.0), Ok(2), "a 32nd of the queue is for each");
    let _small: Vec<_> = (0..30).map(|_| push(&queue, &[10])).collect();
    let (mut late, _refused) = jobs(&[10]);
    assert!(matches!(queue.push(&mut late, 100.0), Err(InferenceError::QueueFull { .. })));
    while queue.depth().texts >= 32 {
        take(&queue, 100);
    }
    let room = 32 - queue.depth().texts;
    assert_eq!(queue.push(&mut large, 100.0), Ok(room), "and goes on when there is room");
}

#[test]
fn tokens_bound_the_queue_as_texts_do_and_a_text_over_the_bound_comes_in_alone() {
    let queue = Queue::new(QueueLimits { max_texts: 64, max_tokens: 300 });
    let _whole = push(&queue, &[400]);
    let (mut other, _refused) = jobs(&[10]);
    // 410 tokens wait with it, 110 too many.
    let refused = queue.push(&mut other, 100.0).unwrap_err();
    assert_eq!(refused, InferenceError::QueueFull { retry_after: Duration::from_secs(2) });
    assert_eq!(take(&queue, 512), [400]);
    assert_eq!(queue.push(&mut other, 100.0), Ok(1));
}

#[test]
fn a_full_queue_refuses_a_small_request_whole_and_says_when_there_is_room_for_it() {
    let queue = Queue::new(QueueLimits { max_texts: 96, max_tokens: 100_000 });
    let _waiting: Vec<_> = (0..95).map(|_| push(&queue, &[400])).collect();
    let (mut two, _receivers) = jobs(&[400, 400]);
    // One text of 97 has to go first: 400 tokens at 100 a second.
    let refused = queue.push(&mut two, 100.0).unwrap_err();
    assert_eq!(refused, InferenceError::QueueFull { retry_after: Duration::from_secs(4) });
    assert_eq!((two.len(), queue.depth().texts), (2, 95));
}

#[test]
fn work_whose_client_has_gone_makes_room_at_once() {
    let queue = Queue::new(QueueLimits { max_texts: 64, max_tokens: 100_000 });
    drop((0..64).map(|_| push(&queue, &[10])).collect::<Vec<_>>());
    let _kept = push(&queue, &[11]);
    assert_eq!(queue.depth(), Held { texts: 1, tokens: 11 });
}

#[test]
fn work_whose_client_has_gone_is_dropped() {
    let queue = queue();
    drop(push(&queue, &[10, 10]));
    let _kept = push(&queue, &[11]);
    assert_eq!(take(&queue, 512), [11]);
    assert_eq!(queue.depth(), Held::default());
}

#[test]
fn work_whose_deadline_passed_is_answered_without_a_run() {
    let queue = queue();
    let (mut late, mut receiver) = job(Flow::of(ClientId::of(&())), 10);
    late.deadline = Instant::now();
    assert_eq!(queue.push(&mut VecDeque::from([late]), 100.0), Ok(1));
    let _kept = push(&queue, &[11]);
    assert_eq!(take(&queue, 512), [11]);
    assert_eq!(receiver.try_recv().unwrap().unwrap_err(), InferenceError::DeadlinePassed);
}

#[test]
fn what_is_put_back_is_due_at_once_and_counts_as_waiting() {
    let queue = queue();
    let _receivers = push(&queue, &[30, 30]);
    let taken = queue.take(60, Padding::Computed, None).unwrap();
    let _other = push(&queue, &[5]);
    queue.put_back(taken);
    assert_eq!(queue.depth(), Held { texts: 3, tokens: 65 });
    assert_eq!(take(&queue, 60), [30, 30]);
}

#[test]
fn a_large_request_is_spread_over_the_workers_that_wait() {
    let queue = queue();
    let (taken, both_have) = (Mutex::new(Vec::new()), Barrier::new(3));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let batch = take(&queue, 512);
                taken.lock().unwrap().push(batch.iter().sum::<usize>());
                both_have.wait();
            });
        }
        while queue.lock().idle_workers < 2 {
            thread::yield_now();
        }
        let _receivers = push(&queue, &[50; 8]);
        both_have.wait();
    });
    assert_eq!(*taken.lock().unwrap(), [200, 200]);
}

#[test]
fn closing_answers_what_waits_and_refuses_what_comes() {
    let queue = queue();
    let mut receivers = push(&queue, &[10]);
    assert_eq!(queue.close(), 1);
    assert_eq!(receivers[0].try_recv().unwrap().unwrap_err(), InferenceError::Evicted);
    assert_eq!(queue.push(&mut jobs(&[5]).0, 100.0).unwrap_err(), InferenceError::Evicted);
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
    thread::scope(|scope| {
        let long = queue.patience(Duration::from_secs(3600));
        let queue = &queue;
        let waiting = scope.spawn(move || queue.take(512, Padding::Computed, Some(long)).unwrap().len());
        queue.nudge();
        assert_eq!(waiting.join().unwrap(), 0);
    });
}

#[test]
fn a_client_that_floods_the_queue_makes_room_for_each_other_one() {
    let queue = Queue::new(QueueLimits { max_texts: 1024, max_tokens: 65_536 });
    let mut flood: Vec<Receiver> = Vec::new();
    let mut turned_away = 0;
    for _ in 0..200 {
        let (mut one, replies) = jobs_of(0, &[512]);
        match queue.push(&mut one, 100.0) {
            Ok(count) => assert_eq!(count, 1),
            Err(error) => {
                assert!(matches!(error, InferenceError::QueueFull { .. }));
                turned_away += 1;
            }
        }
        flood.extend(replies);
    }
    assert_eq!((turned_away, queue.depth().tokens), (72, 65_536), "alone it has the whole queue");
    let mut others = Vec::new();
    for name in 1..=20 {
        let (mut texts, replies) = jobs_of(name, &[30; 8]);
        assert_eq!(queue.push(&mut texts, 100.0), Ok(8), "client {name}");
        others.extend(replies);
    }
    assert_eq!(refused(&mut others), 0);
    // 20 times 240 tokens, in texts of 512.
    assert_eq!(refused(&mut flood[..128]), 10);
    assert_eq!(refused(&mut flood[118..128]), 0, "they have been told");
}

#[test]
fn the_largest_request_of_the_largest_client_gives_its_youngest_text() {
    let queue = Queue::new(QueueLimits { max_texts: 64, max_tokens: 10_000 });
    let (mut large, mut large_replies) = jobs_of(0, &[10; 40]);
    assert_eq!(queue.push(&mut large, 100.0), Ok(32));
    let mut replies = Vec::new();
    for name in [0, 1] {
        for _ in 0..16 {
            let (mut one, receivers) = jobs_of(name, &[10]);
            assert_eq!(queue.push(&mut one, 100.0), Ok(1));
            replies.extend(receivers);
        }
    }
    let (mut new, _new_replies) = jobs_of(2, &[10]);
    assert_eq!((queue.depth().texts, queue.push(&mut new, 100.0)), (64, Ok(1)));
    assert_eq!(refused(&mut replies), 0);
    assert_eq!(refused(&mut large_replies[31..32]), 1);
    assert_eq!((refused(&mut large_replies), queue.depth().texts), (0, 64));
}

#[test]
fn a_client_that_holds_as_much_as_others_is_told_that_the_queue_is_full() {
    let queue = Queue::new(QueueLimits { max_texts: 64, max_tokens: 100_000 });
    let (mut jobs, mut replies): (Vec<_>, Vec<_>) = (0..64).map(|name| jobs_of(name, &[10])).unzip();
    assert!(jobs.iter_mut().all(|one| queue.push(one, 100.0) == Ok(1)));
    let (mut one_more, _refused) = jobs_of(64, &[10]);
    assert!(matches!(queue.push(&mut one_more, 100.0), Err(InferenceError::QueueFull { .. })));
    assert_eq!(replies.iter_mut().map(|replies| refused(replies)).sum::<usize>(), 0, "nobody is pushed out in vain");
}

#[test]
fn nobody_makes_room_for_a_client_that_is_refused_by_the_other_bound() {
    let queue = Queue::new(QueueLimits { max_texts: 64, max_tokens: 6384 });
    // One client has many texts but few tokens; each of the others has as many tokens as the new one brings.
    let short = (0..24).map(|_| jobs_of(0, &[1]));
    let (mut jobs, mut replies): (Vec<_>, Vec<_>) = short.chain((1..=40).map(|name| jobs_of(name, &[159]))).unzip();
    assert!(jobs.iter_mut().all(|one| queue.push(one, 100.0) == Ok(1)));
    let (mut new, _refused) = jobs_of(41, &[159]);
    assert!(matches!(queue.push(&mut new, 100.0), Err(InferenceError::QueueFull { .. })));
    let still_waits = |reply: &mut Receiver| matches!(reply.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    assert!(replies.iter_mut().flatten().all(still_waits), "a text was let go of");
    assert_eq!(queue.depth(), Held { texts: 64, tokens: 6384 });
}

proptest! {
    #[test]
    fn a_client_with_less_than_an_equal_part_of_the_queue_is_never_refused(
        pushes in prop::collection::vec((0_usize..6, 1_usize..40, 1_usize..100), 0..150),
        max_texts in 12_usize..200,
    ) {
        let limits = QueueLimits { max_texts, max_tokens: max_texts * 64 };
        let queue = Queue::new(limits);
        let mut replies = Vec::new();
        for (name, texts, tokens) in pushes {
            let (mut jobs, receivers) = jobs_of(name, &vec![tokens; texts]);
            let _may_be_refused = queue.push(&mut jobs, 100.0);
            replies.push((name, tokens, receivers));
            let depth = queue.depth();
            prop_assert!(limits.hold(depth), "{depth:?} wait, over {limits:?}");
        }
        // The six others are seven clients with the new one.
        let (mut new, _receiver) = jobs_of(6, &[max_texts * 64 / 7]);
        prop_assert_eq!(queue.push(&mut new, 100.0), Ok(1));
    }
}
