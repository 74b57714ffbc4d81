// A cache out of a file, which nobody vouches for.
#pragma once

#include <squat/snapshot.hpp>

namespace squat {

/// Reads a file of a given shape and configuration, part by part, as SnapshotFormat has it. Every
/// part fails on what no cache can have written, and needs no more memory than what has been read
/// justifies: that of 32 rows of records, or of twice the tokens so far, ahead at most.
template <class Scalar>
class SnapshotReader {
 public:
  using Real = ComputeType<Scalar>;

  using Blocks = std::shared_ptr<const std::vector<KeyBlock>>;

  SnapshotReader(std::istream& in, const ModelShape& shape, const Config& config, Index sequences)
      : reader_(in),
        kv_heads_(shape.kv_heads),
        head_dim_(shape.head_dim),
        cache_config_(config),
        blank_feedback_(QuerySubspace::fit(SecondMoment(head_dim_), config.subspace_dim,
                                           config.squat_lambda, config.normalised_lambda),
                        config.quant_group_size),
        largest_(largest_storable(config.scale_bits)) {
    SnapshotFormat::Word magic, scalar;
    reader_.array(magic.data(), 8);
    require(magic == SnapshotFormat::magic,
            "the file does not begin with SQUATKV1: it holds no cache of this version");
    reader_.array(scalar.data(), 8);
    const auto name = [](const SnapshotFormat::Word& word) {
      return std::string(word.begin(), std::find(word.begin(), word.end(), '\0'));
    };
    require(scalar == SnapshotFormat::scalar<Scalar>(), "the file has Scalar = ", name(scalar),
            "; the cache has ", name(SnapshotFormat::scalar<Scalar>()));
    check_fields(reader_, shape, config);
    const std::uint64_t found = reader_.number();
    require(found == static_cast<std::uint64_t>(sequences), "the file has sequences = ", found,
            "; it must be ", sequences);
    calibrated_ = reader_.count("calibrated", 1) == 1;
  }

  bool calibrated() const { return calibrated_; }

  /// `even_blocks` are those of keys of the layer of which nothing is known.
  void begin_layer(Index layer, Blocks even_blocks) {
    config_ = cache_config_.of_layer(layer);
    even_blocks_ = std::move(even_blocks);
    records_.clear();
    blocks_.clear();
    plans_.clear();
  }

  /// Fills `layer`, which is empty.
  void tokens(LayerCache<Scalar>& layer) {
    const Index width = kv_heads_ * head_dim_;
    typename LayerCache<Scalar>::Contents contents(kv_heads_, head_dim_, even_blocks_->front(),
                                                   layer.value_block());
    const Index dropped = contents.dropped =
        reader_.count("dropped", layer.has_window() ? most : 0);
    contents.dropped_valid = reader_.count("dropped_valid", dropped);
    const Index rows = reader_.count("rows", most), values = reader_.count("values", most);
    const Index residual = reader_.count("residual", most);
    const Index exact = reader_.count("exact", config_.exact_tokens);
    Index packed = 0;
    for (Index r = 0; r < rows; ++r)
      packed +=
          row(contents.rows, layer.value_block(), rows - r, std::max(values - packed, Index{0}))
              .tokens;
    require(values <= packed, "the file has values = ", values, "; its rows have ", packed,
            " tokens");
    for (Index first = 0; first < residual; first += 64) {
      const std::uint64_t word = reader_.number();
      const Index count = std::min(Index{64}, residual - first);
      contents.valid.reserve(std::max(contents.valid.size(), count));
      std::uint8_t* valid = contents.valid.append(count);
      for (Index i = 0; i < count; ++i) valid[i] = word >> i & 1;
    }
    numbers(contents.keys, residual, width);
    numbers(contents.values, packed + residual - values, width);
    const Index size = dropped + packed + residual;
    require(exact <= size, "the file has exact = ", exact, "; there are ", size, " tokens");
    contents.exact.positions.reserve(exact);
    for (Index i = 0, least = 0; i < exact; ++i) {
      const Index position = reader_.count("position", size - 1);
      require(position >= least, "the file has exact tokens whose positions do not ascend");
      *contents.exact.positions.append(1) = position;
      least = position + 1;
    }
    numbers(contents.exact.keys, exact, width);
    numbers(contents.exact.values, exact, width);
    layer.restore(std::move(contents));
    require(size >= layer.least_size(), "the file has size = ", size, " and dropped = ", dropped,
            "; the window asks for a size of ", layer.least_size());
    const Index exact_dropped = layer.exact().before(dropped);
    require(exact_dropped <= layer.dropped_valid(),
            "the file has dropped_valid = ", layer.dropped_valid(), "; ", exact_dropped,
            " exact tokens are dropped");
    for (Index i = exact_dropped; i < exact; ++i)
      require(layer.is_valid(layer.exact().position(i)),
              "the file has an exact token that is padding");
  }

  /// Null where there is none.
  std::unique_ptr<KeyFit<Scalar>> fit() {
    const Index parts = reader_.count("parts", 15);
    if (parts == 0) return nullptr;
    // What keys are quantized with must be there, or follow.
    require((parts & SnapshotFormat::fit) != 0 &&
                (parts & (SnapshotFormat::moments | SnapshotFormat::plan)) != 0,
            "the file has parts = ", parts, " of a fit, which are not enough");
    auto fit = std::make_unique<KeyFit<Scalar>>();
    for (Index head = 0; head < kv_heads_ && (parts & SnapshotFormat::moments) != 0; ++head)
      fit->moments.push_back(read_moment(reader_, head_dim_));
    for (Index head = 0; head < kv_heads_ && (parts & SnapshotFormat::statistics) != 0; ++head)
      fit->statistics.push_back(statistics());
    if ((parts & SnapshotFormat::plan) != 0)
      fit->plan = shared(plans_, "plan", [&] { return plan(); });
    return fit;
  }

  void finish() { reader_.finish(); }

 private:
  using Plan = std::shared_ptr<const KeyPlan<Scalar>>;

  static constexpr Index most = Index{1} << 40;  // what no file reaches, and no product exceeds

  /// The thing whose number follows: one of `known`, or what read() returns.
  template <class Thing, class Read>
  const Thing& shared(std::vector<Thing>& known, const char* name, const Read& read) {
    const Index count = static_cast<Index>(known.size()), number = reader_.count(name, count);
    if (number == count) known.push_back(read());
    return known[static_cast<std::size_t>(number)];
  }

  /// The next row, the first of `coming`, of whose tokens `values` at most have packed values.
  const BlockRow& row(BlockRows& rows, const ValueBlock& value_block, Index coming, Index values) {
    const Index tokens = reader_.count("tokens", config_.token_group_size);
    require(tokens >= 1, "the file has a row without tokens");
    require(coming == 1 || config_.key_scales == KeyScales::per_channel ||
                tokens == config_.token_group_size,
            "the file has a row of ", tokens, " tokens before the last one");
    std::uint64_t valid[BlockRow::max_tokens / 64];
    reader_.array(valid, (tokens + 63) / 64);
    const Index known = static_cast<Index>(records_.size());
    const Index number = reader_.count("records", known);
    BlockRow& row = number < known ? rows.share(records_[at(number)]) : rows.add(coming);
    row.tokens = static_cast<std::int32_t>(tokens);
    row.value_tokens = static_cast<std::int32_t>(std::min(tokens, values));
    for (Index token = 0; token < tokens; ++token)
      row.set_valid(token, (valid[token / 64] >> (token % 64) & 1) != 0);
    if (number < known) return row;
    row.key_blocks = blocks();
    for (Index head = 0; head < kv_heads_; ++head) record(row.key_block(head), row.keys(head));
    for (Index head = 0; head < kv_heads_ && values > 0; ++head)
      record(value_block, row.values(head));
    records_.push_back(row);
    return row;
  }

  template <class Block>
  void record(const Block& block, std::byte* record) {
    const Index bytes = block.table().scale_bits() / 8;
    reader_.array(record, block.table().bytes() / bytes, bytes);
    require(block.table().is_valid(record), "the file has a scale or zero point out of range");
    reader_.array(record + block.code_offset(), block.code_bytes(), 1);
  }

  Blocks blocks() {
    return shared(blocks_, "blocks", [&]() -> Blocks {
      std::vector<KeyBlock> blocks;
      for (Index head = 0; head < kv_heads_; ++head) blocks.push_back(key_block());
      // With scales per token there is but one kind, which rows and plans of a cache share.
      if (config_.key_scales == KeyScales::per_token) return even_blocks_;
      return std::make_shared<const std::vector<KeyBlock>>(std::move(blocks));
    });
  }

  KeyBlock key_block() {
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
    KeyBlock block(head_dim_, std::move(allocation), config_);
    const Index code_bytes = even_blocks_->front().code_bytes();
    require(block.code_bytes() == code_bytes, "the file has key records of ", block.code_bytes(),
            " bytes of codes; those of the cache have ", code_bytes);
    if (block.expected() == nullptr) return block;
    std::vector<Eigen::half> expected(at(head_dim_));
    reader_.array(expected.data(), head_dim_);
    Eigen::VectorXd middles(head_dim_);
    for (Index i = 0; i < head_dim_; ++i) {
      require((Eigen::numext::isfinite)(expected[at(i)]), "the file expects a channel nowhere");
      middles[block.channel_at(i)] = static_cast<double>(expected[at(i)]);
    }
    block.set_expected(middles);
    return block;
  }

  Plan plan() {
    Blocks blocks = this->blocks();
    std::vector<ErrorFeedback<Real>> feedback(at(kv_heads_), blank_feedback_);
    for (ErrorFeedback<Real>& one : feedback)
      for (Matrix<Real>* table : one.tables()) {
        reader_.array(table->data(), table->size());
        require(table->allFinite(), "the file has a table of feedback that is not finite");
      }
    return std::make_shared<const KeyPlan<Scalar>>(std::move(blocks), std::move(feedback), config_);
  }

  KeyStatistics statistics() {
    const double blocks = reader_.real(), range = 64 * largest_;  // of keys, however rotated
    Eigen::VectorXd squared_ranges(head_dim_), middles(head_dim_);
    reader_.array(squared_ranges.data(), head_dim_);
    reader_.array(middles.data(), head_dim_);
    require(blocks >= 0 && blocks <= 0x1p53 && (squared_ranges.array() >= 0).all() &&
                (squared_ranges.array() <= blocks * range * range).all() &&
                (middles.array().abs() <= blocks * range).all(),
            "the file has statistics that no keys can have");
    return KeyStatistics(std::move(squared_ranges), std::move(middles), blocks);
  }

  /// Appends `rows` rows of keys or values.
  void numbers(TokenBuffer<Scalar>& buffer, Index rows, Index width) {
    while (buffer.size() < rows) {
      const Index count = std::min(rows - buffer.size(), std::max(buffer.size(), Index{64}));
      buffer.reserve(count);
      Scalar* data = buffer.append(count);
      reader_.array(data, count * width);
      const Eigen::Map<const Matrix<Scalar>> block(data, count, width);
      require((block.template cast<Real>().array().abs() <= static_cast<Real>(largest_)).all(),
              "the file has a key or value that is not finite or beyond ", largest_);
    }
  }

  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }

  ByteReader reader_;
  Index kv_heads_;
  Index head_dim_;
  Config cache_config_;
  ErrorFeedback<Real> blank_feedback_;
  double largest_;  // magnitude of a key or value
  bool calibrated_;
  // Of this layer.
  Config config_;
  Blocks even_blocks_;
  std::vector<BlockRow> records_;
  std::vector<Blocks> blocks_;
  std::vector<Plan> plans_;
};

}  // namespace squat
