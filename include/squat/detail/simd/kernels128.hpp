// The vector operations in registers of 128 bits, for SSE 4.1 and NEON alike.
#pragma once

#include <squat/detail/simd/registers128.hpp>

#if defined(SQUAT_HAVE_REGISTERS_128)

namespace squat::detail::simd {

struct Kernels128 : Registers128 {
  SQUAT_128 static void read_8_bit_table(const std::uint8_t* scales, const std::int8_t* midpoints,
                                         const float* expected, Index n, float step, float* scale,
                                         float* midpoint) {
    for (Index i = 0; i < n; i += 8) {
      Floats s[2], middle[2] = {all(0), all(0)};
      read_scales(scales + i, s);
      if (midpoints != nullptr) Registers128::widen(midpoints + i, middle);
      SQUAT_UNROLL
      for (int k = 0; k < 2; ++k) {
        const Index at = i + 4 * k;
        s[k] = multiply(s[k], all(0x1p112f));
        store(s[k], scale + at);
        const Floats base = expected == nullptr ? all(0) : load(expected + at);
        store(multiply_add(multiply(s[k], all(step)), middle[k], base), midpoint + at);
      }
    }
  }

  template <class Code>
  SQUAT_128 static void widen(const Code* codes, const std::uint16_t* scales, Index n, float* out) {
    for (Index i = 0; i < n; i += 8) {
      const Floats scale = all(Eigen::numext::bit_cast<float>(std::uint32_t{scales[i / 32]} << 16));
      Floats x[2];
      Registers128::widen(codes + i, x);
      store(multiply(x[0], scale), out + i);
      store(multiply(x[1], scale), out + i + 4);
    }
  }

  SQUAT_128 static bool try_fold8(const float* x, Index x_stride, const std::int16_t*, const float*,
                                  Index count, const float* scale, const float* midpoint, Index n,
                                  float centre, float crest, float largest_alpha,
                                  std::int8_t* operands, Folded* folded) {
    for (Index row = 0; row < count; ++row, x += x_stride, operands += max_length) {
      Floats top[2] = {all(0), all(0)}, squares[2] = {all(0), all(0)};
      for (Index i = 0; i < n; i += 8) {
        SQUAT_UNROLL
        for (int k = 0; k < 2; ++k) {
          const Floats product = multiply(load(x + i + 4 * k), load(scale + i + 4 * k));
          top[k] = Registers128::max(top[k], abs(product));
          squares[k] = multiply_add(product, product, squares[k]);
        }
      }
      const float max = highest(Registers128::max(top[0], top[1]));
      const float energy = total(add(squares[0], squares[1]));
      if (max * max * static_cast<float>(n) > crest * crest * energy || max / 127 > largest_alpha)
        return false;
      folded[row] = round(x, scale, midpoint, n, centre, max / 127, operands);
    }
    return true;
  }

  SQUAT_128 static bool try_fold8_positive(const float* x, Index x_stride, Index count,
                                           const float* scale, const float* midpoint, Index groups,
                                           Index n, float centre, std::int32_t least,
                                           std::uint8_t* operands, Folded* folded) {
    float max[max_heads];
    for (Index row = 0; row < count; ++row) max[row] = maximum(x + row * x_stride, n);
    bool is_fine = true;
    for (Index group = 0; group < groups; ++group, scale += n, midpoint += n) {
      const float highest_scale = maximum(scale, n);
      for (Index row = 0; row < count; ++row) {
        std::uint8_t* target = operands + (group * max_heads + row) * max_block;
        const float alpha = max[row] * highest_scale / 255;
        folded[group * max_heads + row] =
            round(x + row * x_stride, scale, midpoint, n, centre, alpha, target);
        Ints squares = zeros();
        for (Index i = 0; i < n; i += 16) squares = add_squares(squares, target + i);
        is_fine &= total(squares) >= least || !(alpha > 0);
      }
    }
    return is_fine;
  }

  SQUAT_128 static void fold16(const float* x, Index x_stride, Index count, const float* scale,
                               const float* midpoint, Index n, float centre, float largest,
                               std::int16_t* operands, Folded* folded) {
    largest = std::min(largest, largest_operand);
    for (Index row = 0; row < count; ++row, x += x_stride, operands += max_length) {
      Floats top = all(0);
      for (Index i = 0; i < n; i += 4) top = max(top, abs(multiply(load(x + i), load(scale + i))));
      folded[row] = round(x, scale, midpoint, n, centre, highest(top) / largest, operands);
    }
  }

  SQUAT_128 static void exponentiate(float* scores, Index stride, Index rows, Index n, float* max,
                                     float* sums) {
    for (Index row = 0; row < rows; ++row, scores += stride) {
      max[row] = std::max(max[row], maximum(scores, n));
      const Floats shift = all(max[row]);
      Floats sum = all(0);
      for (Index i = 0; i < n; i += 4) {
        const Floats p = exp(subtract(load(scores + i), shift));
        store(p, scores + i);
        sum = add(sum, p);
      }
      sums[row] = total(sum);
    }
  }

  SQUAT_128 static void dot_rows(const float* rows, Index count, Index n, const float* queries,
                                 Index query_count, float* scores, Index stride) {
    for (Index r = 0; r < count; ++r, rows += n) {
      Index q = 0;
      for (; q + 4 <= query_count; q += 4)
        dot_queries<4>(rows, n, queries + q * n, scores + q * stride + r, stride);
      for (; q < query_count; ++q)
        dot_queries<1>(rows, n, queries + q * n, scores + q * stride + r, stride);
    }
  }

  SQUAT_128 static void add_rows(const float* rows, Index count, Index n, const float* weights,
                                 Index weight_stride, Index sum_count, float* sums, Index stride) {
    for (Index i = 0; i < n; i += 8) {
      Index q = 0;
      for (; q + 2 <= sum_count; q += 2)
        add_columns<2>(rows + i, count, n, weights + q * weight_stride, weight_stride,
                       sums + q * stride + i, stride);
      if (q < sum_count)
        add_columns<1>(rows + i, count, n, weights + q * weight_stride, weight_stride,
                       sums + q * stride + i, stride);
    }
  }

  static constexpr VectorKernels vector_kernels() {
    VectorKernels kernels = Portable::vector_kernels();
    kernels.read_8_bit_table = read_8_bit_table;
    kernels.widen8 = widen<std::int8_t>;
    kernels.widen16 = widen<std::int16_t>;
    kernels.try_fold8 = try_fold8;
    kernels.try_fold8_positive = try_fold8_positive;
    kernels.fold16 = fold16;
    kernels.exponentiate = exponentiate;
    kernels.dot_rows = dot_rows;
    kernels.add_rows = add_rows;
    return kernels;
  }

 private:
  template <int Queries>
  SQUAT_128_INLINE static void dot_queries(const float* row, Index n, const float* queries,
                                           float* scores, Index stride) {
    Floats sums[Queries][2];
    SQUAT_UNROLL
    for (int q = 0; q < Queries; ++q) sums[q][0] = sums[q][1] = all(0);
    for (Index i = 0; i < n; i += 8) {
      const Floats first = load(row + i), second = load(row + i + 4);
      SQUAT_UNROLL
      for (int q = 0; q < Queries; ++q) {
        sums[q][0] = multiply_add(first, load(queries + q * n + i), sums[q][0]);
        sums[q][1] = multiply_add(second, load(queries + q * n + i + 4), sums[q][1]);
      }
    }
    SQUAT_UNROLL
    for (int q = 0; q < Queries; ++q) scores[q * stride] = total(add(sums[q][0], sums[q][1]));
  }

  /// Eight columns of some sums.
  template <int Sums>
  SQUAT_128_INLINE static void add_columns(const float* rows, Index count, Index n,
                                           const float* weights, Index weight_stride, float* sums,
                                           Index stride) {
    Floats columns[Sums][2];
    SQUAT_UNROLL
    for (int q = 0; q < Sums; ++q) {
      columns[q][0] = load(sums + q * stride);
      columns[q][1] = load(sums + q * stride + 4);
    }
    for (Index r = 0; r < count; ++r, rows += n) {
      const Floats first = load(rows), second = load(rows + 4);
      SQUAT_UNROLL
      for (int q = 0; q < Sums; ++q) {
        const Floats weight = all(weights[q * weight_stride + r]);
        columns[q][0] = multiply_add(weight, first, columns[q][0]);
        columns[q][1] = multiply_add(weight, second, columns[q][1]);
      }
    }
    SQUAT_UNROLL
    for (int q = 0; q < Sums; ++q) {
      store(columns[q][0], sums + q * stride);
      store(columns[q][1], sums + q * stride + 4);
    }
  }

  SQUAT_128_INLINE static float maximum(const float* x, Index n) {
    Floats top = load(x);
    for (Index i = 4; i < n; i += 4) top = max(top, load(x + i));
    return highest(top);
  }

  /// Rounds x scale / alpha, and leaves no bias for a code of `centre`.
  template <class Operand>
  SQUAT_128_INLINE static Folded round(const float* x, const float* scale, const float* midpoint,
                                       Index n, float centre, float alpha, Operand* operands) {
    const Floats inverse = all(alpha > 0 ? 1 / alpha : 0.0f);
    Floats offset[2] = {all(0), all(0)};
    Ints sum = zeros();
    for (Index i = 0; i < n; i += 8) {
      Ints rounded[2];
      SQUAT_UNROLL
      for (int k = 0; k < 2; ++k) {
        const Floats xi = load(x + i + 4 * k);
        offset[k] = multiply_add(xi, load(midpoint + i + 4 * k), offset[k]);
        rounded[k] = nearest(multiply(multiply(xi, load(scale + i + 4 * k)), inverse));
        sum = add(sum, rounded[k]);
      }
      store(rounded[0], rounded[1], operands + i);
    }
    return {alpha,
            total(add(offset[0], offset[1])) - centre * alpha * static_cast<float>(total(sum))};
  }

  /// e^x for x <= 0, 0 where x < -87 or is no number. Relative error under 3e-7: x = k ln 2 + r,
  /// |r| <= ln 2 / 2; a polynomial (minimax, degree 5) gives e^r.
  SQUAT_128_INLINE static Floats exp(Floats x) {
    const Floats lowest = all(-87), condition = x;
    x = max(x, lowest);
    const Ints k = nearest(multiply(x, all(1.44269504f)));
    Floats r = multiply_add(floats(k), all(-0.693359375f), x);
    r = multiply_add(floats(k), all(2.12194440e-4f), r);
    Floats p = all(8.3125019e-3f);
    p = multiply_add(p, r, all(4.1890334e-2f));
    p = multiply_add(p, r, all(1.66671157e-1f));
    p = multiply_add(p, r, all(4.99992311e-1f));
    p = multiply_add(p, r, all(1));
    p = multiply_add(p, r, all(1));
    return scaled_where(p, k, condition, lowest);
  }
};

}  // namespace squat::detail::simd

#endif
