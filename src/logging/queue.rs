//! Log lines on their way to standard error: everybody puts them into a bounded buffer, one thread writes them.
//!
//! A reader of standard error that stalls holds up that thread and nobody else. A line that finds no room is dropped
//! and counted, and so are those after it until the thread takes what is in the buffer: lines are missing in one place,
//! and a line in that place says how many.

use std::io::{self, ErrorKind, Write};
use std::ops::ControlFlow;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::panics::supervise;

/// Most bytes that wait, some 5,000 lines of the access log. As many may be with the thread that writes.
const MAX_BYTES: usize = 1 << 20;

/// How long the end of the process waits for its last lines to be written.
const FLUSH_PATIENCE: Duration = Duration::from_millis(500);

/// How long the writing thread waits for more lines after the first: to be woken for each costs more than to write it.
const GATHERING: Duration = Duration::from_millis(2);

/// How often a descriptor that takes nothing now is tried again, where it cannot be waited for.
const RETRY: Duration = Duration::from_millis(10);

/// The lines of this process.
pub(super) static LINES: Lines = Lines::new(MAX_BYTES);

pub(super) struct Lines {
    max_bytes: usize,
    state: Mutex<State>,
    filled: Condvar,
    written: Condvar,
}

struct State {
    has_writer: bool,
    is_writing: bool,
    bytes: Vec<u8>,
    lines: u64,
    is_full: bool,
    dropped: u64,
    /// How many of the dropped lines no line has told of yet.
    untold: u64,
}

/// What the writing thread has taken.
#[derive(Default)]
struct Taken {
    bytes: Vec<u8>,
    lines: u64,
}

impl Lines {
    const fn new(max_bytes: usize) -> Self {
        let state = State {
            has_writer: false,
            is_writing: false,
            bytes: Vec::new(),
            lines: 0,
            is_full: false,
            dropped: 0,
            untold: 0,
        };
        Self { max_bytes, state: Mutex::new(state), filled: Condvar::new(), written: Condvar::new() }
    }

    /// Starts the thread that writes to standard error, unless it runs. Where the system gives no thread, lines are
    /// written by whoever has them.
    pub(super) fn start(&'static self) {
        let mut state = self.lock();
        if !state.has_writer {
            let writer = thread::Builder::new().name("log-writer".to_owned());
            state.has_writer = writer.spawn(|| self.write_all_to(&mut io::stderr(), tell_dropped)).is_ok();
        }
    }

    /// Takes a line over; never waits for a reader.
    pub(super) fn put(&self, line: &[u8]) {
        let mut state = self.lock();
        if !state.has_writer {
            drop(state);
            // There is nowhere else to tell of it.
            let _lost = io::stderr().write_all(line);
            return;
        }
        if state.is_full || state.bytes.len() + line.len() > self.max_bytes {
            state.is_full = true;
            state.drop_lines(1);
        } else {
            state.bytes.extend_from_slice(line);
            state.lines += 1;
        }
        if !state.is_writing {
            drop(state);
            self.filled.notify_one();
        }
    }

    /// Waits until every line is written, but not for a reader that stalls.
    pub(super) fn flush(&self, patience: Duration) {
        let state = self.lock();
        let is_unwritten = |state: &mut State| state.has_writer && (state.is_writing || !state.bytes.is_empty());
        let _state = self.written.wait_timeout_while(state, patience, is_unwritten);
    }

    /// Lines dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn write_all_to(&self, out: &mut impl Write, tell_dropped: impl Fn(u64)) {
        let (mut taken, mut is_writable) = (Taken::default(), true);
        supervise("the thread that writes log lines", || {
            let untold = self.take(&mut taken, is_writable);
            if untold > 0 {
                // Stands before every line that came after those dropped.
                tell_dropped(untold);
            }
            is_writable = write_patiently(out, &taken.bytes).is_ok();
            if !is_writable {
                self.lock().drop_lines(taken.lines);
            }
            ControlFlow::Continue(())
        });
    }

    /// Waits for lines and takes all that are there; tells how many were dropped, once lines can be written again.
    fn take(&self, taken: &mut Taken, is_writable: bool) -> u64 {
        taken.bytes.clear();
        let mut state = self.lock();
        state.is_writing = false;
        self.written.notify_all();
        while state.bytes.is_empty() {
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_writing = true;
        drop(state);
        thread::sleep(GATHERING);
        let mut state = self.lock();
        std::mem::swap(&mut taken.bytes, &mut state.bytes);
        taken.lines = std::mem::take(&mut state.lines);
        state.is_full = false;
        if is_writable { std::mem::take(&mut state.untold) } else { 0 }
    }

    /// Every change under the lock leaves the state whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn drop_lines(&mut self, lines: u64) {
        self.dropped += lines;
        self.untold += lines;
    }
}

fn tell_dropped(lines: u64) {
    log::warn!(
        "log lines were dropped: {lines}, because standard error was not read or written in time, or a line had more than {MAX_BYTES} bytes"
    );
}

fn write_patiently(out: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Whoever shares the terminal or pipe may have set it not to block.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    out.flush()
}

/// Waits a moment for the last lines of the process.
pub(crate) fn flush() {
    LINES.flush(FLUSH_PATIENCE);
}

/// Where the log puts its lines.
pub(super) struct Pipe;

impl Write for Pipe {
    /// One call is one line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LINES.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
