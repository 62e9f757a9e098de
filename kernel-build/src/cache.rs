//! Compiled rows by content. A row's *key* covers the row, the flags and the compilers; its
//! *manifest* lists the project files the compiler read, with their hashes. A manifest whose files
//! still have those hashes is a hit, so a row is compiled again only when its own inputs changed.
//!
//! Files appear by rename, so builds of several profiles may share one folder.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::BuildError;
use crate::report::Resources;

/// A compiled row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Artifacts {
    pub(crate) ptx: PathBuf,
    pub(crate) cubin: PathBuf,
    pub(crate) resources: Resources,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    /// Hash of the inputs; names the artifacts.
    inputs: String,
    resources: Resources,
    files: Vec<Input>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Input {
    path: PathBuf,
    hash: String,
}

/// The cache folder.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    pub(crate) folder: PathBuf,
}

/// Hash of `parts`, each delimited, as hex; half of SHA-256 is plenty for a cache.
pub(crate) fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part);
    }
    hasher
        .finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl Cache {
    /// The artifacts of row `name` with `key`, if every input is as it was.
    pub(crate) fn find(&self, name: &str, key: &str) -> Option<Artifacts> {
        let text = std::fs::read_to_string(self.manifest(name, key)).ok()?;
        let manifest: Manifest = toml::from_str(&text).ok()?;
        let fresh = manifest.files.iter().all(|input| {
            std::fs::read(&input.path).is_ok_and(|bytes| hash(&[&bytes]) == input.hash)
        });
        let artifacts = self.artifacts(name, &manifest.inputs, manifest.resources);
        (fresh && artifacts.ptx.is_file() && artifacts.cubin.is_file()).then_some(artifacts)
    }

    /// Keeps the compiled row; `files` are the project files that were read.
    pub(crate) fn store(
        &self,
        name: &str,
        key: &str,
        entry: Entry,
    ) -> Result<Artifacts, BuildError> {
        std::fs::create_dir_all(&self.folder).map_err(BuildError::io("create", &self.folder))?;
        let mut files = Vec::new();
        for path in entry.files {
            let bytes = std::fs::read(&path).map_err(BuildError::io("read", &path))?;
            files.push(Input {
                hash: hash(&[&bytes]),
                path,
            });
        }
        let mut parts: Vec<&[u8]> = vec![key.as_bytes()];
        parts.extend(files.iter().map(|input| input.hash.as_bytes()));
        let manifest = Manifest {
            inputs: hash(&parts),
            resources: entry.resources,
            files,
        };
        let artifacts = self.artifacts(name, &manifest.inputs, manifest.resources.clone());
        write_atomically(&artifacts.ptx, &entry.ptx)?;
        write_atomically(&artifacts.cubin, &entry.cubin)?;
        let text = toml::to_string(&manifest).map_err(|e| BuildError::TableSyntax {
            path: self.manifest(name, key),
            message: e.to_string(),
        })?;
        write_atomically(&self.manifest(name, key), text.as_bytes())?;
        Ok(artifacts)
    }

    fn manifest(&self, name: &str, key: &str) -> PathBuf {
        self.folder.join(format!("{name}-{key}.toml"))
    }

    fn artifacts(&self, name: &str, inputs: &str, resources: Resources) -> Artifacts {
        let file = |extension: &str| self.folder.join(format!("{name}-{inputs}.{extension}"));
        Artifacts {
            ptx: file("ptx"),
            cubin: file("cubin"),
            resources,
        }
    }
}

/// What compiling a row gave.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) ptx: Vec<u8>,
    pub(crate) cubin: Vec<u8>,
    pub(crate) resources: Resources,
    pub(crate) files: Vec<PathBuf>,
}

/// Writes `path` so that a reader sees the old file or the whole new one.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    let part = path.with_extension(format!("part{}", std::process::id()));
    let mut file = std::fs::File::create(&part).map_err(BuildError::io("create", &part))?;
    file.write_all(bytes)
        .map_err(BuildError::io("write", &part))?;
    drop(file);
    std::fs::rename(&part, path).map_err(BuildError::io("rename to", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(root: &Path) -> (Cache, PathBuf) {
        let cache = Cache {
            folder: root.join("cache"),
        };
        let source = root.join("a.cuh");
        std::fs::write(&source, "one").unwrap();
        let entry = Entry {
            ptx: b"ptx".to_vec(),
            cubin: b"cubin".to_vec(),
            resources: Resources {
                registers: 9,
                ..Resources::default()
            },
            files: vec![source.clone()],
        };
        cache.store("row", "key", entry).unwrap();
        (cache, source)
    }

    #[test]
    fn unchanged_inputs_are_a_hit_with_the_same_contents() {
        let root = tempfile::tempdir().unwrap();
        let (cache, _) = stored(root.path());
        let found = cache.find("row", "key").unwrap();
        assert_eq!(std::fs::read(found.ptx).unwrap(), b"ptx");
        assert_eq!(std::fs::read(found.cubin).unwrap(), b"cubin");
        assert_eq!(found.resources.registers, 9);
    }

    #[test]
    fn a_changed_or_missing_input_is_a_miss_and_restoring_it_a_hit() {
        let root = tempfile::tempdir().unwrap();
        let (cache, source) = stored(root.path());
        std::fs::write(&source, "two").unwrap();
        assert_eq!(cache.find("row", "key"), None);
        std::fs::write(&source, "one").unwrap();
        assert!(cache.find("row", "key").is_some());
        std::fs::remove_file(&source).unwrap();
        assert_eq!(cache.find("row", "key"), None);
    }

    #[test]
    fn another_key_or_a_lost_artifact_is_a_miss() {
        let root = tempfile::tempdir().unwrap();
        let (cache, _) = stored(root.path());
        assert_eq!(cache.find("row", "other"), None);
        let found = cache.find("row", "key").unwrap();
        std::fs::remove_file(found.cubin).unwrap();
        assert_eq!(cache.find("row", "key"), None);
    }

    #[test]
    fn the_hash_delimits_its_parts() {
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
    }
}
