// What SQuatCache should hold, in the plainest way: one row of numbers a token.
#pragma once

#include <algorithm>
#include <squat/detail/encoding/key_quantizer.hpp>
#include <squat/detail/encoding/value_quantizer.hpp>
#include <squat/detail/plan/gathered_queries.hpp>
#include <squat/options.hpp>
#include <utility>
#include <vector>

#include "round_trip.hpp"

namespace squat::testing {

using namespace detail;

/// The subspace of one layer and whose queries it was fitted on.
template <class Scalar>
struct ReferenceFit {
  Index sequence = -1;
  std::vector<GatheredQueries> queries;                      // empty once the prompt is over
  std::vector<ErrorFeedback<ComputeType<Scalar>>> feedback;  // empty until keys leave
};

/// One layer of one sequence.
template <class Scalar, int KeyBits, int ValueBits>
class ReferenceLayer {
 public:
  using Real = ComputeType<Scalar>;
  using Feedback = std::vector<ErrorFeedback<Real>>;

  ReferenceLayer(const ModelShape& shape, const Config& config)
      : shape_(shape),
        config_(config),
        keys_(0, shape.kv_heads * shape.head_dim),
        values_(0, shape.kv_heads * shape.head_dim) {}

  Index size() const { return keys_.rows(); }
  const Matrix<Scalar>& keys() const { return keys_; }
  const Matrix<Scalar>& values() const { return values_; }
  const std::vector<std::uint8_t>& valid() const { return valid_; }
  bool has_valid() const { return std::count(valid_.begin(), valid_.end(), 1) > 0; }
  Index quantized_keys() const { return quantized_keys_; }
  Index quantized_values() const { return quantized_values_; }
  bool has_leaving_keys() const {
    const Index least = config_.residual_length + (config_.key_scales == KeyScales::per_token);
    return size() - quantized_keys_ >= least;
  }

  void append(const Matrix<Scalar>& keys, const Matrix<Scalar>& values,
              const std::vector<std::uint8_t>& mask) {
    keys_.conservativeResize(size() + keys.rows(), Eigen::NoChange);
    values_.conservativeResize(size(), Eigen::NoChange);
    keys_.bottomRows(keys.rows()) = keys;
    values_.bottomRows(keys.rows()) = values;
    for (Index i = 0; i < keys.rows(); ++i) {
      valid_.push_back(mask.empty() || mask[at(i)] != 0);
      if (valid_.back()) continue;
      keys_.row(size() - keys.rows() + i).setZero();
      values_.row(size() - keys.rows() + i).setZero();
    }
  }

  /// Keys leave residual_length at once, in blocks of token_group_size, or if they roll one such
  /// block; values, and keys with scales per token, one by one while residual_length newer ones are
  /// there.
  void flush(const Feedback& feedback) {
    const bool per_token = config_.key_scales == KeyScales::per_token;
    while (per_token && size() - quantized_keys_ > config_.residual_length)
      quantize_keys(feedback, 1);
    while (!per_token && size() - quantized_keys_ >= config_.residual_length)
      for (Index end = quantized_keys_ + (config_.rolling_residual ? config_.token_group_size
                                                                   : config_.residual_length);
           quantized_keys_ < end;)
        quantize_keys(feedback, config_.token_group_size);
    while (size() - quantized_values_ > config_.residual_length) quantize_value();
  }

  void truncate(Index size) {
    keys_.conservativeResize(size, Eigen::NoChange);
    values_.conservativeResize(size, Eigen::NoChange);
    valid_.resize(at(size));
    quantized_keys_ = std::min(quantized_keys_, size);
    quantized_values_ = std::min(quantized_values_, size);
  }

 private:
  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }

  void quantize_keys(const Feedback& feedback, Index tokens) {
    const KeyQuantizer<Scalar> quantizer(shape_.head_dim, KeyBits, config_);
    const Index first = quantized_keys_;
    const Mask mask(valid_.data() + first, tokens);
    Record record(quantizer.block().bytes());
    Matrix<Real> decoded(tokens, shape_.head_dim);
    for (Index head = 0; head < shape_.kv_heads; ++head) {
      auto keys = keys_.block(first, head * shape_.head_dim, tokens, shape_.head_dim);
      quantizer.quantize(keys, feedback[at(head)], record.data(), mask);
      quantizer.block().dequantize(record.data(), tokens, decoded.data());
      for (Index token = 0; token < tokens; ++token)
        if (mask[token]) keys.row(token) = decoded.row(token).template cast<Scalar>();
    }
    quantized_keys_ += tokens;
  }

  void quantize_value() {
    const ValueQuantizer<Scalar> quantizer(shape_.head_dim, ValueBits, config_);
    Record record(quantizer.block().bytes());
    Matrix<Real> decoded(1, shape_.head_dim);
    for (Index head = 0; head < shape_.kv_heads; ++head) {
      auto value = values_.row(quantized_values_).segment(head * shape_.head_dim, shape_.head_dim);
      quantizer.quantize(value.data(), record.data(), 0);
      quantizer.block().dequantize(record.data(), 1, decoded.data());
      if (valid_[at(quantized_values_)]) value = decoded.row(0).template cast<Scalar>();
    }
    ++quantized_values_;
  }

  ModelShape shape_;
  Config config_;
  Matrix<Scalar> keys_, values_;  // [tokens, kv_heads * head_dim], as attention sees them
  std::vector<std::uint8_t> valid_;
  Index quantized_keys_ = 0, quantized_values_ = 0;
};

/// Every layer of every sequence.
template <class Scalar, int KeyBits, int ValueBits>
class ReferenceCache {
 public:
  using Layer = ReferenceLayer<Scalar, KeyBits, ValueBits>;
  using Fit = ReferenceFit<Scalar>;

  ReferenceCache(const ModelShape& shape, const Config& config, Index sequences)
      : shape_(shape), config_(config), sequences_(sequences) {
    clear();
  }

  Layer& layer(Index layer, Index sequence) {
    return layers_[static_cast<std::size_t>(layer * sequences_ + sequence)];
  }

  void update(Index layer_index, Index sequence, const Matrix<Scalar>& keys,
              const Matrix<Scalar>& values, const Matrix<Scalar>& queries,
              const std::vector<std::uint8_t>& mask, FitQueries which) {
    Layer& target = layer(layer_index, sequence);
    Fit& fit = this->fit(layer_index, sequence);
    flush(layer_index, sequence);
    // The prompt of whoever comes first; the same sequence again once it has been emptied.
    if (fit.sequence == -1 || fit.sequence == sequence) {
      const bool is_over = which == FitQueries::first_update || gathered(fit) >= 1024;
      if (!target.has_valid())
        refit(Fit{}, fit, sequence, queries, mask, which);
      else if (is_over && !fit.feedback.empty())
        fit.queries.clear();
      else if (which == FitQueries::accumulate && !fit.queries.empty())
        refit(fit, fit, sequence, queries, mask, which);
    }
    target.append(keys, values, mask);
  }

  void flush(Index layer_index, Index sequence) {
    Fit& fit = this->fit(layer_index, sequence);
    if (fit.feedback.empty() && layer(layer_index, sequence).has_leaving_keys())
      for (const GatheredQueries& head : fit.queries) {
        const QuerySubspace subspace = head.subspace(LayerSettings(config_));
        fit.feedback.emplace_back(config_.rotate_keys ? subspace.rotated() : subspace,
                                  config_.quant_group_size);
        // Keys that leave in blocks go by what is kept, a rounded Qhat.
        if (config_.key_scales == KeyScales::per_channel) fit.feedback.back().compress();
        if (fit.feedback.back().is_compressed())
          fit.feedback.back() = fit.feedback.back().expanded();
      }
    const bool is_last =
        !fit.queries.empty() && (fit.queries.front().has_directions() || gathered(fit) >= 1024);
    if (is_last && !fit.feedback.empty()) fit.queries.clear();
    const typename Layer::Feedback none(static_cast<std::size_t>(shape_.kv_heads),
                                        ErrorFeedback<ComputeType<Scalar>>(shape_.head_dim));
    layer(layer_index, sequence).flush(fit.feedback.empty() ? none : fit.feedback);
  }

  void fork(Index from, Index to) {
    for (Index l = 0; l < shape_.layers; ++l) {
      layer(l, to) = Layer(layer(l, from));
      if (config_.shared_svd) continue;
      fit(l, to) = Fit(fit(l, from));
      if (fit(l, to).sequence != -1) fit(l, to).sequence = to;
    }
  }

  void clear() {
    layers_.assign(static_cast<std::size_t>(shape_.layers * sequences_), Layer(shape_, config_));
    fits_.assign(layers_.size(), Fit());
  }

 private:
  Fit& fit(Index layer, Index sequence) {
    return fits_[static_cast<std::size_t>(layer * sequences_ +
                                          (config_.shared_svd ? 0 : sequence))];
  }

  /// Tokens whose queries are in the moments.
  Index gathered(const Fit& fit) const {
    return fit.queries.empty() ? 0 : fit.queries.front().count() / shape_.heads_per_kv();
  }

  /// fit = `before` with the queries of valid tokens taken in; as it was if there are none. Its
  /// feedback serves until the tokens pass a power of two.
  void refit(Fit before, Fit& fit, Index sequence, const Matrix<Scalar>& queries,
             const std::vector<std::uint8_t>& mask, FitQueries which) {
    Index power = 1;
    while (power <= gathered(before)) power *= 2;
    if (before.queries.empty())
      before.queries.assign(static_cast<std::size_t>(shape_.kv_heads),
                            GatheredQueries(shape_.head_dim));
    const Index d = shape_.head_dim;
    std::vector<SecondMoment> moments(static_cast<std::size_t>(shape_.kv_heads), SecondMoment(d));
    for (Index head = 0; head < shape_.query_heads; ++head)
      moments[static_cast<std::size_t>(head / shape_.heads_per_kv())].template add<Scalar>(
          queries.middleCols(head * d, d), mask);
    for (std::size_t head = 0; head < moments.size(); ++head)
      before.queries[head].add(moments[head]);
    if (before.queries.front().count() == 0) return;
    if (which == FitQueries::first_update)
      for (GatheredQueries& head : before.queries) head.keep_leading(LayerSettings(config_));
    before.sequence = sequence;
    if (gathered(before) >= power) before.feedback.clear();
    fit = std::move(before);
  }

  ModelShape shape_;
  Config config_;
  Index sequences_;
  std::vector<Layer> layers_;  // [layers, sequences]
  std::vector<Fit> fits_;      // [layers, sequences]; shared_svd: those of sequence 0
};

}  // namespace squat::testing
