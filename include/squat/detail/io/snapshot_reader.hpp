// A cache from a file, which is untrusted input.
#pragma once

#include <optional>
#include <squat/detail/io/snapshot.hpp>

namespace squat::detail {

/// Reads a file of a given shape and configuration, part by part, as SnapshotFormat has it. Every
/// part fails on what no cache can have written, and needs no more memory than what has been read
/// justifies: that of 32 rows of records, or of twice the tokens so far, ahead at most.
template <class Scalar>
class SnapshotReader {
 public:
  using Real = ComputeType<Scalar>;

  SnapshotReader(std::istream& in, const ModelShape& shape, const Config& config, Index sequences)
      : reader_(in), largest_(largest_storable(config.scale_bits)) {
    SnapshotFormat::Word magic, scalar;
    reader_.array(magic.data(), 8);
    while (version_ > 0 && magic != SnapshotFormat::magic(version_)) --version_;
    require(version_ > 0, "the file does not begin with SQUATKV and a version of 1 to ",
            SnapshotFormat::version, ": it holds no cache of a version that is known");
    reader_.array(scalar.data(), 8);
    const auto name = [](const SnapshotFormat::Word& word) {
      return std::string(word.begin(), std::find(word.begin(), word.end(), '\0'));
    };
    require(scalar == SnapshotFormat::scalar<Scalar>(), "the file has Scalar = ", name(scalar),
            "; the cache has ", name(SnapshotFormat::scalar<Scalar>()));
    check_fields(reader_, version_ == 1 ? without_applied_ropes(shape) : shape, config);
    const std::uint64_t found = reader_.number();
    require(found == static_cast<std::uint64_t>(sequences), "the file has sequences = ", found,
            "; it must be ", sequences);
    calibrated_ = reader_.count("calibrated", 1) == 1;
  }

  bool calibrated() const { return calibrated_; }

  /// `format` outlives the reading of the layer.
  void begin_layer(const LayerFormat& format) {
    format_ = &format;
    kv_heads_ = format.kv_heads();
    head_dim_ = format.head_dim();
    records_.clear();
    layouts_.clear();
    plans_.clear();
  }

  /// Fills `layer`, which is empty.
  void tokens(LayerStore<Scalar>& layer) {
    typename LayerStore<Scalar>::Contents contents(*format_);
    const Index dropped = contents.dropped =
        reader_.count("dropped", format_->forgets() ? most : 0);
    contents.dropped_valid = reader_.count("dropped_valid", most);
    const Index blocks = reader_.count("rows", most);
    Index values = version_ == 1 ? reader_.count("values", most) : 0;  // that rows still have
    const Index residual = reader_.count("residual", most);
    const Index most_first = format_->settings.full_precision_tokens;
    const Index full_precision = reader_.count("exact", version_ > 3 ? most : most_first);
    FullPrecisionTokens<Scalar>& kept = contents.full_precision;
    kept.taken = full_precision;
    if (version_ > 1) kept.taken = reader_.count("taken", most_first);
    const Index most_sinks = std::min(full_precision, kept.most_sinks);
    kept.sinks = version_ > 1 ? reader_.count("sinks", most_sinks) : most_sinks;
    if (version_ > 3) kept.outliers = reader_.count("outliers", full_precision - kept.sinks);
    require(kept.taken >= full_precision - kept.outliers, "the file has taken = ", kept.taken,
            " and exact = ", full_precision, ", of which outliers = ", kept.outliers);
    if (version_ > 1) contents.residual_begin = reader_.count("residual_begin", most);
    Index packed_end = dropped, waiting = 0;
    for (Index b = 0; b < blocks; ++b) {
      const TokenBlock& added = block(contents.blocks, blocks - b, packed_end, values);
      values -= std::min(values, Index{added.tokens});
      require(added.first() >= packed_end, "the file has a row at ", added.first(),
              "; those before it end at ", packed_end);
      require(waiting == 0 || added.value_tokens <= added.begin,
              "the file has a row with values behind one that lacks some");
      waiting += added.waiting_values();
      packed_end = added.end();
    }
    if (version_ == 1) contents.residual_begin = packed_end;
    require(values == 0, "the file has ", values, " values more than its rows have tokens");
    require(contents.residual_begin >= packed_end,
            "the file has residual_begin = ", contents.residual_begin, "; its rows end at ",
            packed_end);
    for (Index first = 0; first < residual; first += 64) {
      const std::uint64_t word = reader_.number();
      const Index count = std::min(Index{64}, residual - first);
      contents.valid.reserve(std::max(contents.valid.size(), count));
      std::uint8_t* valid = contents.valid.append(count);
      for (Index i = 0; i < count; ++i) valid[i] = word >> i & 1;
    }
    numbers(contents.keys, residual);
    numbers(contents.values, waiting + residual);
    const Index size = contents.size();
    require(full_precision <= size, "the file has exact = ", full_precision, "; there are ", size,
            " tokens");
    const Index packed = contents.blocks.size() * format_->settings.block_tokens;
    require(kept.outliers <= packed + residual, "the file has outliers = ", kept.outliers,
            "; there are ", packed + residual, " tokens at most");
    kept.positions.reserve(full_precision);
    for (Index i = 0, least = 0; i < full_precision; ++i) {
      const Index position = reader_.count("position", size - 1);
      require(position >= least,
              "the file has full-precision tokens whose positions do not ascend");
      *kept.positions.append(1) = position;
      least = position + 1;
    }
    numbers(kept.keys, full_precision);
    numbers(kept.values, full_precision);
    contents.check_gaps();
    layer.restore(std::move(contents));
    require(size >= layer.least_size(), "the file has size = ", size, " and dropped = ", dropped,
            "; the window asks for a size of ", layer.least_size());
    const LayerView<Scalar> view = layer.view();
    const Index sinks_dropped = view.full_precision.before(dropped);
    require(sinks_dropped <= layer.dropped_valid(),
            "the file has dropped_valid = ", layer.dropped_valid(), "; ", sinks_dropped,
            " full-precision tokens are dropped");
    for (Index i = sinks_dropped; i < full_precision; ++i)
      require(view.is_valid(view.full_precision.position(i)),
              "the file has a full-precision token that is padding");
  }

  /// Null where there is none.
  std::unique_ptr<KeyFit<Real>> fit() {
    const Index parts = reader_.count("parts", 31);
    if (parts == 0) return nullptr;
    // What keys are quantized with must be there, or follow.
    require((parts & SnapshotFormat::fit) != 0 &&
                (parts & (SnapshotFormat::moments | SnapshotFormat::directions |
                          SnapshotFormat::plan)) != 0,
            "the file has parts = ", parts, " of a fit, which are not enough");
    require((parts & SnapshotFormat::moments) == 0 || (parts & SnapshotFormat::directions) == 0,
            "the file has parts = ", parts, " of a fit, which exclude each other");
    auto fit = std::make_unique<KeyFit<Real>>();
    for (Index head = 0; head < kv_heads_ && (parts & SnapshotFormat::moments) != 0; ++head)
      fit->queries.emplace_back(read_moment(reader_, head_dim_));
    for (Index head = 0; head < kv_heads_ && (parts & SnapshotFormat::directions) != 0; ++head)
      fit->queries.push_back(directions());
    for (Index head = 0; head < kv_heads_ && (parts & SnapshotFormat::statistics) != 0; ++head)
      fit->statistics.push_back(statistics());
    if ((parts & SnapshotFormat::plan) != 0)
      fit->plan = shared(plans_, "plan", [&] { return plan(); });
    return fit;
  }

  void finish() { reader_.finish(); }

 private:
  using Plan = std::shared_ptr<const KeyPlan<Real>>;

  // What no file reaches, and no product exceeds.
  static constexpr Index most = Index{1} << (sizeof(Index) == 8 ? 40 : 28);

  /// Files of version 1 hold nothing that depends on what the caller applies, and do not name it.
  static ModelShape without_applied_ropes(ModelShape shape) {
    if (shape.rope.is_applied) shape.rope = {};
    for (LayerShape& layer : shape.by_layer)
      if (layer.rope.is_applied) layer.rope = {};
    return shape;
  }

  /// The thing whose number follows: one of `known`, or what read() returns.
  template <class Thing, class Read>
  const Thing& shared(std::vector<Thing>& known, const char* name, const Read& read) {
    const Index count = static_cast<Index>(known.size()), number = reader_.count(name, count);
    if (number == count) known.push_back(read());
    return known[static_cast<std::size_t>(number)];
  }

  /// The next block, the first of `coming`. In a file of version 1 it begins at `position`, and of
  /// its tokens `values` at most have packed values.
  const TokenBlock& block(TokenBlocks& blocks, Index coming, Index position, Index values) {
    const Index tokens = reader_.count("tokens", format_->settings.block_tokens);
    require(tokens >= 1, "the file has a row without tokens");
    values = version_ == 1 ? std::min(values, tokens) : reader_.count("values", tokens);
    const Index begin = version_ == 1 ? 0 : reader_.count("begin", tokens - 1);
    position = version_ == 1 ? position : reader_.count("end", most) - tokens;
    const auto turn = static_cast<std::int64_t>(version_ == 1 ? 0 : reader_.number());
    require(turn == 0 || (format_->applied_rope != nullptr && turn >= -most && turn <= most),
            "the file has a row that is to be turned by ", turn, " positions");
    std::uint64_t valid[TokenBlock::max_tokens / 64];
    reader_.array(valid, (tokens + 63) / 64);
    const Index known = static_cast<Index>(records_.size());
    const Index number = reader_.count("records", known);
    TokenBlock& block = number < known ? blocks.share(records_[at(number)]) : blocks.add(coming);
    block.tokens = static_cast<std::int32_t>(tokens);
    block.value_tokens = static_cast<std::int32_t>(values);
    block.position = position;
    block.turn = static_cast<Index>(turn);
    for (Index token = 0; token < tokens; ++token)
      block.set_valid(token, (valid[token / 64] >> (token % 64) & 1) != 0);
    block.begin = static_cast<std::int32_t>(begin);
    for (Index token = 0; token < begin; ++token)
      require(!block.is_valid(token), "the file has a row with a token before its first one");
    if (number < known) return block;
    block.key_layouts = layouts();
    for (Index head = 0; head < kv_heads_; ++head) record(block.key_layout(head), block.keys(head));
    for (Index head = 0; head < kv_heads_ && values > 0 && format_->stores_values(); ++head)
      record(format_->value_layout, block.values(head));
    records_.push_back(block);
    return block;
  }

  template <class Layout>
  void record(const Layout& layout, std::byte* record) {
    const Index bytes = layout.table().scale_bits() / 8;
    reader_.array(record, layout.table().bytes() / bytes, bytes);
    require(layout.table().is_valid(record), "the file has a scale or zero point out of range");
    reader_.array(record + layout.code_offset(), layout.code_bytes(), 1);
  }

  KeyLayouts layouts() {
    return shared(layouts_, "blocks", [&]() -> KeyLayouts {
      std::vector<KeyRecordLayout> layouts;
      for (Index head = 0; head < kv_heads_; ++head) layouts.push_back(key_layout());
      const Rotation rotation = layouts.front().rotation();
      for (const KeyRecordLayout& layout : layouts)
        require(layout.rotation() == rotation, "the file has heads of different rotations");
      KeyLayouts all = std::make_shared<const std::vector<KeyRecordLayout>>(std::move(layouts));
      if (!format_->settings.has_token_scales) return all;
      // Blocks and plans share what is as it is before anything is known.
      std::vector<std::vector<float>> means;
      for (const KeyRecordLayout& layout : *all) means.push_back(layout.value_mean());
      return with_value_means(
          in_units(in_rotation(format_->blank_key_layouts, rotation), units_of(all)), means);
    });
  }

  KeyRecordLayout key_layout() {
    BitAllocation allocation;
    if (reader_.count("ordered", 1) == 1) {
      allocation.order.resize(at(head_dim_));
      reader_.array(allocation.order.data(), head_dim_);
      std::vector<std::uint16_t> sorted = allocation.order;
      std::sort(sorted.begin(), sorted.end());
      for (std::size_t i = 0; i < sorted.size(); ++i)
        require(sorted[i] == i, "the file has an order of channels that is no permutation");
    }
    for (Index i = 0; i < head_dim_; i += 8) {
      const Index bits = reader_.count("bits", 8);
      require(bits >= 1, "the file has channels of 0 bits");
      allocation.bits.push_back(static_cast<std::uint8_t>(bits));
    }
    KeyRecordLayout layout(head_dim_, std::move(allocation), format_->settings);
    const Index code_bytes = format_->blank_key_layout().code_bytes();
    require(layout.code_bytes() == code_bytes, "the file has key records of ", layout.code_bytes(),
            " bytes of codes; those of the cache have ", code_bytes);
    std::vector<Eigen::half> expected(at(layout.expected() == nullptr ? 0 : head_dim_));
    reader_.array(expected.data(), static_cast<Index>(expected.size()));
    RecordUnits units;
    if (version_ > 2) units = {exponent("keys"), exponent("values")};
    layout.set_units(units);
    if (version_ > 2 && reader_.count("has_mean", format_->stores_values() ? 1 : 0) == 1) {
      std::vector<float> mean(at(format_->value_dim()));
      reader_.array(mean.data(), format_->value_dim());
      require(are_within(mean.data(), format_->value_dim(), largest_),
              "the file has a mean of values that is not finite or beyond ", largest_);
      layout.set_value_mean(std::move(mean));
    }
    if (version_ > 3)
      layout.set_rotation(static_cast<Rotation>(reader_.count("rotation", 1)));
    else if (format_->settings.rotates_keys || format_->settings.rotates_values)
      layout.set_rotation(Rotation::plain);
    if (expected.empty()) return layout;
    Eigen::VectorXd midpoints(head_dim_);
    for (Index i = 0; i < head_dim_; ++i) {
      require(is_finite(expected[at(i)]), "the file expects a channel nowhere");
      midpoints[layout.channel_at(i)] =
          static_cast<double>(expected[at(i)]) * layout.template unit<double>();
    }
    layout.set_expected(midpoints);
    return layout;
  }

  std::int8_t exponent(const char* name) {
    const auto exponent = static_cast<std::int64_t>(reader_.number());
    require(RecordUnits::is_valid(exponent), "the file has ", name, " in units of 2^", exponent);
    return static_cast<std::int8_t>(exponent);
  }

  Plan plan() {
    KeyLayouts layouts = this->layouts();
    std::vector<ErrorFeedback<Real>> feedback(at(kv_heads_), blank_feedback());
    for (ErrorFeedback<Real>& one : feedback)
      for (Matrix<Real>* table : one.tables()) {
        reader_.array(table->data(), table->size());
        require(all_finite(*table), "the file has a table of feedback that is not finite");
      }
    KeyPlan<Real> plan{std::move(layouts), std::move(feedback)};
    plan.compress(format_->settings);
    return std::make_shared<const KeyPlan<Real>>(std::move(plan));
  }

  /// Tables of the size that those of the layer have.
  const ErrorFeedback<Real>& blank_feedback() {
    const LayerSettings& settings = format_->settings;
    if (!blank_feedback_ || blank_dim_ != head_dim_)
      blank_feedback_.emplace(QuerySubspace::fit(SecondMoment(head_dim_), settings.subspace_dim,
                                                 settings.lambda, settings.has_normalised_lambda),
                              settings.feedback_step);
    blank_dim_ = head_dim_;
    return *blank_feedback_;
  }

  GatheredQueries directions() {
    const Index count = reader_.count("queries", max_queries);
    const double trace = reader_.real();
    Matrix<float> directions(std::min(format_->settings.subspace_dim, head_dim_), head_dim_);
    reader_.array(directions.data(), directions.size());
    require(is_finite(trace) && trace >= 0 && all_finite(directions),
            "the file has directions of queries that no queries can have");
    return {std::move(directions), trace, count};
  }

  KeyStatistics statistics() {
    const double blocks = reader_.real(), range = 64 * largest_;  // of keys, however rotated
    Eigen::VectorXd squared_ranges(head_dim_), midpoints(head_dim_);
    reader_.array(squared_ranges.data(), head_dim_);
    reader_.array(midpoints.data(), head_dim_);
    require(is_finite(blocks) && all_finite(squared_ranges) && all_finite(midpoints) &&
                blocks >= 0 && blocks <= 0x1p53 && (squared_ranges.array() >= 0).all() &&
                (squared_ranges.array() <= blocks * range * range).all() &&
                (midpoints.array().abs() <= blocks * range).all(),
            "the file has statistics that no keys can have");
    return KeyStatistics(std::move(squared_ranges), std::move(midpoints), blocks);
  }

  /// Appends `rows` rows of keys or values.
  void numbers(TokenRows<Scalar>& rows, Index count) {
    Matrix<Real> numbers(1, rows.numbers());
    const Index settled =
        rows.has_scales() ? reader_.count("settled", rows.can_settle() ? count : 0) : 0;
    for (Index row = 0; row < count; ++row) {
      rows.append_blank(row < settled, std::min(count - row - 1, std::max(row, Index{64})));
      const auto& format = rows.format(row);
      std::byte* const bytes = rows.bytes_of(row);
      reader_.array(bytes, format.numbers(), format.code_size());
      for (Index i = 0; i < format.scales(); ++i)
        format.scales_of(bytes)[i] = static_cast<std::uint16_t>(reader_.count("scale", 0xFFFF));
      for (Index head = 0; head < format.heads(); ++head)
        rows.read(row, head, format.width(), numbers.data() + head * format.width());
      // Rounding adds half a step to the largest number.
      const double largest = rows.has_scales() ? 1.01 * largest_ : largest_;
      require(are_within(numbers.data(), numbers.size(), largest),
              "the file has a key or value that is not finite or beyond ", largest);
    }
  }

  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }

  ByteReader reader_;
  std::optional<ErrorFeedback<Real>> blank_feedback_;
  Index blank_dim_ = 0;
  double largest_;  // magnitude of a key or value
  bool calibrated_;
  Index version_ = SnapshotFormat::version;
  // Of this layer.
  const LayerFormat* format_ = nullptr;
  Index kv_heads_ = 0;
  Index head_dim_ = 0;
  std::vector<TokenBlock> records_;
  std::vector<KeyLayouts> layouts_;
  std::vector<Plan> plans_;
};

}  // namespace squat::detail
