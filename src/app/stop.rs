//! The signals that ask the process to stop.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// 128 and the signal's number, as shells tell it.
const EXIT_BY_SIGTERM: u8 = 143;
const EXIT_BY_SIGINT: u8 = 130;

/// Listens for both signals; taken over from the moment it is made.
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

/// The one that came.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StopSignal {
    Terminate,
    Interrupt,
}

impl StopSignals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(crate) async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.terminate.recv() => StopSignal::Terminate,
            _ = self.interrupt.recv() => StopSignal::Interrupt,
        }
    }
}

impl StopSignal {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        }
    }

    /// The exit code of a process that the signal ended.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Terminate => EXIT_BY_SIGTERM,
            Self::Interrupt => EXIT_BY_SIGINT,
        }
    }

    /// Ends the process with that exit code.
    pub(crate) fn end_process(self) -> ! {
        end_process(self.exit_code().into())
    }
}

/// Ends the process at once. What is registered to run at a usual exit would pull ONNX Runtime from
/// under the runs that are still going on.
#[allow(unsafe_code, reason = "the system's own exit is a C function")]
pub(crate) fn end_process(code: i32) -> ! {
    // SAFETY: _exit takes any code and touches nothing of this process's memory.
    unsafe { libc::_exit(code) }
}
