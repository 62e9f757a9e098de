//! AVX-512 with BW, VL and VNNI: 16 lanes.
//!
//! # Safety
//! A value of [`Avx512`] proves that the CPU has these extensions: only [`run`] makes one.
#![expect(unsafe_code, reason = "vector intrinsics")]
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "an expression of intrinsics has one condition, the instruction set"
)]

use std::arch::x86_64::*;

use super::super::{Accumulators, K_BYTES};
use super::{F32_DIGITS, Simd, Work, pairs};

/// AVX-512 F, BW, VL and VNNI.
#[derive(Debug, Clone, Copy)]
struct Avx512(());

/// [`Work::run`] with these instructions.
///
/// # Safety
/// The CPU has them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn run(work: Work<'_>, d: &mut Accumulators<'_>) {
    work.run(Avx512(()), d);
}

/// Where [`Simd::pair`] finds the bytes of a vector, by part; 0x80 where it puts zero.
const PAIRS: [[u8; 64]; 2] = pairs();

impl Avx512 {
    intrinsics! {
        low_words(a, b) = _mm512_unpacklo_epi32(a, b);
        high_words(a, b) = _mm512_unpackhi_epi32(a, b);
        low_pairs(a, b) = _mm512_unpacklo_epi64(a, b);
        high_pairs(a, b) = _mm512_unpackhi_epi64(a, b);
        low_halves(a, b) = _mm512_shuffle_i32x4::<0x44>(a, b);
        high_halves(a, b) = _mm512_shuffle_i32x4::<0xEE>(a, b);
        even_quarters(a, b) = _mm512_shuffle_i32x4::<0x88>(a, b);
        odd_quarters(a, b) = _mm512_shuffle_i32x4::<0xDD>(a, b);
    }

    /// Words 0 and 4, 1 and 5, 2 and 6, 3 and 7 of eight rows, each in two quarters: of the first
    /// four rows in the lower half, of the others in the upper one.
    #[inline(always)]
    fn eight(self, first: [&[u8; K_BYTES]; 4], second: [&[u8; K_BYTES]; 4]) -> [__m512i; 4] {
        let [a, b, c, d] = first;
        let [e, f, g, h] = second;
        let (a, b) = (self.rows(a, e), self.rows(b, f));
        let (c, d) = (self.rows(c, g), self.rows(d, h));
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
    fn rows(self, low: &[u8; K_BYTES], high: &[u8; K_BYTES]) -> __m512i {
        // SAFETY: the row has 32 bytes.
        let low = unsafe { _mm256_loadu_si256(low.as_ptr().cast()) };
        // SAFETY: as above.
        let high = unsafe { _mm256_loadu_si256(high.as_ptr().cast()) };
        // SAFETY: `self` proves that the CPU has the instruction set.
        unsafe { _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high) }
    }

    /// 16 `f32` from two rows of 8 `f64` whose digits fit.
    #[inline(always)]
    fn narrow(self, low: __m512d, high: __m512d) -> __m512i {
        // SAFETY: `self` proves that the CPU has the instruction set.
        let low = unsafe { _mm256_castps_si256(_mm512_cvtpd_ps(low)) };
        // SAFETY: as above.
        let high = unsafe { _mm256_castps_si256(_mm512_cvtpd_ps(high)) };
        // SAFETY: as above.
        unsafe { _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high) }
    }

    /// `a + b` of 8 lanes as `f64`, less the digits that an `f32` has no room for, or with a sticky
    /// last bit for them.
    #[inline(always)]
    fn sum_f64<const STICKY: bool>(self, a: __m256i, b: __m256i) -> __m512d {
        // SAFETY: `self` proves that the CPU has the instruction set.
        let sum = unsafe { _mm512_add_pd(_mm512_cvtepi32_pd(a), _mm512_cvtepi32_pd(b)) };
        // SAFETY: as above.
        let digits = unsafe { _mm512_set1_epi64(F32_DIGITS.cast_signed()) };
        // SAFETY: as above.
        let kept = unsafe { _mm512_and_si512(_mm512_castpd_si512(sum), digits) };
        if !STICKY {
            // SAFETY: as above.
            return unsafe { _mm512_castsi512_pd(kept) };
        }
        // SAFETY: as above.
        let lost = unsafe { _mm512_cmpneq_epi64_mask(_mm512_castpd_si512(sum), kept) };
        // SAFETY: as above.
        let last = unsafe { _mm512_set1_epi64(1 << 29) };
        // SAFETY: as above.
        unsafe { _mm512_castsi512_pd(_mm512_mask_or_epi64(kept, lost, kept, last)) }
    }

    #[inline(always)]
    fn low(self, a: __m512i) -> __m256i {
        // SAFETY: `self` proves that the CPU has the instruction set.
        unsafe { _mm512_castsi512_si256(a) }
    }

    #[inline(always)]
    fn high(self, a: __m512i) -> __m256i {
        // SAFETY: `self` proves that the CPU has the instruction set.
        unsafe { _mm512_extracti64x4_epi64::<1>(a) }
    }
}

impl Simd for Avx512 {
    type V = __m512i;
    const LANES: usize = 16;

    #[inline(always)]
    fn load(self, from: &[u32; 16], _first: usize) -> Self::V {
        // SAFETY: the array has 64 bytes.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store(self, to: &mut [u32; 16], _first: usize, v: Self::V) {
        // SAFETY: the array has 64 bytes.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), v) }
    }
    #[inline(always)]
    fn splat(self, x: u32) -> Self::V {
        // SAFETY: `self` proves that the CPU has the instruction set.
        unsafe { _mm512_set1_epi32(x.cast_signed()) }
    }
    intrinsics! {
        xor(a, b) = _mm512_xor_si512(a, b);
        and(a, b) = _mm512_and_si512(a, b);
        or(a, b) = _mm512_or_si512(a, b);
        add_i32(a, b) = _mm512_add_epi32(a, b);
        sub_i32(a, b) = _mm512_sub_epi32(a, b);
        max_i32(a, b) = _mm512_max_epi32(a, b);
        min_i32(a, b) = _mm512_min_epi32(a, b);
        mul_f32(a, b) = _mm512_castps_si512(_mm512_mul_ps(
            _mm512_castsi512_ps(a), _mm512_castsi512_ps(b)));
        f32_from_i32(a) = _mm512_castps_si512(_mm512_cvtepi32_ps(a));
        i32_from_f32(a) = _mm512_cvttps_epi32(_mm512_castsi512_ps(a));
        add_i8(a, b) = _mm512_adds_epi8(a, b);
        max_i8(a, b) = _mm512_max_epi8(a, b);
        add_i16(a, b) = _mm512_add_epi16(a, b);
        max_i16(a, b) = _mm512_max_epi16(a, b);
        mul_i16(a, b) = _mm512_mullo_epi16(a, b);
        dot_i16(acc, a, b) = _mm512_dpwssd_epi32(acc, a, b);
        align_fp8(product, largest, ea, eb) = _mm512_srlv_epi16(
            product, _mm512_sub_epi16(_mm512_sub_epi16(largest, ea), eb));
    }
    #[inline(always)]
    fn transpose<'a>(self, row: impl Fn(usize) -> &'a [u8; K_BYTES]) -> [Self::V; 8] {
        let rows = |first| [row(first), row(first + 1), row(first + 2), row(first + 3)];
        let a = self.eight(rows(0), rows(4));
        let b = self.eight(rows(8), rows(12));
        [
            self.even_quarters(a[0], b[0]),
            self.even_quarters(a[1], b[1]),
            self.even_quarters(a[2], b[2]),
            self.even_quarters(a[3], b[3]),
            self.odd_quarters(a[0], b[0]),
            self.odd_quarters(a[1], b[1]),
            self.odd_quarters(a[2], b[2]),
            self.odd_quarters(a[3], b[3]),
        ]
    }
    #[inline(always)]
    fn exchange(self, from: [&[u32; 16]; 4], to: &mut [[u32; 16]; 4]) {
        let [a, b, c, d] = from.map(|from| self.load(from, 0));
        let (ab, cd) = (self.low_halves(a, b), self.low_halves(c, d));
        let (ab_high, cd_high) = (self.high_halves(a, b), self.high_halves(c, d));
        self.store(&mut to[0], 0, self.even_quarters(ab, cd));
        self.store(&mut to[1], 0, self.odd_quarters(ab, cd));
        self.store(&mut to[2], 0, self.even_quarters(ab_high, cd_high));
        self.store(&mut to[3], 0, self.odd_quarters(ab_high, cd_high));
    }
    #[inline(always)]
    fn pair(self, a: Self::V, part: usize) -> Self::V {
        // SAFETY: the array has 64 bytes.
        let index = unsafe { _mm512_loadu_si512(PAIRS[part & 1].as_ptr().cast()) };
        // SAFETY: `self` proves that the CPU has the instruction set.
        unsafe { _mm512_shuffle_epi8(a, index) }
    }
    #[inline(always)]
    fn shr<const N: u32>(self, a: Self::V) -> Self::V {
        // SAFETY: `self` proves that the CPU has the instruction set.
        unsafe { _mm512_srli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn shl<const N: u32>(self, a: Self::V) -> Self::V {
        // SAFETY: as above.
        unsafe { _mm512_slli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn sar<const N: u32>(self, a: Self::V) -> Self::V {
        // SAFETY: as above.
        unsafe { _mm512_srai_epi32::<N>(a) }
    }
    #[inline(always)]
    fn any_outside(self, a: Self::V, low: i32, high: i32) -> bool {
        let offset = self.sub_i32(a, self.splat(low.cast_unsigned()));
        let width = self.splat((high - low).cast_unsigned());
        // SAFETY: `self` proves that the CPU has the instruction set.
        unsafe { _mm512_cmpgt_epu32_mask(offset, width) != 0 }
    }
    #[inline(always)]
    fn f32_from_sum<const STICKY: bool>(self, a: Self::V, b: Self::V) -> Self::V {
        let low = self.sum_f64::<STICKY>(self.low(a), self.low(b));
        let high = self.sum_f64::<STICKY>(self.high(a), self.high(b));
        self.narrow(low, high)
    }
    #[inline(always)]
    fn f32_from_f16(self, a: Self::V) -> Self::V {
        // SAFETY: `self` proves that the CPU has the instruction set.
        unsafe { _mm512_castps_si512(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(a))) }
    }
    #[inline(always)]
    fn f16_from_f32(self, a: Self::V) -> Self::V {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: `self` proves that the CPU has the instruction set.
        let halves = unsafe { _mm512_cvtps_ph::<NEAREST>(_mm512_castsi512_ps(a)) };
        // SAFETY: as above.
        unsafe { _mm512_cvtepu16_epi32(halves) }
    }
    #[inline(always)]
    fn count_ones(self, a: Self::V) -> Self::V {
        let mut lanes = [0; 16];
        self.store(&mut lanes, 0, a);
        self.load(&lanes.map(u32::count_ones), 0)
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
        let low = self.and(e, self.splat(0xFFFF));
        self.xor(low, self.shl::<16>(e))
    }
}
