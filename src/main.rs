//! Starts one command and sets the exit code.

use std::process::ExitCode;

#[allow(unsafe_code, reason = "a variable that ONNX Runtime reads has to be set before threads start")]
fn main() -> ExitCode {
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
    emotion_server::residency::reclaim::configure_allocator();
    emotion_server::cli::run()
}
