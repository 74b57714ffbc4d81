// Reads tests/data/, what the NumPy oracle answers; fixtures/make_fixtures.py explains the format.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#ifndef SQUAT_TEST_DATA
#error "define SQUAT_TEST_DATA as the directory tests/data, a string"
#endif

namespace squat::fixtures {

template <class Scalar>
using RowMatrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Doubles = RowMatrix<double>;
using Codes = RowMatrix<std::uint8_t>;

struct KeyCase {
  std::string name;
  Eigen::Index step = 0;   // channels quantized between two feedback steps
  Eigen::Index rank = 0;   // leading directions of the queries that `metric` keeps
  double lambda = 0;       // as published: on squared singular values as they are
  int bits = 0;            // of a code
  Eigen::Index group = 0;  // tokens that share a channel's scale
  Doubles queries;         // [n, head_dim]
  Doubles keys;            // [tokens, head_dim]
  Codes codes;             // [tokens, head_dim]
  Doubles scales;          // [tokens / group, head_dim]; 1 for a constant group
  Doubles zeros;           // [tokens / group, head_dim]
  Doubles dequantized;     // [tokens, head_dim]: codes * scale + zero
  Doubles metric;          // [head_dim, head_dim]: A
  double margin = 0;       // smallest distance of a rounding from a tie, in codes
};

struct ValueCase {
  std::string name;
  int bits = 0;            // of a code
  Eigen::Index group = 0;  // channels that share a token's scale
  Doubles values;          // [tokens, head_dim]
  Codes codes;             // [tokens, head_dim]
  Doubles scales;          // [tokens, head_dim / group]; 1 for a constant group
  Doubles zeros;           // [tokens, head_dim / group]
  Doubles dequantized;     // [tokens, head_dim]: codes * scale + zero
  double margin = 0;       // smallest distance of a rounding from a tie, in codes
};

namespace detail {

inline std::string path(const std::string& file) {
  return std::string(SQUAT_TEST_DATA) + "/" + file;
}

template <class Stored, class Scalar>
RowMatrix<Scalar> read_elements(const std::string& file, std::streamoff offset, Eigen::Index rows,
                                Eigen::Index columns) {
  RowMatrix<Stored> stored(rows, columns);
  std::ifstream stream(path(file), std::ios::binary);
  stream.seekg(offset);
  stream.read(reinterpret_cast<char*>(stored.data()),
              static_cast<std::streamsize>(sizeof(Stored)) * stored.size());
  if (!stream) throw std::runtime_error("fixtures: cannot read " + path(file));
  return stored.template cast<Scalar>();
}

/// The matrix that `reference` names: FILE:TYPE:OFFSET:ROWS:COLUMNS.
template <class Scalar>
RowMatrix<Scalar> read_matrix(const std::string& reference) {
  std::istringstream parts(reference);
  std::string file, type;
  std::streamoff offset = 0;
  Eigen::Index rows = 0, columns = 0;
  char colon = 0;
  std::getline(parts, file, ':');
  std::getline(parts, type, ':');
  if (!(parts >> offset >> colon >> rows >> colon >> columns)) {
    throw std::runtime_error("fixtures: cannot parse the matrix " + reference);
  }
  if constexpr (std::is_same_v<Scalar, std::uint8_t>) {
    if (type == "u8") return read_elements<std::uint8_t, Scalar>(file, offset, rows, columns);
  } else {
    if (type == "f16") return read_elements<Eigen::half, Scalar>(file, offset, rows, columns);
    if (type == "f32") return read_elements<float, Scalar>(file, offset, rows, columns);
    if (type == "f64") return read_elements<double, Scalar>(file, offset, rows, columns);
  }
  throw std::runtime_error("fixtures: unexpected type in " + reference);
}

/// One case of the index: its name=value pairs.
class Fields {
 public:
  explicit Fields(const std::string& pairs) {
    std::istringstream words(pairs);
    for (std::string word; words >> word;) {
      const auto equals = word.find('=');
      values_[word.substr(0, equals)] = word.substr(equals + 1);
    }
  }

  const std::string& text(const std::string& name) const {
    const auto found = values_.find(name);
    if (found == values_.end()) throw std::runtime_error("fixtures: a case lacks " + name);
    return found->second;
  }
  double number(const std::string& name) const { return std::stod(text(name)); }
  int integer(const std::string& name) const { return std::stoi(text(name)); }
  Doubles doubles(const std::string& name) const { return read_matrix<double>(text(name)); }
  Codes codes() const { return read_matrix<std::uint8_t>(text("codes")); }

 private:
  std::map<std::string, std::string> values_;
};

/// The cases of one kind, `key` or `value`.
inline std::vector<Fields> read_index(const std::string& kind) {
  std::ifstream stream(path("fixtures.txt"));
  if (!stream) throw std::runtime_error("fixtures: cannot read " + path("fixtures.txt"));
  std::vector<Fields> cases;
  for (std::string line; std::getline(stream, line);) {
    if (line.rfind(kind + " ", 0) == 0) cases.emplace_back(line.substr(kind.size() + 1));
  }
  if (cases.empty()) throw std::runtime_error("fixtures: no " + kind + " cases");
  return cases;
}

/// A symmetric matrix from its upper triangle, row after row: [1, d * (d + 1) / 2].
inline Doubles symmetric(const Doubles& triangle) {
  const auto d = static_cast<Eigen::Index>(std::sqrt(2.0 * static_cast<double>(triangle.size())));
  Doubles full(d, d);
  Eigen::Index next = 0;
  for (Eigen::Index i = 0; i < d; ++i) {
    for (Eigen::Index j = i; j < d; ++j) full(i, j) = full(j, i) = triangle(0, next++);
  }
  return full;
}

/// codes * scale + zero; one scale serves as many rows and columns as the shapes leave to it.
inline Doubles dequantize(const Codes& codes, const Doubles& scales, const Doubles& zeros,
                          double checksum) {
  const Eigen::Index rows = codes.rows() / scales.rows();
  const Eigen::Index columns = codes.cols() / scales.cols();
  Doubles out(codes.rows(), codes.cols());
  for (Eigen::Index i = 0; i < out.rows(); ++i) {
    for (Eigen::Index j = 0; j < out.cols(); ++j) {
      out(i, j) = codes(i, j) * scales(i / rows, j / columns) + zeros(i / rows, j / columns);
    }
  }
  if (!(std::abs(out.sum() - checksum) <= 1e-12 * out.cwiseAbs().sum())) {
    throw std::runtime_error("fixtures: a checksum differs; are index and .bin files of one run?");
  }
  return out;
}

}  // namespace detail

/// Keys with the codes, scales and zeros that the oracle gives them. Throws std::runtime_error when
/// a file is missing or damaged.
inline std::vector<KeyCase> load_key_cases() {
  std::vector<KeyCase> cases;
  for (const detail::Fields& fields : detail::read_index("key")) {
    KeyCase c;
    c.name = fields.text("name");
    c.step = fields.integer("step");
    c.rank = fields.integer("rank");
    c.lambda = fields.number("lambda");
    c.bits = fields.integer("bits");
    c.group = fields.integer("group");
    c.queries = fields.doubles("queries");
    c.keys = fields.doubles("keys");
    c.codes = fields.codes();
    c.scales = fields.doubles("scales");
    c.zeros = fields.doubles("zeros");
    c.dequantized = detail::dequantize(c.codes, c.scales, c.zeros, fields.number("checksum"));
    c.metric = detail::symmetric(fields.doubles("metric"));
    c.margin = fields.number("margin");
    cases.push_back(std::move(c));
  }
  return cases;
}

/// Values alike.
inline std::vector<ValueCase> load_value_cases() {
  std::vector<ValueCase> cases;
  for (const detail::Fields& fields : detail::read_index("value")) {
    ValueCase c;
    c.name = fields.text("name");
    c.bits = fields.integer("bits");
    c.group = fields.integer("group");
    c.values = fields.doubles("values");
    c.codes = fields.codes();
    c.scales = fields.doubles("scales");
    c.zeros = fields.doubles("zeros");
    c.dequantized = detail::dequantize(c.codes, c.scales, c.zeros, fields.number("checksum"));
    c.margin = fields.number("margin");
    cases.push_back(std::move(c));
  }
  return cases;
}

}  // namespace squat::fixtures
