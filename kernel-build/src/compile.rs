//! One row through the compilers: nvcc to PTX, then ptxas to the cubin. Both images therefore come
//! from the same text. Hand-written PTX skips the first step.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{Artifacts, Cache, Entry, hash};
use crate::report::{self, Resources};
use crate::table::Row;
use crate::toolchain::{self, Toolchain};
use crate::{BuildError, Config};

/// Flags of the front end. `-lineinfo` stays out: it would change the text that softgpu reports
/// lines of.
const NVCC_FLAGS: [&str; 5] = [
    "-ptx",
    "-std=c++20",
    "-gencode=arch=compute_90a,code=compute_90a",
    // Only preprocesses, so a newer host compiler does no harm.
    "-allow-unsupported-compiler",
    "-Werror=all-warnings",
];
const PTXAS_FLAGS: [&str; 4] = ["-arch=sm_90a", "-v", "-O3", "--warn-on-spills"];

/// Compiles rows; shared by the worker threads.
#[derive(Debug)]
pub(crate) struct Compiler<'a> {
    config: &'a Config,
    toolchain: Toolchain,
    host: PathBuf,
    cache: Cache,
}

impl<'a> Compiler<'a> {
    pub(crate) fn new(config: &'a Config, toolchain: Toolchain) -> Result<Self, BuildError> {
        let host = toolchain::host_compiler()?;
        let cache = Cache {
            folder: config.cache.clone(),
        };
        Ok(Self {
            config,
            toolchain,
            host,
            cache,
        })
    }

    /// The artifacts of `row`, from the cache or compiled now.
    pub(crate) fn row(&self, row: &Row) -> Result<Artifacts, BuildError> {
        let key = self.key(row);
        if let Some(found) = self.cache.find(&row.name, &key) {
            return Ok(found);
        }
        let work = self.config.work.join(&row.name);
        std::fs::create_dir_all(&work).map_err(BuildError::io("create", &work))?;
        let (ptx, files) = match row.translation_unit() {
            Some(text) => self.front_end(row, &text, &work)?,
            None => {
                let path = row.source_path(&self.config.workspace);
                (path.clone(), vec![path])
            }
        };
        let (cubin, resources) = self.assemble(row, &ptx, &work)?;
        let read = |path: &Path| std::fs::read(path).map_err(BuildError::io("read", path));
        let ptx = read(&ptx)?;
        let text = String::from_utf8_lossy(&ptx);
        let param_bytes = report::param_bytes(&row.name, &text)?;
        let resources = Resources {
            param_bytes,
            ..resources
        };
        let entry = Entry {
            cubin: read(&cubin)?,
            ptx,
            resources,
            files,
        };
        self.cache.store(&row.name, &key, entry)
    }

    fn key(&self, row: &Row) -> String {
        // Debug output names every field of the row, which is all that a key needs.
        let host = self.host.to_string_lossy();
        let workspace = self.config.workspace.to_string_lossy();
        let flags = format!("{NVCC_FLAGS:?} {PTXAS_FLAGS:?}");
        let version = format!("{} {}", self.toolchain.version, self.toolchain.build);
        let row = format!("{row:?}");
        let parts = [&row, &flags, &version, host.as_ref(), workspace.as_ref()].map(str::as_bytes);
        hash(&parts)
    }

    fn front_end(
        &self,
        row: &Row,
        text: &str,
        work: &Path,
    ) -> Result<(PathBuf, Vec<PathBuf>), BuildError> {
        let unit = work.join(format!("{}.cu", row.name));
        std::fs::write(&unit, text).map_err(BuildError::io("write", &unit))?;
        let (ptx, deps) = (work.join("out.ptx"), work.join("out.d"));
        let csrc = self.config.workspace.join("csrc");
        let mut command = Command::new(&self.toolchain.nvcc);
        command
            .args(NVCC_FLAGS)
            .arg("-ccbin")
            .arg(&self.host)
            .arg("-I")
            .arg(&csrc);
        command
            .arg("-MD")
            .arg("-MF")
            .arg(&deps)
            .arg("-o")
            .arg(&ptx)
            .arg(&unit);
        run(row, "nvcc", command)?;
        let listed = std::fs::read_to_string(&deps).map_err(BuildError::io("read", &deps))?;
        let files = dependencies(&listed)
            .into_iter()
            // Headers of the toolkit and the system change with the compilers, which are in the key.
            .filter(|path| path.starts_with(&csrc))
            .collect();
        Ok((ptx, files))
    }

    fn assemble(
        &self,
        row: &Row,
        ptx: &Path,
        work: &Path,
    ) -> Result<(PathBuf, Resources), BuildError> {
        let cubin = work.join("out.cubin");
        let mut command = Command::new(&self.toolchain.ptxas);
        command.args(PTXAS_FLAGS).arg("-o").arg(&cubin).arg(ptx);
        let output = run(row, "ptxas", command)?;
        Ok((cubin, report::parse(&row.name, &output)?))
    }
}

fn run(row: &Row, tool: &'static str, mut command: Command) -> Result<String, BuildError> {
    let output = command.output().map_err(|source| BuildError::Spawn {
        program: command.get_program().into(),
        source,
    })?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let status = output.status.to_string();
    Err(BuildError::Compile {
        row: row.name.clone(),
        tool,
        status,
        output: text,
    })
}

/// The prerequisites in a make rule as `-MD` writes it.
fn dependencies(rule: &str) -> Vec<PathBuf> {
    let Some((_, list)) = rule.split_once(" : ").or_else(|| rule.split_once(": ")) else {
        return Vec::new();
    };
    let joined = list.replace("\\\n", " ").replace("\\ ", "\0");
    joined
        .split_whitespace()
        .map(|path| PathBuf::from(path.replace('\0', " ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn make_rules_are_split_at_unescaped_blanks() {
        let rule = "out.ptx : /a/k.cu \\\n    /a/b\\ c.cuh \\\n    /usr/include/x.h\n";
        let expected = ["/a/k.cu", "/a/b c.cuh", "/usr/include/x.h"].map(PathBuf::from);
        assert_eq!(dependencies(rule), expected);
        assert!(dependencies("no rule").is_empty());
    }
}
