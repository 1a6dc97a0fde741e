//! Figures in the kernel's text files. Pure.

/// A line such as `shmem 4096`.
pub(super) fn plain_field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A line such as `Pss:   123 kB`, in bytes; the key ends with its colon.
pub(super) fn kib_field(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_by_their_whole_name() {
        assert_eq!(plain_field("shmem_thp 1\nshmem 4096\n", "shmem"), Some(4096));
        assert_eq!(kib_field("Pss_Dirty: 8 kB\nPss:   12 kB\n", "Pss:"), Some(12 * 1024));
    }
}
