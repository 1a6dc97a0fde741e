//! The signals that ask the server to stop.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Added to a signal's number in the exit code of a process that it ended.
const EXIT_BY_SIGNAL: i32 = 128;

/// Listens for both signals; taken over from the moment it is made.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

/// The one that came.
#[derive(Debug, Clone, Copy)]
pub(super) enum StopSignal {
    Terminate,
    Interrupt,
}

impl StopSignals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.terminate.recv() => StopSignal::Terminate,
            _ = self.interrupt.recv() => StopSignal::Interrupt,
        }
    }
}

impl StopSignal {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        }
    }

    /// Ends the process with the exit code that the signal would have given it.
    pub(super) fn end_process(self) -> ! {
        let number = match self {
            Self::Terminate => libc::SIGTERM,
            Self::Interrupt => libc::SIGINT,
        };
        end_process(EXIT_BY_SIGNAL + number)
    }
}

/// Ends the process at once. What is registered to run at a usual exit would pull ONNX Runtime from
/// under the runs that are still going on.
#[allow(unsafe_code, reason = "the system's own exit is a C function")]
pub(super) fn end_process(code: i32) -> ! {
    // SAFETY: _exit takes any code and touches nothing of this process's memory.
    unsafe { libc::_exit(code) }
}
