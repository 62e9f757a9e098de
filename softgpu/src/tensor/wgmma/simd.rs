//! The vector operations of the wgmma tiles, over three instruction sets.
//!
//! A vector is a row of 32-bit lanes; operations say how they see a lane: as one `i32` or `f32`, two
//! `i16` or four `i8`. Kernels are generic over [`Simd`] and `#[inline(always)]`; the functions that
//! enter them carry `#[target_feature]`, so each instruction set gets its own code.
//!
//! # Safety
//! A value of an instruction set's type is a proof that the CPU has it: the constructors are
//! unsafe and called only behind run-time detection.
#![expect(unsafe_code, reason = "vector intrinsics")]

use super::Accumulators;
use super::decode::{Operands, row_words};
use super::{K_BYTES, fast, integer};
#[cfg(target_arch = "x86_64")]
use crate::exec::Isa as Host;
use crate::tensor::convert;

/// An instruction set.
pub(super) trait Simd: Copy {
    /// A vector of [`Self::LANES`] 32-bit lanes.
    type V: Copy;
    /// Lanes of a vector: 8 or 16.
    const LANES: usize;

    /// The lanes of `from` from `first` on; `first` is a multiple of [`Self::LANES`] below 16.
    fn load(self, from: &[u32; 16], first: usize) -> Self::V;
    /// Writes the lanes of `to` from `first` on, as for [`Self::load`].
    fn store(self, to: &mut [u32; 16], first: usize, v: Self::V);
    /// Every lane is `x`.
    fn splat(self, x: u32) -> Self::V;
    /// Word `w` of rows 0 to [`Self::LANES`] of 32 bytes.
    fn transpose<'a>(self, row: impl Fn(usize) -> &'a [u8; K_BYTES]) -> [Self::V; 8];
    /// Four words `j` of `to[i]` become four words `i` of `from[j]`.
    fn exchange(self, from: [&[u32; 16]; 4], to: &mut [[u32; 16]; 4]);
    /// Bytes `2 * part` and `2 * part + 1` of every lane, in its halves.
    fn pair(self, a: Self::V, part: usize) -> Self::V;

    fn xor(self, a: Self::V, b: Self::V) -> Self::V;
    fn and(self, a: Self::V, b: Self::V) -> Self::V;
    fn or(self, a: Self::V, b: Self::V) -> Self::V;
    fn add_i32(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub_i32(self, a: Self::V, b: Self::V) -> Self::V;
    fn max_i32(self, a: Self::V, b: Self::V) -> Self::V;
    fn min_i32(self, a: Self::V, b: Self::V) -> Self::V;
    /// Logical shift right.
    fn shr<const N: u32>(self, a: Self::V) -> Self::V;
    /// Shift left.
    fn shl<const N: u32>(self, a: Self::V) -> Self::V;
    /// Arithmetic shift right.
    fn sar<const N: u32>(self, a: Self::V) -> Self::V;
    /// Whether some lane is not in `low..=high` (as `i32`).
    fn any_outside(self, a: Self::V, low: i32, high: i32) -> bool;

    fn mul_f32(self, a: Self::V, b: Self::V) -> Self::V;
    /// `i32` to `f32`.
    fn f32_from_i32(self, a: Self::V) -> Self::V;
    /// `f32` to `i32`, toward zero; any value when it does not fit.
    fn i32_from_f32(self, a: Self::V) -> Self::V;
    /// The sum of two `i32` as `f32`, toward zero; if `STICKY`, the last bit is set when digits were
    /// lost, so that a later rounding to fewer digits is as if of the sum itself.
    fn f32_from_sum<const STICKY: bool>(self, a: Self::V, b: Self::V) -> Self::V;
    /// f16 bits in the low halves as `f32`.
    fn f32_from_f16(self, a: Self::V) -> Self::V;
    /// `f32` as f16 bits, to nearest even.
    fn f16_from_f32(self, a: Self::V) -> Self::V;
    /// Population counts.
    fn count_ones(self, a: Self::V) -> Self::V;

    /// Saturating `i8` addition.
    fn add_i8(self, a: Self::V, b: Self::V) -> Self::V;
    fn max_i8(self, a: Self::V, b: Self::V) -> Self::V;
    fn add_i16(self, a: Self::V, b: Self::V) -> Self::V;
    fn max_i16(self, a: Self::V, b: Self::V) -> Self::V;
    /// Low 16 bits of `i16` products.
    fn mul_i16(self, a: Self::V, b: Self::V) -> Self::V;
    /// `acc + a.low * b.low + a.high * b.high` over `i16` halves.
    fn dot_i16(self, acc: Self::V, a: Self::V, b: Self::V) -> Self::V;

    /// Decoded FP8 significands of B (two, one per half) shifted left, as [`Self::align_fp8`] expects.
    fn fp8_significands(self, x: Self::V) -> Self::V;
    /// How decoded FP8 exponents (two of 0 to 31, one per half) are kept for [`Self::align_fp8`].
    fn fp8_exponents(self, x: Self::V) -> Self::V;
    /// The largest exponent of every lane, prepared for [`Self::align_fp8`].
    fn fp8_largest(self, e: Self::V) -> Self::V;
    /// `product >> (largest - ea - eb)` over halves, 0 for shifts of 15 and more; the product comes
    /// from significands of B by [`Self::fp8_significands`], the result is as if shifted left by 7.
    fn align_fp8(self, product: Self::V, largest: Self::V, ea: Self::V, eb: Self::V) -> Self::V;
}

/// What to compute.
#[derive(Debug)]
pub(super) enum Work<'a> {
    Float(&'a fast::Task<'a>, &'a mut Operands),
    Integer(&'a integer::Task<'a>, &'a mut integer::Operands),
    /// Sums of products, element by element: D, A by rows, B by columns, and K.
    Double(&'a mut [f64], &'a [f64], &'a [f64], usize),
}

impl Work<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S, d: &mut Accumulators<'_>) {
        match self {
            Work::Float(task, operands) => fast::run(s, task, operands, d),
            Work::Integer(task, operands) => integer::run(s, task, operands, d),
            Work::Double(d, a, b, k) => double(d, a, b, k),
        }
    }
}

/// `d[i][j] = fma(a[i][k], b[j][k], d[i][j])` for k = 0, 1, …; eight columns.
#[inline(always)]
fn double(d: &mut [f64], a: &[f64], b: &[f64], k: usize) {
    for (d, a) in d.chunks_exact_mut(8).zip(a.chunks_exact(k)) {
        for (k_index, &a) in a.iter().enumerate() {
            for (d, b) in d.iter_mut().zip(b.chunks_exact(k)) {
                *d = a.mul_add(b[k_index], *d);
            }
        }
    }
}

/// Vector extensions that the CPU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(Isa);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Level {
    /// All levels that this CPU has and the environment allows, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let allowed = Host::detect();
        #[cfg(target_arch = "x86_64")]
        let avx2 = allowed >= Host::Avx2
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let levels = [
            #[cfg(target_arch = "x86_64")]
            (avx2
                && allowed >= Host::Avx512
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni"))
            .then_some(Isa::Avx512),
            #[cfg(target_arch = "x86_64")]
            avx2.then_some(Isa::Avx2),
            Some(Isa::Portable),
        ];
        levels.into_iter().flatten().map(Self)
    }

    /// The fastest level of this CPU.
    #[must_use]
    pub fn best() -> Self {
        Self::available().next().unwrap_or(Self(Isa::Portable))
    }

    /// The fastest level of this CPU for tiles of eight columns, which half fill the widest vectors.
    pub(in crate::tensor) fn narrow() -> Self {
        let levels = Self::available();
        #[cfg(target_arch = "x86_64")]
        let mut levels = levels.filter(|level| level.0 != Isa::Avx512);
        #[cfg(not(target_arch = "x86_64"))]
        let mut levels = levels;
        levels.next().unwrap_or(Self(Isa::Portable))
    }

    /// Runs a tile with the instructions of this level.
    pub(super) fn run(self, work: Work<'_>, d: &mut Accumulators<'_>) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` made this level after detecting the extensions.
            Isa::Avx512 => unsafe { avx512::run(work, d) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` made this level after detecting the extensions.
            Isa::Avx2 => unsafe { avx2::run(work, d) },
            Isa::Portable => work.run(Portable, d),
        }
    }

    /// `d[i][j] = fma(a[i][k], b[j][k], d[i][j])` for k = 0, 1, … in `f64`; eight columns.
    pub(in crate::tensor) fn double(self, d: &mut [f64], a: &[f64], b: &[f64], k: usize) {
        self.run(
            Work::Double(d, a, b, k),
            &mut Accumulators::of_warp(&mut []),
        );
    }
}

/// Plain Rust.
#[derive(Debug, Clone, Copy)]
struct Portable;

const PORTABLE: usize = 8;

#[inline(always)]
fn zip(a: [u32; PORTABLE], b: [u32; PORTABLE], f: impl Fn(u32, u32) -> u32) -> [u32; PORTABLE] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn halves(a: u32, b: u32, f: impl Fn(i16, i16) -> i16) -> u32 {
    let [al, ah] = split(a);
    let [bl, bh] = split(b);
    u32::from(f(al, bl).cast_unsigned()) | u32::from(f(ah, bh).cast_unsigned()) << 16
}

#[inline(always)]
fn split(x: u32) -> [i16; 2] {
    let [a, b, c, d] = x.to_le_bytes();
    [i16::from_le_bytes([a, b]), i16::from_le_bytes([c, d])]
}

#[inline(always)]
fn bytes(a: u32, b: u32, f: impl Fn(i8, i8) -> i8) -> u32 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    u32::from_le_bytes(std::array::from_fn(|i| {
        f(a[i].cast_signed(), b[i].cast_signed()).cast_unsigned()
    }))
}

#[inline(always)]
fn signed(a: u32, b: u32, f: impl Fn(i32, i32) -> i32) -> u32 {
    f(a.cast_signed(), b.cast_signed()).cast_unsigned()
}

impl Simd for Portable {
    type V = [u32; PORTABLE];
    const LANES: usize = PORTABLE;

    #[inline(always)]
    fn load(self, from: &[u32; 16], first: usize) -> Self::V {
        std::array::from_fn(|i| from[first + i])
    }
    #[inline(always)]
    fn store(self, to: &mut [u32; 16], first: usize, v: Self::V) {
        to[first..first + PORTABLE].copy_from_slice(&v);
    }
    #[inline(always)]
    fn splat(self, x: u32) -> Self::V {
        [x; PORTABLE]
    }
    #[inline(always)]
    fn xor(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a ^ b)
    }
    #[inline(always)]
    fn and(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn or(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a | b)
    }
    #[inline(always)]
    fn transpose<'a>(self, row: impl Fn(usize) -> &'a [u8; K_BYTES]) -> [Self::V; 8] {
        let rows: [[u32; 8]; PORTABLE] = std::array::from_fn(|lane| row_words(row(lane)));
        std::array::from_fn(|w| rows.map(|row| row[w]))
    }
    #[inline(always)]
    fn exchange(self, from: [&[u32; 16]; 4], to: &mut [[u32; 16]; 4]) {
        for (i, to) in to.iter_mut().enumerate() {
            for (to, from) in to.chunks_exact_mut(4).zip(from) {
                to.copy_from_slice(&from[4 * i..][..4]);
            }
        }
    }
    #[inline(always)]
    fn pair(self, a: Self::V, part: usize) -> Self::V {
        a.map(|a| {
            let pair = if part == 0 { a } else { a >> 16 };
            pair & 0xFF | (pair & 0xFF00) << 8
        })
    }
    #[inline(always)]
    fn add_i32(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, u32::wrapping_add)
    }
    #[inline(always)]
    fn sub_i32(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, u32::wrapping_sub)
    }
    #[inline(always)]
    fn max_i32(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| signed(a, b, i32::max))
    }
    #[inline(always)]
    fn min_i32(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| signed(a, b, i32::min))
    }
    #[inline(always)]
    fn shr<const N: u32>(self, a: Self::V) -> Self::V {
        a.map(|a| a >> N)
    }
    #[inline(always)]
    fn shl<const N: u32>(self, a: Self::V) -> Self::V {
        a.map(|a| a << N)
    }
    #[inline(always)]
    fn sar<const N: u32>(self, a: Self::V) -> Self::V {
        a.map(|a| (a.cast_signed() >> N).cast_unsigned())
    }
    #[inline(always)]
    fn any_outside(self, a: Self::V, low: i32, high: i32) -> bool {
        a.iter().any(|a| !(low..=high).contains(&a.cast_signed()))
    }
    #[inline(always)]
    fn mul_f32(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| {
            (f32::from_bits(a) * f32::from_bits(b)).to_bits()
        })
    }
    #[inline(always)]
    #[expect(clippy::cast_precision_loss, reason = "rounding is the operation")]
    fn f32_from_i32(self, a: Self::V) -> Self::V {
        a.map(|a| (a.cast_signed() as f32).to_bits())
    }
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "truncation is the operation"
    )]
    fn i32_from_f32(self, a: Self::V) -> Self::V {
        a.map(|a| (f32::from_bits(a) as i32).cast_unsigned())
    }
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most 24 digits are left: exact"
    )]
    fn f32_from_sum<const STICKY: bool>(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| {
            let sum = f64::from(a.cast_signed()) + f64::from(b.cast_signed());
            let bits = sum.to_bits();
            let lost = u64::from(STICKY && bits & !F32_DIGITS != 0) << 29;
            (f64::from_bits(bits & F32_DIGITS | lost) as f32).to_bits()
        })
    }
    #[inline(always)]
    fn f32_from_f16(self, a: Self::V) -> Self::V {
        a.map(|a| {
            let [low, high, ..] = a.to_le_bytes();
            convert::f32_from_f16(u16::from_le_bytes([low, high])).to_bits()
        })
    }
    #[inline(always)]
    fn f16_from_f32(self, a: Self::V) -> Self::V {
        a.map(|a| convert::f16_from_f32(f32::from_bits(a)).into())
    }
    #[inline(always)]
    fn count_ones(self, a: Self::V) -> Self::V {
        a.map(u32::count_ones)
    }
    #[inline(always)]
    fn add_i8(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| bytes(a, b, i8::saturating_add))
    }
    #[inline(always)]
    fn max_i8(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| bytes(a, b, i8::max))
    }
    #[inline(always)]
    fn add_i16(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| halves(a, b, i16::wrapping_add))
    }
    #[inline(always)]
    fn max_i16(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| halves(a, b, i16::max))
    }
    #[inline(always)]
    fn mul_i16(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| halves(a, b, i16::wrapping_mul))
    }
    #[inline(always)]
    fn dot_i16(self, acc: Self::V, a: Self::V, b: Self::V) -> Self::V {
        let products = zip(a, b, |a, b| {
            let ([al, ah], [bl, bh]) = (split(a), split(b));
            (i32::from(al) * i32::from(bl) + i32::from(ah) * i32::from(bh)).cast_unsigned()
        });
        self.add_i32(acc, products)
    }
    #[inline(always)]
    fn fp8_significands(self, x: Self::V) -> Self::V {
        self.shl::<7>(x)
    }
    #[inline(always)]
    fn fp8_exponents(self, x: Self::V) -> Self::V {
        x
    }
    #[inline(always)]
    fn fp8_largest(self, e: Self::V) -> Self::V {
        e.map(|e| (e & 0xFFFF) | e << 16)
    }
    #[inline(always)]
    fn align_fp8(self, product: Self::V, largest: Self::V, ea: Self::V, eb: Self::V) -> Self::V {
        let subtract = |a, b| zip(a, b, |a, b| halves(a, b, i16::wrapping_sub));
        let shift = subtract(subtract(largest, ea), eb);
        zip(product, shift, |product, shift| {
            halves(product, shift, |product, shift| {
                // A product of zero may come with any shift.
                let shift = u32::from(shift.cast_unsigned()).min(15);
                (product.cast_unsigned() >> shift).cast_signed()
            })
        })
    }
}

/// The bits of an `f64` that an `f32` can hold.
const F32_DIGITS: u64 = !((1 << 29) - 1);

/// Byte indices of [`Simd::pair`] for look-ups within 16 bytes, by part.
#[cfg(target_arch = "x86_64")]
const fn pairs<const BYTES: usize>() -> [[u8; BYTES]; 2] {
    const QUARTER: [[u8; 16]; 2] = {
        const NONE: u8 = 0x80;
        [
            [
                0, NONE, 1, NONE, 4, NONE, 5, NONE, 8, NONE, 9, NONE, 12, NONE, 13, NONE,
            ],
            [
                2, NONE, 3, NONE, 6, NONE, 7, NONE, 10, NONE, 11, NONE, 14, NONE, 15, NONE,
            ],
        ]
    };
    let mut pairs = [[0; BYTES]; 2];
    let mut i = 0;
    while i < 2 * BYTES {
        pairs[i / BYTES][i % BYTES] = QUARTER[i / BYTES][i % BYTES % 16];
        i += 1;
    }
    pairs
}

/// Defines operations that are one intrinsic each.
#[cfg(target_arch = "x86_64")]
macro_rules! intrinsics {
    ($($name:ident($($arg:ident),*) = $intrinsic:expr;)*) => { $(
        #[inline(always)]
        fn $name(self, $($arg: <Self as Simd>::V),*) -> <Self as Simd>::V {
            // SAFETY: `self` proves that the CPU has the instruction set.
            unsafe { $intrinsic }
        }
    )* };
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
