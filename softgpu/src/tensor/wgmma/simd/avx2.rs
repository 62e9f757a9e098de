//! AVX2: 8 lanes.
//!
//! AVX2 cannot shift 16-bit lanes by different counts, so [`Simd::align_fp8`] multiplies by
//! `2^(15-d)` and takes the high half. The power comes from a table look-up by bytes (`pshufb`):
//! its high byte is `2^(7-d)` for d < 8 and its low byte `2^(15-d)` for 8 ≤ d < 16. Index bytes are
//! `0x70 + d` and `0x68 + d`: their low four bits choose an entry, and from 0x80 on the result is 0.
//!
//! # Safety
//! A value of [`Avx2`] proves that the CPU has AVX2: only [`run`] makes one.
#![expect(unsafe_code, reason = "vector intrinsics")]
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "an expression of intrinsics has one condition, the instruction set"
)]

use std::arch::x86_64::*;

use super::super::{Accumulators, K_BYTES};
use super::{F32_DIGITS, Simd, Work, pairs};

/// AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
struct Avx2(());

/// [`Work::run`] with these instructions.
///
/// # Safety
/// The CPU has them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run(work: Work<'_>, d: &mut Accumulators<'_>) {
    work.run(Avx2(()), d);
}

/// Entry i is `2^(7-i)`, or 0 from 8 on; twice, for both halves of a vector.
const POWERS: [u8; 32] = {
    let mut powers = [0; 32];
    let mut i = 0;
    while i < 8 {
        powers[i] = 0x80 >> i;
        powers[16 + i] = 0x80 >> i;
        i += 1;
    }
    powers
};

/// Where [`Simd::pair`] finds the bytes of a vector, by part; 0x80 where it puts zero.
const PAIRS: [[u8; 32]; 2] = pairs();

impl Avx2 {
    #[inline(always)]
    fn powers(self) -> __m256i {
        // SAFETY: the array has 32 bytes.
        unsafe { _mm256_loadu_si256(POWERS.as_ptr().cast()) }
    }

    /// Words 0 and 4, 1 and 5, 2 and 6, 3 and 7 of four rows, one in each half.
    #[inline(always)]
    fn four(self, rows: [&[u8; K_BYTES]; 4]) -> [__m256i; 4] {
        let [a, b, c, d] = rows;
        let (a, b) = (self.row(a), self.row(b));
        let (c, d) = (self.row(c), self.row(d));
        let (ab, cd) = (self.low_words(a, b), self.low_words(c, d));
        let (ab_high, cd_high) = (self.high_words(a, b), self.high_words(c, d));
        [
            self.low_pairs(ab, cd),
            self.high_pairs(ab, cd),
            self.low_pairs(ab_high, cd_high),
            self.high_pairs(ab_high, cd_high),
        ]
    }

    #[inline(always)]
    fn row(self, row: &[u8; K_BYTES]) -> __m256i {
        // SAFETY: the row has 32 bytes.
        unsafe { _mm256_loadu_si256(row.as_ptr().cast()) }
    }

    /// `a + b` of 4 lanes as `f32`, toward zero, or with a sticky last bit.
    #[inline(always)]
    fn sum_f32<const STICKY: bool>(self, a: __m128i, b: __m128i) -> __m128 {
        // SAFETY: `self` proves that the CPU has the instruction set.
        let sum = unsafe { _mm256_add_pd(_mm256_cvtepi32_pd(a), _mm256_cvtepi32_pd(b)) };
        // SAFETY: as above.
        let digits = unsafe { _mm256_castsi256_pd(_mm256_set1_epi64x(F32_DIGITS.cast_signed())) };
        // SAFETY: as above.
        let kept = unsafe { _mm256_and_pd(sum, digits) };
        if !STICKY {
            // SAFETY: as above.
            return unsafe { _mm256_cvtpd_ps(kept) };
        }
        // SAFETY: as above.
        let exact = unsafe { _mm256_cmp_pd::<_CMP_EQ_OQ>(sum, kept) };
        // SAFETY: as above.
        let last = unsafe { _mm256_castsi256_pd(_mm256_set1_epi64x(1 << 29)) };
        // SAFETY: as above.
        unsafe { _mm256_cvtpd_ps(_mm256_or_pd(kept, _mm256_andnot_pd(exact, last))) }
    }

    #[inline(always)]
    fn low(self, a: __m256i) -> __m128i {
        // SAFETY: `self` proves that the CPU has the instruction set.
        unsafe { _mm256_castsi256_si128(a) }
    }

    #[inline(always)]
    fn high(self, a: __m256i) -> __m128i {
        // SAFETY: `self` proves that the CPU has the instruction set.
        unsafe { _mm256_extracti128_si256::<1>(a) }
    }

    intrinsics! {
        sub_i8(a, b) = _mm256_sub_epi8(a, b);
        look_up(table, index) = _mm256_shuffle_epi8(table, index);
        mul_high_u16(a, b) = _mm256_mulhi_epu16(a, b);
        pairs_i16(a, b) = _mm256_madd_epi16(a, b);
        greater_i32(a, b) = _mm256_cmpgt_epi32(a, b);
        low_words(a, b) = _mm256_unpacklo_epi32(a, b);
        high_words(a, b) = _mm256_unpackhi_epi32(a, b);
        low_pairs(a, b) = _mm256_unpacklo_epi64(a, b);
        high_pairs(a, b) = _mm256_unpackhi_epi64(a, b);
        low_halves(a, b) = _mm256_permute2x128_si256::<0x20>(a, b);
        high_halves(a, b) = _mm256_permute2x128_si256::<0x31>(a, b);
    }
}

impl Simd for Avx2 {
    type V = __m256i;
    const LANES: usize = 8;

    #[inline(always)]
    fn load(self, from: &[u32; 16], first: usize) -> Self::V {
        let from: &[u32] = &from[first & 8..][..8];
        // SAFETY: the slice has 32 bytes.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store(self, to: &mut [u32; 16], first: usize, v: Self::V) {
        let to: &mut [u32] = &mut to[first & 8..][..8];
        // SAFETY: the slice has 32 bytes.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), v) }
    }
    #[inline(always)]
    fn splat(self, x: u32) -> Self::V {
        // SAFETY: `self` proves that the CPU has the instruction set.
        unsafe { _mm256_set1_epi32(x.cast_signed()) }
    }
    intrinsics! {
        xor(a, b) = _mm256_xor_si256(a, b);
        and(a, b) = _mm256_and_si256(a, b);
        or(a, b) = _mm256_or_si256(a, b);
        add_i32(a, b) = _mm256_add_epi32(a, b);
        sub_i32(a, b) = _mm256_sub_epi32(a, b);
        max_i32(a, b) = _mm256_max_epi32(a, b);
        min_i32(a, b) = _mm256_min_epi32(a, b);
        mul_f32(a, b) = _mm256_castps_si256(_mm256_mul_ps(
            _mm256_castsi256_ps(a), _mm256_castsi256_ps(b)));
        f32_from_i32(a) = _mm256_castps_si256(_mm256_cvtepi32_ps(a));
        i32_from_f32(a) = _mm256_cvttps_epi32(_mm256_castsi256_ps(a));
        add_i8(a, b) = _mm256_adds_epi8(a, b);
        max_i8(a, b) = _mm256_max_epi8(a, b);
        add_i16(a, b) = _mm256_add_epi16(a, b);
        max_i16(a, b) = _mm256_max_epi16(a, b);
        mul_i16(a, b) = _mm256_mullo_epi16(a, b);
    }
    #[inline(always)]
    fn transpose<'a>(self, row: impl Fn(usize) -> &'a [u8; K_BYTES]) -> [Self::V; 8] {
        let a = self.four([row(0), row(1), row(2), row(3)]);
        let b = self.four([row(4), row(5), row(6), row(7)]);
        [
            self.low_halves(a[0], b[0]),
            self.low_halves(a[1], b[1]),
            self.low_halves(a[2], b[2]),
            self.low_halves(a[3], b[3]),
            self.high_halves(a[0], b[0]),
            self.high_halves(a[1], b[1]),
            self.high_halves(a[2], b[2]),
            self.high_halves(a[3], b[3]),
        ]
    }
    #[inline(always)]
    fn exchange(self, from: [&[u32; 16]; 4], to: &mut [[u32; 16]; 4]) {
        let [a, b, c, d] = from;
        for half in 0..2 {
            let (a, b) = (self.load(a, 8 * half), self.load(b, 8 * half));
            let (c, d) = (self.load(c, 8 * half), self.load(d, 8 * half));
            let even = &mut to[2 * half];
            self.store(even, 0, self.low_halves(a, b));
            self.store(even, 8, self.low_halves(c, d));
            let odd = &mut to[2 * half + 1];
            self.store(odd, 0, self.high_halves(a, b));
            self.store(odd, 8, self.high_halves(c, d));
        }
    }
    #[inline(always)]
    fn pair(self, a: Self::V, part: usize) -> Self::V {
        // SAFETY: the array has 32 bytes.
        let index = unsafe { _mm256_loadu_si256(PAIRS[part & 1].as_ptr().cast()) };
        self.look_up(a, index)
    }
    #[inline(always)]
    fn shr<const N: u32>(self, a: Self::V) -> Self::V {
        // SAFETY: `self` proves that the CPU has the instruction set.
        unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(N.cast_signed())) }
    }
    #[inline(always)]
    fn shl<const N: u32>(self, a: Self::V) -> Self::V {
        // SAFETY: as above.
        unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(N.cast_signed())) }
    }
    #[inline(always)]
    fn sar<const N: u32>(self, a: Self::V) -> Self::V {
        // SAFETY: as above.
        unsafe { _mm256_sra_epi32(a, _mm_cvtsi32_si128(N.cast_signed())) }
    }
    #[inline(always)]
    fn any_outside(self, a: Self::V, low: i32, high: i32) -> bool {
        let above = self.greater_i32(a, self.splat(high.cast_unsigned()));
        let below = self.greater_i32(self.splat(low.cast_unsigned()), a);
        // SAFETY: `self` proves that the CPU has the instruction set.
        unsafe { _mm256_movemask_epi8(self.or(above, below)) != 0 }
    }
    #[inline(always)]
    fn f32_from_sum<const STICKY: bool>(self, a: Self::V, b: Self::V) -> Self::V {
        let low = self.sum_f32::<STICKY>(self.low(a), self.low(b));
        let high = self.sum_f32::<STICKY>(self.high(a), self.high(b));
        // SAFETY: `self` proves that the CPU has the instruction set.
        unsafe { _mm256_castps_si256(_mm256_set_m128(high, low)) }
    }
    #[inline(always)]
    fn f32_from_f16(self, a: Self::V) -> Self::V {
        // SAFETY: `self` proves that the CPU has the instruction set.
        let halves = unsafe { _mm_packus_epi32(self.low(a), self.high(a)) };
        // SAFETY: as above.
        unsafe { _mm256_castps_si256(_mm256_cvtph_ps(halves)) }
    }
    #[inline(always)]
    fn f16_from_f32(self, a: Self::V) -> Self::V {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
        // SAFETY: `self` proves that the CPU has the instruction set.
        let halves = unsafe { _mm256_cvtps_ph::<NEAREST>(_mm256_castsi256_ps(a)) };
        // SAFETY: as above.
        unsafe { _mm256_cvtepu16_epi32(halves) }
    }
    #[inline(always)]
    fn count_ones(self, a: Self::V) -> Self::V {
        let mut lanes = [0; 16];
        self.store(&mut lanes, 0, a);
        self.load(&lanes.map(u32::count_ones), 0)
    }
    #[inline(always)]
    fn dot_i16(self, acc: Self::V, a: Self::V, b: Self::V) -> Self::V {
        self.add_i32(acc, self.pairs_i16(a, b))
    }
    #[inline(always)]
    fn fp8_significands(self, x: Self::V) -> Self::V {
        self.shl::<8>(x)
    }
    #[inline(always)]
    fn fp8_exponents(self, x: Self::V) -> Self::V {
        // The exponent in both bytes of a half.
        self.or(x, self.shl::<8>(x))
    }
    #[inline(always)]
    fn fp8_largest(self, e: Self::V) -> Self::V {
        let byte = self.and(e, self.splat(0xFF));
        let half = self.xor(byte, self.shl::<8>(byte));
        let all = self.xor(half, self.shl::<16>(half));
        // Bytes wrap, so -0x90 is +0x70 and -0x98 is +0x68.
        self.sub_i8(all, self.splat(0x9098_9098))
    }
    #[inline(always)]
    fn align_fp8(self, product: Self::V, largest: Self::V, ea: Self::V, eb: Self::V) -> Self::V {
        let index = self.sub_i8(self.sub_i8(largest, ea), eb);
        self.mul_high_u16(product, self.look_up(self.powers(), index))
    }
}
