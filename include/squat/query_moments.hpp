// Second moments of a model's queries: fitted once, kept in a file, used for every sequence.
#pragma once

#include <array>
#include <istream>
#include <ostream>
#include <squat/query_subspace.hpp>

namespace squat {

/// What a cache needs to know of a model's queries, per layer and kv head: E[q^T q], gathered from
/// text of one's own choice and saved, so that no prompt has to fit it.
class QueryMoments {
 public:
  explicit QueryMoments(const ModelShape& shape) : shape_(shape) {
    check(shape);
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

  /// Writes a file of version 1, little-endian:
  ///
  ///     char magic[8] = "SQUATQM1"
  ///     uint64 layers, kv_heads, head_dim
  ///     per layer and kv head: uint64 queries, float64 sum[head_dim (head_dim + 1) / 2] (its lower
  ///                            triangle, row by row)
  ///     uint64 checksum of all before (FNV-1a)
  void save(std::ostream& out) const {
    Writer writer{out};
    writer.bytes(magic.data(), magic.size());
    for (const Index number : {shape_.layers, shape_.kv_heads, shape_.head_dim})
      writer.number(static_cast<std::uint64_t>(number));
    for (const SecondMoment& moment : moments_) {
      writer.number(static_cast<std::uint64_t>(moment.count()));
      for (Index i = 0; i < shape_.head_dim; ++i)
        for (Index j = 0; j <= i; ++j) writer.number(bits_of(moment.sum()(i, j)));
    }
    writer.number(writer.checksum.value);
    out.flush();
    require(out.good(), "the moments could not be written");
  }

  /// Reads what save() wrote for a model of `shape`. Fails on a file that is cut short, altered, of
  /// another version or shape, or holds what no queries can have given. Memory follows from `shape`
  /// alone.
  static QueryMoments load(std::istream& in, const ModelShape& shape) {
    QueryMoments loaded(shape);
    Reader reader{in};
    std::array<char, 8> found{};
    reader.bytes(found.data(), found.size());
    require(found == magic,
            "the file does not begin with SQUATQM1: it holds no query moments of "
            "this version");
    const std::pair<const char*, Index> expected[] = {
        {"layers", shape.layers}, {"kv_heads", shape.kv_heads}, {"head_dim", shape.head_dim}};
    for (const auto& [name, value] : expected) {
      const std::uint64_t number = reader.number();
      require(number == static_cast<std::uint64_t>(value), "the file is for ", name, " = ", number,
              "; the model has ", value);
    }
    for (SecondMoment& moment : loaded.moments_) {
      const std::uint64_t count = reader.number();
      Matrix<double> sum(shape.head_dim, shape.head_dim);
      for (Index i = 0; i < shape.head_dim; ++i)
        for (Index j = 0; j <= i; ++j) sum(i, j) = sum(j, i) = double_of(reader.number());
      require(count <= std::uint64_t{1} << 62, "the file counts ", count, " queries");
      moment = SecondMoment(std::move(sum), static_cast<Index>(count));
    }
    const std::uint64_t computed = reader.checksum.value;
    require(reader.number() == computed, "the file's checksum does not match: it was altered");
    return loaded;
  }

 private:
  static constexpr std::array<char, 8> magic = {'S', 'Q', 'U', 'A', 'T', 'Q', 'M', '1'};

  struct Checksum {
    std::uint64_t value = 14695981039346656037u;
    void add(const char* data, std::size_t size) {
      for (std::size_t i = 0; i < size; ++i)
        value = (value ^ static_cast<unsigned char>(data[i])) * 1099511628211u;
    }
  };

  struct Writer {
    std::ostream& out;
    Checksum checksum = {};
    void bytes(const char* data, std::size_t size) {
      checksum.add(data, size);
      out.write(data, static_cast<std::streamsize>(size));
    }
    void number(std::uint64_t x) {
      char data[8];
      for (int i = 0; i < 8; ++i) data[i] = static_cast<char>(x >> (8 * i) & 255);
      bytes(data, 8);
    }
  };

  struct Reader {
    std::istream& in;
    Checksum checksum = {};
    void bytes(char* data, std::size_t size) {
      in.read(data, static_cast<std::streamsize>(size));
      require(in.gcount() == static_cast<std::streamsize>(size), "the file is cut short");
      checksum.add(data, size);
    }
    std::uint64_t number() {
      char data[8];
      bytes(data, 8);
      std::uint64_t x = 0;
      for (int i = 0; i < 8; ++i)
        x |= std::uint64_t{static_cast<unsigned char>(data[i])} << (8 * i);
      return x;
    }
  };

  static std::uint64_t bits_of(double x) {
    std::uint64_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
  }
  static double double_of(std::uint64_t bits) {
    double x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }

  std::size_t index(Index layer, Index kv_head) const {
    require(layer >= 0 && layer < shape_.layers && kv_head >= 0 && kv_head < shape_.kv_heads,
            "layer ", layer, ", kv head ", kv_head, " is outside the shape");
    return static_cast<std::size_t>(layer * shape_.kv_heads + kv_head);
  }

  ModelShape shape_;
  std::vector<SecondMoment> moments_;
};

}  // namespace squat
