//! How many connections may be open, and how many of them with a large head: what memory and open
//! files allow.

use super::connection::LARGE_HEAD_BUFFER_BYTES;

/// Memory for each connection that may be open by default. An idle one takes 15 KB of it, and 26 KB after large
/// bodies or replies. The rest is for what the kernel holds of bytes that were sent and not read, and
/// because most memory is the models'.
const MEMORY_BYTES_PER_CONNECTION: u64 = 512 << 10;

/// Most connections by default, whatever the memory.
const DEFAULT_MOST: u64 = 4096;

/// Share of the memory that the buffers of large heads may take together.
const LARGE_HEADS_SHARE: u64 = 64;

/// Files that are kept for models, memory readings and the log, and for each HTTP worker.
const RESERVED_FILES: u64 = 128;
const FILES_PER_WORKER: u64 = 8;

/// Files among the reserved ones that are open before the first connection, beside those of each HTTP worker.
const OPEN_FROM_THE_START: u64 = 32;

/// What the HTTP workers may hold, all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capacity {
    /// Open connections.
    pub(super) connections: usize,
    /// Connections with a large head among them.
    pub(super) large_heads: usize,
}

impl Capacity {
    /// As many connections as were asked for, or as memory is good for; no more than open files allow.
    pub(super) fn new(asked: Option<u32>, memory_bytes: Option<u64>, open_files: Option<u64>, workers: usize) -> Self {
        let reserved = RESERVED_FILES + FILES_PER_WORKER * workers as u64;
        let held = OPEN_FROM_THE_START + FILES_PER_WORKER * workers as u64;
        // Where there are hardly any files, half of those that are left are better than none.
        let by_files =
            open_files.map(|files| files.saturating_sub(reserved).max(files.saturating_sub(held) / 2).max(1));
        let by_memory = memory_bytes.map_or(DEFAULT_MOST, |bytes| bytes / MEMORY_BYTES_PER_CONNECTION);
        let wanted = asked.map_or(by_memory.clamp(1, DEFAULT_MOST), u64::from);
        let allowed = by_files.map_or(wanted, |by_files| wanted.min(by_files));
        if let (Some(asked), Some(files), true) = (asked, open_files, allowed < wanted) {
            log::warn!(
                "MAX_CONNECTIONS is {asked}, but {files} files may be open and the models need some: {allowed} connections \
                 are taken; raise the limit of open files (LimitNOFILE, ulimit -n) to {}",
                u64::from(asked) + reserved
            );
        }
        let large_heads_bytes = memory_bytes.unwrap_or(DEFAULT_MOST * MEMORY_BYTES_PER_CONNECTION) / LARGE_HEADS_SHARE;
        let large_heads = (large_heads_bytes / LARGE_HEAD_BUFFER_BYTES as u64).clamp(1, allowed);
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Self { connections: count(allowed), large_heads: count(large_heads) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    #[test]
    fn the_default_follows_from_memory_and_open_files() {
        let of = |memory_mb: Option<u64>, files| {
            let capacity = Capacity::new(None, memory_mb.map(|mb| mb * MB), files, 2);
            (capacity.connections, capacity.large_heads)
        };
        assert_eq!(of(Some(96), Some(20_000)), (192, 48));
        assert_eq!(of(Some(512), Some(20_000)), (1024, 256));
        assert_eq!(of(Some(512), Some(1024)), (880, 256));
        assert_eq!(of(Some(512), Some(256)), (112, 112));
        assert_eq!(of(Some(512), Some(64)), (8, 8));
        assert_eq!(of(Some(64 << 10), None), (4096, 4096));
        assert_eq!(of(None, None), (4096, 1024));
        assert_eq!(of(Some(32), Some(1)), (1, 1));
    }

    #[test]
    fn what_was_asked_for_holds_as_far_as_files_go() {
        let of = |asked, files| Capacity::new(Some(asked), Some(96 * MB), files, 1).connections;
        assert_eq!(of(5000, Some(20_000)), 5000);
        assert_eq!(of(5000, Some(1024)), 888);
        assert_eq!(of(1, Some(1024)), 1);
    }
}
