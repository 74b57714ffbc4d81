// How far a quantized cache moves what a model predicts.
#pragma once

#include <array>
#include <squat/matrix.hpp>
#include <vector>

namespace squat_llama {

/// Log-probabilities of logits [vocabulary].
Eigen::VectorXd log_softmax(const Eigen::Ref<const Eigen::VectorXf>& logits);

/// What was seen over a number of tokens.
class Quality {
 public:
  /// `expected` and `actual` are logits [vocabulary] for the token after which `next` comes.
  void add(const Eigen::Ref<const Eigen::VectorXf>& expected,
           const Eigen::Ref<const Eigen::VectorXf>& actual, int next);
  /// Joins what was seen elsewhere.
  Quality& operator+=(const Quality& other);

  double count() const { return static_cast<double>(divergences_.size()); }  ///< tokens seen
  const std::vector<double>& divergences() const { return divergences_; }    ///< of each token
  double mean_divergence() const;               ///< mean of KL(expected || actual), in nats
  double divergence_at(double quantile) const;  ///< 0.99: what one token in a hundred exceeds
  /// Means over four parts of windows of `window` tokens, first to last: whether errors add up.
  std::array<double, 4> mean_divergence_by_quarter(int window) const;
  double top1_agreement() const;       ///< share of tokens with the same likeliest next token
  double perplexity() const;           ///< of the actual predictions
  double expected_perplexity() const;  ///< of the expected ones

 private:
  std::vector<double> divergences_;
  double agreements_ = 0;
  double loss_ = 0;
  double expected_loss_ = 0;
};

}  // namespace squat_llama
