//! Where results and rejected rows go: standard output, or files that no other run is to spoil.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Stdout, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::progress::ProgressFile;
use crate::cli::Failure;

/// Takes bytes.
pub(super) enum Sink {
    Stdout(Stdout),
    File(OutputFile),
}

/// A file that grows.
pub(super) struct OutputFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Sink {
    /// Whoever reads has everything when this is done.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => {
                let mut stdout = stdout.lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Self::File(output) => output.write(bytes),
        }
    }
}

impl OutputFile {
    /// Opens the file as it is, for this process alone; [`Self::cut`] comes before the first write.
    ///
    /// # Errors
    /// It cannot be written, is no regular file, or another process writes it.
    pub(super) fn open(flag: &str, path: &Path) -> Result<Self, Failure> {
        let usage = |what: String| Failure::Usage(format!("{flag}: {what}"));
        let cannot = |error: io::Error| usage(format!("cannot write {}: {error}", path.display()));
        if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(usage(format!("{} is not a regular file; redirect standard output instead", path.display())));
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(usage(format!("{} is being written by another run; wait for its end", path.display())));
            }
            // Not every file system has locks.
            Err(TryLockError::Error(error)) => log::info!("{} is not locked: {error}", path.display()),
        }
        let bytes = file.metadata().map_err(cannot)?.len();
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    /// Forgets what lies past `bytes`.
    ///
    /// # Errors
    /// The file is shorter than that.
    pub(super) fn cut(&mut self, bytes: u64) -> Result<(), Failure> {
        let path = self.path.display();
        if self.bytes < bytes {
            let what = format!(
                "--resume: {path} has {} bytes, but {bytes} were written; begin again with --overwrite",
                self.bytes
            );
            return Err(Failure::Usage(what));
        }
        let cut = self.file.set_len(bytes).and_then(|()| io::Seek::seek(&mut self.file, io::SeekFrom::Start(bytes)));
        cut.map_err(|error| Failure::Failed(format!("cannot write {path}: {error}")))?;
        self.bytes = bytes;
        Ok(())
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// How much is in it.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until all of it is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Refuses to write over what is there, unless that was asked for.
pub(super) fn refuse_existing(flag: &str, path: &Path) -> Result<(), Failure> {
    // Of an empty file nothing can be lost.
    if !std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0) {
        return Ok(());
    }
    let resume = if ProgressFile::of(path).path().exists() { "--resume goes on with it, " } else { "" };
    Err(Failure::Usage(format!("{flag}: {} exists; {resume}--overwrite begins again", path.display())))
}

/// Refuses files that are the same one under two names.
pub(super) fn refuse_same(files: &[(&str, Option<(u64, u64)>)]) -> Result<(), Failure> {
    for (index, (flag, identity)) in files.iter().enumerate() {
        if let Some((other, _)) = files[..index].iter().find(|(_, other)| identity.is_some() && other == identity) {
            return Err(Failure::Usage(format!("{other} and {flag} are the same file; name another one")));
        }
    }
    Ok(())
}

/// What a file is known by, whatever its name.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The same of standard input, where it is a file; with its length.
pub(super) fn stdin_file() -> Option<((u64, u64), u64)> {
    let metadata = File::from(io::stdin().as_fd().try_clone_to_owned().ok()?).metadata().ok()?;
    metadata.is_file().then(|| ((metadata.dev(), metadata.ino()), metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_at_a_time_writes_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        let first = OutputFile::open("--output", &path).unwrap();
        let Err(Failure::Usage(what)) = OutputFile::open("--output", &path) else { panic!("opened twice") };
        assert!(what.contains("another run"), "{what}");
        drop(first);
        assert!(OutputFile::open("--output", &path).is_ok());
    }

    #[test]
    fn a_file_is_cut_but_never_made_longer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        std::fs::write(&path, "0123456789").unwrap();
        let mut file = OutputFile::open("--output", &path).unwrap();
        assert!(matches!(file.cut(11), Err(Failure::Usage(_))));
        file.cut(4).unwrap();
        file.write(b"abc").unwrap();
        assert_eq!(file.bytes(), 7);
        assert_eq!(std::fs::read(&path).unwrap(), b"0123abc");
    }
}
