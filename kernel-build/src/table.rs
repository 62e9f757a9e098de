//! The instance table `csrc/instances.toml`: one row per compiled kernel, no combinatorial product.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::BuildError;

/// Threads of the largest CTA that any device accepts.
const MAX_THREADS: u32 = 1024;
/// CTAs of the largest portable cluster.
const MAX_CLUSTER: u32 = 8;
/// Bytes of shared memory one CTA may opt in to on sm_90.
const MAX_SHARED: u32 = 227 * 1024;

/// One row: everything that distinguishes a compiled kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The `extern "C"` entry point.
    pub name: String,
    /// Template file under `csrc/`, or hand-written module under `ptx/` when it ends in `.ptx`.
    pub source: String,
    /// The C++ function called with the parameters; absent for hand-written PTX.
    #[serde(default)]
    pub kernel: Option<String>,
    /// The parameter struct of `csrc/params/` that the entry takes.
    pub params: String,
    /// Threads per CTA; the kernel is compiled for exactly this many.
    pub threads: u32,
    /// CTAs per cluster; all ones means that the launch decides.
    #[serde(default = "no_cluster")]
    pub cluster: [u32; 3],
    /// CTAs that must fit on one SM together; bounds the registers.
    #[serde(default = "one")]
    pub min_blocks: u32,
    /// Bytes of dynamic shared memory that a launch asks for.
    #[serde(default)]
    pub shared: u32,
}

const fn no_cluster() -> [u32; 3] {
    [1, 1, 1]
}

const fn one() -> u32 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    kernel: Vec<Row>,
}

impl Row {
    /// Whether the source is hand-written PTX.
    #[must_use]
    pub fn is_ptx(&self) -> bool {
        self.source.ends_with(".ptx")
    }

    /// The source file below the workspace root `root`.
    #[must_use]
    pub fn source_path(&self, root: &Path) -> PathBuf {
        let folder = if self.is_ptx() { "ptx" } else { "csrc" };
        root.join(folder).join(&self.source)
    }

    /// The translation unit that instantiates a C++ template row.
    pub(crate) fn translation_unit(&self) -> Option<String> {
        let Self {
            name,
            source,
            kernel,
            params,
            threads,
            cluster,
            min_blocks,
            ..
        } = self;
        let kernel = kernel.as_ref()?;
        let [x, y, z] = cluster;
        let cluster = if x * y * z > 1 {
            format!("__cluster_dims__({x}, {y}, {z}) ")
        } else {
            String::new()
        };
        Some(format!(
            "#include \"{source}\"\n\n\
             extern \"C\" __global__ void {cluster}__launch_bounds__({threads}, {min_blocks})\n\
             {name}(const __grid_constant__ {params} p) {{\n    {kernel}(p);\n}}\n"
        ))
    }

    fn check(&self) -> Result<(), BuildError> {
        let fail = |message: String| {
            Err(BuildError::Row {
                row: self.name.clone(),
                message,
            })
        };
        if !is_identifier(&self.name) {
            return fail("`name` must be a C identifier".into());
        }
        if !is_identifier(&self.params) {
            return fail(format!(
                "`params` = `{}` must be a C identifier",
                self.params
            ));
        }
        if self.is_ptx() != self.kernel.is_none() {
            return fail("a .cuh source needs `kernel`, a .ptx source must not have it".into());
        }
        if !(1..=MAX_THREADS).contains(&self.threads) {
            return fail(format!(
                "`threads` = {} is not in 1..={MAX_THREADS}",
                self.threads
            ));
        }
        let ctas = self
            .cluster
            .iter()
            .try_fold(1u32, |all, &n| all.checked_mul(n));
        if !ctas.is_some_and(|n| (1..=MAX_CLUSTER).contains(&n)) {
            return fail(format!(
                "`cluster` = {:?} is not 1 to {MAX_CLUSTER} CTAs",
                self.cluster
            ));
        }
        if self.shared > MAX_SHARED {
            return fail(format!(
                "`shared` = {} exceeds {MAX_SHARED} bytes",
                self.shared
            ));
        }
        if self.min_blocks == 0 {
            return fail("`min_blocks` = 0, expected at least 1".into());
        }
        Ok(())
    }
}

fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Reads and checks the table `path`.
///
/// # Errors
/// Unreadable file, invalid TOML, a row that breaks a rule, or two rows of one name.
pub fn read(path: &Path) -> Result<Vec<Row>, BuildError> {
    let text = std::fs::read_to_string(path).map_err(BuildError::io("read", path))?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Vec<Row>, BuildError> {
    let table: Table = toml::from_str(text).map_err(|e| BuildError::TableSyntax {
        path: path.to_owned(),
        message: e.to_string(),
    })?;
    let mut names = HashSet::new();
    for row in &table.kernel {
        row.check()?;
        if !names.insert(&row.name) {
            let message = "the name is used by an earlier row".into();
            return Err(BuildError::Row {
                row: row.name.clone(),
                message,
            });
        }
    }
    Ok(table.kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = "[[kernel]]\nname = 'k'\nsource = 'a/k.cuh'\nkernel = 'h::k<C>'\n\
                       params = 'P'\nthreads = 128\n";

    fn rows(text: &str) -> Result<Vec<Row>, String> {
        parse(Path::new("instances.toml"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_no_cluster_and_no_shared_memory() {
        let rows = rows(ROW).unwrap();
        assert_eq!(
            (rows[0].cluster, rows[0].shared, rows[0].min_blocks),
            ([1, 1, 1], 0, 1)
        );
    }

    #[test]
    fn translation_unit_calls_the_kernel_with_the_one_parameter() {
        let rows = rows(&format!("{ROW}cluster = [2, 1, 1]\n")).unwrap();
        assert_eq!(
            rows[0].translation_unit().unwrap(),
            "#include \"a/k.cuh\"\n\nextern \"C\" __global__ void __cluster_dims__(2, 1, 1) \
             __launch_bounds__(128, 1)\nk(const __grid_constant__ P p) {\n    h::k<C>(p);\n}\n"
        );
    }

    #[test]
    fn broken_rows_name_the_row_and_the_value() {
        for (text, expected) in [
            (ROW.replace("128", "1025"), "instance `k`: `threads` = 1025"),
            (ROW.replace("128", "0"), "instance `k`: `threads` = 0"),
            (format!("{ROW}cluster = [3, 3, 1]"), "`cluster` = [3, 3, 1]"),
            (format!("{ROW}cluster = [0, 1, 1]"), "`cluster` = [0, 1, 1]"),
            (format!("{ROW}shared = 232449"), "`shared` = 232449"),
            (format!("{ROW}min_blocks = 0"), "`min_blocks` = 0"),
            (ROW.replace("a/k.cuh", "k.ptx"), "a .ptx source must not"),
            (ROW.replace("'k'", "'k-1'"), "C identifier"),
            (format!("{ROW}{ROW}"), "used by an earlier row"),
            (format!("{ROW}registers = 3"), "registers"),
            (ROW.replace("threads = 128", ""), "threads"),
        ] {
            let error = rows(&text).unwrap_err();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }
}
