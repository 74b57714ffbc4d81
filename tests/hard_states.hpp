// Queries, keys and values of the kinds that break quantizers, made from those of a real layer.
#pragma once

#include <string>
#include <vector>

#include "layer20.hpp"
#include "random_matrix.hpp"
#include "rotated.hpp"

namespace squat::testing {

/// One layer's states of a text, a row a token: the first 768 tokens of layer 20 of
/// SmolLM2-135M-Instruct, changed in one way. The first 512 are the prompt.
struct HardStates {
  static constexpr Index head_dim = 64, kv_heads = 3, query_heads = 9;
  static constexpr Index tokens = 768, prompt = 512;

  std::string name = "ordinary";
  Matrix<float> queries = layer20('q').topRows(tokens);  // [tokens, query_heads * head_dim]
  Matrix<float> keys = layer20('k').topRows(tokens);     // [tokens, kv_heads * head_dim]
  Matrix<float> values = layer20('v').topRows(tokens);   // [tokens, kv_heads * head_dim]
  /// Queries or keys after the prompt are of another kind: caches let the metric follow them.
  bool changes_after_prompt = false;

  /// RoPE of the model.
  static ModelShape shape() {
    ModelShape shape{1, query_heads, kv_heads, head_dim};
    shape.rope.pairing = RopePairing::interleaved;
    shape.rope.base = 100000;
    shape.rope.is_applied = true;
    return shape;
  }

  /// Qwen2.5: the key projection has a bias of 100 to 400 in a few channels, before RoPE. They turn
  /// slowly, and queries have little in them.
  static HardStates key_bias() {
    HardStates states;
    states.name = "key bias";
    const std::vector<std::pair<Index, float>> biases = {
        {46, 100.0f}, {50, -160.0f}, {51, 250.0f}, {61, 400.0f}};
    Matrix<float> bias = Matrix<float>::Zero(tokens, kv_heads * head_dim);
    for (const auto& [channel, size] : biases) {
      for (Index head = 0; head < kv_heads; ++head)
        bias.col(head * head_dim + channel).setConstant(head == 0 ? size : -size);
      for (Index head = 0; head < query_heads; ++head)
        states.queries.middleCols(head * head_dim + channel / 2 * 2, 2) *= 0.02f;
    }
    states.keys += rotated(shape(), bias).cast<float>();
    return states;
  }

  /// Massive activations: a few tokens, delimiters for example, have two channels of keys many
  /// times as large as others, and next to no value. Two channels of all values are large.
  static HardStates massive_activations() {
    HardStates states;
    states.name = "massive activations";
    for (Index head = 0; head < kv_heads; ++head) {
      const Index first = head * head_dim;
      for (const Index token : {40, 41, 300, 600}) {
        states.keys(token, first + 5) += 60;
        states.keys(token, first + 37) -= 90;
        states.values.row(token).segment(first, head_dim) *= 0.01f;
      }
      states.values.col(first + 11) *= 50;
      states.values.col(first + 50).array() += 80;
    }
    for (Index head = 0; head < query_heads; ++head) {  // so that they get a part of the attention
      states.queries.col(head * head_dim + 5).array() += 0.2f;
      states.queries.col(head * head_dim + 37).array() -= 0.2f;
    }
    return states;
  }

  /// Attention sinks inside the text: keys of a few tokens are small, and where queries look for
  /// nothing they look at them. All others are pushed away by two channels.
  static HardStates sinks_inside() {
    HardStates states;
    states.name = "sinks inside the text";
    for (Index token = 1; token < tokens; ++token) {
      const bool is_sink = token % 131 == 40;
      if (is_sink) states.keys.row(token) *= 0.2f;
      for (Index head = 0; head < kv_heads && !is_sink; ++head) {
        states.keys(token, head * head_dim + 46) += 12;
        states.keys(token, head * head_dim + 61) -= 12;
      }
    }
    for (Index head = 0; head < query_heads; ++head) {
      states.queries.col(head * head_dim + 46).array() -= 1.5f;
      states.queries.col(head * head_dim + 61).array() += 1.5f;
    }
    return states;
  }

  /// A quarter of the channels of keys and values never change, at zero and elsewhere, and the
  /// values of one head are zero.
  static HardStates constant_channels() {
    HardStates states;
    states.name = "constant channels";
    for (Index channel = 0; channel < head_dim; channel += 4) {
      const float elsewhere = channel % 8 == 0 ? 0 : 3 + static_cast<float>(channel);
      states.keys.col(channel).setConstant(elsewhere);
      states.keys.col(head_dim + channel).setZero();
      states.values.col(channel + 1).setConstant(elsewhere / -8);
    }
    states.values.rightCols(head_dim).setZero();
    return states;
  }

  /// The size of keys, but for that of the sink, changes by a factor of a hundred along the text.
  static HardStates changing_keys(bool grow) {
    HardStates states;
    states.name = grow ? "growing keys" : "shrinking keys";
    for (Index token = 1; token < tokens; ++token) {
      const float share = static_cast<float>(token) / static_cast<float>(tokens);
      states.keys.row(token) *= grow ? 0.1f * std::pow(100.0f, share) : 10 * std::pow(0.01f, share);
    }
    states.queries *= 0.2f;
    return states;
  }

  /// The prompt is one token over and over, as far as keys are concerned without RoPE or with it.
  /// Then comes a text.
  static HardStates repeated_token(bool turns) {
    HardStates states;
    states.name = turns ? "repeated token after RoPE" : "repeated token";
    states.changes_after_prompt = true;
    for (Matrix<float>* rows : {&states.queries, &states.keys, &states.values}) {
      const Matrix<float> same = rows->row(1).replicate(prompt - 1, 1);
      rows->middleRows(1, prompt - 1) =
          turns && rows != &states.values ? rotated(shape(), same).cast<float>() : same;
    }
    return states;
  }

  /// Queries of the prompt have next to nothing in one half of the channels, those that follow in
  /// the other half.
  static HardStates turning_queries() {
    HardStates states;
    states.name = "queries that turn";
    states.changes_after_prompt = true;
    for (Index head = 0; head < query_heads; ++head) {
      auto own = states.queries.middleCols(head * head_dim, head_dim);
      own.topRows(prompt).rightCols(head_dim / 2) *= 0.05f;
      own.bottomRows(tokens - prompt).leftCols(head_dim / 2) *= 0.05f;
    }
    return states;
  }

  static std::vector<HardStates> all() {
    return {HardStates(),        key_bias(),           massive_activations(), constant_channels(),
            changing_keys(true), changing_keys(false), repeated_token(false), repeated_token(true),
            turning_queries(),   sinks_inside()};
  }
};

}  // namespace squat::testing
