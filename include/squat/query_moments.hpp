// Second moments of a model's queries: fitted once, kept in a file, used for every sequence.
#pragma once

#include <array>
#include <squat/detail/io/moment_io.hpp>

namespace squat {

using detail::SecondMoment;

/// What a cache needs to know of a model's queries, per layer and kv head: E[q^T q], gathered from
/// text of one's own choice and saved, so that no prompt has to fit it.
class QueryMoments {
 public:
  explicit QueryMoments(const ModelShape& shape) : shape_(shape) {
    detail::check(shape);
    moments_.assign(static_cast<std::size_t>(shape.layers * shape.kv_heads),
                    SecondMoment(shape.head_dim));
  }

  const ModelShape& shape() const { return shape_; }
  const SecondMoment& moment(Index layer, Index kv_head) const {
    return moments_[index(layer, kv_head)];
  }

  /// Adds queries [tokens, query_heads * head_dim] of `layer`, after position embedding; rows that
  /// `mask` leaves out are skipped. Fails, adding nothing, as SecondMoment::add does.
  template <class Scalar>
  void add(Index layer, MatrixView<Scalar> queries, const Mask& mask = {}) {
    require(layer >= 0 && layer < shape_.layers, "layer is ", layer, "; the shape has layers 0 to ",
            shape_.layers - 1);
    require(queries.cols() == shape_.query_heads * shape_.head_dim, "queries have ", queries.cols(),
            " columns; the shape asks for ", shape_.query_heads, " heads of ", shape_.head_dim);
    const Index first = layer * shape_.kv_heads;
    std::vector<SecondMoment> sums(moments_.begin() + first,
                                   moments_.begin() + first + shape_.kv_heads);
    for (Index head = 0; head < shape_.query_heads; ++head)
      sums[static_cast<std::size_t>(head / shape_.heads_per_kv())].template add<Scalar>(
          queries.middleCols(head * shape_.head_dim, shape_.head_dim), mask);
    std::move(sums.begin(), sums.end(), moments_.begin() + first);
  }

  /// Adds what `other` gathered elsewhere: from other texts, or on another machine. Fails, adding
  /// nothing, on another shape, or a sum that is not finite.
  void add(const QueryMoments& other) {
    const ModelShape& theirs = other.shape_;
    require(theirs.layers == shape_.layers && theirs.kv_heads == shape_.kv_heads &&
                theirs.head_dim == shape_.head_dim,
            "the other moments are for ", theirs.layers, " layers, ", theirs.kv_heads,
            " kv heads of ", theirs.head_dim, "; these for ", shape_.layers, ", ", shape_.kv_heads,
            " of ", shape_.head_dim);
    std::vector<SecondMoment> sums = moments_;
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i].add(other.moments_[i]);
    moments_ = std::move(sums);
  }

  /// Writes a file of version 2, little-endian:
  ///
  ///     char magic[8] = "SQUATQM2"
  ///     uint64 layers, kv_heads, head_dim
  ///     per layer and kv head: a moment, as write() below puts it
  ///     uint64 checksum of all before (Checksum)
  void save(std::ostream& out) const {
    detail::ByteWriter writer(out);
    writer.array(magic.data(), 8);
    for (const Index number : {shape_.layers, shape_.kv_heads, shape_.head_dim})
      writer.number(number);
    for (const SecondMoment& moment : moments_) detail::write(writer, moment);
    writer.finish();
  }

  /// Reads what save() wrote for a model of `shape`. Fails on a file that is cut short, altered, of
  /// another version or shape, or holds what no queries can have given. Memory follows from `shape`
  /// alone.
  static QueryMoments load(std::istream& in, const ModelShape& shape) {
    QueryMoments loaded(shape);
    detail::ByteReader reader(in);
    std::array<char, 8> found;
    reader.array(found.data(), 8);
    require(found == magic,
            "the file does not begin with SQUATQM2: it holds no query moments of "
            "this version");
    const std::pair<const char*, Index> expected[] = {
        {"layers", shape.layers}, {"kv_heads", shape.kv_heads}, {"head_dim", shape.head_dim}};
    for (const auto& [name, value] : expected) {
      const std::uint64_t number = reader.number();
      require(number == static_cast<std::uint64_t>(value), "the file is for ", name, " = ", number,
              "; the model has ", value);
    }
    for (SecondMoment& moment : loaded.moments_)
      moment = detail::read_moment(reader, shape.head_dim);
    reader.finish();
    return loaded;
  }

 private:
  static constexpr std::array<char, 8> magic = {'S', 'Q', 'U', 'A', 'T', 'Q', 'M', '2'};

  std::size_t index(Index layer, Index kv_head) const {
    require(layer >= 0 && layer < shape_.layers && kv_head >= 0 && kv_head < shape_.kv_heads,
            "layer ", layer, ", kv head ", kv_head, " is outside the shape");
    return static_cast<std::size_t>(layer * shape_.kv_heads + kv_head);
  }

  ModelShape shape_;
  std::vector<SecondMoment> moments_;
};

}  // namespace squat
