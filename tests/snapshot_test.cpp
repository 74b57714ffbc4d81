// Caches go to a file and come back, and go on as if nothing had been.
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <memory>

#include "drawn_config.hpp"
#include "expect_error.hpp"
#include "random_matrix.hpp"
#include "same_bytes.hpp"
#include "saved_cache.hpp"

namespace squat::testing {

using namespace detail;
namespace {

template <class Scalar>
using CacheOf = SQuatCache<Scalar, 2, 4>;

/// Random numbers for a step of a story, the same for every cache.
template <class Scalar>
struct NewTokens {
  NewTokens(const ModelShape& shape, Index count, unsigned seed)
      : queries(random_matrix<Scalar>(count, shape.query_heads * shape.head_dim, seed)),
        keys(random_matrix<Scalar>(count, shape.kv_heads * shape.head_dim, seed + 1)),
        values(random_matrix<Scalar>(count, shape.kv_heads * shape.head_dim, seed + 2)) {}
  Matrix<Scalar> queries, keys, values;
};

/// The smallest size at which the newest token still finds what its window has.
template <class Scalar>
Index least_size(const CacheOf<Scalar>& cache, Index layer, const CallOptions& options) {
  const Index first = cache.first(layer, {options.sequence});
  return first == 0 ? 0 : first + cache.shape().layer(layer).window;
}

/// One thing that can happen to a cache, drawn by `seed`.
template <class Scalar>
void act(CacheOf<Scalar>& cache, unsigned seed) {
  Draw draw(seed);
  CallOptions options;
  options.sequence = draw.of<Index>({0, 1, 2}) % cache.sequences();
  const int what = draw.of({0, 0, 0, 0, 1, 1, 2, 3});
  if (what == 2) {
    Index size = cache.size(0, {options.sequence});
    for (Index layer = 1; layer < cache.shape().layers; ++layer)
      size = std::min(size, cache.size(layer, {options.sequence}));
    const Index longest = size;
    size = size * draw.of<Index>({0, 3, 6, 7, 8}) / 8;
    for (Index layer = 0; layer < cache.shape().layers && size > 0; ++layer)
      size = std::max(size, least_size(cache, layer, options));
    if (size <= longest) cache.truncate(size, {options.sequence});
    return;
  }
  if (what == 3) return cache.fork(options.sequence, cache.sequences() - 1);
  const Index count = draw.of<Index>({1, 1, 5, 40, 150});
  std::vector<std::uint8_t> valid(static_cast<std::size_t>(count), 1);
  for (Index t = 0; t < std::min(count, draw.of<Index>({0, 0, 2, 34})); ++t)
    valid[static_cast<std::size_t>(t)] = 0;
  options.mask = valid;
  options.fit = draw.of({FitQueries::first_update, FitQueries::accumulate});
  for (Index layer = 0; layer < cache.shape().layers; ++layer) {
    const NewTokens<Scalar> rows(cache.shape(), count, seed + 100 * static_cast<unsigned>(layer));
    cache.update(layer, Queries(rows.queries), Keys(rows.keys), Values(rows.values), options);
    if (what == 1) cache.flush(layer, {options.sequence});
  }
}

/// The same in every bit that shows: the file, what is read back, and attention of one row (over
/// codes) and of many.
template <class Scalar>
void expect_same(const CacheOf<Scalar>& a, const CacheOf<Scalar>& b) {
  EXPECT_EQ(saved(a) == saved(b), true);
  const ModelShape& shape = a.shape();
  CallOptions options;
  for (options.sequence = 0; options.sequence < a.sequences(); ++options.sequence)
    for (Index layer = 0; layer < shape.layers; ++layer) {
      ASSERT_EQ(a.size(layer, {options.sequence}), b.size(layer, {options.sequence}));
      EXPECT_TRUE(same_bytes(a.keys(layer, {options.sequence}), b.keys(layer, {options.sequence})));
      EXPECT_TRUE(
          same_bytes(a.values(layer, {options.sequence}), b.values(layer, {options.sequence})));
      for (const Index count : {1, 20}) {
        if (a.size(layer, {options.sequence}) < least_size(a, layer, options) + count) continue;
        const NewTokens<Scalar> rows(shape, count, 9);
        Matrix<Scalar> of_a(count, rows.queries.cols()), of_b = of_a;
        a.attend(layer, rows.queries, of_a, options);
        b.attend(layer, rows.queries, of_b, options);
        EXPECT_TRUE(same_bytes(of_a, of_b));
      }
    }
}

/// A cache of a configuration drawn at random goes through a random story. A twin is loaded from
/// its file every now and then, and goes on with it.
template <class Scalar>
void expect_that_twins_agree(unsigned seed) {
  Draw draw(seed);
  ModelShape shape = draw.shape();
  Config config = draw.config();
  shape.layers = draw.of<Index>({1, 2});
  shape.head_dim = draw.of<Index>({8, 13, 24, 36});
  shape.rope = draw.rope(shape.head_dim);
  if (draw.of({0, 1}) == 1 && shape.rope.pairing != RopePairing::none)
    shape.rope.factors.assign(
        static_cast<std::size_t>(shape.rope.dims == 0 ? shape.head_dim - shape.rope.first
                                                      : shape.rope.dims) /
            2,
        1.5);
  config.shared_svd = draw.of({true, false});
  if (draw.of({0, 1}) == 1) shape.window = draw.of<Index>({1, 20, 60});
  if (shape.layers == 2 && draw.of({0, 1}) == 1) config.layer_bits = {{2, 3}, {0, 1}};
  const Index sequences = draw.of<Index>({1, 1, 3});
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  CacheOf<Scalar> cache(shape, config, sequences);
  if (draw.of({0, 0, 0, 1}) == 1) {
    QueryMoments moments(shape);
    for (Index layer = 0; layer < shape.layers; ++layer)
      moments.add<Scalar>(layer, NewTokens<Scalar>(shape, 40, seed).queries);
    cache.calibrate(moments);
  }
  std::unique_ptr<CacheOf<Scalar>> twin;
  for (unsigned step = 0; step < 12; ++step) {
    SCOPED_TRACE(::testing::Message() << "step " << step);
    const unsigned what = 1000 * seed + step;
    act(cache, what);
    if (twin) act(*twin, what);
    if (step % 3 == 1) {
      twin = std::make_unique<CacheOf<Scalar>>(shape, config, sequences);
      act(*twin, 3);  // whatever it holds is replaced
      load(*twin, saved(cache));
    }
    if (twin) expect_same(cache, *twin);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(Snapshot, CachesOfFloatsGoOn) {
  for (unsigned seed = 0; seed < 40; ++seed) expect_that_twins_agree<float>(seed);
}
TEST(Snapshot, CachesOfDoublesGoOn) {
  for (unsigned seed = 100; seed < 110; ++seed) expect_that_twins_agree<double>(seed);
}
TEST(Snapshot, CachesOfHalvesGoOn) {
  for (unsigned seed = 200; seed < 210; ++seed) expect_that_twins_agree<Eigen::half>(seed);
}
TEST(Snapshot, CachesOfBfloat16GoOn) {
  for (unsigned seed = 300; seed < 310; ++seed) expect_that_twins_agree<Eigen::bfloat16>(seed);
}

// A small cache with something of everything.

using FloatCache = CacheOf<float>;
const ModelShape small_shape{1, 2, 1, 8};

Config small_config() {
  Config config = Config::recommended();
  config.token_group_size = config.residual_length = 32;
  config.subspace_dim = 2;
  config.quant_group_size = 1;
  return config;
}

/// Appends tokens, some of them padding.
void feed(FloatCache& cache, Index count, unsigned seed, Index sequence = 0, Index padding = 0) {
  std::vector<std::uint8_t> valid(static_cast<std::size_t>(count), 1);
  std::fill_n(valid.begin(), padding, std::uint8_t{0});
  CallOptions options;
  options.sequence = sequence;
  options.mask = valid;
  for (Index layer = 0; layer < cache.shape().layers; ++layer) {
    const NewTokens<float> rows(cache.shape(), count, seed + static_cast<unsigned>(layer));
    cache.update(layer, Queries(rows.queries), Keys(rows.keys), Values(rows.values), options);
    cache.flush(layer, {options.sequence});
  }
}

/// Two sequences that share blocks, cut in the middle of one.
FloatCache small_cache() {
  FloatCache cache(small_shape, small_config(), 2);
  feed(cache, 100, 1, 0, 2);
  cache.truncate(50);
  feed(cache, 50, 2);
  cache.fork(0, 1);
  feed(cache, 3, 3, 1);
  return cache;
}

/// That `bytes` are refused for a reason, with the cache as it was.
#define EXPECT_REFUSED(cache, bytes, ...)          \
  do {                                             \
    const std::string before = saved(cache);       \
    EXPECT_ERROR(load(cache, bytes), __VA_ARGS__); \
    EXPECT_TRUE(saved(cache) == before);           \
  } while (false)

TEST(Snapshot, SharedRowsAreWrittenOnce) {
  Config config = small_config();
  config.full_precision_tokens = 0;  // every sequence has its own of those, and outliers
  FloatCache cache(small_shape, config, 3);
  feed(cache, 2000, 1);
  const std::size_t one = saved(cache).size();
  cache.fork(0, 1);
  cache.fork(0, 2);
  const std::string three = saved(cache);
  EXPECT_LT(three.size(), one + one / 2);
  FloatCache other(small_shape, config, 3);
  load(other, three);
  // The file's rows wait for none, so that slabs have other sizes.
  const MemoryUsage usage = cache.memory(), again = other.memory();
  EXPECT_EQ(again.codes, usage.codes);
  EXPECT_EQ(again.scales, usage.scales);
  EXPECT_EQ(again.headers, usage.headers);
  EXPECT_LE(again.reserved, usage.reserved);
}

TEST(Snapshot, EveryShorterFileIsRefused) {
  const std::string bytes = saved(small_cache());
  FloatCache cache = small_cache();
  for (std::size_t size = 0; size < bytes.size(); ++size)
    EXPECT_REFUSED(cache, bytes.substr(0, size), "cut short");
}

TEST(Snapshot, EveryAlteredByteIsFound) {
  const std::string bytes = saved(small_cache());
  FloatCache cache = small_cache();
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::string altered = bytes;
    altered[i] = static_cast<char>(altered[i] ^ 1 << i % 8);
    EXPECT_REFUSED(cache, altered, "squat: ");
  }
}

/// Loads a file that its maker gave the right checksum: it is refused, or what it holds can be
/// attended to, appended to and saved. Returns whether it was loaded.
bool is_sound(const std::string& bytes) {
  static const NewTokens<float> rows(small_shape, 66, 5);
  FloatCache cache(small_shape, small_config(), 2);
  try {
    load(cache, bytes);
  } catch (const Error&) {
    for (const Index sequence : {0, 1}) EXPECT_EQ(cache.size(0, CallOptions{sequence}), 0);
    return false;
  }
  for (const Index sequence : {0, 1}) {
    const CallOptions options{sequence};
    try {
      cache.update(0, Queries(rows.queries), Keys(rows.keys), Values(rows.values), options);
      cache.flush(0, {options.sequence});
    } catch (const Error&) {  // queries under which no key can be quantized
    }
    EXPECT_TRUE(cache.keys(0, {options.sequence}).allFinite());
    EXPECT_TRUE(cache.values(0, {options.sequence}).allFinite());
    for (const Index count : {1, 12}) {
      if (cache.size(0, {options.sequence}) < count) continue;
      Matrix<float> out(count, rows.queries.cols());
      cache.attend(0, rows.queries.topRows(count), out, options);
      EXPECT_TRUE(out.allFinite());
    }
  }
  load(cache, saved(cache));
  return true;
}

TEST(Snapshot, FilesWithARightChecksumAreRefusedOrSound) {
  const std::string bytes = saved(small_cache());
  ASSERT_EQ(repaired(bytes), bytes);
  int loaded = 0, refused = 0;
  for (std::size_t i = 0; i + 8 < bytes.size(); i += 8)
    for (const std::uint64_t word :
         {std::uint64_t{0}, std::uint64_t{33}, std::uint64_t{1} << 40, ~std::uint64_t{0},
          std::uint64_t{0x7fefffffffffffff}, std::uint64_t{0x7f7fffff7f7fffff}}) {
      SCOPED_TRACE(::testing::Message() << "word " << word << " at " << i);
      std::string altered = bytes;
      detail::to_little_endian(word, reinterpret_cast<unsigned char*>(&altered[i]));
      (is_sound(repaired(altered)) ? loaded : refused) += 1;
      ASSERT_FALSE(::testing::Test::HasFailure());
    }
  EXPECT_GT(loaded, 100);
  EXPECT_GT(refused, 100);
}

TEST(Snapshot, NamesTheFieldThatDiffers) {
  struct Difference {
    const char* name;
    std::function<void(ModelShape&, Config&)> make;
    const char* in_file;
    const char* in_cache;
  };
  const auto per_token = [](Config& config) {
    config.key_scales = KeyScales::per_token;
    config.adaptive_bits = false;
    config.key_bits = 2;
  };
  const std::vector<Difference> differences = {
      {"shape.layers", [](auto& s, auto&) { s.layers = 2; }, "1", "2"},
      {"shape.query_heads", [](auto& s, auto&) { s.query_heads = 4; }, "2", "4"},
      {"shape.kv_heads", [](auto& s, auto&) { s.kv_heads = 2; }, "1", "2"},
      {"shape.head_dim", [](auto& s, auto&) { s.head_dim = 16; }, "8", "16"},
      {"shape.softmax_scale", [](auto& s, auto&) { s.softmax_scale = 0.5; }, "0", "0.5"},
      {"shape.rope.pairing", [](auto& s, auto&) { s.rope.pairing = RopePairing::halves; }, "0",
       "1"},
      {"shape.rope.dims", [](auto& s, auto&) { s.rope.dims = 4; }, "0", "4"},
      {"shape.rope.base", [](auto& s, auto&) { s.rope.base = 500; }, "10000", "500"},
      {"shape.rope.factors",
       [](auto& s, auto&) {
         s.rope.factors = {1, 1, 2, 4};
       },
       "none", "1, 1, 2, 4"},
      {"shape.rope.is_applied", [](auto& s, auto&) { s.rope.is_applied = true; }, "0", "1"},
      {"shape.rope.first", [](auto& s, auto&) { s.rope.first = 2; }, "0", "2"},
      {"shape.window", [](auto& s, auto&) { s.window = 5; }, "none", "5"},
      {"shape.value_dim", [](auto& s, auto&) { s.value_dim = 16; }, "0", "16"},
      {"shape.values_in_keys", [](auto& s, auto&) { s.values_in_keys = true; }, "0", "1"},
      {"shape.chunk", [](auto& s, auto&) { s.chunk = 7; }, "0", "7"},
      {"shape.sink_tokens", [](auto& s, auto&) { s.sink_tokens = 2; }, "0", "2"},
      {"shape.softcap", [](auto& s, auto&) { s.softcap = 30; }, "0", "30"},
      {"shape.sink_logits", [](auto& s, auto&) { s.sink_logits.assign(2, 1.5); }, "none",
       "1.5, 1.5"},
      {"shape.alibi_slopes", [](auto& s, auto&) { s.alibi_slopes.assign(2, 0.5); }, "none",
       "0.5, 0.5"},
      {"config.backend", [](auto&, auto& c) { c.backend = Backend::hqq; }, "2", "1"},
      {"config.quant_group_size", [](auto&, auto& c) { c.quant_group_size = 2; }, "1", "2"},
      {"config.residual_length", [](auto&, auto& c) { c.residual_length = 64; }, "32", "64"},
      {"config.squat_lambda", [](auto&, auto& c) { c.squat_lambda = 1; }, "3", "1"},
      {"config.subspace_dim", [](auto&, auto& c) { c.subspace_dim = 3; }, "2", "3"},
      {"config.shared_svd", [](auto&, auto& c) { c.shared_svd = false; }, "1", "0"},
      {"config.token_group_size",
       [](auto&, auto& c) { c.token_group_size = c.residual_length = 64; }, "32", "64"},
      {"config.scale_bits", [](auto&, auto& c) { c.scale_bits = 16; }, "8", "16"},
      {"config.normalised_lambda", [](auto&, auto& c) { c.normalised_lambda = false; }, "1", "0"},
      {"config.rolling_residual", [](auto&, auto& c) { c.rolling_residual = true; }, "0", "1"},
      {"config.key_bits", [](auto&, auto& c) { c.key_bits = 2; }, "2.5", "2"},
      {"config.adaptive_bits",
       [](auto&, auto& c) {
         c.adaptive_bits = false;
         c.key_bits = 2;
       },
       "1", "0"},
      {"config.key_scales", [&](auto&, auto& c) { per_token(c); }, "0", "1"},
      {"config.key_group_size",
       [&](auto&, auto& c) {
         per_token(c);
         c.key_group_size = 64;
       },
       "0", "64"},
      {"config.rotate_keys",
       [&](auto&, auto& c) {
         per_token(c);
         c.rotate_keys = true;
       },
       "0", "1"},
      {"config.value_bits", [](auto&, auto& c) { c.value_bits = 0; }, "2", "4"},  // ValueBits
      {"config.layer_key_bits",
       [](auto&, auto& c) {
         c.layer_bits = {{3.5, 2}};
       },
       "none", "3.5"},
      {"config.layer_value_bits",
       [](auto&, auto& c) {
         c.layer_bits = {{3.5, 2}};
       },
       "3", "2"},
      {"config.value_group_size", [](auto&, auto& c) { c.value_group_size = 32; }, "64", "32"},
      {"config.value_grid", [](auto&, auto& c) { c.value_grid = ValueGrid::min_max; }, "1", "0"},
      {"config.rotate_values", [](auto&, auto& c) { c.rotate_values = false; }, "1", "0"},
      {"config.residual_bits", [](auto&, auto& c) { c.residual_bits = 16; }, "8", "16"},
      {"config.full_precision_tokens", [](auto&, auto& c) { c.full_precision_tokens = 0; }, "1",
       "0"},
      {"config.query_decay", [](auto&, auto& c) { c.query_decay = 0.5; }, "0", "0.5"},
      {"config.subspace_queries",
       [](auto& s, auto& c) {
         s.rope.pairing = RopePairing::halves;
         c.subspace_queries = SubspaceQueries::before_rope;
       },
       "0", "1"},
      {"config.subspace_method", [](auto&, auto& c) { c.subspace_method = SubspaceMethod::power; },
       "0", "1"},
  };
  std::vector<SnapshotField> fields = snapshot_fields({}, {});
  // A single layer can read no other: see LayersThatShare.
  const auto cannot_differ = [](const SnapshotField& field) {
    return field.name == "shape.kv_layer" || !matters(field);
  };
  fields.erase(std::remove_if(fields.begin(), fields.end(), cannot_differ), fields.end());
  ASSERT_EQ(differences.size(), fields.size());
  for (std::size_t i = 0; i < fields.size(); ++i) {
    const auto& [name, make, in_file, in_cache] = differences[i];
    EXPECT_EQ(name, current_name(fields[i]));
    ModelShape shape = small_shape;
    Config config = small_config();
    make(shape, config);
    FloatCache other(shape, config, 2), original = small_cache();
    // Where something else has to differ too, the file is of a cache that differs in that.
    if (fields[i].name == "config.adaptive_bits") {
      config.adaptive_bits = true;
      original = FloatCache(shape, config, 2);
    } else if (fields[i].name == "config.subspace_queries") {
      original = FloatCache(shape, small_config(), 2);
    } else if (fields[i].name == "config.key_scales") {
      config.key_scales = KeyScales::per_channel;
      original = FloatCache(shape, config, 2);
    } else if (fields[i].name == "config.key_group_size") {
      config.key_group_size = 0;
      original = FloatCache(shape, config, 2);
    } else if (fields[i].name == "config.rotate_keys") {
      config.rotate_keys = false;
      original = FloatCache(shape, config, 2);
    } else if (fields[i].name == "config.layer_value_bits") {
      config.layer_bits = {{3.5, 3}};
      original = FloatCache(shape, config, 2);
    } else if (fields[i].name == "config.token_group_size") {
      config.token_group_size = 32;
      original = FloatCache(shape, config, 2);
    }
    const std::string message =
        "the file has " + std::string(name) + " = " + in_file + "; the cache has " + in_cache;
    EXPECT_REFUSED(other, saved(original), message.c_str());
  }
}

TEST(Snapshot, LoadsUnderAnotherArithmetic) {
  const ModelShape shape{1, 2, 1, 16};
  for (const Arithmetic arithmetic : {Arithmetic::fast, Arithmetic::dequantized}) {
    Config config = Config::recommended();
    FloatCache original(shape, config), other(shape, config);
    config.arithmetic = Arithmetic::dequantized;
    (arithmetic == Arithmetic::fast ? other : original) = FloatCache(shape, config);
    FloatCache expected(shape, other.config());
    for (FloatCache* cache : {&original, &expected}) {
      const NewTokens<float> rows(shape, 200, 1);
      cache->update(0, Queries(rows.queries), Keys(rows.keys), Values(rows.values));
      cache->flush(0);
    }
    load(other, saved(original));
    EXPECT_EQ(other.config().arithmetic, expected.config().arithmetic);
    expect_same(other, expected);
  }
}

TEST(Snapshot, NamesWhatElseDiffers) {
  const std::string bytes = saved(small_cache());
  FloatCache one(small_shape, small_config());
  EXPECT_REFUSED(one, bytes, "sequences = 2", "must be 1");
  CacheOf<Eigen::half> half(small_shape, small_config(), 2);
  EXPECT_REFUSED(half, bytes, "Scalar = float", "the cache has half");
  CacheOf<Eigen::bfloat16> brain(small_shape, small_config(), 2);
  EXPECT_REFUSED(brain, bytes, "Scalar = float", "the cache has bfloat16");
  FloatCache two(small_shape, small_config(), 2);
  EXPECT_REFUSED(two, "SQUATKV5" + bytes.substr(8), "SQUATKV and a version of 1 to 4");
  EXPECT_REFUSED(two, saved(brain), "Scalar = bfloat16", "the cache has float");
  std::string unknown = bytes;
  unknown.replace(unknown.find("config.backend"), 14, "config.unheard");
  EXPECT_REFUSED(two, repaired(unknown), "does not know: config.unheard");
}

TEST(Snapshot, ReadsNoFurtherThanTheFile) {
  FloatCache first = small_cache(), second(small_shape, small_config(), 2);
  feed(second, 40, 8);
  std::istringstream in(saved(first) + saved(second) + "more");
  FloatCache a(small_shape, small_config(), 2), b(small_shape, small_config(), 2);
  a.load(in);
  b.load(in);
  expect_same(a, first);
  expect_same(b, second);
  std::string more;
  in >> more;
  EXPECT_EQ(more, "more");
}

/// A disk that is full after so many bytes.
class FullDisk : public std::streambuf {
 public:
  explicit FullDisk(std::streamsize room) : room_(room) {}

 protected:
  std::streamsize xsputn(const char*, std::streamsize count) override {
    const std::streamsize taken = std::min(count, room_);
    room_ -= taken;
    return taken;
  }
  int_type overflow(int_type c) override { return room_-- > 0 ? c : traits_type::eof(); }

 private:
  std::streamsize room_;
};

TEST(Snapshot, FailsWhereTheStreamFails) {
  FloatCache cache = small_cache();
  const std::string bytes = saved(cache);
  for (std::size_t room = 0; room < bytes.size(); room += 211) {
    FullDisk disk(static_cast<std::streamsize>(room));
    std::ostream out(&disk);
    EXPECT_ERROR(cache.save(out), "could not be written");
  }
  std::istringstream in(bytes.substr(0, bytes.size() / 2));
  in.exceptions(std::ios::failbit | std::ios::badbit);
  EXPECT_THROW(cache.load(in), std::ios_base::failure);
  EXPECT_TRUE(saved(cache) == bytes);
}

// One sequence of several.

TEST(SnapshotOfASequence, IsACacheOfItsOwn) {
  for (const bool shared : {true, false}) {
    Config config = small_config();
    config.shared_svd = shared;
    FloatCache cache({2, 4, 2, 16}, config, 3);
    feed(cache, 40, 1, 0);
    feed(cache, 90, 2, 1);
    FloatCache alone(cache.shape(), config);
    load(alone, saved(cache, 1));
    feed(cache, 70, 3, 1);
    feed(alone, 70, 3, 0);
    CallOptions second;
    second.sequence = 1;
    for (Index layer = 0; layer < 2; ++layer) {
      EXPECT_TRUE(same_bytes(alone.keys(layer), cache.keys(layer, second)));
      EXPECT_TRUE(same_bytes(alone.values(layer), cache.values(layer, second)));
    }
  }
}

TEST(SnapshotOfASequence, TakesThePlaceOfAnother) {
  Config config = small_config();
  config.shared_svd = false;
  FloatCache source(small_shape, config), cache(small_shape, config, 2),
      other(small_shape, config, 2);
  feed(source, 64, 1);
  for (FloatCache* one : {&cache, &other}) feed(*one, 50, 2, 0);
  feed(cache, 30, 3, 1);
  load(cache, saved(source), 1);
  for (FloatCache* one : {&cache, &other}) feed(*one, 40, 4, 0);
  feed(cache, 40, 5, 1);
  feed(source, 40, 5);
  EXPECT_TRUE(saved(cache, 1) == saved(source));
  EXPECT_TRUE(saved(cache, 0) == saved(other, 0));
}

TEST(SnapshotOfASequence, GoesByTheSubspaceOfTheCache) {
  FloatCache source(small_shape, small_config());
  feed(source, 64, 1);
  FloatCache cache(small_shape, small_config(), 2), other(small_shape, small_config(), 2);
  QueryMoments moments(small_shape);
  moments.add<float>(0, NewTokens<float>(small_shape, 40, 7).queries);
  CallOptions second;
  second.sequence = 1;
  for (const bool calibrated : {false, true}) {
    for (FloatCache* one : {&cache, &other}) {
      one->clear();
      if (calibrated) one->calibrate(moments);
      feed(*one, 64, 2);  // the first sequence
    }
    load(cache, saved(source), 1);
    EXPECT_TRUE(same_bytes(cache.keys(0, second), source.keys(0)));
    for (FloatCache* one : {&cache, &other}) feed(*one, 64, 3, 1);
    EXPECT_TRUE(same_bytes<float>(cache.keys(0, second).bottomRows(32),
                                  other.keys(0, second).bottomRows(32)));
  }
  // A calibrated sequence takes its metric along.
  FloatCache alone(small_shape, small_config());
  load(alone, saved(other, 1), 0);
  feed(alone, 64, 4);
  feed(other, 64, 4, 1);
  EXPECT_TRUE(same_bytes(alone.keys(0), other.keys(0, second)));
}

TEST(SnapshotOfASequence, OfNothingLeavesOthersTheirSubspace) {
  const std::string nothing = saved(FloatCache(small_shape, small_config()));
  FloatCache cache(small_shape, small_config(), 2), other(small_shape, small_config(), 2);
  for (FloatCache* one : {&cache, &other}) {
    feed(*one, 64, 1, 0);
    feed(*one, 64, 2, 1);
  }
  load(cache, nothing, 0);
  EXPECT_EQ(cache.size(0), 0);
  for (FloatCache* one : {&cache, &other}) feed(*one, 64, 3, 1);
  CallOptions second;
  second.sequence = 1;
  EXPECT_TRUE(same_bytes(cache.keys(0, second), other.keys(0, second)));
}

TEST(SnapshotOfASequence, RefusesWhatDoesNotFit) {
  FloatCache cache = small_cache();
  const std::string one = saved(cache, 1);
  EXPECT_ERROR(saved(cache, 2), "sequence is 2", "0 to 1");
  EXPECT_ERROR(load(cache, one, -1), "sequence is -1", "0 to 1");
  EXPECT_ERROR(load(cache, saved(cache), 1), "sequences = 2", "must be 1");
  EXPECT_REFUSED(cache, one, "sequences = 1", "must be 2");
}

// Files of each version: later ones must read them, and write those of the newest again.

ModelShape golden_shape() { return {1, 2, 2, 8}; }

/// Files of these have no residual_bits.
Config golden_config() {
  Config config = small_config();
  config.residual_bits = 0;
  return config;
}

FloatCache golden_cache() { return FloatCache(golden_shape(), golden_config(), 2); }

std::string golden_file(const char* name) {
  std::ifstream in(std::string(SQUAT_TEST_DATA) + "/" + name, std::ios::binary);
  EXPECT_TRUE(in) << name;
  std::ostringstream bytes;
  bytes << in.rdbuf();
  return bytes.str();
}

TEST(Snapshot, AFileOfVersion1IsRead) {
  FloatCache cache = golden_cache();
  load(cache, golden_file("cache.squat"));
  // Nearly what went in.
  const NewTokens<float> rows(golden_shape(), 100, 1);
  const auto expect_near = [&](Matrix<float> stored, const Matrix<float>& original) {
    stored.conservativeResize(100, original.cols());
    EXPECT_TRUE(stored.topRows(2).isZero());      // padding
    EXPECT_EQ(stored.row(2), original.row(2));    // exact
    EXPECT_EQ(stored.row(99), original.row(99));  // residual
    EXPECT_LE((stored - original).bottomRows(97).norm(), 0.4f * original.norm());
  };
  for (const Index sequence : {0, 1}) {
    const CallOptions options{sequence};
    ASSERT_EQ(cache.size(0, {options.sequence}), sequence == 0 ? 100 : 103);
    expect_near(cache.keys(0, {options.sequence}), rows.keys);
    expect_near(cache.values(0, {options.sequence}), rows.values);
  }
  feed(cache, 40, 9, 1);
  load(cache, saved(cache));
}

/// What is in cache2.squat to cache4.squat: tokens out of the middle, and others that have moved.
FloatCache moved_cache(bool is_filled) {
  ModelShape shape = golden_shape();
  shape.rope.pairing = RopePairing::halves;
  shape.rope.is_applied = true;
  FloatCache cache(shape, golden_config(), 2);
  if (!is_filled) return cache;
  feed(cache, 150, 1, 0, 2);
  cache.fork(0, 1);
  cache.erase({0, 40}, {1});
  cache.shift({40, 150}, -30, {1});
  feed(cache, 3, 5, 1);
  cache.erase({90, 99});
  return cache;
}

/// moved_keys.f16 has the keys that these files hold, of one sequence behind the other.
void expect_moved(const FloatCache& cache) {
  const std::string numbers = golden_file("moved_keys.f16");
  ASSERT_EQ(numbers.size(), (150 + 123) * 16 * sizeof(Eigen::half));
  Matrix<Eigen::half> expected(150 + 123, 16);
  std::memcpy(expected.data(), numbers.data(), numbers.size());
  for (const Index sequence : {0, 1}) {
    const CallOptions options{sequence};
    const Index size = sequence == 0 ? 150 : 123;
    ASSERT_EQ(cache.size(0, options), size);
    const Matrix<float> held = expected.middleRows(sequence == 0 ? 0 : 150, size).cast<float>();
    const Matrix<float> keys = cache.keys(0, options);
    EXPECT_LE((keys - held).norm(), 1e-3f * held.norm());
    EXPECT_TRUE(keys.middleRows(sequence == 0 ? 90 : 0, 9).isZero());
  }
}

TEST(Snapshot, FilesOfVersions2And3AreRead) {
  for (const char* file : {"cache2.squat", "cache3.squat"}) {
    FloatCache cache = moved_cache(false), again = moved_cache(false);
    load(cache, golden_file(file));
    expect_moved(cache);
    load(again, saved(cache));
    for (FloatCache* one : {&cache, &again}) feed(*one, 70, 9, 1);
    for (const Index sequence : {0, 1}) {
      const CallOptions options{sequence};
      EXPECT_TRUE(same_bytes(cache.keys(0, options), again.keys(0, options)));
      EXPECT_TRUE(same_bytes(cache.values(0, options), again.values(0, options)));
    }
  }
}

TEST(Snapshot, AFileOfVersion4IsReadAndWrittenAgain) {
  const std::string bytes = golden_file("cache4.squat");
  FloatCache cache = moved_cache(false);
  load(cache, bytes);
  EXPECT_TRUE(saved(cache) == bytes);
  expect_moved(cache);
}

/// Wrote the file.
TEST(Snapshot, DISABLED_WritesTheFileOfVersion4) {
  std::ofstream out(SQUAT_TEST_DATA "/cache4.squat", std::ios::binary);
  moved_cache(true).save(out);
}

}  // namespace
}  // namespace squat::testing
