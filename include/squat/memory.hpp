// Where a cache's bytes are.
#pragma once

#include <squat/matrix.hpp>
#include <unordered_set>

namespace squat {

namespace detail {

/// What has been counted already, of what several sequences share.
using Counted = std::unordered_set<const void*>;

}  // namespace detail

/// Bytes allocated, by what they hold.
struct MemoryUsage {
  Index codes = 0;        ///< packed codes
  Index scales = 0;       ///< scales, zero points and the padding of records
  Index headers = 0;      ///< what the blocks of a fit share: orders, widths, expected midpoints
  Index reserved = 0;     ///< slots for codes and scales of tokens to come
  Index residual = 0;     ///< tokens in full precision
  Index subspace = 0;     ///< second moments and feedback tables
  Index bookkeeping = 0;  ///< block tables and the objects themselves
  /// Memory that calls of attend() compute in, kept for the next ones. It holds no tokens and does
  /// not grow with them, so total() leaves it out.
  Index workspace = 0;

  Index total() const {
    return codes + scales + headers + reserved + residual + subspace + bookkeeping;
  }

  MemoryUsage& operator+=(const MemoryUsage& other) {
    codes += other.codes;
    scales += other.scales;
    headers += other.headers;
    reserved += other.reserved;
    residual += other.residual;
    subspace += other.subspace;
    bookkeeping += other.bookkeeping;
    workspace += other.workspace;
    return *this;
  }
};

}  // namespace squat
