// Second moments of a model's queries: fitted once, kept in a file, used for every sequence.
#pragma once

#include <array>
#include <squat/detail/float_environment.hpp>
#include <squat/detail/io/moment_io.hpp>

namespace squat {

using detail::SecondMoment;

/// What a cache needs to know of a model's queries, per layer and kv head: E[q^T q], gathered from
/// text of one's own choice and saved, so that no prompt has to fit it.
class QueryMoments {
 public:
  explicit QueryMoments(const ModelShape& shape) : shape_(shape) {
    detail::check(shape);
    for (Index layer = 0; layer < shape.layers; ++layer) {
      first_.push_back(moments_.size());
      moments_.resize(moments_.size() + static_cast<std::size_t>(shape.layer(layer).kv_heads),
                      SecondMoment(shape.layer(layer).head_dim));
    }
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
    const detail::DefaultFloatEnvironment environment;
    const LayerShape& shape = shape_.layer(layer);
    require(queries.cols() == shape.query_heads * shape.head_dim, "queries have ", queries.cols(),
            " columns; the shape asks for ", shape.query_heads, " heads of ", shape.head_dim);
    const auto first =
        moments_.begin() + static_cast<Index>(first_[static_cast<std::size_t>(layer)]);
    std::vector<SecondMoment> sums(first, first + shape.kv_heads);
    const Index group = shape.heads_per_kv(), width = group * shape.head_dim;
    for (Index kv_head = 0; kv_head < shape.kv_heads; ++kv_head)
      sums[static_cast<std::size_t>(kv_head)].template add<Scalar>(
          queries.middleCols(kv_head * width, width), mask, group);
    std::move(sums.begin(), sums.end(), first);
  }

  /// Fails where `other` has other layers, kv heads or widths of heads; `whose` says what it
  /// belongs to, and `ours` what these do.
  void check_same(const ModelShape& other, const char* whose, const char* ours) const {
    require(other.layers == shape_.layers, whose, " for ", other.layers, " layers; ", ours, " for ",
            shape_.layers);
    for (Index layer = 0; layer < shape_.layers; ++layer) {
      const LayerShape &a = other.layer(layer), &b = shape_.layer(layer);
      require(a.kv_heads == b.kv_heads && a.head_dim == b.head_dim, whose, " for ", a.kv_heads,
              " kv heads of ", a.head_dim, " in layer ", layer, "; ", ours, " for ", b.kv_heads,
              " of ", b.head_dim);
    }
  }

  /// Adds what `other` gathered elsewhere: from other texts, or on another machine. Fails, adding
  /// nothing, on another shape, or a sum that is not finite.
  void add(const QueryMoments& other) {
    const detail::DefaultFloatEnvironment environment;
    check_same(other.shape_, "the other moments are", "these");
    std::vector<SecondMoment> sums = moments_;
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i].add(other.moments_[i]);
    moments_ = std::move(sums);
  }

  /// Writes a file of version 3, little-endian:
  ///
  ///     char magic[8] = "SQUATQM3"
  ///     uint64 layers
  ///     per layer: uint64 kv_heads, head_dim
  ///     per layer and kv head: a moment, as write() below puts it
  ///     uint64 checksum of all before (Checksum)
  void save(std::ostream& out) const {
    detail::ByteWriter writer(out);
    writer.array(magic.data(), 8);
    writer.number(shape_.layers);
    for (Index layer = 0; layer < shape_.layers; ++layer) {
      writer.number(shape_.layer(layer).kv_heads);
      writer.number(shape_.layer(layer).head_dim);
    }
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
    const bool of_version_2 = found == magic_of_version_2;
    require(found == magic || of_version_2,
            "the file does not begin with SQUATQM3: it holds no query moments of this version");
    const auto expect = [&](const char* name, Index value) {
      const std::uint64_t number = reader.number();
      require(number == static_cast<std::uint64_t>(value), "the file is for ", name, " = ", number,
              "; the model has ", value);
    };
    expect("layers", shape.layers);
    // Version 2 knew models alone whose layers are alike, and said so once.
    for (Index layer = 0; layer < shape.layers; ++layer) {
      if (of_version_2 && layer > 0) {
        const LayerShape &own = shape.layer(layer), &first = shape.layer(0);
        require(own.kv_heads == first.kv_heads && own.head_dim == first.head_dim,
                "the file is for layers that are alike; layer ", layer, " of the model has ",
                own.kv_heads, " kv heads of ", own.head_dim);
        continue;
      }
      expect("kv_heads", shape.layer(layer).kv_heads);
      expect("head_dim", shape.layer(layer).head_dim);
    }
    for (SecondMoment& moment : loaded.moments_)
      moment = detail::read_moment(reader, moment.head_dim());
    reader.finish();
    return loaded;
  }

 private:
  static constexpr std::array<char, 8> magic = {'S', 'Q', 'U', 'A', 'T', 'Q', 'M', '3'};
  static constexpr std::array<char, 8> magic_of_version_2 = {'S', 'Q', 'U', 'A',
                                                             'T', 'Q', 'M', '2'};

  std::size_t index(Index layer, Index kv_head) const {
    require(layer >= 0 && layer < shape_.layers && kv_head >= 0 &&
                kv_head < shape_.layer(layer).kv_heads,
            "layer ", layer, ", kv head ", kv_head, " is outside the shape");
    return first_[static_cast<std::size_t>(layer)] + static_cast<std::size_t>(kv_head);
  }

  ModelShape shape_;
  std::vector<std::size_t> first_;     // of each layer
  std::vector<SecondMoment> moments_;  // by layer and kv head
};

}  // namespace squat
