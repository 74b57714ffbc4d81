// A SQuat cache in the loop of an engine that projects queries, keys and values into one buffer.
#include <iostream>
#include <random>
#include <vector>

// README begins
#include <squat/squat.hpp>

using Buffer = Eigen::Map<squat::Matrix<float>, 0, Eigen::OuterStride<>>;

template <class Engine>
void generate(Engine& engine, squat::SQuatCache<float, 2>& cache, squat::Index prompt_tokens) {
  const squat::ModelShape& shape = cache.shape();
  const squat::Index q_width = shape.query_heads * shape.head_dim;
  const squat::Index kv_width = shape.kv_heads * shape.head_dim;
  const Eigen::OuterStride<> row(q_width + 2 * kv_width);  // of one token, in floats
  for (squat::Index tokens = prompt_tokens; tokens > 0; tokens = engine.next_tokens()) {
    for (squat::Index layer = 0; layer < shape.layers; ++layer) {
      float* qkv = engine.project(layer, tokens);  // queries and keys with positions applied
      const Buffer queries(qkv, tokens, q_width, row);
      const Buffer keys(qkv + q_width, tokens, kv_width, row);
      const Buffer values(qkv + q_width + kv_width, tokens, kv_width, row);
      Buffer out(engine.attention_output(), tokens, q_width, Eigen::OuterStride<>(q_width));
      cache.attention(layer, squat::Queries(queries), squat::Keys(keys), squat::Values(values),
                      out);  // append, attend, quantize
    }
  }
}
// README ends

namespace {

/// Stands for a model: projects noise, and stops after a few tokens.
class Noise {
 public:
  explicit Noise(const squat::ModelShape& shape) : shape_(shape) {}

  float* project(squat::Index /*layer*/, squat::Index tokens) {
    const squat::Index heads = shape_.query_heads + 2 * shape_.kv_heads;
    qkv_.resize(static_cast<std::size_t>(tokens * heads * shape_.head_dim));
    out_.resize(static_cast<std::size_t>(tokens * shape_.query_heads * shape_.head_dim));
    for (float& x : qkv_) x = normal_(generator_);
    return qkv_.data();
  }
  float* attention_output() { return out_.data(); }
  squat::Index next_tokens() { return left_-- > 0 ? 1 : 0; }

 private:
  squat::ModelShape shape_;
  std::mt19937 generator_{1};
  std::normal_distribution<float> normal_;
  std::vector<float> qkv_, out_;
  int left_ = 100;
};

}  // namespace

int main() {
  const squat::ModelShape shape{/*layers=*/2, /*query_heads=*/8, /*kv_heads=*/2, /*head_dim=*/64};
  squat::SQuatCache<float, 2> cache(shape);
  Noise engine(shape);
  generate(engine, cache, /*prompt_tokens=*/256);
  std::cout << cache.size(0) << " tokens in " << cache.memory().total() << " bytes\n";
}
