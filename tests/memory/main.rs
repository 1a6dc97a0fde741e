//! The server in real limits of memory and CPU: it must neither be killed nor fail a request.
//!
//! Needs root and writable memory and CPU controllers (cgroup version 1 or 2). Where that is missing each
//! test says so and passes, but fails under `CI=true`. One test at a time: they measure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must fail")]

#[path = "../support/mod.rs"]
mod support;

mod ballast;
mod bundles;
mod cache;
mod connections;
mod cpu;
mod disk;
mod group;
mod hostile;
mod limits;
mod load;
mod nearest_limit;
mod preparing;
mod pressure;
mod refused;
