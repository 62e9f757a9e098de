//! The host's vector extensions, and handlers compiled for each of them.
//!
//! A body is an `#[inline(always)]` function; the wrappers here exist once per extension and body
//! and give the compiler the target features under which to vectorise the inlined body.
#![expect(
    unsafe_code,
    reason = "functions with target features are unsafe to call"
)]

use std::sync::OnceLock;

use crate::exec::access::transfer::{Hosts, Located, locate};
use crate::exec::access::{MemCtx, Span};
use crate::exec::config::Tools;
use crate::exec::inst::{AluFn, Code, Inst, LaneFault, MemFn, Notice};
use crate::exec::regs::{FULL, RegFile};

/// Vector extensions for which handlers exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// What every host of the target architecture has.
    Baseline,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 F, BW, CD, DQ, VL.
    Avx512,
}

impl Isa {
    /// The best that this host has and [`Tools`] allow.
    #[must_use]
    pub fn detect() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::probe().min(Tools::global().isa.unwrap_or(Self::Avx512)))
    }

    /// All that this host has, the baseline first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let all = [Self::Baseline, Self::Avx2, Self::Avx512];
        all.into_iter()
            .filter(|&isa| isa <= Self::detect())
            .collect()
    }

    #[cfg(target_arch = "x86_64")]
    fn probe() -> Self {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        match (avx512, avx2) {
            (true, _) => Self::Avx512,
            (false, true) => Self::Avx2,
            (false, false) => Self::Baseline,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn probe() -> Self {
        Self::Baseline
    }
}

/// The body of a register-only handler.
pub(crate) trait AluBody {
    /// See [`AluFn`].
    ///
    /// # Safety
    /// Every slot of the instruction lies in the file or the bank.
    unsafe fn run(regs: &mut RegFile, mask: u32, inst: &Inst);
}

/// The body of a memory handler.
pub(crate) trait MemBody {
    /// See [`MemFn`].
    ///
    /// # Safety
    /// As for [`AluBody::run`]; the pointers of the context are valid.
    unsafe fn run<I: Host>(
        regs: &mut RegFile,
        mask: u32,
        inst: &Inst,
        ctx: &mut MemCtx<'_>,
    ) -> Result<(), LaneFault>;

    /// Executes the instruction for all lanes if the addresses are as most are and there is no
    /// fault; else it does nothing and answers `false`.
    ///
    /// # Safety
    /// As for [`Self::run`].
    #[inline(always)]
    unsafe fn all(_regs: &mut RegFile, _inst: &Inst, _ctx: &MemCtx<'_>) -> bool {
        false
    }
}

/// A level of vector extensions as a type: what memory handlers share, compiled once for each.
pub(crate) trait Host {
    /// See [`locate`].
    ///
    /// # Safety
    /// As for [`locate`], and the host has the extensions.
    unsafe fn locate(
        regs: &mut RegFile,
        mask: u32,
        inst: &Inst,
        ctx: &MemCtx<'_>,
        place: (Span, &mut Hosts),
    ) -> Result<Located, LaneFault>;
}

// One module per extension and kind: the compiler makes a unit of its own of the generic functions
// of each module, and those compile in parallel.
macro_rules! wrappers {
    ($($host:ident { $(#[$feature:meta])* $alu:ident $mem:ident })*) => {$(
        mod $alu {
            use super::*;

            /// # Safety
            /// See [`AluFn`].
            $(#[$feature])*
            pub(super) unsafe fn run<B: AluBody>(regs: &mut RegFile, mask: u32, inst: &Inst) {
                // SAFETY: the caller's promise is the one of the body.
                unsafe { B::run(regs, mask, inst) }
            }
        }

        mod $mem {
            use super::*;

            /// See [`Isa`].
            pub(super) struct $host;

            impl Host for $host {
                #[inline(always)]
                unsafe fn locate(
                    regs: &mut RegFile,
                    mask: u32,
                    inst: &Inst,
                    ctx: &MemCtx<'_>,
                    place: (Span, &mut Hosts),
                ) -> Result<Located, LaneFault> {
                    // SAFETY: the caller's promise.
                    unsafe { resolve(regs, mask, inst, ctx, place) }
                }
            }

            /// # Safety
            /// See [`Host::locate`].
            $(#[$feature])*
            #[inline(never)]
            unsafe fn resolve(
                regs: &mut RegFile,
                mask: u32,
                inst: &Inst,
                ctx: &MemCtx<'_>,
                place: (Span, &mut Hosts),
            ) -> Result<Located, LaneFault> {
                // SAFETY: the caller's promise.
                unsafe { locate(regs, mask, inst, ctx, place) }
            }

            /// # Safety
            /// See [`MemFn`].
            $(#[$feature])*
            pub(super) unsafe fn run<B: MemBody>(
                regs: &mut RegFile,
                mask: u32,
                inst: &Inst,
                ctx: &mut MemCtx<'_>,
            ) -> Result<(), Box<LaneFault>> {
                // SAFETY: the caller's promise is the one of the body.
                if mask == FULL && unsafe { B::all(regs, inst, ctx) } {
                    return Ok(());
                }
                // SAFETY: as above.
                unsafe { any::<B>(regs, mask, inst, ctx) }
            }

            /// Apart from [`run`], whose frame then stays small.
            ///
            /// # Safety
            /// See [`MemFn`].
            $(#[$feature])*
            #[inline(never)]
            unsafe fn any<B: MemBody>(
                regs: &mut RegFile,
                mask: u32,
                inst: &Inst,
                ctx: &mut MemCtx<'_>,
            ) -> Result<(), Box<LaneFault>> {
                // SAFETY: the caller's promise is the one of the body.
                unsafe { B::run::<$host>(regs, mask, inst, ctx) }.map_err(Box::new)
            }
        }
    )*};
}

wrappers! {
    Baseline { alu_baseline mem_baseline }
}

#[cfg(target_arch = "x86_64")]
wrappers! {
    Avx2 {
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
        alu_avx2 mem_avx2
    }
    Avx512 {
        #[target_feature(
            enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl"
        )]
        alu_avx512 mem_avx512
    }
}

/// The handler of a register-only body.
pub(crate) fn alu<B: AluBody>(isa: Isa) -> Code {
    let handler: AluFn = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => alu_avx512::run::<B>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => alu_avx2::run::<B>,
        _ => alu_baseline::run::<B>,
    };
    Code::Alu(handler)
}

/// The handler of a memory body.
pub(crate) fn mem<B: MemBody>(isa: Isa) -> Code {
    let handler: MemFn = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => mem_avx512::run::<B>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => mem_avx2::run::<B>,
        _ => mem_baseline::run::<B>,
    };
    Code::Mem(handler, Notice::Always)
}
