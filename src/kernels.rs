//! The compiled kernels, embedded: one [`KernelImage`] per row of `csrc/instances.toml`.

/// A compiled kernel with what its row and the compiler say about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelImage {
    /// The entry point.
    pub name: &'static str,
    /// Source file below `csrc/` or `ptx/`.
    pub source: &'static str,
    /// Parameter struct of `csrc/params/`.
    pub params: &'static str,
    /// Bytes of that struct in the compiled entry.
    pub param_bytes: u32,
    /// Threads per CTA.
    pub threads: u32,
    /// CTAs per cluster, compiled in; all ones when the launch decides.
    pub cluster: [u32; 3],
    /// CTAs that fit on one SM together by its registers.
    pub min_blocks: u32,
    /// Bytes of dynamic shared memory that the row asks for.
    pub shared_bytes: u32,
    /// Bytes of static shared memory.
    pub static_shared: u32,
    /// Registers per thread at launch.
    pub registers: u32,
    /// Bytes of local memory per thread.
    pub stack: u32,
    /// Named barriers.
    pub barriers: u32,
    /// `compute_90a` PTX.
    pub ptx: &'static str,
    /// `sm_90a` machine code.
    pub cubin: &'static [u8],
}

/// All kernels, in table order.
pub static ALL: &[KernelImage] = include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The kernel `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static KernelImage> {
    ALL.iter().find(|image| image.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_holds_its_entry_and_machine_code() {
        assert!(!ALL.is_empty());
        for image in ALL {
            let entry = format!(".entry {}(", image.name);
            assert!(image.ptx.contains(&entry), "{} has no {entry}", image.name);
            assert!(image.ptx.contains(".target sm_90a"), "{}", image.name);
            assert_eq!(
                image.cubin.get(..4),
                Some(&b"\x7fELF"[..]),
                "{}",
                image.name
            );
        }
    }

    #[test]
    fn names_lead_to_their_images() {
        assert_eq!(find("fill_words").unwrap().params, "hadal_fill_params");
        assert_eq!(find("fill_word"), None);
    }
}
