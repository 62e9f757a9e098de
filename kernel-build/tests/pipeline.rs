//! The build of kernels with stand-ins for nvcc and ptxas that log what they were asked to do.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hadal_kernel_build::{BuildError, Config, Places, build, compile};
use tempfile::TempDir;

/// Copies the unit to the output as PTX with one parameter, and lists the header it includes.
const NVCC: &str = r#"#!/bin/sh
[ "$1" = --version ] && { echo "Cuda compilation tools, release 13.0, V13.0.88"; exit 0; }
while [ $# -gt 1 ]; do
    case "$1" in
        -o) out=$2; shift ;; -MF) deps=$2; shift ;; -I) include=$2; shift ;; -ccbin) shift ;;
    esac
    shift
done
unit=$1
header=$include/$(sed -n 's/^#include "\(.*\)"/\1/p' "$unit")
name=$(basename "$unit" .cu)
echo "nvcc $name" >> "$include/../log"
grep -q syntax "$header" && { echo "$header: error: syntax" >&2; exit 2; }
echo "// $(cat "$header")" > "$out"
echo ".visible .entry $name(.param .align 8 .b8 p[24]) {}" >> "$out"
echo "$out : $unit $header /usr/include/stdint.h" > "$deps"
"#;

/// Spills when the PTX says so.
const PTXAS: &str = r#"#!/bin/sh
while [ $# -gt 1 ]; do case "$1" in -o) out=$2; shift ;; esac; shift; done
name=$(sed -n 's/.*\.entry \([a-z_]*\)(.*/\1/p' "$1")
spill=0; grep -q spill "$1" && spill=8
grep -q serial "$1" && echo "ptxas info : (C7510) Potential Performance Loss: serialized" >&2
echo "ptxas info    : Compiling entry function '$name' for 'sm_90a'" >&2
echo "    0 bytes stack frame, $spill bytes spill stores, $spill bytes spill loads" >&2
echo "ptxas info    : Used 40 registers, used 2 barriers" >&2
echo "cubin of $name" > "$out"
"#;

struct Workspace {
    root: TempDir,
}

impl Workspace {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let workspace = Self { root };
        for folder in ["csrc", "ptx", "cuda/bin", "work"] {
            std::fs::create_dir_all(workspace.path(folder)).unwrap();
        }
        for (tool, text) in [("nvcc", NVCC), ("ptxas", PTXAS)] {
            let path = workspace.path("cuda/bin").join(tool);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        workspace.write("csrc/a.cuh", "a");
        workspace.write("csrc/b.cuh", "b");
        workspace.write("ptx/c.ptx", ".entry c(.param .align 8 .b8 p[16]) {}");
        let row = |name: &str, source: &str, kernel: &str| {
            format!(
                "[[kernel]]\nname = '{name}'\nsource = '{source}'\n{kernel}\nparams = 'P'\n\
                 threads = 32\n"
            )
        };
        let table = row("a", "a.cuh", "kernel = 'k'")
            + &row("b", "b.cuh", "kernel = 'k'")
            + &row("c", "c.ptx", "");
        workspace.write("csrc/instances.toml", &table);
        workspace
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn config(&self) -> Config {
        let places = Places {
            cuda_home: Some(self.path("cuda")),
            ..Places::default()
        };
        Config {
            workspace: self.root.path().to_owned(),
            places,
            cache: self.path("cache"),
            work: self.path("work"),
            jobs: 2,
        }
    }

    /// What nvcc was asked to compile since the last call, sorted.
    fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        let _ = std::fs::remove_file(self.path("log"));
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

#[test]
fn only_rows_whose_inputs_changed_are_compiled_again() {
    let workspace = Workspace::new();
    let first = compile(&workspace.config()).unwrap();
    assert_eq!(workspace.log(), ["nvcc a", "nvcc b"]);
    let names: Vec<_> = first.iter().map(|image| image.row.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"], "images are in table order");
    let resources: Vec<_> = first.iter().map(|i| i.resources.param_bytes).collect();
    assert_eq!(resources, [24, 24, 16]);

    assert_eq!(compile(&workspace.config()).unwrap(), first);
    assert!(workspace.log().is_empty(), "nothing changed");

    workspace.write("csrc/b.cuh", "changed");
    let second = compile(&workspace.config()).unwrap();
    assert_eq!(workspace.log(), ["nvcc b"]);
    assert_eq!(second[0], first[0]);
    assert_ne!(second[1].ptx, first[1].ptx);
    assert!(
        std::fs::read_to_string(&second[1].ptx)
            .unwrap()
            .contains("changed")
    );

    let table = std::fs::read_to_string(workspace.path("csrc/instances.toml")).unwrap();
    workspace.write(
        "csrc/instances.toml",
        &table.replacen("threads = 32", "threads = 64", 1),
    );
    compile(&workspace.config()).unwrap();
    assert_eq!(workspace.log(), ["nvcc a"]);
}

#[test]
fn what_is_not_acceptable_is_not_cached() {
    for (text, expected) in [
        ("spill", "8 bytes of spill stores"),
        ("serial", "remark C7510"),
    ] {
        let workspace = Workspace::new();
        workspace.write("csrc/a.cuh", text);
        for _ in 0..2 {
            let error = compile(&workspace.config()).unwrap_err().to_string();
            assert!(
                error.contains("instance `a`") && error.contains(expected),
                "{error}"
            );
        }
    }
}

#[test]
fn a_compiler_error_names_the_row_and_shows_the_output() {
    let workspace = Workspace::new();
    workspace.write("csrc/b.cuh", "syntax");
    let error = compile(&workspace.config()).unwrap_err();
    let BuildError::Compile {
        row,
        tool: "nvcc",
        output,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(row, "b");
    assert!(output.contains("b.cuh: error: syntax"), "{output}");
}

#[test]
fn the_emitted_table_embeds_every_image() {
    let workspace = Workspace::new();
    build(&workspace.config()).unwrap();
    let text = std::fs::read_to_string(workspace.path("work/kernels.rs")).unwrap();
    for name in ["a", "b", "c"] {
        assert!(text.contains(&format!("name: {name:?}")), "{text}");
        assert!(
            text.contains(&format!("include_str!(\"{name}.ptx\")")),
            "{text}"
        );
        let cubin = std::fs::read_to_string(workspace.path("work").join(format!("{name}.cubin")));
        assert_eq!(cubin.unwrap(), format!("cubin of {name}\n"));
    }
    assert!(
        text.contains("registers: 40") && text.contains("barriers: 2"),
        "{text}"
    );
}

#[test]
fn no_compiler_is_one_message_that_names_the_command() {
    let workspace = Workspace::new();
    let config = Config {
        places: Places::default(),
        ..workspace.config()
    };
    let message = compile(&config).unwrap_err().to_string();
    assert!(message.contains("cargo xtask setup"), "{message}");
    assert!(!Path::new(&config.cache).exists());
}
