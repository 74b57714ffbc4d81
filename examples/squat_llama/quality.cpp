#include "quality.hpp"

#include <algorithm>
#include <cmath>

namespace squat_llama {

Eigen::VectorXd log_softmax(const Eigen::Ref<const Eigen::VectorXf>& logits) {
  const Eigen::ArrayXd shifted = logits.cast<double>().array() - logits.maxCoeff();
  return shifted - std::log(shifted.exp().sum());
}

void Quality::add(const Eigen::Ref<const Eigen::VectorXf>& expected,
                  const Eigen::Ref<const Eigen::VectorXf>& actual, int next) {
  const Eigen::VectorXd log_p = log_softmax(expected);
  const Eigen::VectorXd log_q = log_softmax(actual);
  divergences_.push_back((log_p.array().exp() * (log_p - log_q).array()).sum());
  Eigen::Index likeliest_p = 0, likeliest_q = 0;
  expected.maxCoeff(&likeliest_p);
  actual.maxCoeff(&likeliest_q);
  agreements_ += likeliest_p == likeliest_q ? 1 : 0;
  loss_ -= log_q[next];
  expected_loss_ -= log_p[next];
}

Quality& Quality::operator+=(const Quality& other) {
  divergences_.insert(divergences_.end(), other.divergences_.begin(), other.divergences_.end());
  agreements_ += other.agreements_;
  loss_ += other.loss_;
  expected_loss_ += other.expected_loss_;
  return *this;
}

double Quality::mean_divergence() const {
  double sum = 0;
  for (const double divergence : divergences_) sum += divergence;
  return sum / count();
}

std::array<double, 4> Quality::mean_divergence_by_quarter(int window) const {
  std::array<double, 4> sums{}, counts{};
  const std::size_t length = static_cast<std::size_t>(window);
  for (std::size_t i = 0; i < divergences_.size(); ++i) {
    const std::size_t quarter = i % length * 4 / length;
    sums[quarter] += divergences_[i];
    counts[quarter] += 1;
  }
  for (std::size_t quarter = 0; quarter < 4; ++quarter)
    sums[quarter] /= std::max(counts[quarter], 1.0);
  return sums;
}

double Quality::divergence_at(double quantile) const {
  std::vector<double> sorted = divergences_;
  std::sort(sorted.begin(), sorted.end());
  const double at = std::clamp(quantile * count(), 0.0, count() - 1);
  return sorted[static_cast<std::size_t>(at)];
}

double Quality::top1_agreement() const { return agreements_ / count(); }
double Quality::perplexity() const { return std::exp(loss_ / count()); }
double Quality::expected_perplexity() const { return std::exp(expected_loss_ / count()); }

}  // namespace squat_llama
