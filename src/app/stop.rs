//! The signals that ask the process to stop.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, timeout_at};

use crate::exit::end_process;

/// 128 and the signal's number, as shells tell it.
const EXIT_BY_SIGTERM: u8 = 143;
const EXIT_BY_SIGINT: u8 = 130;

/// Time in which a signal that comes again is still the same wish: GNU `timeout` sends its signal to the process and
/// to the process's group.
const SAME_WISH: Duration = Duration::from_secs(1);

/// Listens for both signals; taken over from the moment it is made.
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

/// The one that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

    /// The next one that says more than `first`, which has just come: another one, or the same after a second.
    pub(crate) async fn next_after(&mut self, first: StopSignal) -> StopSignal {
        let until = Instant::now() + SAME_WISH;
        while let Ok(again) = timeout_at(until, self.next()).await {
            if again != first {
                return again;
            }
        }
        self.next().await
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
        end_process(self.exit_code())
    }
}
