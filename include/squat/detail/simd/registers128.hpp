// Registers of 128 bits, four numbers of 32: what SSE 4.1 and NEON both have, by one name each.
#pragma once

#include <squat/detail/simd/neon_dot.hpp>
#include <squat/detail/simd/sse4_dot.hpp>

#if defined(SQUAT_HAVE_NEON) || defined(SQUAT_HAVE_SSE4)
#define SQUAT_HAVE_REGISTERS_128 1

#if defined(SQUAT_HAVE_NEON)
#define SQUAT_128 SQUAT_NEON
#define SQUAT_128_INLINE SQUAT_NEON_INLINE
#else
#define SQUAT_128 SQUAT_SSE4
#define SQUAT_128_INLINE SQUAT_SSE4_INLINE
#endif

namespace squat::detail::simd {

#if defined(SQUAT_HAVE_NEON)

struct Registers128 {
  using Floats = float32x4_t;
  using Ints = int32x4_t;
  static constexpr float largest_operand = NeonDot::largest_operand;

  SQUAT_128_INLINE static Floats load(const float* p) { return vld1q_f32(p); }
  SQUAT_128_INLINE static void store(Floats x, float* p) { vst1q_f32(p, x); }
  SQUAT_128_INLINE static Floats all(float x) { return vdupq_n_f32(x); }
  SQUAT_128_INLINE static Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
  SQUAT_128_INLINE static Floats subtract(Floats a, Floats b) { return vsubq_f32(a, b); }
  SQUAT_128_INLINE static Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
  /// a b + c, rounded once or twice.
  SQUAT_128_INLINE static Floats multiply_add(Floats a, Floats b, Floats c) {
    return vfmaq_f32(c, a, b);
  }
  SQUAT_128_INLINE static Floats max(Floats a, Floats b) { return vmaxq_f32(a, b); }
  SQUAT_128_INLINE static Floats abs(Floats a) { return vabsq_f32(a); }
  SQUAT_128_INLINE static float total(Floats a) { return vaddvq_f32(a); }
  SQUAT_128_INLINE static float highest(Floats a) { return vmaxvq_f32(a); }

  SQUAT_128_INLINE static Ints zeros() { return vdupq_n_s32(0); }
  SQUAT_128_INLINE static Ints add(Ints a, Ints b) { return vaddq_s32(a, b); }
  SQUAT_128_INLINE static std::int32_t total(Ints a) { return vaddvq_s32(a); }
  SQUAT_128_INLINE static Ints nearest(Floats a) { return vcvtnq_s32_f32(a); }
  SQUAT_128_INLINE static Floats floats(Ints a) { return vcvtq_f32_s32(a); }
  /// x 2^k where condition >= least, and 0 elsewhere. The result is a normal number.
  SQUAT_128_INLINE static Floats scaled_where(Floats x, Ints k, Floats condition, Floats least) {
    const int32x4_t bits = vaddq_s32(vreinterpretq_s32_f32(x), vshlq_n_s32(k, 23));
    return vreinterpretq_f32_u32(
        vandq_u32(vcgeq_f32(condition, least), vreinterpretq_u32_s32(bits)));
  }

  // Eight operands, as the products want them.
  SQUAT_128_INLINE static void store(Ints a, Ints b, std::int8_t* operands) {
    vst1_s8(operands, vmovn_s16(narrow(a, b)));
  }
  SQUAT_128_INLINE static void store(Ints a, Ints b, std::uint8_t* operands) {
    vst1_u8(operands, vqmovun_s16(narrow(a, b)));
  }
  SQUAT_128_INLINE static void store(Ints a, Ints b, std::int16_t* operands) {
    const int16x8_t rounded = narrow(a, b), above = vaddq_s16(rounded, vdupq_n_s16(128));
    const int8x8_t high = vshrn_n_s16(above, 8), low = vmovn_s16(rounded);
    const int32x2x2_t quads = vzip_s32(vreinterpret_s32_s8(low), vreinterpret_s32_s8(high));
    vst1q_s16(operands, vreinterpretq_s16_s32(vcombine_s32(quads.val[0], quads.val[1])));
  }
  /// Sums to which the squares of 16 operands were added.
  SQUAT_128_INLINE static Ints add_squares(Ints sums, const std::uint8_t* operands) {
    const uint8x16_t x = vld1q_u8(operands);
    return vreinterpretq_s32_u32(vdotq_u32(vreinterpretq_u32_s32(sums), x, x));
  }

  // Eight integers, as floats.
  SQUAT_128_INLINE static void widen(const std::int8_t* x, Floats (&out)[2]) {
    widen(vmovl_s8(vld1_s8(x)), out);
  }
  SQUAT_128_INLINE static void widen(const std::int16_t* x, Floats (&out)[2]) {
    widen(vld1q_s16(x), out);
  }
  /// Eight scales of 8 bits times 2^-112: exponents and upper three bits of numbers of 16.
  SQUAT_128_INLINE static void read_scales(const std::uint8_t* x, Floats (&out)[2]) {
    const uint16x8_t words = vmovl_u8(vld1_u8(x));
    out[0] = vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vget_low_u16(words)), 20));
    out[1] = vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vget_high_u16(words)), 20));
  }

 private:
  SQUAT_128_INLINE static void widen(int16x8_t x, Floats (&out)[2]) {
    out[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(x)));
    out[1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(x)));
  }
  SQUAT_128_INLINE static int16x8_t narrow(Ints a, Ints b) {
    return vcombine_s16(vmovn_s32(a), vmovn_s32(b));
  }
};

#else

struct Registers128 {
  using Floats = __m128;
  using Ints = __m128i;
  static constexpr float largest_operand = 32767;

  SQUAT_128_INLINE static Floats load(const float* p) { return _mm_loadu_ps(p); }
  SQUAT_128_INLINE static void store(Floats x, float* p) { _mm_storeu_ps(p, x); }
  SQUAT_128_INLINE static Floats all(float x) { return _mm_set1_ps(x); }
  SQUAT_128_INLINE static Floats add(Floats a, Floats b) { return _mm_add_ps(a, b); }
  SQUAT_128_INLINE static Floats subtract(Floats a, Floats b) { return _mm_sub_ps(a, b); }
  SQUAT_128_INLINE static Floats multiply(Floats a, Floats b) { return _mm_mul_ps(a, b); }
  /// a b + c, rounded once or twice.
  SQUAT_128_INLINE static Floats multiply_add(Floats a, Floats b, Floats c) {
    return _mm_add_ps(_mm_mul_ps(a, b), c);
  }
  SQUAT_128_INLINE static Floats max(Floats a, Floats b) { return _mm_max_ps(a, b); }
  SQUAT_128_INLINE static Floats abs(Floats a) { return _mm_andnot_ps(_mm_set1_ps(-0.0f), a); }
  SQUAT_128_INLINE static float total(Floats a) {
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps(a, a, 1)));
  }
  SQUAT_128_INLINE static float highest(Floats a) {
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps(a, a, 1)));
  }

  SQUAT_128_INLINE static Ints zeros() { return _mm_setzero_si128(); }
  SQUAT_128_INLINE static Ints add(Ints a, Ints b) { return _mm_add_epi32(a, b); }
  SQUAT_128_INLINE static std::int32_t total(Ints a) {
    a = _mm_add_epi32(a, _mm_shuffle_epi32(a, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32(a, 0xb1)));
  }
  SQUAT_128_INLINE static Ints nearest(Floats a) { return _mm_cvtps_epi32(a); }
  SQUAT_128_INLINE static Floats floats(Ints a) { return _mm_cvtepi32_ps(a); }
  /// x 2^k where condition >= least, and 0 elsewhere. The result is a normal number.
  SQUAT_128_INLINE static Floats scaled_where(Floats x, Ints k, Floats condition, Floats least) {
    const __m128i bits = _mm_add_epi32(_mm_castps_si128(x), _mm_slli_epi32(k, 23));
    return _mm_and_ps(_mm_cmpge_ps(condition, least), _mm_castsi128_ps(bits));
  }

  // Eight operands, as the products want them.
  SQUAT_128_INLINE static void store(Ints a, Ints b, std::int8_t* operands) {
    const __m128i words = _mm_packs_epi32(a, b);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(operands), _mm_packs_epi16(words, words));
  }
  SQUAT_128_INLINE static void store(Ints a, Ints b, std::uint8_t* operands) {
    const __m128i words = _mm_packs_epi32(a, b);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(operands), _mm_packus_epi16(words, words));
  }
  SQUAT_128_INLINE static void store(Ints a, Ints b, std::int16_t* operands) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(operands), _mm_packs_epi32(a, b));
  }
  /// Sums to which the squares of 16 operands were added.
  SQUAT_128_INLINE static Ints add_squares(Ints sums, const std::uint8_t* operands) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(operands));
    const __m128i low = _mm_cvtepu8_epi16(x), high = _mm_unpackhi_epi8(x, zeros());
    return _mm_add_epi32(sums, _mm_add_epi32(_mm_madd_epi16(low, low), _mm_madd_epi16(high, high)));
  }

  // Eight integers, as floats.
  SQUAT_128_INLINE static void widen(const std::int8_t* x, Floats (&out)[2]) {
    widen(_mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x))), out);
  }
  SQUAT_128_INLINE static void widen(const std::int16_t* x, Floats (&out)[2]) {
    widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)), out);
  }
  /// Eight scales of 8 bits times 2^-112: exponents and upper three bits of numbers of 16.
  SQUAT_128_INLINE static void read_scales(const std::uint8_t* x, Floats (&out)[2]) {
    const __m128i words = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x)));
    out[0] = _mm_castsi128_ps(_mm_slli_epi32(_mm_unpacklo_epi16(words, zeros()), 20));
    out[1] = _mm_castsi128_ps(_mm_slli_epi32(_mm_unpackhi_epi16(words, zeros()), 20));
  }

 private:
  SQUAT_128_INLINE static void widen(__m128i x, Floats (&out)[2]) {
    out[0] = _mm_cvtepi32_ps(_mm_cvtepi16_epi32(x));
    out[1] = _mm_cvtepi32_ps(_mm_cvtepi16_epi32(_mm_unpackhi_epi64(x, x)));
  }
};

#endif

}  // namespace squat::detail::simd

#endif
