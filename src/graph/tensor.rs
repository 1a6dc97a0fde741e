//! Elements of a graph's constants, small ones in the graph and large ones in files beside it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Take};
use std::path::{Path, PathBuf};

use super::GraphError;
use super::onnx::{EXTERNAL, FLOAT, INT8, INT32, INT64, Tensor, UINT8};

/// Where a constant's elements lie in another file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// File name beside the graph.
    pub file: String,
    pub offset: u64,
    pub bytes: u64,
}

impl Tensor {
    pub(super) fn is_external(&self) -> bool {
        self.data_location == Some(EXTERNAL)
    }

    /// The place of its elements, when it is in a file right beside the graph and its entries say all of it.
    pub(super) fn place(&self) -> Option<Place> {
        let value = |key: &str| {
            let entry = self.external_data.iter().find(|entry| entry.key.as_deref() == Some(key))?;
            entry.value.as_deref()
        };
        let file = value("location").filter(|name| Path::new(name).file_name() == Some(name.as_ref()))?;
        let offset = value("offset").map_or(Some(0), |offset| offset.parse().ok())?;
        let bytes: u64 = value("length")?.parse().ok()?;
        (self.bytes() == Some(bytes)).then(|| Place { file: file.to_owned(), offset, bytes })
    }

    /// Bytes of all elements, for the types that are read here.
    pub(super) fn bytes(&self) -> Option<u64> {
        let element = match self.data_type? {
            UINT8 | INT8 => 1,
            FLOAT | INT32 => 4,
            INT64 => 8,
            _ => return None,
        };
        self.dims.iter().try_fold(element, |bytes: u64, dim| bytes.checked_mul(u64::try_from(*dim).ok()?))
    }

    /// The only element of a float32 constant inside of the graph.
    pub(super) fn only_float(&self) -> Option<f32> {
        match (&self.raw_data, &self.float_data[..]) {
            (Some(raw), []) => Some(f32::from_le_bytes(self.raw(FLOAT, raw)?)),
            (None, [only]) if self.is_only(FLOAT) => Some(*only),
            _ => None,
        }
    }

    /// The only element of a uint8 constant inside of the graph.
    pub(super) fn only_byte(&self) -> Option<u8> {
        match (&self.raw_data, &self.int32_data[..]) {
            (Some(raw), []) => Some(u8::from_le_bytes(self.raw(UINT8, raw)?)),
            (None, [only]) if self.is_only(UINT8) => u8::try_from(*only).ok(),
            _ => None,
        }
    }

    /// The only element of an int64 constant inside of the graph.
    pub(super) fn only_integer(&self) -> Option<i64> {
        match (&self.raw_data, &self.int64_data[..]) {
            (Some(raw), []) => Some(i64::from_le_bytes(self.raw(INT64, raw)?)),
            (None, [only]) if self.is_only(INT64) => Some(*only),
            _ => None,
        }
    }

    fn raw<const N: usize>(&self, data_type: i32, raw: &[u8]) -> Option<[u8; N]> {
        if self.is_only(data_type) { raw.try_into().ok() } else { None }
    }

    fn is_only(&self, data_type: i32) -> bool {
        self.data_type == Some(data_type) && self.dims.iter().all(|dim| *dim == 1) && !self.is_external()
    }
}

/// The files beside a graph, each opened once.
pub(super) struct Files {
    folder: PathBuf,
    open: HashMap<String, File>,
}

impl Files {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), open: HashMap::new() }
    }

    /// All elements of a constant.
    pub fn read(&mut self, tensor: &Tensor) -> Result<Vec<u8>, GraphError> {
        let Some(place) = tensor.place().filter(|_| tensor.is_external()) else {
            let bytes = tensor.raw_data.clone().filter(|raw| Some(raw.len() as u64) == tensor.bytes());
            return bytes.ok_or_else(|| self.invalid(tensor, "its elements are not where they are looked for"));
        };
        let mut bytes = Vec::new();
        let read = self.at(&place).and_then(|mut at| at.read_to_end(&mut bytes));
        read.map_err(|source| self.failed(&place, source))?;
        if bytes.len() as u64 == place.bytes { Ok(bytes) } else { Err(self.invalid(tensor, "its file is too short")) }
    }

    /// Copies the elements at a place.
    pub fn copy(&mut self, tensor: &Tensor, place: &Place, to: &mut impl io::Write) -> Result<(), GraphError> {
        let copied = self.at(place).and_then(|mut at| io::copy(&mut at, to));
        let copied = copied.map_err(|source| self.failed(place, source))?;
        if copied == place.bytes { Ok(()) } else { Err(self.invalid(tensor, "its file is too short")) }
    }

    fn at(&mut self, place: &Place) -> io::Result<Take<&mut File>> {
        let path = self.folder.join(&place.file);
        let file = match self.open.entry(place.file.clone()) {
            std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => new.insert(File::open(path)?),
        };
        file.seek(SeekFrom::Start(place.offset))?;
        Ok(file.take(place.bytes))
    }

    fn failed(&self, place: &Place, source: io::Error) -> GraphError {
        GraphError::File { path: self.folder.join(&place.file), source }
    }

    fn invalid(&self, tensor: &Tensor, what: &str) -> GraphError {
        let name = tensor.name.as_deref().unwrap_or_default();
        GraphError::Invalid { path: self.folder.clone(), what: format!("the constant {name:?}: {what}") }
    }
}
