//! Safetensors files: typed reading of single tensors, and writing that leaves no partial file.

use crate::error::{Error, Result};
use safetensors::tensor::{Dtype, Metadata, TensorInfo, TensorView};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Largest header that the format allows.
const HEADER_MAX: u64 = 100_000_000;

/// Bytes before the header: its length.
const PREFIX: u64 = 8;

/// An open safetensors file whose header has been checked against the file's length.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    metadata: Metadata,
    data_at: u64,
}

impl TensorFile {
    /// Opens a file and checks its header.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is not in the format, or is shorter or longer than its header says.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |expectation: String| Error::Format {
            path: path.to_path_buf(),
            expectation,
        };
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        let length = file
            .metadata()
            .map_err(Error::io(path, "read the size of"))?
            .len();
        let mut prefix = [0u8; size_of::<u64>()];
        if length < PREFIX {
            return Err(bad(format!(
                "truncated: {length} bytes, expected at least {PREFIX}"
            )));
        }
        file.read_exact(&mut prefix)
            .map_err(Error::io(path, "read"))?;
        let header = u64::from_le_bytes(prefix);
        if header > HEADER_MAX.min(length - PREFIX) {
            return Err(bad(format!(
                "truncated or not safetensors: a header of {header} bytes in a file of {length}"
            )));
        }
        let mut text = Vec::new();
        file.take(header)
            .read_to_end(&mut text)
            .map_err(Error::io(path, "read"))?;
        let metadata: Metadata = serde_json::from_slice(&text)
            .map_err(|e| bad(format!("the safetensors header is not valid: {e}")))?;
        let data_at = PREFIX + header;
        let expected = data_at.saturating_add(metadata.data_len() as u64);
        if length != expected {
            return Err(bad(format!(
                "truncated or overlong: {length} bytes, expected {expected}"
            )));
        }
        Ok(Self {
            path: path.to_path_buf(),
            metadata,
            data_at,
        })
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the tensors.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.metadata.tensors().into_keys().collect()
    }

    /// Type and shape of a tensor.
    ///
    /// # Errors
    ///
    /// There is no such tensor.
    pub fn info(&self, tensor: &str) -> Result<&TensorInfo> {
        self.metadata
            .info(tensor)
            .ok_or_else(|| self.refuse(tensor, "not in this file".into()))
    }

    /// Bytes of a tensor of one of the given types and exactly the given shape (`None` = any size).
    ///
    /// # Errors
    ///
    /// The tensor is missing, its type or shape differ, or reading fails.
    pub fn read(
        &self,
        tensor: &str,
        types: &[Dtype],
        shape: &[Option<usize>],
    ) -> Result<(TensorInfo, Vec<u8>)> {
        let info = self.checked(tensor, types, shape)?;
        let (start, end) = info.data_offsets;
        Ok((info.clone(), self.bytes(start..end)?))
    }

    /// The same of some of the outermost rows of a tensor of a given shape: nothing else is read.
    ///
    /// # Errors
    ///
    /// As [`Self::read`], or there are no such rows.
    pub fn read_rows(
        &self,
        tensor: &str,
        types: &[Dtype],
        shape: &[Option<usize>],
        rows: Range<usize>,
    ) -> Result<(Dtype, Vec<u8>)> {
        let info = self.checked(tensor, types, shape)?;
        let all = info.shape.first().copied().unwrap_or(0);
        if rows.start > rows.end || rows.end > all {
            return Err(self.refuse(tensor, format!("has {all} rows, expected {rows:?}")));
        }
        let (start, end) = info.data_offsets;
        let row = (end - start).checked_div(all).unwrap_or(0);
        Ok((
            info.dtype,
            self.bytes(start + rows.start * row..start + rows.end * row)?,
        ))
    }

    fn checked(
        &self,
        tensor: &str,
        types: &[Dtype],
        shape: &[Option<usize>],
    ) -> Result<&TensorInfo> {
        let info = self.info(tensor)?;
        if !types.contains(&info.dtype) {
            return Err(self.refuse(tensor, format!("is {:?}, expected {types:?}", info.dtype)));
        }
        let fits = info.shape.len() == shape.len()
            && info
                .shape
                .iter()
                .zip(shape)
                .all(|(&n, want)| want.is_none_or(|want| want == n));
        if !fits {
            let want: Vec<String> = shape
                .iter()
                .map(|s| s.map_or("any".into(), |n| n.to_string()))
                .collect();
            let want = want.join(", ");
            return Err(self.refuse(tensor, format!("shape {:?}, expected [{want}]", info.shape)));
        }
        Ok(info)
    }

    /// Bytes of the data.
    fn bytes(&self, range: Range<usize>) -> Result<Vec<u8>> {
        let mut file = File::open(&self.path).map_err(Error::io(&self.path, "open"))?;
        file.seek(SeekFrom::Start(self.data_at + range.start as u64))
            .map_err(Error::io(&self.path, "seek in"))?;
        let mut bytes = vec![0; range.len()];
        file.read_exact(&mut bytes)
            .map_err(Error::io(&self.path, "read"))?;
        Ok(bytes)
    }

    fn refuse(&self, tensor: &str, expectation: String) -> Error {
        Error::Tensor {
            path: self.path.clone(),
            tensor: tensor.to_owned(),
            expectation,
        }
    }
}

/// Writes tensors to a file that appears complete or not at all.
///
/// # Errors
///
/// The folder cannot be written to.
pub fn write(path: &Path, tensors: &[(&str, TensorView<'_>)]) -> Result<()> {
    let bytes = safetensors::serialize(tensors.iter().map(|(name, view)| (*name, view)), None)
        .map_err(|e| Error::Format {
            path: path.to_path_buf(),
            expectation: e.to_string(),
        })?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file =
        tempfile::NamedTempFile::new_in(folder).map_err(Error::io(path, "create beside"))?;
    file.write_all(&bytes).map_err(Error::io(path, "write"))?;
    file.persist(path)
        .map_err(|e| Error::io(path, "replace")(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(folder: &Path) -> PathBuf {
        let path = folder.join("t.safetensors");
        let data = [1u8, 2, 3, 4, 5, 6];
        let view = TensorView::new(Dtype::U8, vec![2, 3], &data).expect("a tensor");
        write(&path, &[("t", view)]).expect("writable");
        path
    }

    #[test]
    fn what_was_written_is_read_and_differences_are_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = TensorFile::open(&sample(folder.path())).expect("valid");
        let (_, bytes) = file
            .read("t", &[Dtype::U8], &[None, Some(3)])
            .expect("as written");
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6]);
        for (name, dtype, shape, needle) in [
            ("u", Dtype::U8, [Some(2), Some(3)], "not in this file"),
            ("t", Dtype::F32, [Some(2), Some(3)], "is U8, expected [F32]"),
            (
                "t",
                Dtype::U8,
                [Some(2), Some(4)],
                "shape [2, 3], expected [2, 4]",
            ),
        ] {
            let error = file.read(name, &[dtype], &shape).expect_err(needle);
            let message = error.to_string();
            assert!(
                message.contains(needle) && message.contains("t.safetensors"),
                "{message}"
            );
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = sample(folder.path());
        let bytes = std::fs::read(&path).expect("readable");
        for length in 0..bytes.len() {
            std::fs::write(&path, &bytes[..length]).expect("writable");
            TensorFile::open(&path).expect_err("truncated");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_or_read_never_a_panic(bytes: Vec<u8>, header in 0u64..64) {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("t.safetensors");
            let mut content = header.to_le_bytes().to_vec();
            content.extend(bytes);
            std::fs::write(&path, content).expect("writable");
            let _ = TensorFile::open(&path);
        }
    }
}
