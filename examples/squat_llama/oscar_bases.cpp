#include "oscar_bases.hpp"

#include <squat/error.hpp>

#include "attention_states.hpp"
#include "oscar_codec.hpp"

namespace squat_llama {
namespace {

using squat::Index;

/// What the bases of a layer are the eigenvectors of, by kv head.
struct Moments {
  std::vector<squat::Matrix<double>> queries, values;

  explicit Moments(const squat::LayerShape& shape) {
    for (Index head = 0; head < shape.kv_heads; ++head) {
      queries.emplace_back(squat::Matrix<double>::Zero(shape.head_dim, shape.head_dim));
      values.emplace_back(
          squat::Matrix<double>::Zero(shape.own_value_width(), shape.own_value_width()));
    }
  }

  void add(const squat::LayerShape& shape, const LayerStates& states) {
    const Index dim = shape.head_dim, value_dim = shape.own_value_width();
    for (Index head = 0; head < shape.kv_heads; ++head) {
      squat::Matrix<double> of_text = squat::Matrix<double>::Zero(dim, dim);
      for (Index group = 0; group < shape.heads_per_kv(); ++group) {
        const squat::Matrix<double> q =
            states.queries.middleCols((head * shape.heads_per_kv() + group) * dim, dim)
                .cast<double>();
        of_text += q.transpose() * q;
      }
      const auto at = static_cast<std::size_t>(head);
      queries[at] += of_text;
      const squat::Matrix<double> k = states.keys.middleCols(head * dim, dim).cast<double>();
      const squat::Matrix<double> v =
          states.values.middleCols(head * value_dim, value_dim).cast<double>();
      const Eigen::VectorXd weights = (k * of_text).cwiseProduct(k).rowwise().sum();
      // Each text has the weight of its tokens.
      values[at] += static_cast<double>(k.rows()) / weights.sum() *
                    (v.transpose() * weights.asDiagonal() * v);
    }
  }
};

}  // namespace

std::vector<OscarBases> fit_oscar_bases(const Model& model, const squat::ModelShape& shape,
                                        const std::vector<std::vector<Token>>& texts) {
  squat::require(!texts.empty(), "oscar needs texts to fit its bases on (--calibration-text FILE)");
  std::vector<Moments> moments;
  for (Index layer = 0; layer < shape.layers; ++layer) moments.emplace_back(shape.layer(layer));
  for (const std::vector<Token>& text : texts)
    for_each_layer(model, text, [&](int layer, const LayerStates& states) {
      moments[static_cast<std::size_t>(layer)].add(shape.layer(layer), states);
    });
  std::vector<OscarBases> bases;
  for (const Moments& layer : moments) {
    OscarBases& own = bases.emplace_back();
    for (const auto& moment : layer.queries) own.keys.push_back(oscar_rotation(moment));
    for (const auto& moment : layer.values) own.values.push_back(oscar_rotation(moment));
  }
  return bases;
}

}  // namespace squat_llama
