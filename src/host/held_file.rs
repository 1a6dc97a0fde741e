//! A small file of the kernel that is opened once and read again and again.
//!
//! A process that has as many files open as it may can open no more, but it can read those that it holds.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// More than any file that is read this way holds.
const MAX_BYTES: usize = 64 << 10;

/// An open file whose content the kernel makes anew for each read from its start.
#[derive(Debug)]
pub(crate) struct HeldFile {
    file: File,
    path: PathBuf,
    content: Vec<u8>,
}

impl HeldFile {
    /// Opens the file; it is not read yet.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, path: path.to_path_buf(), content: Vec::new() })
    }

    /// The same, but `None` where there is no such file, or none for this process to read.
    pub(crate) fn open_if_there(path: &Path) -> io::Result<Option<Self>> {
        match Self::open(path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// What the file says now. An error names the file.
    pub(crate) fn read(&mut self) -> io::Result<&str> {
        let Self { file, path, content } = self;
        let named = |what: &dyn std::fmt::Display| io::Error::other(format!("{}: {what}", path.display()));
        let mut length = 0;
        loop {
            if content.len() == length {
                content.resize(length + 4096, 0);
            }
            match file.read_at(&mut content[length..], length as u64) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(named(&error)),
            }
            if length > MAX_BYTES {
                return Err(named(&"it is longer than such a file should be"));
            }
        }
        std::str::from_utf8(&content[..length]).map_err(|error| named(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_seen_without_opening_the_file_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory.max");
        std::fs::write(&path, "1234567\n").unwrap();
        let mut held = HeldFile::open(&path).unwrap();
        assert_eq!(held.read().unwrap(), "1234567\n");
        std::fs::write(&path, "max\n").unwrap();
        assert_eq!(held.read().unwrap(), "max\n");
        let long = "anon 4096\n".repeat(1000);
        std::fs::write(&path, &long).unwrap();
        assert_eq!(held.read().unwrap(), long);
    }

    #[test]
    fn files_of_the_kernel_are_made_anew_for_each_read() {
        let mut status = HeldFile::open(Path::new("/proc/self/status")).unwrap();
        let anonymous_kib = |text: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        let before = anonymous_kib(status.read().unwrap());
        let ballast = vec![1_u8; 32 << 20];
        assert!(anonymous_kib(status.read().unwrap()) >= before + (30 << 10));
        assert_eq!(ballast[12345], 1);
    }

    #[test]
    fn a_file_that_is_not_there_is_no_error_where_it_may_be_missing() {
        assert!(HeldFile::open_if_there(Path::new("/proc/self/no-such-file")).unwrap().is_none());
        let folder = HeldFile::open(Path::new("/proc/self")).unwrap().read().unwrap_err().to_string();
        assert!(folder.contains("/proc/self"), "{folder}");
    }
}
