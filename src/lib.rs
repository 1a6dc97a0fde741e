//! Reads the emotions in English text with ONNX Runtime, in little memory.
//!
//! Dependencies point one way: `main -> app -> api -> classifier -> residency -> inference -> model`;
//! `analysis` knows neither HTTP nor ONNX, and `graph` knows ONNX files alone.

pub mod analysis;
pub mod api;
pub mod app;
pub mod cache;
pub mod classifier;
pub mod cli;
pub mod config;
pub(crate) mod exit;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod graph;
pub mod host;
pub mod inference;
pub mod logging;
pub mod metrics;
pub mod model;
pub(crate) mod panics;
pub mod residency;
