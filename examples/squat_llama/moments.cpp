#include "moments.hpp"

#include "attention_states.hpp"
#include "squat_session.hpp"

namespace squat_llama {

squat::QueryMoments empty_moments(const Model& model) {
  return squat::QueryMoments(attention_shape(model));
}

void add_moments(const Model& model, const std::vector<Token>& tokens,
                 squat::QueryMoments& moments) {
  for_each_layer(model, tokens, [&](int layer, const LayerStates& states) {
    moments.add<float>(layer, states.queries);
  });
}

}  // namespace squat_llama
