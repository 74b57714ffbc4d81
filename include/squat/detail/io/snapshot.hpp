// A cache in a file: the format, and how it is written.
#pragma once

#include <squat/detail/io/moment_io.hpp>
#include <squat/detail/io/snapshot_fields.hpp>
#include <squat/detail/plan/key_fit.hpp>
#include <squat/detail/store/layer_store.hpp>
#include <unordered_map>

namespace squat::detail {

// Formatting would join lines of the layout.
// clang-format off
/// A file of version 4 holds one sequence of a cache, or all. It is little-endian and consists of
/// 64-bit words, into which smaller numbers are packed. What says (4) is not in older files, whose
/// rotations have no signs. What says (3) is not in those before, whose records have units of 1. What says (2) is not in a file of version 1, whose tokens have positions
/// one after the other; what says (1) is in that alone:
///
///     char magic[8] = "SQUATKV4", "SQUATKV3", "SQUATKV2" or "SQUATKV1"
///     char scalar[8] = "float", "double", "half" or "bfloat16"
///     uint64 fields                  those of ModelShape and Config that are not at their default
///     per field:                     (bits of keys and values as they result, never 0)
///       char name[32]
///       uint64 count; int64 or float64 number[count]
///     uint64 sequences
///     uint64 calibrated              1: a metric from calibrate() serves all sequences; else 0
///     per layer:
///       Fit                          if calibrated
///       per sequence: Tokens, Fit
///     uint64 checksum                of all before (Checksum)
///
///     Tokens:
///       uint64 dropped             position before which a window has left all behind
///       uint64 dropped_valid       valid tokens of them
///       uint64 rows
///       uint64 values         (1)  tokens whose values are packed
///       uint64 residual, exact
///       uint64 taken          (2)  how many exact tokens there were, erased ones included
///       uint64 sinks          (2)  so many of the first exact tokens are attention sinks
///       uint64 outliers       (4)  so many of the last exact tokens are outliers, which taken leaves out
///       uint64 residual_begin (2)  position of the first residual token
///       per row of packed keys:
///         uint64 tokens              1 to token_group_size
///         uint64 values         (2)  of the first so many the values are packed
///         uint64 begin          (2)  so many slots at the beginning are no tokens of the row
///         uint64 end            (2)  position behind the last token
///         int64 turn            (2)  by how many positions keys are to be turned
///         Bits valid[tokens]
///         Shared Records             a row with keys alone has some of its own
///       Bits valid[residual]
///       Numbers key[residual][kv_heads * head_dim]
///       Numbers value[tokens of rows + residual - values][kv_heads * value_dim]
///       uint64 position[exact]       of exact tokens
///       Numbers key[exact][kv_heads * head_dim], value[exact][kv_heads * value_dim]
///
///     Numbers if residual_bits is 0: Scalar number[]
///     Numbers otherwise:
///       uint64 settled               the first so many rows have 8 bits, others 16
///       per row:
///         int8 or int16 code[], a number each
///         uint64 scale[kv_heads][groups of 32 numbers]   upper half of a float32, what a code of 1 is
///
///     Records of a row:
///       Shared Blocks
///       per kv head: scales and zeros, then codes, of a KeyRecordLayout
///       per kv head: the same of a ValueRecordLayout, if the row has values of its own
///
///     Blocks of a fit, per kv head:
///       uint64 ordered               1: channels have an order of their own; else 0
///       uint16 order[head_dim]       if ordered
///       uint64 bits[head_dim / 8]
///       float16 expected[head_dim]   by position, if scale_bits is 8 and scales are per channel
///       int64 keys, values    (3)  exponents of RecordUnits
///       uint64 has_mean       (3)  1: values are less their mean; else 0
///       float32 mean[value_dim]    if has_mean
///       uint64 rotation       (4)  Rotation, the same of all heads
///
///     Fit:
///       uint64 parts                 0: none; else 1 + 2 moments + 4 statistics + 8 plan + 16 directions
///       per kv head, if moments: as write(ByteWriter&, const SecondMoment&) puts it
///       per kv head, if directions: uint64 queries, float64 trace,
///         float32 direction[min(subspace_dim, head_dim)][head_dim], as GatheredQueries has them
///       per kv head, if statistics: float64 blocks, squared_ranges[head_dim], midpoints[head_dim]
///       Shared Plan, if plan:
///         Shared Blocks
///         per kv head: tables of ErrorFeedback, float64 if Scalar is double, else float32
///
/// In version 1 values fill the rows from the first on. Bits are packed into words from the lowest on. What is
/// Shared begins with its number among those of its kind in the layer, in order of appearance; it
/// follows if it is new.
// clang-format on
struct SnapshotFormat {
  using Word = std::array<char, 8>;
  static constexpr Index version = 4;
  /// Of files of a version.
  static constexpr Word magic(Index number) {
    return {'S', 'Q', 'U', 'A', 'T', 'K', 'V', static_cast<char>('0' + number)};
  }
  // Parts of a fit.
  static constexpr Index fit = 1, moments = 2, statistics = 4, plan = 8, directions = 16;

  template <class Scalar>
  static Word scalar() {
    const std::string name = std::is_same_v<Scalar, float>         ? "float"
                             : std::is_same_v<Scalar, double>      ? "double"
                             : std::is_same_v<Scalar, Eigen::half> ? "half"
                                                                   : "bfloat16";
    Word word = {};
    name.copy(word.data(), word.size());
    return word;
  }
};

/// Writes a file, part by part, as SnapshotFormat has it.
template <class Scalar>
class SnapshotWriter {
 public:
  SnapshotWriter(std::ostream& out, const ModelShape& shape, const Config& config, Index sequences,
                 bool calibrated)
      : writer_(out) {
    writer_.array(SnapshotFormat::magic(SnapshotFormat::version).data(), 8);
    writer_.array(SnapshotFormat::scalar<Scalar>().data(), 8);
    write_fields(writer_, shape, config);
    writer_.number(sequences);
    writer_.number(Index{calibrated});
  }

  void begin_layer() {
    records_.clear();
    layouts_.clear();
    plans_.clear();
  }

  void tokens(const LayerStore<Scalar>& store) {
    const LayerView<Scalar> layer = store.view();
    const Index residual = layer.residual_keys.size();
    const Index full_precision = layer.full_precision.size();
    writer_.number(layer.first);
    writer_.number(store.dropped_valid());
    writer_.number(static_cast<Index>(layer.blocks.size()));
    writer_.number(residual);
    writer_.number(full_precision);
    writer_.number(layer.full_precision.taken);
    writer_.number(layer.full_precision.sinks);
    writer_.number(layer.full_precision.outliers);
    writer_.number(layer.residual_begin);
    for (const TokenBlock& block : layer.blocks) {
      writer_.number(Index{block.tokens});
      writer_.number(Index{block.value_tokens});
      writer_.number(Index{block.begin});
      writer_.number(block.end());
      writer_.number(block.turn);
      bits(block.tokens, [&](Index token) { return block.is_valid(token); });
      if (is_new(records_, block.keys(0))) records(layer.format, block);
    }
    bits(residual, [&](Index row) { return *layer.residual_valid.row(row) != 0; });
    rows(layer.residual_keys);
    rows(layer.residual_values);
    for (Index i = 0; i < full_precision; ++i) writer_.number(layer.full_precision.position(i));
    rows(layer.full_precision.keys);
    rows(layer.full_precision.values);
  }

  /// Null stands for none.
  void fit(const KeyFit<ComputeType<Scalar>>* fit) {
    if (fit == nullptr) return writer_.number(Index{0});
    const bool has_directions = fit->prompt_is_over();
    writer_.number(SnapshotFormat::fit +
                   (has_directions          ? SnapshotFormat::directions
                    : !fit->queries.empty() ? SnapshotFormat::moments
                                            : 0) +
                   (fit->statistics.empty() ? 0 : SnapshotFormat::statistics) +
                   (fit->plan ? SnapshotFormat::plan : 0));
    for (const GatheredQueries& one : fit->queries) {
      if (!has_directions) {
        write(writer_, one.moment());
        continue;
      }
      writer_.number(one.count());
      writer_.number(one.trace());
      writer_.array(one.directions().data(), one.directions().size());
    }
    for (const KeyStatistics& one : fit->statistics) {
      writer_.number(one.blocks());
      writer_.array(one.sum_of_squared_ranges().data(), one.sum_of_squared_ranges().size());
      writer_.array(one.sum_of_midpoints().data(), one.sum_of_midpoints().size());
    }
    if (!fit->plan || !is_new(plans_, fit->plan.get())) return;
    layouts(*fit->plan->layouts);
    std::vector<ErrorFeedback<ComputeType<Scalar>>> room;
    for (const auto& feedback : fit->plan->expanded(room))
      for (const auto* table : feedback.tables()) writer_.array(table->data(), table->size());
  }

  void finish() { writer_.finish(); }

 private:
  using Numbers = std::unordered_map<const void*, Index>;

  /// Writes the number of what lies at `address`; returns whether it has not been written before.
  bool is_new(Numbers& numbers, const void* address) {
    const auto [entry, added] = numbers.emplace(address, static_cast<Index>(numbers.size()));
    writer_.number(entry->second);
    return added;
  }

  void rows(const TokenRows<Scalar>& rows) {
    if (rows.has_scales()) writer_.number(rows.settled());
    for (Index row = 0; row < rows.size(); ++row) {
      const auto& format = rows.format(row);
      const std::byte* const bytes = rows.bytes_of(row);
      writer_.array(bytes, format.numbers(), format.code_size());
      for (Index i = 0; i < format.scales(); ++i) writer_.number(Index{format.scales_of(bytes)[i]});
    }
  }

  template <class IsSet>
  void bits(Index count, const IsSet& is_set) {
    for (Index first = 0; first < count; first += 64) {
      std::uint64_t word = 0;
      for (Index i = first; i < std::min(first + 64, count); ++i)
        word |= std::uint64_t{is_set(i)} << (i - first);
      writer_.number(word);
    }
  }

  void records(const LayerFormat& format, const TokenBlock& block) {
    const Index kv_heads = static_cast<Index>(block.key_layouts->size());
    layouts(*block.key_layouts);
    for (Index head = 0; head < kv_heads; ++head) record(block.key_layout(head), block.keys(head));
    if (block.value_tokens == 0 || !format.stores_values()) return;
    for (Index head = 0; head < kv_heads; ++head) record(format.value_layout, block.values(head));
  }

  template <class Layout>
  void record(const Layout& layout, const std::byte* record) {
    const Index bytes = layout.table().scale_bits() / 8;
    writer_.array(record, layout.table().bytes() / bytes, bytes);
    writer_.array(record + layout.code_offset(), layout.code_bytes(), 1);
  }

  void layouts(const std::vector<KeyRecordLayout>& layouts) {
    if (!is_new(layouts_, &layouts)) return;
    for (const KeyRecordLayout& layout : layouts) {
      const Index head_dim = layout.head_dim();
      writer_.number(Index{!layout.is_ordered()});
      std::vector<std::uint16_t> row(static_cast<std::size_t>(head_dim));
      const auto fill = [&](const auto& of) {
        for (Index i = 0; i < head_dim; ++i) row[static_cast<std::size_t>(i)] = of(i);
        writer_.array(row.data(), head_dim);
      };
      if (!layout.is_ordered())
        fill([&](Index i) { return static_cast<std::uint16_t>(layout.channel_at(i)); });
      for (Index i = 0; i < head_dim; i += 8) writer_.number(Index{layout.bits_at(i)});
      if (layout.expected() != nullptr)
        fill([&](Index i) {
          return Eigen::numext::bit_cast<std::uint16_t>(Eigen::half(layout.expected(i)));
        });
      writer_.number(Index{layout.units().keys});
      writer_.number(Index{layout.units().values});
      const std::vector<float>& mean = layout.value_mean();
      writer_.number(Index{!mean.empty()});
      writer_.array(mean.data(), static_cast<Index>(mean.size()));
      writer_.number(static_cast<Index>(layout.rotation()));
    }
  }

  ByteWriter writer_;
  // Of this layer.
  Numbers records_;
  Numbers layouts_;
  Numbers plans_;
};

}  // namespace squat::detail
