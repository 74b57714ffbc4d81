// Scales as attention over codes takes them.
#pragma once

#include <squat/affine_table.hpp>
#include <squat/simd/dispatch.hpp>

namespace squat {

/// Scales of `count` entries of a record's table from `first` on, and what the middle code of each
/// stands for, in single precision. `levels` is the largest code; `expected`, of all entries, is
/// where middles of 8 bits were expected, null for 0.
inline void read_table(const AffineTable& table, const std::byte* record, Index first, Index count,
                       float levels, const float* expected, float* scales, float* middles) {
  const simd::VectorKernels& kernels = simd::vector_kernels();
  const std::byte* scale = table.scale(record, first);
  const std::byte* zero = table.has_zeros() ? table.zero(record, first) : nullptr;
  if (table.scale_bits() == 8) {
    kernels.widen8(reinterpret_cast<const std::uint8_t*>(scale),
                   reinterpret_cast<const std::int8_t*>(zero),
                   expected == nullptr ? nullptr : expected + first, count, levels / middle_steps,
                   scales, middles);
  } else if (table.scale_bits() == 16) {
    kernels.widen(reinterpret_cast<const std::uint16_t*>(scale),
                  reinterpret_cast<const std::uint16_t*>(zero), count, levels / 2, scales, middles);
  } else {
    const std::size_t bytes = static_cast<std::size_t>(4 * count);
    std::memcpy(scales, scale, bytes);
    std::fill_n(middles, count, 0.0f);
    if (zero == nullptr) return;
    std::memcpy(middles, zero, bytes);
    for (Index i = 0; i < count; ++i) middles[i] += levels / 2 * scales[i];
  }
}

}  // namespace squat
