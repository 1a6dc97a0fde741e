//! Sizes and hashes of a bundle's files.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::bundle::{BundleError, FileEntry};

pub(super) fn check_sizes(files: &[(PathBuf, FileEntry)]) -> Result<(), BundleError> {
    for (path, entry) in files {
        let found = fs::metadata(path).map_err(|source| BundleError::Read { path: path.clone(), source })?.len();
        if found != entry.bytes {
            return Err(BundleError::Size { path: path.clone(), found, expected: entry.bytes });
        }
    }
    Ok(())
}

pub(super) fn check_hashes(files: &[(PathBuf, FileEntry)]) -> Result<(), BundleError> {
    for (path, entry) in files {
        let found = sha256_of(path).map_err(|source| BundleError::Read { path: path.clone(), source })?;
        if found != entry.sha256 {
            return Err(BundleError::Hash { path: path.clone(), found, expected: entry.sha256.clone() });
        }
    }
    Ok(())
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            return Ok(hexadecimal(&hasher.finalize()));
        }
        hasher.update(&block[..read]);
    }
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
