#include "turbo_cache.hpp"

#include <cmath>

#include "dense_attention.hpp"

namespace squat_llama {

TurboCache::TurboCache(const ModelConfig& config, int bits, int threads)
    : HostCache(config, threads),
      codec_(config.head_dim, bits),
      heads_(static_cast<size_t>(config.layers) * static_cast<size_t>(config.kv_heads)) {}

void TurboCache::finish(int64_t tokens) {
  HostCache::finish(tokens);
  size_ += tokens;
}

void TurboCache::clear() {
  heads_.assign(heads_.size(), {});
  size_ = 0;
}

CacheBytes TurboCache::bytes() const {
  CacheBytes bytes;
  const double rows = 2.0 * static_cast<double>(size_) * static_cast<double>(heads_.size());
  bytes.codes = rows * codec_.code_bytes();
  bytes.scales = rows * codec_.norm_bytes();
  bytes.elements = rows * config().head_dim;
  bytes.other = codec_.table_bytes();
  return bytes;
}

void TurboCache::attend(int layer, Rows rows) {
  executor().run(config().kv_heads, [&](squat::Index kv_head) {
    attend_head(heads_[static_cast<size_t>(layer * config().kv_heads + kv_head)], rows, kv_head);
  });
}

void TurboCache::attend_head(Head& head, Rows& rows, squat::Index kv_head) const {
  const squat::Index dim = config().head_dim;
  const squat::Index group = config().query_heads / config().kv_heads;
  const float scale = 1 / std::sqrt(static_cast<float>(dim));
  const squat::Matrix<float>& rotation = codec_.rotation();
  squat::Matrix<float> keys = rows.key.middleCols(kv_head * dim, dim) * rotation;
  squat::Matrix<float> values = rows.value.middleCols(kv_head * dim, dim) * rotation;
  append(keys, head.keys);
  append(values, head.values);
  const bool is_prompt = size_ == 0 && keys.rows() > 1;
  if (!is_prompt) {
    keys = decode(head.keys);
    values = decode(head.values);
  }
  for (squat::Index g = 0; g < group; ++g) {
    const squat::Index column = (kv_head * group + g) * dim;
    const squat::Matrix<float> query = rows.query.middleCols(column, dim) * rotation;
    squat::Matrix<float> mixed(query.rows(), dim);
    dense_attention(query, keys, values, scale, mixed);
    rows.out.middleCols(column, dim).noalias() = mixed * rotation.transpose();
  }
}

void TurboCache::append(const squat::Matrix<float>& rotated,
                        std::vector<std::uint8_t>& rows) const {
  const auto row_bytes = static_cast<size_t>(codec_.row_bytes());
  size_t end = rows.size();
  rows.resize(end + static_cast<size_t>(rotated.rows()) * row_bytes);
  for (squat::Index i = 0; i < rotated.rows(); ++i, end += row_bytes) {
    codec_.encode(rotated.row(i).data(), rows.data() + end);
  }
}

squat::Matrix<float> TurboCache::decode(const std::vector<std::uint8_t>& rows) const {
  const squat::Index row_bytes = codec_.row_bytes();
  squat::Matrix<float> decoded(static_cast<squat::Index>(rows.size()) / row_bytes,
                               config().head_dim);
  for (squat::Index i = 0; i < decoded.rows(); ++i) {
    codec_.decode(rows.data() + i * row_bytes, decoded.row(i).data());
  }
  return decoded;
}

}  // namespace squat_llama
