//! How the process ends at once, with the log's last lines written.

use crate::logging;

/// Exit code of a process that a defect of its own ended (`EX_SOFTWARE` of sysexits.h).
pub(crate) const EXIT_DEFECT: u8 = 70;

/// Ends the process at once, but for the moment that the last log lines take. What is registered to run at a usual
/// exit would pull ONNX Runtime from under the runs that are still going on.
#[allow(unsafe_code, reason = "the system's own exit is a C function")]
pub(crate) fn end_process(code: u8) -> ! {
    logging::flush();
    // SAFETY: _exit takes any code and touches nothing of this process's memory.
    unsafe { libc::_exit(code.into()) }
}
