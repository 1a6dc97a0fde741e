//! The server over real HTTP, with the real models.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must fail")]

#[path = "../support/mod.rs"]
mod support;

mod access_log;
mod analyze;
mod bad_requests;
mod bodies;
mod bundles;
mod cache;
mod children;
mod classify;
mod classify_models;
mod classify_resume;
mod commands;
mod connections;
mod drain;
mod environment;
mod folders;
mod guard;
mod hugging_face;
mod invariance;
mod keys;
mod kserve_v1;
mod loading;
mod many_cores;
mod metrics;
mod ndjson;
mod open_inference;
mod operations;
// Elsewhere there are no kernels yet, and weights are prepared by ONNX Runtime.
#[cfg(target_arch = "x86_64")]
mod packed;
mod pages;
mod pressure;
mod python_compat;
mod root;
mod security_page;
mod shared;
mod shares;
mod stalled_log;
mod tei;
mod texts;
mod threads;
