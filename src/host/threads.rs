//! Threads that the system may refuse: `pids.max` of a group and `ulimit -u` bound how many there are.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread;

use tokio::task::JoinHandle;

/// What a refusal means to whoever runs the server.
pub(crate) const REFUSED: &str =
    "the system gives no more threads; raise pids.max of the container, or `ulimit -u` of the user";

/// Checks that so many threads can be there at once, by starting them for a moment: a server that finds
/// out later is one that looks well and does not answer.
///
/// # Errors
/// What the system said.
pub(crate) fn check(count: usize) -> io::Result<()> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        let _closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = || drop(gate.lock());
        (0..count).try_for_each(|_| thread::Builder::new().spawn_scoped(scope, wait).map(drop))
    })
}

/// Starts `work`, which may take its time, on another thread than those that serve HTTP.
///
/// # Errors
/// When the system gives no thread for it.
pub(crate) fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    // tokio keeps such threads for 10 seconds; where it can start none, it panics.
    let started = catch_unwind(AssertUnwindSafe(|| tokio::task::spawn_blocking(work)));
    started.map_err(|_panic| io::Error::other(REFUSED))
}

/// The same, and waits for its end.
///
/// # Errors
/// When the system gives no thread for it, or it ended with a panic.
pub(crate) async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    // The error quotes the message of the panic, which may quote a text.
    spawn_blocking(work)?.await.map_err(|_panic| io::Error::other("it ended with a panic"))
}
