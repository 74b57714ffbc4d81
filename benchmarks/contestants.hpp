// Who takes part in the comparison: ggml and squat, decoding, prompting and encoding.
#pragma once

#include <algorithm>
#include <memory>
#include <squat/squat.hpp>
#include <squat/thread_executor.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "bandwidth.hpp"
#include "ggml_peer.hpp"
#include "ik_peer.hpp"
#include "interleave.hpp"

namespace benchmarks {

/// What every contestant of one table attends to, and where it writes.
struct AttentionData {
  explicit AttentionData(const AttentionShape& shape)
      : shape(shape),
        keys(normal_samples(static_cast<std::size_t>(shape.tokens) * shape.kv_width(), 1)),
        values(normal_samples(static_cast<std::size_t>(shape.tokens) * shape.kv_width(), 2)),
        queries(
            normal_samples(static_cast<std::size_t>(shape.query_rows) * shape.query_width(), 3)),
        out(queries.size()) {}

  AttentionShape shape;
  std::vector<float> keys, values;  // [tokens, kv_heads * head_dim]
  std::vector<float> queries, out;  // [query_rows, query_heads * head_dim]
};
using SharedData = std::shared_ptr<AttentionData>;

/// As many layers of `bytes` as it takes to exceed `total`, at least two, and no more than models
/// have: what a short context leaves in the processor's cache is there in a model, too.
inline int layers_exceeding(double total, double bytes) {
  return std::clamp(static_cast<int>(std::ceil(total / bytes)), 2, 64);
}

/// The bound: reading memory and nothing else.
inline Contestant memory_contestant(int threads) {
  constexpr std::size_t bytes = std::size_t{256} << 20;
  auto reader = std::make_shared<MemoryReader>(bytes, threads);
  Contestant contestant;
  contestant.name = "reading memory";
  contestant.bytes = static_cast<double>(reader->bytes());
  contestant.run = [reader](int) { reader->read(); };
  return contestant;
}

/// ggml's flash attention; layers in turn exceed `cache_bytes` (layers_exceeding).
inline Contestant ggml_contestant(const SharedData& data, ggml_type type, CacheLayout layout,
                                  double cache_bytes, int threads) {
  const AttentionShape& shape = data->shape;
  const double bytes =
      2.0 * shape.tokens *
      static_cast<double>(ggml_row_size(type, static_cast<std::int64_t>(shape.kv_width())));
  const int layers = shape.query_rows > 1 ? 1 : layers_exceeding(cache_bytes, bytes);
  auto attention = std::make_shared<GgmlAttention>(shape, layout, type, type, data->keys.data(),
                                                   data->values.data(), layers, threads);
  Contestant contestant;
  contestant.name = std::string("ggml ") + ggml_type_name(type);
  if (layout == CacheLayout::tokens_outermost) contestant.name += ", llama.cpp's layout";
  contestant.bytes = bytes;
  contestant.layers = layers;
  contestant.run = [data, attention](int layer) {
    attention->run(layer, data->queries.data(), data->out.data());
  };
  contestant.prepare = [attention] { attention->resume(); };
  contestant.finish = [attention] { attention->pause(); };
  return contestant;
}

/// Flash attention of ik_llama.cpp, of every type that its attention is fast with; none where the
/// program was built without it.
inline std::vector<Contestant> ik_contestants([[maybe_unused]] const SharedData& data,
                                              [[maybe_unused]] double cache_bytes,
                                              [[maybe_unused]] int threads) {
  std::vector<Contestant> contestants;
#ifdef SQUAT_HAS_IK_PEER
  for (const char* type : {"f16", "q8_0", "q4_0", "q8_KV"}) {
    const AttentionShape& shape = data->shape;
    const double bytes =
        shape.tokens * static_cast<double>(IkAttention::bytes_per_token(shape, type));
    const int layers = shape.query_rows > 1 ? 1 : layers_exceeding(cache_bytes, bytes);
    auto attention = std::make_shared<IkAttention>(shape, type, data->keys.data(),
                                                   data->values.data(), layers, threads);
    Contestant contestant;
    contestant.name = std::string("ik_llama.cpp ") + type;
    contestant.bytes = bytes;
    contestant.layers = layers;
    contestant.run = [data, attention](int layer) {
      attention->run(layer, data->queries.data(), data->out.data());
    };
    contestants.push_back(std::move(contestant));
  }
#endif
  return contestants;
}

using RowsMap = Eigen::Map<const squat::Matrix<float>>;

/// Rows [first, first + count) of a row-major matrix of `width` columns.
inline RowsMap rows_of(const std::vector<float>& matrix, std::size_t width, int first, int count) {
  return {matrix.data() + static_cast<std::size_t>(first) * width, count,
          static_cast<Eigen::Index>(width)};
}

/// One layer.
inline squat::ModelShape model_shape(const AttentionShape& shape) {
  return {1, shape.query_heads, shape.kv_heads, shape.head_dim};
}

/// A squat cache and the threads that it works on.
struct ThreadedCache {
  ThreadedCache(const AttentionShape& shape, const squat::Config& config, int threads,
                int sequences = 1)
      : executor(threads), cache(model_shape(shape), config, sequences) {
    if (threads > 1) cache.set_executor(executor);
  }

  squat::ThreadExecutor executor;
  squat::SQuatCache<float, 2> cache;
};

/// A setting of the cache and what it is called.
struct Setting {
  std::string name;
  squat::Config config;

  /// The published cache with codes of `bits` bits.
  static Setting published(int bits) {
    squat::Config config;
    config.key_bits = config.value_bits = bits;
    return {"squat " + std::to_string(bits) + " bits", config};
  }

  static Setting recommended(const char* mean_bits) {
    return {std::string("squat+ ") + mean_bits + " bits",
            squat::Config::recommended(std::atof(mean_bits))};
  }
};

/// What attention reads of a cache.
inline double read_bytes(const squat::MemoryUsage& memory) {
  return static_cast<double>(memory.codes + memory.scales + memory.residual);
}

/// Appends the first `tokens` tokens of `data`, a chunk at a time; the first chunk is the prompt.
template <class Cache>
void fill(Cache& cache, const AttentionData& data, int tokens) {
  constexpr int chunk = 1024;
  const AttentionShape& shape = data.shape;
  static const std::vector<float> queries = normal_samples(std::size_t{chunk} * 32 * 512, 4);
  for (int first = 0; first < tokens; first += chunk) {
    const int count = std::min(chunk, tokens - first);
    cache.update(0, squat::Queries(rows_of(queries, shape.query_width(), 0, count)),
                 squat::Keys(rows_of(data.keys, shape.kv_width(), first, count)),
                 squat::Values(rows_of(data.values, shape.kv_width(), first, count)));
    cache.flush(0);
  }
}

/// Appends all tokens of `data`.
template <class Cache>
void fill(Cache& cache, const AttentionData& data) {
  fill(cache, data, data.shape.tokens);
}

/// A cache of one layer that holds the tokens of `data`.
inline squat::SQuatCache<float, 2> filled_cache(const AttentionData& data, const Setting& setting) {
  squat::SQuatCache<float, 2> filled(model_shape(data.shape), setting.config);
  fill(filled, data);
  return filled;
}

/// A cache of one layer and some sequences that all hold what `filled` does: they can be loaded,
/// where quantizing every one would take long.
inline std::shared_ptr<ThreadedCache> sequences_like(const squat::SQuatCache<float, 2>& filled,
                                                     const AttentionShape& shape,
                                                     const Setting& setting, int threads,
                                                     int sequences) {
  std::stringstream file;
  filled.save(file);
  auto threaded = std::make_shared<ThreadedCache>(shape, setting.config, threads, sequences);
  for (int sequence = 0; sequence < sequences; ++sequence) {
    file.seekg(0);
    threaded->cache.load(file, sequence);
  }
  return threaded;
}

/// squat's attention of the newest tokens. Where there is one, layers in turn exceed `cache_bytes`;
/// they are sequences.
inline Contestant squat_contestant(const SharedData& data, const Setting& setting,
                                   double cache_bytes, int threads) {
  const AttentionShape& shape = data->shape;
  const auto filled = filled_cache(*data, setting);
  Contestant contestant;
  contestant.name = setting.name;
  contestant.bytes = read_bytes(filled.memory());
  contestant.layers = shape.query_rows > 1 ? 1 : layers_exceeding(cache_bytes, contestant.bytes);
  auto threaded = sequences_like(filled, shape, setting, threads, contestant.layers);
  contestant.run = [data, threaded](int layer) {
    const AttentionShape& of = data->shape;
    Eigen::Map<squat::Matrix<float>> out(data->out.data(), of.query_rows,
                                         static_cast<Eigen::Index>(of.query_width()));
    squat::CallOptions options;
    options.sequence = layer;
    threaded->cache.attend(0, rows_of(data->queries, of.query_width(), 0, of.query_rows), out,
                           options);
  };
  return contestant;
}

/// squat's attention of one new token of each of some sequences, in one call or one by one.
inline Contestant squat_sequences_contestant(const SharedData& data, const Setting& setting,
                                             int sequences, bool in_one_call, int threads) {
  const AttentionShape& shape = data->shape;
  const auto filled = filled_cache(*data, setting);
  auto threaded = sequences_like(filled, shape, setting, threads, sequences);
  Contestant contestant;
  contestant.name = setting.name + (in_one_call ? ", one call" : ", one by one");
  contestant.bytes = read_bytes(filled.memory()) * sequences;
  contestant.run = [=](int) {
    const auto queries = rows_of(data->queries, data->shape.query_width(), 0, 1);
    Eigen::Map<squat::Matrix<float>> out(data->out.data(), 1, queries.cols());
    std::vector<squat::SequenceQueries<float>> calls;
    for (int sequence = 0; sequence < sequences; ++sequence) {
      squat::CallOptions options;
      options.sequence = sequence;
      if (in_one_call)
        calls.push_back({queries, out, options});
      else
        threaded->cache.attend(0, queries, out, options);
    }
    if (in_one_call) threaded->cache.attend(0, calls);
  };
  return contestant;
}

/// ggml's flash attention of one new token of each of some sequences, one by one.
inline Contestant ggml_sequences_contestant(const SharedData& data, int sequences, int threads) {
  Contestant contestant =
      ggml_contestant(data, GGML_TYPE_F16, CacheLayout::heads_outermost, 0, threads);
  auto attention = std::make_shared<GgmlAttention>(data->shape, CacheLayout::heads_outermost,
                                                   GGML_TYPE_F16, GGML_TYPE_F16, data->keys.data(),
                                                   data->values.data(), sequences, threads);
  contestant.bytes *= sequences;
  contestant.layers = 1;
  contestant.run = [=](int) {
    for (int sequence = 0; sequence < sequences; ++sequence)
      attention->run(sequence, data->queries.data(), data->out.data());
  };
  contestant.prepare = [attention] { attention->resume(); };
  contestant.finish = [attention] { attention->pause(); };
  return contestant;
}

/// A prompt's attention to itself; with `whole`, storing and quantizing it is included.
inline Contestant squat_prompt_contestant(const SharedData& data, const Setting& setting,
                                          bool whole, int threads) {
  const AttentionShape& shape = data->shape;
  auto threaded = std::make_shared<ThreadedCache>(shape, setting.config, threads);
  const auto keys = rows_of(data->keys, shape.kv_width(), 0, shape.tokens);
  const auto values = rows_of(data->values, shape.kv_width(), 0, shape.tokens);
  const auto queries = rows_of(data->queries, shape.query_width(), 0, shape.tokens);
  Eigen::Map<squat::Matrix<float>> out(data->out.data(), shape.tokens,
                                       static_cast<Eigen::Index>(shape.query_width()));
  Contestant contestant;
  contestant.name = setting.name + (whole ? ", prompt stored too" : ", prompt");
  if (whole) {
    contestant.prepare = [threaded] { threaded->cache.clear(); };
    contestant.run = [=](int) mutable {
      threaded->cache.attention(0, squat::Queries(queries), squat::Keys(keys),
                                squat::Values(values), out);
    };
  } else {
    threaded->cache.update(0, squat::Queries(queries), squat::Keys(keys), squat::Values(values));
    contestant.run = [=](int) mutable { threaded->cache.attend(0, queries, out); };
  }
  return contestant;
}

/// Writing the keys of `data` into a ggml cache: `run` quantizes all rows.
inline Contestant ggml_encode_contestant(const SharedData& data, ggml_type type) {
  const auto width = static_cast<std::int64_t>(data->shape.kv_width());
  const std::size_t row_size = ggml_row_size(type, width);
  auto rows =
      std::make_shared<std::vector<char>>(row_size * static_cast<std::size_t>(data->shape.tokens));
  Contestant contestant;
  contestant.name = std::string("ggml ") + ggml_type_name(type);
  contestant.run = [=](int) {
    for (std::size_t token = 0; token < static_cast<std::size_t>(data->shape.tokens); ++token)
      ggml_get_type_traits_cpu(type)->from_float(data->keys.data() + token * data->shape.kv_width(),
                                                 rows->data() + token * row_size, width);
  };
  return contestant;
}

/// Quantizing the keys of `data`, all heads, with feedback.
inline Contestant squat_key_contestant(const SharedData& data, const Setting& setting) {
  const AttentionShape& shape = data->shape;
  const squat::Index d = shape.head_dim;
  const squat::Config& config = setting.config;
  squat::SecondMoment moment(d);
  moment.add<float>(RowsMap(data->queries.data(), shape.tokens * shape.query_heads, d));
  const auto subspace = squat::QuerySubspace::fit(moment, config.subspace_dim, config.squat_lambda,
                                                  config.normalised_lambda);
  squat::detail::KeyStatistics statistics(d);
  for (int first = 0; first + 64 <= shape.tokens; first += 64)
    statistics.add(rows_of(data->keys, shape.kv_width(), first, 64).leftCols(d), squat::Mask());
  squat::detail::BitAllocation bits =
      config.adaptive_bits ? squat::detail::allocate_bits(
                                 squat::detail::KeyMetric(subspace), statistics.squared_ranges(),
                                 config.key_bits, squat::detail::LayerSettings(config).key_fit)
                           : squat::detail::even_bits(d, config.key_bits);
  auto feedback = std::make_shared<squat::ErrorFeedback<float>>(subspace.reordered(bits.order),
                                                                config.quant_group_size);
  squat::detail::KeyRecordLayout key_block(d, std::move(bits), config);
  key_block.set_expected(statistics.midpoints());
  auto quantizer = std::make_shared<squat::KeyQuantizer<float>>(std::move(key_block), config);
  constexpr squat::Index blocks = squat::KeyQuantizer<float>::max_blocks;
  auto slab = std::make_shared<squat::detail::Slab>(1, blocks, quantizer->block().bytes(), 0);
  Contestant contestant;
  contestant.name = setting.name + ", keys";
  contestant.run = [data, quantizer, feedback, slab, config, d](int) {
    const auto keys = rows_of(data->keys, data->shape.kv_width(), 0, data->shape.tokens);
    const squat::Index rows = blocks * config.token_group_size;
    std::byte* records[blocks];
    for (squat::Index i = 0; i < blocks; ++i) records[i] = slab->keys(0, i);
    for (squat::Index first = 0; first + rows <= keys.rows(); first += rows)
      for (squat::Index head = 0; head < data->shape.kv_heads; ++head)
        quantizer->quantize_blocks(keys.block(first, head * d, rows, d), *feedback,
                                   {records, blocks});
  };
  return contestant;
}

/// Quantizing the values of `data`, all heads.
inline Contestant squat_value_contestant(const SharedData& data, const Setting& setting) {
  const squat::Index d = data->shape.head_dim;
  const squat::Config& config = setting.config;
  auto quantizer = std::make_shared<squat::ValueQuantizer<float>>(d, config.value_bits, config);
  auto records =
      std::make_shared<squat::detail::Slab>(1, data->shape.kv_heads, quantizer->block().bytes(), 0);
  Contestant contestant;
  contestant.name = setting.name + ", values";
  contestant.run = [data, quantizer, records, config](int) {
    const AttentionShape& shape = data->shape;
    for (squat::Index token = 0; token < shape.tokens; ++token)
      quantizer->quantize_heads(data->values.data() + token * shape.kv_width(), shape.kv_heads,
                                token % config.token_group_size,
                                [&](squat::Index head) { return records->keys(0, head); });
  };
  return contestant;
}

}  // namespace benchmarks
