// What a saved cache and the cache that loads it must have in common.
#pragma once

#include <ostream>
#include <squat/config.hpp>
#include <squat/detail/io/byte_stream.hpp>
#include <string>
#include <vector>

namespace squat::detail {

/// A field of ModelShape or Config as files and error messages have it: one number or several.
struct SnapshotField {
  std::string name;      ///< in a file
  bool is_real = false;  ///< words are float64, else signed integers
  bool is_list = false;  ///< of any number of words
  std::vector<std::uint64_t> words;

  template <class Number>
  SnapshotField(const char* own_name, const std::vector<Number>& numbers)
      : name(own_name), is_real(std::is_floating_point_v<Number>), is_list(true) {
    for (const Number number : numbers) words.push_back(word(number));
  }
  template <class Number>
  SnapshotField(const char* own_name, Number number)
      : SnapshotField(own_name, std::vector<Number>{number}) {
    is_list = false;
  }

  /// Appends the words of another layer; a list says how many it has.
  void append(const SnapshotField& other) {
    const auto count = static_cast<Index>(other.words.size());
    if (is_list) words.push_back(is_real ? word(static_cast<double>(count)) : word(count));
    words.insert(words.end(), other.words.begin(), other.words.end());
  }

  bool operator==(const SnapshotField& other) const { return words == other.words; }

  friend std::ostream& operator<<(std::ostream& out, const SnapshotField& field) {
    if (field.words.empty()) out << "none";
    for (std::size_t i = 0; i < field.words.size(); ++i) {
      if (i > 0) out << ", ";
      if (field.is_real) {
        double real;
        std::memcpy(&real, &field.words[i], sizeof real);
        out << real;
      } else {
        out << static_cast<std::int64_t>(field.words[i]);
      }
    }
    return out;
  }

 private:
  template <class Number>
  static std::uint64_t word(Number number) {
    if constexpr (std::is_floating_point_v<Number>) {
      const double real = number + 0.0;  // there is one zero
      std::uint64_t bits;
      std::memcpy(&bits, &real, sizeof bits);
      return bits;
    } else {
      return static_cast<std::uint64_t>(static_cast<std::int64_t>(number));
    }
  }
};

/// What a field is called today, for messages: a file keeps the name that its field had first.
inline std::string current_name(const SnapshotField& field) {
  return field.name == "config.exact_tokens" ? "config.full_precision_tokens"
         : field.name == "shape.windows"     ? "shape.window"
                                             : field.name;
}

/// Whether caches that differ in it store the same, and read it alike.
inline bool matters(const SnapshotField& field) { return field.name != "config.arithmetic"; }

/// Fields of one layer.
inline std::vector<SnapshotField> snapshot_fields(const LayerShape& shape) {
  const auto& [query_heads, kv_heads, head_dim, value_dim, values_in_keys, softmax_scale, rope,
               window, chunk, sink_tokens, softcap, sink_logits, alibi_slopes, kv_layer] = shape;
  const auto& [pairing, dims, base, factors, is_applied, first] = rope;
  return {
      {"shape.query_heads", query_heads},
      {"shape.kv_heads", kv_heads},
      {"shape.head_dim", head_dim},
      {"shape.softmax_scale", softmax_scale},
      {"shape.rope.pairing", pairing},
      {"shape.rope.dims", dims},
      {"shape.rope.base", base},
      {"shape.rope.factors", factors},
      {"shape.rope.is_applied", static_cast<int>(is_applied)},
      {"shape.rope.first", first},
      {"shape.windows", std::vector<Index>(window > 0 ? 1 : 0, window)},
      {"shape.value_dim", value_dim},
      {"shape.values_in_keys", static_cast<int>(values_in_keys)},
      {"shape.chunk", chunk},
      {"shape.sink_tokens", sink_tokens},
      {"shape.softcap", softcap},
      {"shape.sink_logits", sink_logits},
      {"shape.alibi_slopes", alibi_slopes},
      {"shape.kv_layer", kv_layer},
  };
}

/// Fields of all layers: those of one where all are alike, else one after the other.
inline std::vector<SnapshotField> snapshot_fields(const ModelShape& shape) {
  std::vector<SnapshotField> fields = snapshot_fields(shape.layer(0));
  std::vector<std::vector<SnapshotField>> others;
  for (Index layer = 0; layer < shape.layers; ++layer)
    others.push_back(snapshot_fields(shape.layer(layer)));
  for (std::size_t i = 0; i < fields.size(); ++i) {
    SnapshotField& field = fields[i];
    const auto has_same = [&](const auto& other) { return other[i] == field; };
    const bool alike = std::all_of(others.begin(), others.end(), has_same);
    if (field.name == "shape.windows") {  // of each layer as soon as one has a window
      if (alike && field.words.empty()) continue;
      std::vector<Index> windows;
      for (Index layer = 0; layer < shape.layers; ++layer)
        windows.push_back(shape.layer(layer).window);
      field = {"shape.windows", windows};
    } else if (!alike) {
      field.words.clear();
      for (const auto& other : others) field.append(other[i]);
    }
  }
  fields.insert(fields.begin(), {"shape.layers", shape.layers});
  return fields;
}

/// All fields of a shape and a configuration, in one order. Whoever adds a field to one of them is
/// told here by the compiler. What is stored under it must depend on the fields alone.
inline std::vector<SnapshotField> snapshot_fields(const ModelShape& shape, const Config& config) {
  const auto& [backend, quant_group_size, residual_length, squat_lambda, subspace_dim, shared_svd,
               token_group_size, scale_bits, normalised_lambda, rolling_residual, key_bits,
               adaptive_bits, key_scales, key_group_size, rotate_keys, value_bits, layer_bits,
               value_group_size, value_grid, rotate_values, residual_bits, full_precision_tokens,
               query_decay, subspace_queries, subspace_method, arithmetic] = config;
  std::vector<double> layer_key_bits;
  std::vector<int> layer_value_bits;
  for (const LayerBits& bits : layer_bits) {
    layer_key_bits.push_back(bits.keys);
    layer_value_bits.push_back(bits.values);
  }
  std::vector<SnapshotField> fields = snapshot_fields(shape);
  const std::vector<SnapshotField> of_config = {
      {"config.backend", backend},
      {"config.quant_group_size", quant_group_size},
      {"config.residual_length", residual_length},
      {"config.squat_lambda", squat_lambda},
      {"config.subspace_dim", subspace_dim},
      {"config.shared_svd", shared_svd},
      {"config.token_group_size", token_group_size},
      {"config.scale_bits", scale_bits},
      {"config.normalised_lambda", normalised_lambda},
      {"config.rolling_residual", rolling_residual},
      {"config.key_bits", key_bits},
      {"config.adaptive_bits", adaptive_bits},
      {"config.key_scales", key_scales},
      {"config.key_group_size", key_group_size},
      {"config.rotate_keys", rotate_keys},
      {"config.value_bits", value_bits},
      {"config.layer_key_bits", layer_key_bits},
      {"config.layer_value_bits", layer_value_bits},
      {"config.value_group_size", value_group_size},
      {"config.value_grid", value_grid},
      {"config.rotate_values", rotate_values},
      {"config.residual_bits", residual_bits},
      {"config.exact_tokens", full_precision_tokens},
      {"config.query_decay", query_decay},
      {"config.subspace_queries", subspace_queries},
      {"config.subspace_method", subspace_method},
      {"config.arithmetic", arithmetic},
  };
  fields.insert(fields.end(), of_config.begin(), of_config.end());
  return fields;
}

/// Writes the fields that are not what ModelShape{} and Config{} have: a field that a later version
/// adds changes nothing where it is at its default.
inline void write_fields(ByteWriter& writer, const ModelShape& shape, const Config& config) {
  const std::vector<SnapshotField> fields = snapshot_fields(shape, config);
  const std::vector<SnapshotField> defaults = snapshot_fields({}, {});
  const auto is_default = [&](std::size_t i) { return fields[i] == defaults[i]; };
  Index count = 0;
  for (std::size_t i = 0; i < fields.size(); ++i) count += !is_default(i);
  writer.number(count);
  for (std::size_t i = 0; i < fields.size(); ++i) {
    if (is_default(i)) continue;
    std::array<char, 32> name = {};
    fields[i].name.copy(name.data(), name.size());
    writer.array(name.data(), 32);
    writer.number(static_cast<Index>(fields[i].words.size()));
    writer.array(fields[i].words.data(), static_cast<Index>(fields[i].words.size()));
  }
}

/// Reads what write_fields() wrote. Fails, naming the field, where one that matters is not of
/// `shape` and `config`.
inline void check_fields(ByteReader& reader, const ModelShape& shape, const Config& config) {
  constexpr Index most_fields = 256, most_words = 1 << 16;
  const std::vector<SnapshotField> wanted = snapshot_fields(shape, config);
  std::vector<SnapshotField> found = snapshot_fields({}, {});
  for (Index left = reader.count("fields", most_fields); left > 0; --left) {
    std::array<char, 33> name = {};
    reader.array(name.data(), 32);
    const auto field = std::find_if(found.begin(), found.end(), [&](const SnapshotField& one) {
      return one.name == name.data();
    });
    require(field != found.end(),
            "the file has a field that this version does not know: ", name.data());
    field->words.clear();
    for (Index words = reader.count(field->name.c_str(), most_words); words > 0; --words)
      field->words.push_back(reader.number());
    const auto is_zero = [](std::uint64_t word) { return word == 0; };
    if (field->name == "shape.windows" &&
        std::all_of(field->words.begin(), field->words.end(), is_zero))
      field->words.clear();
  }
  for (std::size_t i = 0; i < wanted.size(); ++i)
    require(found[i] == wanted[i] || !matters(wanted[i]), "the file has ", current_name(wanted[i]),
            " = ", found[i], "; the cache has ", wanted[i]);
}

}  // namespace squat::detail
