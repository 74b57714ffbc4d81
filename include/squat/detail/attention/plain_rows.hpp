// Keys and values that are not packed.
#pragma once

#include <squat/detail/simd/dispatch.hpp>
#include <squat/detail/store/token_rows.hpp>

namespace squat::detail {

/// Up to `chunk` keys or values of one kv head, in single precision: their products with query
/// rows, and their sum by probability.
template <class Scalar>
class PlainRows {
 public:
  static constexpr Index chunk = 32;

  /// Takes the first `width` numbers of `head` of `count` rows, row(t) a TokenRow.
  template <class Row>
  void gather(Index count, Index head, Index width, const Row& row) {
    count_ = count;
    width_ = width;
    for (Index t = 0; t < count; ++t) read(row(t), head, rows_ + t * width);
  }

  /// Room for `chunk` rows of max_head_dim numbers, in place of those that were taken.
  float* room() { return rows_; }

  /// scores[i * max_block + t] = row t . queries[i], queries [count, width].
  void score(const float* queries, Index count, float* scores) const {
    kernels_.dot_rows(rows_, count_, width_, queries, count, scores, simd::max_block);
  }
  /// sums[i] += sum_t weights[i * max_block + t] row t; `count` sums of `width` numbers are
  /// `stride` apart.
  void add(const float* weights, Index count, float* sums, Index stride) const {
    kernels_.add_rows(rows_, count_, width_, weights, simd::max_block, count, sums, stride);
  }

 private:
  void read(const TokenRow<Scalar>& one, Index head, float* out) const {
    const RowFormat<Scalar>& format = one.rows.format(one.row);
    const std::byte* const bytes = one.rows.bytes_of(one.row);
    if (format.bits() == 8)
      kernels_.widen8(format.template codes_of<std::int8_t>(bytes, head),
                      format.scales_of(bytes, head), width_, out);
    else if (format.bits() == 16)
      kernels_.widen16(format.template codes_of<std::int16_t>(bytes, head),
                       format.scales_of(bytes, head), width_, out);
    else
      one.read(head, width_, out);
  }

  const simd::VectorKernels& kernels_ = simd::vector_kernels();
  Index count_ = 0;
  Index width_ = 0;
  alignas(64) float rows_[chunk * max_head_dim];
};

}  // namespace squat::detail
