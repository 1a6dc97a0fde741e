//! The one line at start that says what the server found: its host's limits, its models, and whether keys are set.

use std::path::Path;

use super::capacity::Capacity;
use crate::api::guard::Guard;
use crate::config::{ServeArgs, cpu_quota, http_workers};
use crate::host::open_files_limit;
use crate::residency::{Residency, limits};

/// Writes the line, with each figure as a field of its own.
pub(super) fn log(arguments: &ServeArgs, port: u16, capacity: Capacity, residency: &Residency, guard: &Guard) {
    let (reading, settings) = (residency.last().0, residency.settings());
    let nearest = limits::nearest(&reading);
    let mb = |bytes: Option<u64>| bytes.map_or_else(|| "none".to_owned(), |bytes| (bytes >> 20).to_string());
    let yes = |is_so: bool| if is_so { "yes" } else { "no" };
    let is_there = |directory: &Path| yes(directory.join("config.json").is_file());
    log::info!(
        version = env!("CARGO_PKG_VERSION"),
        address:% = format_args!("{}:{port}", arguments.host),
        memory_limit_mb:% = mb(nearest.map(|nearest| nearest.limit.limit_bytes)),
        memory_limit_from = nearest.map_or("nothing", |nearest| nearest.limit.from.as_str()),
        model_memory_limit_mb:% = mb(settings.limits.resident_bytes),
        cores = cpu_quota(),
        http_workers = http_workers(),
        inference_threads = settings.workers,
        open_files:% = open_files_limit().map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string()),
        connections = capacity.connections,
        heavy_model = settings.heavy.1.as_str(),
        heavy_there = is_there(&settings.heavy.0),
        light_model = settings.light.1.as_str(),
        light_there = is_there(&settings.light.0),
        api_key_set = yes(!guard.keys.is_empty()),
        admin_key_set = yes(!guard.admin.is_empty());
        "found on this host"
    );
}
