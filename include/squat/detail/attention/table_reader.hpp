// Scales as attention over codes takes them.
#pragma once

#include <squat/detail/records/affine_table.hpp>
#include <squat/detail/simd/dispatch.hpp>

namespace squat::detail {

/// The largest code of so many bits.
inline constexpr float max_code(int bits) { return static_cast<float>((1 << bits) - 1); }

/// Scales of `count` entries of a record's table from `first` on, and what the midpoint code of
/// each stands for, in single precision. `max_code` is the largest code; `expected`, of all
/// entries, is where midpoints of 8 bits were expected, null for 0.
inline void read_table(const AffineTable& table, const std::byte* record, Index first, Index count,
                       float max_code, const float* expected, float* scales, float* midpoints) {
  const simd::VectorKernels& kernels = simd::vector_kernels();
  const std::byte* scale = table.scale(record, first);
  const std::byte* zero = table.has_zeros() ? table.zero(record, first) : nullptr;
  if (table.scale_bits() == 8) {
    kernels.read_8_bit_table(reinterpret_cast<const std::uint8_t*>(scale),
                             reinterpret_cast<const std::int8_t*>(zero),
                             expected == nullptr ? nullptr : expected + first, count,
                             max_code / midpoint_steps, scales, midpoints);
  } else if (table.scale_bits() == 16) {
    kernels.read_f16_table(reinterpret_cast<const std::uint16_t*>(scale),
                           reinterpret_cast<const std::uint16_t*>(zero), count, max_code / 2,
                           scales, midpoints);
  } else {
    const std::size_t bytes = static_cast<std::size_t>(4 * count);
    std::memcpy(scales, scale, bytes);
    std::fill_n(midpoints, count, 0.0f);
    if (zero == nullptr) return;
    std::memcpy(midpoints, zero, bytes);
    for (Index i = 0; i < count; ++i) midpoints[i] += max_code / 2 * scales[i];
  }
}

}  // namespace squat::detail
