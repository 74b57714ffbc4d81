// Included before all else, this builds the AVX-512 kernels for machines with no more than AVX2:
// SIMDe, and here what it lacks, stand in for the intrinsics.
#pragma once

// What must see the true names comes first.
#include <gtest/gtest.h>
#include <immintrin.h>

#include <Eigen/Dense>
#include <array>
#include <cstring>
#include <fstream>
#include <functional>
#include <iomanip>
#include <map>
#include <memory>
#include <random>
#include <sstream>

#define SIMDE_ENABLE_NATIVE_ALIASES
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#pragma GCC diagnostic ignored "-Wconversion"
#include <simde/x86/avx512.h>
#pragma GCC diagnostic pop

namespace squat::testing::emulated {

template <class Lane, class Vector>
std::array<Lane, sizeof(Vector) / sizeof(Lane)> lanes(const Vector& x) {
  std::array<Lane, sizeof(Vector) / sizeof(Lane)> lanes;
  std::memcpy(lanes.data(), &x, sizeof(x));
  return lanes;
}
template <class Vector, class Lanes>
Vector vector(const Lanes& lanes) {
  static_assert(sizeof(Vector) == sizeof(lanes));
  Vector x;
  std::memcpy(&x, lanes.data(), sizeof(x));
  return x;
}

inline __m512 cvtepi32_ps(__m512i x) {
  std::array<float, 16> out;
  for (std::size_t i = 0; i < 16; ++i) out[i] = static_cast<float>(lanes<std::int32_t>(x)[i]);
  return vector<__m512>(out);
}
inline __m512i cvtps_epi32(__m512 x) {
  std::array<std::int32_t, 16> out;
  for (std::size_t i = 0; i < 16; ++i) out[i] = _mm_cvtss_si32(_mm_set_ss(lanes<float>(x)[i]));
  return vector<__m512i>(out);
}
inline __m512 cvtph_ps(__m256i x) {
  std::array<float, 16> out;
  for (std::size_t i = 0; i < 16; ++i) out[i] = _cvtsh_ss(lanes<std::uint16_t>(x)[i]);
  return vector<__m512>(out);
}
inline __m512i cvtepi8_epi32(__m128i x) {
  std::array<std::int32_t, 16> out;
  for (std::size_t i = 0; i < 16; ++i) out[i] = lanes<std::int8_t>(x)[i];
  return vector<__m512i>(out);
}
inline __m512i cvtepi16_epi32(__m256i x) {
  std::array<std::int32_t, 16> out;
  for (std::size_t i = 0; i < 16; ++i) out[i] = lanes<std::int16_t>(x)[i];
  return vector<__m512i>(out);
}
inline __m512i mulhi_epu16(__m512i a, __m512i b) {
  std::array<std::uint16_t, 32> out;
  for (std::size_t i = 0; i < 32; ++i) {
    const std::uint32_t product =
        std::uint32_t{lanes<std::uint16_t>(a)[i]} * lanes<std::uint16_t>(b)[i];
    out[i] = static_cast<std::uint16_t>(product >> 16);
  }
  return vector<__m512i>(out);
}
inline __m512i srai_epi32(__m512i x, int count) {
  auto out = lanes<std::int32_t>(x);
  for (std::int32_t& lane : out) lane >>= count;
  return vector<__m512i>(out);
}
inline __m512 shuffle_f32x4(__m512 a, __m512 b, int select) {
  std::array<float, 16> out;
  for (std::size_t i = 0; i < 16; ++i) {
    const std::size_t quarter = static_cast<std::size_t>(select) >> (2 * (i / 4)) & 3;
    out[i] = lanes<float>(i < 8 ? a : b)[4 * quarter + i % 4];
  }
  return vector<__m512>(out);
}
/// Reads, or writes, no lane that the mask leaves out.
template <class Vector>
Vector mask_load(const Vector& other, unsigned mask, const float* p) {
  auto out = lanes<float>(other);
  for (std::size_t i = 0; i < out.size(); ++i)
    if (mask >> i & 1) out[i] = p[i];
  return vector<Vector>(out);
}
template <class Vector>
void mask_store(float* p, unsigned mask, const Vector& x) {
  for (std::size_t i = 0; i < sizeof(x) / 4; ++i)
    if (mask >> i & 1) p[i] = lanes<float>(x)[i];
}

}  // namespace squat::testing::emulated

// SIMDe defines none of these.
#undef _mm512_shuffle_f32x4
#define _mm512_cvtepi32_ps squat::testing::emulated::cvtepi32_ps
#define _mm512_cvtps_epi32 squat::testing::emulated::cvtps_epi32
#define _mm512_cvtph_ps squat::testing::emulated::cvtph_ps
#define _mm512_cvtepi8_epi32 squat::testing::emulated::cvtepi8_epi32
#define _mm512_cvtepi16_epi32 squat::testing::emulated::cvtepi16_epi32
#define _mm512_mulhi_epu16 squat::testing::emulated::mulhi_epu16
#define _mm512_srai_epi32 squat::testing::emulated::srai_epi32
#define _mm512_shuffle_f32x4 squat::testing::emulated::shuffle_f32x4
#define _mm512_mask_loadu_ps squat::testing::emulated::mask_load
#define _mm512_maskz_loadu_ps(mask, p) \
  squat::testing::emulated::mask_load(_mm512_setzero_ps(), mask, p)
#define _mm_maskz_loadu_ps(mask, p) squat::testing::emulated::mask_load(_mm_setzero_ps(), mask, p)
#define _mm512_mask_storeu_ps squat::testing::emulated::mask_store
#define _mm256_mask_storeu_ps squat::testing::emulated::mask_store
#define _mm_mask_storeu_ps squat::testing::emulated::mask_store

// The compiler must not use AVX-512 itself, and emulated registers are none; every machine counts
// as one that has it.
#define target(instructions)
#define __asm__(...)
#define __builtin_cpu_supports(name) true
