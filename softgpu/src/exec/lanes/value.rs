//! How values of guest types stand in the register file.
#![expect(
    unsafe_code,
    reason = "lanes are read and written through raw pointers"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "narrow values stand in wider lanes"
)]

use crate::exec::regs::FULL;
use crate::ir::Class;

/// What a lane holds: 0, 4, 8 or 16 bytes.
pub(crate) trait Raw: Copy + Default {
    /// Register class with lanes of this width; `None` for an absent operand.
    const CLASS: Option<Class>;
    /// Writes the lanes of `mask`.
    ///
    /// # Safety
    /// `target` points to 32 lanes of this width, aligned.
    #[inline(always)]
    unsafe fn commit(target: *mut u32, mask: u32, values: &[Self; 32]) {
        let target = target.cast::<[Self; 32]>();
        if mask == FULL {
            // SAFETY: the caller's promise.
            unsafe { target.write(*values) };
            return;
        }
        // SAFETY: the caller's promise.
        let mut merged = unsafe { target.read() };
        // 64 bytes at a time, as vectors are, each with its own bits of the mask.
        let lanes = 64 / size_of::<Self>().max(1);
        for (part, (merged, values)) in merged
            .chunks_exact_mut(lanes)
            .zip(values.chunks_exact(lanes))
            .enumerate()
        {
            let bits = mask >> (part * lanes);
            for (lane, (to, value)) in merged.iter_mut().zip(values).enumerate() {
                *to = if bits >> lane & 1 != 0 { *value } else { *to };
            }
        }
        // SAFETY: the caller's promise.
        unsafe { target.write(merged) };
    }
}

impl Raw for u32 {
    const CLASS: Option<Class> = Some(Class::B32);
}
impl Raw for u64 {
    const CLASS: Option<Class> = Some(Class::B64);
}
impl Raw for u128 {
    const CLASS: Option<Class> = Some(Class::B128);
}
impl Raw for () {
    const CLASS: Option<Class> = None;
    #[inline(always)]
    unsafe fn commit(_: *mut u32, _: u32, _: &[(); 32]) {}
}

/// A guest value and its place in a lane.
pub(crate) trait Value: Copy {
    /// The lane it stands in.
    type Raw: Raw;
    /// The value in a lane; what stands above it is ignored.
    fn from_raw(raw: Self::Raw) -> Self;
    /// The lane that holds the value, extended by its sign if it has one.
    fn into_raw(self) -> Self::Raw;

    /// Reads one lane.
    ///
    /// # Safety
    /// `lanes` points to 32 lanes of this width, aligned; `lane` < 32. For `()`, anything goes.
    #[inline(always)]
    unsafe fn get(lanes: *const u32, lane: usize) -> Self {
        if size_of::<Self::Raw>() == 0 {
            return Self::from_raw(Self::Raw::default());
        }
        let slot = lanes.cast::<Self::Raw>().wrapping_add(lane);
        // SAFETY: the caller's promise.
        Self::from_raw(unsafe { slot.read() })
    }
}

macro_rules! values {
    ($($ty:ty: $raw:ty, |$r:ident| $from:expr, |$v:ident| $into:expr;)*) => {$(
        impl Value for $ty {
            type Raw = $raw;
            #[inline(always)]
            fn from_raw($r: $raw) -> Self {
                $from
            }
            #[inline(always)]
            fn into_raw(self) -> $raw {
                let $v = self;
                $into
            }
        }
    )*};
}

/// An IEEE half, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct F16(pub(crate) u16);

/// A bfloat16, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bf16(pub(crate) u16);

values! {
    u8: u32, |r| r as u8, |v| u32::from(v);
    i8: u32, |r| r as i8, |v| i32::from(v) as u32;
    u16: u32, |r| r as u16, |v| u32::from(v);
    i16: u32, |r| r as i16, |v| i32::from(v) as u32;
    u32: u32, |r| r, |v| v;
    i32: u32, |r| r as i32, |v| v as u32;
    u64: u64, |r| r, |v| v;
    i64: u64, |r| r as i64, |v| v as u64;
    u128: u128, |r| r, |v| v;
    i128: u128, |r| r as i128, |v| v as u128;
    f32: u32, |r| f32::from_bits(r), |v| v.to_bits();
    f64: u64, |r| f64::from_bits(r), |v| v.to_bits();
    F16: u32, |r| F16(r as u16), |v| u32::from(v.0);
    Bf16: u32, |r| Bf16(r as u16), |v| u32::from(v.0);
    [F16; 2]: u32, |r| [F16(r as u16), F16((r >> 16) as u16)],
        |v| u32::from(v[0].0) | u32::from(v[1].0) << 16;
    [Bf16; 2]: u32, |r| [Bf16(r as u16), Bf16((r >> 16) as u16)],
        |v| u32::from(v[0].0) | u32::from(v[1].0) << 16;
    [i16; 2]: u32, |r| [r as i16, (r >> 16) as i16],
        |v| u32::from(v[0] as u16) | u32::from(v[1] as u16) << 16;
    [u16; 2]: u32, |r| [r as u16, (r >> 16) as u16],
        |v| u32::from(v[0]) | u32::from(v[1]) << 16;
    (): (), |_r| (), |_v| ();
}
