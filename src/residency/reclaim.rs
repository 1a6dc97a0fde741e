//! Gives freed memory back to the system.
//!
//! ONNX Runtime allocates with the C library's `malloc`, which keeps what is freed. The settings
//! here make it keep less, and a trim after an unload returns the rest.
#![allow(unsafe_code, reason = "the allocator's settings and the trim are C functions")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Allocations from this size on are mapped on their own and unmapped when freed: all regions of ONNX
/// Runtime's arenas, which begin at 1 MB, and the weights of a model that is loaded without prepared
/// weights. On the heap they stay after an arena gave them back: with 4 MB here, 34 to 38 MB were anonymous
/// after most evictions of a model of roberta-base's shape, with this 27 to 34.
const MMAP_THRESHOLD_BYTES: libc::c_int = 512 << 10;

/// Free memory at the top of the heap that may stay there.
const TRIM_THRESHOLD_BYTES: libc::c_int = 2 << 20;

/// Arenas of `malloc`; each thread beyond that shares one. Every arena keeps free memory of its own.
const ARENAS: libc::c_int = 2;

/// Sets the allocator up. Called once, before other threads start.
pub fn configure_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only writes the allocator's own settings; no other thread allocates yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES);
    }
}

/// Returns all free memory of the heap to the system.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Takes the pages of a file from `offset` on out of the page cache, unless somebody maps them.
///
/// # Errors
/// When the file cannot be opened, or the system does not do it.
pub fn drop_from_page_cache(path: &Path, offset: u64) -> io::Result<()> {
    let file = File::open(path)?;
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for the length of the call, which touches no memory of ours.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Heap that a process needs beside the model it works on.
const OWN_HEAP_BYTES: u64 = 512 << 20;

/// Asks the kernel to end this process before others when memory runs out.
pub fn go_first_when_memory_runs_out() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "1000") {
        log::debug!("oom_score_adj was not set: {error}");
    }
}

/// Lets the kernel end this process as soon as the one with the id `parent`, which started it, is gone: also where that
/// one is killed and can stop nobody.
///
/// # Errors
/// When that process is gone already, or the system does not do it.
pub fn end_with(parent: u32) -> io::Result<()> {
    // SAFETY: prctl with this option reads no memory of ours and changes one field of this process.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // It may have gone before.
    if std::os::unix::process::parent_id() == parent {
        Ok(())
    } else {
        Err(io::Error::other(format!("the process {parent} that asked for this is gone")))
    }
}

/// Bounds this process's heap well above what its work was measured to need, so that a defect ends
/// it and not its neighbours.
pub fn bound_own_heap(needed_bytes: u64) {
    let bytes = needed_bytes * 2 + OWN_HEAP_BYTES;
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: setrlimit reads one struct that lives through the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_DATA, &raw const limit) } != 0 {
        log::debug!("the heap was not bounded: {}", std::io::Error::last_os_error());
    }
}
