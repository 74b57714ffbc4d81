// Attention over packed codes against double precision over the same codes, with the instruction
// set that SQUAT_SIMD names (CTest runs these tests with each).
#include <gtest/gtest.h>

#include <squat/detail/simd/instruction_sets.hpp>
#include <squat/squat.hpp>
#include <string>
#include <vector>

#include "dense_attention.hpp"
#include "layer20.hpp"

namespace squat::testing {

using namespace detail;
namespace {

constexpr Index file_kv_heads = 3, file_heads_per_kv = 3, file_channels = 64;

/// Queries, keys and values of one kv head.
struct States {
  ModelShape shape;
  Matrix<float> queries, keys, values;

  /// Of the model, whose heads have 64 channels: wider ones are several of them side by side, and
  /// further query heads are those of earlier tokens.
  States(Index head_dim, Index heads) : shape{1, heads, 1, head_dim} {
    static const Matrix<float> q = layer20('q');
    static const Matrix<float> k = layer20('k');
    static const Matrix<float> v = layer20('v');
    constexpr Index d = file_channels;
    queries.resize(tokens, heads * head_dim);
    keys.resize(tokens, head_dim);
    values.resize(tokens, head_dim);
    for (Index part = 0; part < head_dim / d; ++part) {
      const Index kv = part % file_kv_heads, shift = 100 * (part / file_kv_heads);
      keys.middleCols(part * d, d) = k.block(shift, kv * d, tokens, d);
      values.middleCols(part * d, d) = v.block(shift, kv * d, tokens, d);
      for (Index h = 0; h < heads; ++h)
        queries.middleCols(h * head_dim + part * d, d) =
            q.block(shift + 11 * (h / file_heads_per_kv),
                    (kv * file_heads_per_kv + h % file_heads_per_kv) * d, tokens, d);
    }
  }

  static constexpr Index tokens = 650;
};

struct Distances {
  double codes;       ///< that the codes make from full precision
  double arithmetic;  ///< that the cache's attention makes from double precision, same codes
  double size;        ///< of the output
};

/// Of the newest `rows` tokens of a cache of `config` that holds `states`.
template <int Bits>
Distances measure(const States& states, Index rows, Arithmetic arithmetic, Config config) {
  config.arithmetic = arithmetic;
  SQuatCache<float, Bits> cache(states.shape, config);
  // The first tokens alone fit the subspace: it matters little here, and all would take long.
  constexpr Index prompt = 32;
  const auto append = [&](Index first, Index count) {
    cache.update(0, Queries(states.queries.middleRows(first, count)),
                 Keys(states.keys.middleRows(first, count)),
                 Values(states.values.middleRows(first, count)));
  };
  append(0, prompt);
  append(prompt, states.tokens - prompt);
  cache.flush(0);
  const Matrix<float> queries = states.queries.bottomRows(rows);
  Matrix<float> out(rows, queries.cols());
  cache.attend(0, queries, out);
  const Matrix<double> full =
      dense_attention<float>(states.shape, queries, states.keys, states.values);
  const Matrix<double> same_codes =
      dense_attention<float>(states.shape, queries, cache.keys(0), cache.values(0));
  return {(same_codes - full).norm(), (out.cast<double>() - same_codes).norm(), same_codes.norm()};
}

class FusedAttention : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      simd::requested();
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
  }

  /// Calls check(measure, config, name) for every width and both kinds of key scales.
  template <class Check>
  static void for_each_width(const Check& check) {
    Config config, rotated;
    for_each_width(config, "", check);
    config.key_scales = KeyScales::per_token;
    for_each_width(config, "per_token_", check);
    rotated = config;
    rotated.rotate_keys = true;
    rotated.key_group_size = 64;
    rotated.scale_bits = 8;
    for_each_width(rotated, "rotated_", check);
  }

 private:
  template <class Check>
  static void for_each_width(const Config& config, const std::string& name, const Check& check) {
    check(measure<2>, config, name + "bits_2");
    check(measure<3>, config, name + "bits_3");
    check(measure<4>, config, name + "bits_4");
    check(measure<8>, config, name + "bits_8");
  }
};

TEST_F(FusedAttention, LosesATenthOfWhatCodesLoseOnStatesOfAModel) {
  for_each_width([](auto measure, const Config& config, const std::string& width) {
    double worst = 0;
    for (const Index head_dim : {64, 128, 256})
      for (const Index heads : {1, 3, 4, 8}) {
        const States states(head_dim, heads);
        for (const Index rows : {1, 4}) {
          if (head_dim > 64 && rows == (heads == 4 ? 1 : 4)) continue;  // one of them is enough
          const Distances d = measure(states, rows, Arithmetic::fast, config);
          EXPECT_LE(d.arithmetic, 0.1 * d.codes)
              << width << ", head_dim " << head_dim << ", " << heads << " heads, " << rows
              << " rows; size " << d.size;
          worst = std::max(worst, d.arithmetic / d.codes);
        }
      }
    RecordProperty("worst_share_" + width, std::to_string(worst));
  });
}

TEST_F(FusedAttention, RowsOfOperandsKeepApartInTheWidestHead) {
  const States states(512, 4);
  Config adaptive;
  adaptive.adaptive_bits = true;
  adaptive.quant_group_size = 512;
  adaptive.value_bits = 8;
  for (const double bits : {1.3, 2.0, 2.5}) {
    adaptive.key_bits = bits;
    const Distances d = measure<2>(states, 1, Arithmetic::fast, adaptive);
    EXPECT_LE(d.arithmetic, 0.1 * d.codes) << bits << " bits; size " << d.size;
  }
  Config per_token;
  per_token.key_scales = KeyScales::per_token;
  per_token.rotate_keys = true;
  per_token.value_bits = 8;
  const Distances d = measure<2>(states, 1, Arithmetic::fast, per_token);
  EXPECT_LE(d.arithmetic, 0.1 * d.codes) << "size " << d.size;
}

TEST_F(FusedAttention, TakesRunsOfChannelsThatBeginAnywhere) {
  for (const Index head_dim : {64, 128}) {
    const States states(head_dim, 3);
    for (const double bits : {1.75, 2.0, 2.5, 2.75, 3.0, 3.5}) {
      Config config = Config::recommended(bits);
      config.backend = Backend::quanto;  // the codes of no token are drawn by lot
      const Distances d = measure<2>(states, 2, Arithmetic::fast, config);
      EXPECT_LE(d.arithmetic, 0.1 * d.codes)
          << bits << " bits, head_dim " << head_dim << "; size " << d.size;
    }
  }
}

struct Adversary {
  const char* name;
  void (*change)(States&);
};

/// Queries such that logits reach from -80 to 80.
void spread_logits(States& states) {
  const Index d = states.shape.head_dim;
  for (Index h = 0; h < states.shape.query_heads; ++h) {
    auto q = states.queries.middleCols(h * d, d);
    for (Index row = 0; row < q.rows(); ++row) {
      const auto logits =
          (states.keys * q.row(row).transpose()).array() / std::sqrt(static_cast<float>(d));
      q.row(row) *= 80 / logits.abs().maxCoeff();
    }
  }
}

const Adversary adversaries[] = {
    {"logits spread over +-80", spread_logits},
    {"one huge key channel",
     [](States& states) {
       states.keys.col(5) *= 300;
       states.keys.col(5).array() += 2000;
       spread_logits(states);
     }},
    {"one huge key channel that no query sees",
     [](States& states) {
       states.keys.col(5) *= 1000;
       for (Index h = 0; h < states.shape.query_heads; ++h)
         states.queries.col(h * states.shape.head_dim + 5) *= 1e-3f;
     }},
    {"one huge query channel",
     [](States& states) {
       for (Index h = 0; h < states.shape.query_heads; ++h)
         states.queries.col(h * states.shape.head_dim + 5) *= 1000;
       states.keys.col(5) *= 1e-3f;
     }},
    {"one huge value channel", [](States& states) { states.values.col(5) *= 1000; }},
    {"one huge token",
     [](States& states) {
       states.keys.row(100) *= 30;
       states.values.row(100) *= 1000;
     }},
    {"constant channels",
     [](States& states) {
       states.keys.leftCols(20).setConstant(3);
       states.values.leftCols(40).setConstant(-2);
     }},
    {"constant keys", [](States& states) { states.keys.setConstant(0.5f); }},
    {"constant values", [](States& states) { states.values.setConstant(0.5f); }},
    {"zeros",
     [](States& states) {
       states.keys.setZero();
       states.values.leftCols(32).setZero();
     }},
};

TEST_F(FusedAttention, IsWithinAHundredthOnAdversarialStates) {
  for_each_width([](auto measure, const Config& config, const std::string& width) {
    double worst = 0;
    for (const Index head_dim : {64, 128})
      for (const Index heads : {head_dim == 64 ? 4 : 1})
        for (const Adversary& adversary : adversaries) {
          States states(head_dim, heads);
          adversary.change(states);
          const Distances d = measure(states, 2, Arithmetic::fast, config);
          EXPECT_LE(d.arithmetic, 1e-2 * d.size)
              << adversary.name << ", " << width << ", head_dim " << head_dim << ", " << heads
              << " heads; codes " << d.codes;
          worst = std::max(worst, d.arithmetic / d.size);
        }
    RecordProperty("worst_relative_" + width, std::to_string(worst));
  });
}

TEST_F(FusedAttention, ExactArithmeticIsWithinATenThousandth) {
  for_each_width([](auto measure, const Config& config, const std::string& width) {
    double worst = 0;
    for (const Index head_dim : {64, 128}) {
      const Distances real = measure(States(head_dim, 3), 2, Arithmetic::dequantized, config);
      EXPECT_LE(real.arithmetic, 1e-4 * real.size) << width << ", head_dim " << head_dim;
      worst = std::max(worst, real.arithmetic / real.size);
      for (const Adversary& adversary : adversaries) {
        States states(head_dim, 3);
        adversary.change(states);
        const Distances d = measure(states, 2, Arithmetic::dequantized, config);
        EXPECT_LE(d.arithmetic, 1e-4 * d.size)
            << adversary.name << ", " << width << ", head_dim " << head_dim;
        worst = std::max(worst, d.arithmetic / d.size);
      }
    }
    RecordProperty("worst_exact_" + width, std::to_string(worst));
  });
}

}  // namespace
}  // namespace squat::testing
