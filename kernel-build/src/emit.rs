//! Writes `kernels.rs`: the images as a static table of `hadal::kernels::KernelImage`.

use std::fmt::Write;
use std::path::Path;

use crate::cache::write_atomically;
use crate::{BuildError, Image, Resources, Row};

/// Writes `kernels.rs` and the images it embeds into `folder`.
pub(crate) fn write(folder: &Path, images: &[Image]) -> Result<(), BuildError> {
    for image in images {
        // Copied, so that emptying the shared cache cannot break this build.
        for (from, extension) in [(&image.ptx, "ptx"), (&image.cubin, "cubin")] {
            let to = folder.join(format!("{}.{extension}", image.row.name));
            let bytes = std::fs::read(from).map_err(BuildError::io("read", from))?;
            write_atomically(&to, &bytes)?;
        }
    }
    write_atomically(&folder.join("kernels.rs"), text(images).as_bytes())
}

fn text(images: &[Image]) -> String {
    let mut out = String::from("&[\n");
    for image in images {
        let Row {
            name,
            source,
            params,
            threads,
            cluster,
            min_blocks,
            shared,
            ..
        } = &image.row;
        let Resources {
            registers,
            stack,
            barriers,
            static_shared,
            param_bytes,
            ..
        } = image.resources;
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "    KernelImage {{ name: {name:?}, source: {source:?}, params: {params:?}, \
             param_bytes: {param_bytes}, threads: {threads}, cluster: {cluster:?}, \
             min_blocks: {min_blocks}, shared_bytes: {shared}, static_shared: {static_shared}, \
             registers: {registers}, stack: {stack}, barriers: {barriers}, \
             ptx: include_str!(\"{name}.ptx\"), cubin: include_bytes!(\"{name}.cubin\") }},"
        );
    }
    out.push_str("]\n");
    out
}
