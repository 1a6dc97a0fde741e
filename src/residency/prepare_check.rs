//! Whether weights can be prepared here and now, before a process is started for it.

use std::fs;
use std::path::{Path, PathBuf};

use super::limits::unreclaimable_free_bytes;
use super::memory::Reading;
use crate::inference::prepared::Form;
use crate::model::Bundle;

/// The writing process maps the library and keeps some heap of its own beside the model's need.
const PROCESS_BYTES: u64 = 40 << 20;

/// How many times what writing was measured to take must be free where the kernel would end this
/// process too if the writing one met its limit (`memory.oom.group`, which kubelets set).
const TIMES_WHERE_KILLED_AS_ONE: u64 = 2;

/// All memory of a process that packs: it holds the graph and one layer's weights at a time.
const PACKING_BYTES: u64 = 24 << 20;

/// Says why not: where the memory left is less than what writing was measured to take, or where the
/// files would lie in memory themselves.
pub(super) fn check(directory: &Path, bundle: &Bundle, form: Form, reading: &Reading) -> Result<(), String> {
    let needed = match form {
        Form::Packed => PACKING_BYTES,
        Form::Prepacked => bundle.memory.preparing_peak_bytes + PROCESS_BYTES,
    };
    let free = unreclaimable_free_bytes(reading);
    if free < needed {
        return Err(format!("writing them takes {} MB and {} MB are left", needed >> 20, free >> 20));
    }
    if reading.is_killed_as_one && free < needed * TIMES_WHERE_KILLED_AS_ONE {
        return Err(format!(
            "writing them takes {} MB and {} MB are left, and where memory.oom.group is 1 the kernel would end \
             the server too if that were not enough; run `emotion-server prepare` ahead of time",
            needed >> 20,
            free >> 20
        ));
    }
    let place = existing_ancestor(directory);
    if is_memory_backed(&place) {
        return Err(format!("{} lies in memory, whose pages cannot be taken back", place.display()));
    }
    Ok(())
}

fn existing_ancestor(directory: &Path) -> PathBuf {
    let found = directory.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("."));
    fs::canonicalize(found).unwrap_or_else(|_| found.to_path_buf())
}

/// Looks for the mount that the path is on.
fn is_memory_backed(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    kind_of_mount(&mounts, path).is_some_and(|kind| kind == "tmpfs" || kind == "ramfs")
}

fn kind_of_mount<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    mounts
        .lines()
        .filter_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            let point = Path::new(place.split(' ').nth(4)?);
            path.starts_with(point).then(|| (point.components().count(), kind.split(' ').next()))
        })
        // A later mount on the same place hides the earlier one.
        .max_by_key(|(depth, _)| *depth)
        .and_then(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_and_last_mount_decides() {
        let mounts = "1 0 0:1 / / rw - ext4 /dev/a rw\n\
                      2 1 0:2 / /run rw - tmpfs tmpfs rw\n\
                      3 2 0:3 / /run/disk rw - ext4 /dev/b rw\n\
                      4 1 0:4 / /over rw - ext4 /dev/c rw\n\
                      5 4 0:5 / /over rw - tmpfs tmpfs rw";
        assert_eq!(kind_of_mount(mounts, Path::new("/home")), Some("ext4"));
        assert_eq!(kind_of_mount(mounts, Path::new("/run/cache")), Some("tmpfs"));
        assert_eq!(kind_of_mount(mounts, Path::new("/run/disk/cache")), Some("ext4"));
        assert_eq!(kind_of_mount(mounts, Path::new("/over")), Some("tmpfs"));
    }
}
