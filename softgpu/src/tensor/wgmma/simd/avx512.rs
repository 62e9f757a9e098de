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

use super::super::Accumulators;
use super::{F32_DIGITS, Simd, Work};

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

impl Avx512 {
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
    const FP8_SHIFT: u32 = 7;

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
    fn fp8_exponents(x: u32) -> u32 {
        x
    }
    #[inline(always)]
    fn fp8_largest(self, e: Self::V) -> Self::V {
        let low = self.and(e, self.splat(0xFFFF));
        self.xor(low, self.shl::<16>(e))
    }
}
