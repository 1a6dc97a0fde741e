//! Starts one command and sets the exit code.

use std::process::ExitCode;

#[allow(unsafe_code, reason = "variables have to be set before threads start")]
fn main() -> ExitCode {
    // SAFETY: no other thread runs yet.
    unsafe {
        std::env::set_var("ORT_DISABLE_TELEMETRY", "1");
        for (variable, value) in emotion_server::cli::environment::corrections() {
            std::env::set_var(variable, value);
        }
    }
    emotion_server::residency::reclaim::configure_allocator();
    emotion_server::cli::run()
}
