// A second moment in a file.
#pragma once

#include <squat/detail/io/byte_stream.hpp>
#include <squat/detail/plan/second_moment.hpp>

namespace squat::detail {

/// In a file: uint64 queries, float64 sum[head_dim (head_dim + 1) / 2], its lower triangle, row by
/// row.
inline void write(ByteWriter& writer, const SecondMoment& moment) {
  writer.number(moment.count());
  for (Index i = 0; i < moment.head_dim(); ++i) writer.array(moment.sum().row(i).data(), i + 1);
}

/// Of two files that are added up.
inline constexpr Index max_queries = std::numeric_limits<Index>::max() / 2;

/// Fails on what no queries can have given.
inline SecondMoment read_moment(ByteReader& reader, Index head_dim) {
  const Index count = reader.count("queries", max_queries);
  Matrix<double> sum(head_dim, head_dim);
  for (Index i = 0; i < head_dim; ++i) {
    reader.array(sum.row(i).data(), i + 1);
    for (Index j = 0; j < i; ++j) sum(j, i) = sum(i, j);
  }
  return SecondMoment(std::move(sum), count);
}

}  // namespace squat::detail
