//! Loading and launching the embedded kernels.
//!
//! A GPU gets the cubin, the software GPU the PTX: both come from one compilation. A launch checks
//! everything that can be checked here (the struct's name and size, threads, cluster, shared
//! memory); what the addresses inside the struct lead to is the caller's contract.
//!
//! # Safety
//! Function handles are valid while their module is loaded, which is until the context is dropped.
#![expect(unsafe_code, reason = "calls the CUDA driver")]

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cudarc::driver::sys::{
    CUfunction, CUfunction_attribute, CUlaunchAttribute, CUlaunchAttributeID,
    CUlaunchAttributeValue, CUlaunchConfig, CUmodule,
};

use super::context::lock;
use super::driver::call;
use super::{Context, DeviceError, DeviceKind, Stream, library};
use crate::kernels::{self, KernelImage};
use crate::params::KernelParams;

/// Dynamic shared memory above this must be opted in to.
const DEFAULT_SHARED: u32 = 48 * 1024;

/// A module in a context.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) module: CUmodule,
    function: CUfunction,
    /// Bytes of dynamic shared memory opted in to.
    opted_in: AtomicU32,
    launches: AtomicU64,
}

// SAFETY: module and function handles may be used from any thread.
unsafe impl Send for Loaded {}
// SAFETY: as above; the rest is atomic.
unsafe impl Sync for Loaded {}

/// A kernel that is loaded in a context.
#[derive(Debug, Clone)]
pub struct Kernel {
    context: Arc<Context>,
    image: &'static KernelImage,
    loaded: Arc<Loaded>,
}

/// How a kernel is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchConfig {
    /// CTAs.
    pub grid: [u32; 3],
    /// Threads per CTA; in all, as many as the kernel is compiled for.
    pub block: [u32; 3],
    /// CTAs per cluster; all ones is no cluster.
    pub cluster: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// All CTAs are resident together.
    pub cooperative: bool,
    /// May begin before the previous kernel of the stream has ended (programmatic dependent
    /// launch); the kernel itself waits with `griddepcontrol`.
    pub pdl: bool,
}

impl LaunchConfig {
    /// `grid` CTAs of `kernel` with everything else as its row says.
    #[must_use]
    pub fn new(kernel: &Kernel, grid: [u32; 3]) -> Self {
        let KernelImage {
            threads,
            cluster,
            shared_bytes,
            ..
        } = *kernel.image;
        let block = [threads, 1, 1];
        Self {
            grid,
            block,
            cluster,
            shared_bytes,
            cooperative: false,
            pdl: false,
        }
    }
}

impl Context {
    /// The compiled kernel `name`, loaded at the first call.
    ///
    /// # Errors
    /// [`DeviceError::UnknownKernel`], or a driver error of loading it.
    pub fn kernel(self: &Arc<Self>, name: &str) -> Result<Kernel, DeviceError> {
        let image = kernels::find(name).ok_or_else(|| DeviceError::UnknownKernel {
            name: name.to_owned(),
        })?;
        let mut loaded = lock(&self.loaded);
        let entry = match loaded.get(image.name) {
            Some(entry) => Arc::clone(entry),
            None => {
                let entry = Arc::new(self.load(image)?);
                loaded.insert(image.name, Arc::clone(&entry));
                entry
            }
        };
        Ok(Kernel {
            context: Arc::clone(self),
            image,
            loaded: entry,
        })
    }

    /// Loads `ptx` in place of the compiled text when kernel `name` is first used in this context.
    ///
    /// This is for tests that plant an error in a kernel and expect to see it found.
    ///
    /// # Errors
    /// [`DeviceError::UnknownKernel`]; the text itself is judged when it is loaded.
    pub fn replace_ptx(&self, name: &str, ptx: String) -> Result<(), DeviceError> {
        let image = kernels::find(name).ok_or_else(|| DeviceError::UnknownKernel {
            name: name.to_owned(),
        })?;
        lock(&self.replaced).insert(image.name, ptx);
        Ok(())
    }

    /// How often each kernel was launched in this context, by name.
    #[must_use]
    pub fn launches(&self) -> Vec<(&'static str, u64)> {
        let loaded = lock(&self.loaded);
        let counts = loaded
            .iter()
            .map(|(&name, l)| (name, l.launches.load(Ordering::Relaxed)));
        let mut counts: Vec<_> = counts.filter(|&(_, count)| count > 0).collect();
        counts.sort_unstable();
        counts
    }

    fn load(&self, image: &'static KernelImage) -> Result<Loaded, DeviceError> {
        let replaced = lock(&self.replaced).get(image.name).cloned();
        let text = replaced.as_deref().unwrap_or(image.ptx);
        let terminated = CString::new(text).map_err(|_| DeviceError::Nul { what: "PTX" })?;
        let soft = library::selected()?.kind == DeviceKind::Soft;
        let data = if soft || replaced.is_some() {
            terminated.as_ptr().cast()
        } else {
            image.cubin.as_ptr().cast()
        };
        self.bind()?;
        let mut module = std::ptr::null_mut();
        // SAFETY: a whole cubin, or a NUL-terminated PTX text; the driver copies either.
        unsafe { call!(cuModuleLoadData(&raw mut module, data)) }?;
        let name = CString::new(image.name).map_err(|_| DeviceError::Nul { what: "name" })?;
        let mut function = std::ptr::null_mut();
        // SAFETY: the module was loaded above, and the name is a C string.
        unsafe {
            call!(cuModuleGetFunction(
                &raw mut function,
                module,
                name.as_ptr()
            ))
        }?;
        Ok(Loaded {
            module,
            function,
            opted_in: DEFAULT_SHARED.into(),
            launches: 0.into(),
        })
    }
}

impl Kernel {
    /// The compiled image.
    #[must_use]
    pub fn image(&self) -> &'static KernelImage {
        self.image
    }

    /// The context it is loaded in.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    fn check<P: KernelParams>(&self, config: &LaunchConfig) -> Result<(), DeviceError> {
        let image = self.image;
        let fail = |field, value: String, expected: String| {
            Err(DeviceError::Launch {
                kernel: image.name,
                field,
                value,
                expected,
            })
        };
        if P::NAME != image.params {
            return fail("parameter struct", P::NAME.into(), image.params.into());
        }
        if size_of::<P>() != image.param_bytes as usize {
            let expected = format!(
                "{} (rebuild after `cargo xtask bless params`)",
                image.param_bytes
            );
            return fail("parameter bytes", size_of::<P>().to_string(), expected);
        }
        let threads: u64 = config.block.iter().map(|&n| u64::from(n)).product();
        if threads != u64::from(image.threads) {
            return fail("threads", threads.to_string(), image.threads.to_string());
        }
        if image.cluster != [1; 3] && config.cluster != image.cluster {
            let (found, compiled) = (config.cluster, image.cluster);
            return fail(
                "cluster",
                format!("{found:?}"),
                format!("{compiled:?} as compiled"),
            );
        }
        let pairs = config.grid.iter().zip(&config.cluster);
        if pairs
            .clone()
            .any(|(&grid, &cluster)| cluster == 0 || grid % cluster != 0 || grid == 0)
        {
            let expected = format!("a positive multiple of the cluster {:?}", config.cluster);
            return fail("grid", format!("{:?}", config.grid), expected);
        }
        Ok(())
    }

    fn opt_in(&self, shared_bytes: u32) -> Result<(), DeviceError> {
        if shared_bytes <= self.loaded.opted_in.load(Ordering::Acquire) {
            return Ok(());
        }
        let which = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let value = i32::try_from(shared_bytes).unwrap_or(i32::MAX);
        // SAFETY: the function is loaded.
        unsafe { call!(cuFuncSetAttribute(self.loaded.function, which, value)) }?;
        self.loaded
            .opted_in
            .fetch_max(shared_bytes, Ordering::AcqRel);
        Ok(())
    }
}

impl Stream {
    /// Enqueues `kernel` with `params`.
    ///
    /// # Errors
    /// [`DeviceError::Launch`] when the launch does not fit the kernel, [`DeviceError::WrongContext`],
    /// or a driver error. Errors of the execution appear at a later synchronisation.
    ///
    /// # Safety
    /// 1. Every address in `params` leads to memory that the kernel may access as it does: right
    ///    device (or peer-mapped), size and alignment, by the kernel's documentation.
    /// 2. That memory stays allocated until the stream is past the launch.
    /// 3. Nothing else accesses it meanwhile except as the kernel's protocol allows.
    pub unsafe fn launch<P: KernelParams>(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        params: &P,
    ) -> Result<(), DeviceError> {
        if !Arc::ptr_eq(self.context(), &kernel.context) {
            return Err(DeviceError::WrongContext {
                operation: "launch",
                what: "kernel",
            });
        }
        kernel.check::<P>(config)?;
        self.context().bind()?;
        kernel.opt_in(config.shared_bytes)?;
        let mut attributes = Attributes::new(config);
        let raw = CUlaunchConfig {
            gridDimX: config.grid[0],
            gridDimY: config.grid[1],
            gridDimZ: config.grid[2],
            blockDimX: config.block[0],
            blockDimY: config.block[1],
            blockDimZ: config.block[2],
            sharedMemBytes: config.shared_bytes,
            hStream: self.handle(),
            attrs: attributes.list.as_mut_ptr(),
            numAttrs: attributes.len,
        };
        let mut pointers = [std::ptr::from_ref(params).cast_mut().cast()];
        let (function, arguments) = (kernel.loaded.function, pointers.as_mut_ptr());
        let none = std::ptr::null_mut();
        // SAFETY: configuration and the one parameter outlive the call, which copies them; the
        // parameter has the kernel's size (checked above); the rest is this function's contract.
        unsafe { call!(cuLaunchKernelEx(&raw const raw, function, arguments, none)) }?;
        kernel.loaded.launches.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Attributes of a launch, in place: a launch allocates nothing.
struct Attributes {
    list: [CUlaunchAttribute; 3],
    len: u32,
}

impl Attributes {
    fn new(config: &LaunchConfig) -> Self {
        let mut all = Self {
            list: [CUlaunchAttribute {
                id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_IGNORE,
                pad: [0; 4],
                // The whole value is defined, whichever member is set.
                value: CUlaunchAttributeValue { pad: [0; 64] },
            }; 3],
            len: 0,
        };
        let [x, y, z] = config.cluster;
        if config.cluster != [1; 3] {
            let id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            let value = all.push(id);
            value.clusterDim.x = x;
            value.clusterDim.y = y;
            value.clusterDim.z = z;
        }
        if config.cooperative {
            let id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
            all.push(id).cooperative = 1;
        }
        if config.pdl {
            let id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            all.push(id).programmaticStreamSerializationAllowed = 1;
        }
        all
    }

    fn push(&mut self, id: CUlaunchAttributeID) -> &mut CUlaunchAttributeValue {
        // `new` pushes at most as many as there are.
        let next = &mut self.list[self.len as usize];
        self.len += 1;
        next.id = id;
        &mut next.value
    }
}
