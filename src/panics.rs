//! What becomes of a panic: it is logged and counted when it happens. A thread that must live goes on; where that is
//! impossible, the process ends with exit code 70, so that whoever started it starts it anew.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::exit::{EXIT_DEFECT, end_process};

/// How often a thread may panic without doing anything well between: what it works on is then broken.
const MOST_IN_A_ROW: u32 = 10;

/// Time after a panic before the thread goes on, so that it does not fill the log and a core.
const PAUSE: Duration = Duration::from_millis(100);

/// The thread that takes connections; nobody can start it again.
const ACCEPTOR: &str = "acceptor";

/// How the names of threads begin, and what metrics call them.
const THREADS: [(&str, &str); 10] = [
    ("main", "main"),
    ("actix-server acceptor", ACCEPTOR),
    ("actix-", "http"),
    ("tokio-", "blocking"),
    ("heavy-", "worker"),
    ("light-", "worker"),
    ("load-", "loader"),
    ("unload-", "unloader"),
    ("watchdog", "watchdog"),
    ("log-writer", "log_writer"),
];

/// What metrics call all other threads.
const OTHER: &str = "other";

/// Panics of each kind of thread, then those of other threads.
static COUNTS: [AtomicU64; THREADS.len() + 1] = [const { AtomicU64::new(0) }; THREADS.len() + 1];

fn index_of(thread: &str) -> usize {
    THREADS.iter().position(|(begin, _)| thread.starts_with(begin)).unwrap_or(THREADS.len())
}

fn label_of(index: usize) -> &'static str {
    THREADS.get(index).map_or(OTHER, |(_, label)| label)
}

/// Panics so far by kind of thread; two entries may be of one kind.
pub(crate) fn counts() -> impl Iterator<Item = (&'static str, u64)> {
    COUNTS.iter().enumerate().map(|(index, count)| (label_of(index), count.load(Ordering::Relaxed)))
}

/// Lets panics be lines of the log like any others, found where the log is read, and counts them. The message of a
/// panic may quote a text, as that of a slice within a character does; it is only shown with `shows_texts`.
pub(crate) fn log_and_count(shows_texts: bool) {
    std::panic::set_hook(Box::new(move |panic| {
        let thread = thread::current();
        let index = index_of(thread.name().unwrap_or_default());
        COUNTS[index].fetch_add(1, Ordering::Relaxed);
        match panic.location() {
            Some(place) if !shows_texts => {
                log::error!("a defect: panicked at {place}; LOG_TEXTS=true shows the message");
            }
            _ => log::error!("{panic}"),
        }
        if label_of(index) == ACCEPTOR {
            end_after_panic("the thread that takes connections");
        }
    }));
}

/// Calls `step` until it breaks, also after it panicked. Ends the process when it does nothing but panic.
pub(crate) fn supervise(what: &str, mut step: impl FnMut() -> ControlFlow<()>) {
    let mut in_a_row = 0;
    loop {
        match catch_unwind(AssertUnwindSafe(&mut step)) {
            Ok(ControlFlow::Continue(())) => in_a_row = 0,
            Ok(ControlFlow::Break(())) => return,
            Err(_logged) if in_a_row + 1 < MOST_IN_A_ROW => {
                in_a_row += 1;
                log::error!("{what} goes on after a panic");
                thread::sleep(PAUSE);
            }
            Err(_logged) => end_after_panic(what),
        }
    }
}

/// Ends the process where what it is held by ends with a panic: for work whose half would leave a server that looks
/// well and is not.
pub(crate) struct MustFinish(pub &'static str);

impl Drop for MustFinish {
    fn drop(&mut self) {
        if thread::panicking() {
            end_after_panic(self.0);
        }
    }
}

/// Ends the process with the code for defects.
pub(crate) fn end_after_panic(what: &str) -> ! {
    log::error!("{what} cannot go on after a panic: ending the process with exit code {EXIT_DEFECT}");
    end_process(EXIT_DEFECT)
}

#[cfg(test)]
mod tests;
