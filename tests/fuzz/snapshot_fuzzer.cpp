// Loads files that nobody vouches for; what is loaded is used.
#include <cstring>

#include "fuzzed_caches.hpp"
#include "fuzzed_file.hpp"

using namespace squat;
using namespace squat::testing;

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace {

/// Bits of the first byte of an input, beside the number of the cache.
constexpr int calibrated = 0x40, whole_file = 0x80;

/// What a file of a cache begins with.
std::string header(const FuzzedCache& kind, bool is_calibrated) {
  const Cache cache(kind.shape, kind.config, kind.sequences);
  Config config = kind.config;
  if (config.key_bits == 0) config.key_bits = 2;
  if (config.value_bits == 0) config.value_bits = 2;
  std::ostringstream out;
  SnapshotWriter<float>(out, kind.shape, config, kind.sequences, is_calibrated);
  return out.str();
}

void attend(const Cache& cache, Index layer, const CallOptions& options) {
  static const Matrix<float> queries = random_matrix<float>(12, 64, 3);
  const Index width = cache.shape().query_heads * cache.shape().head_dim;
  for (const Index rows : {1, 12}) {
    if (cache.size(layer, {options.sequence}) < rows) return;
    Matrix<float> out(rows, width);
    cache.attend(layer, queries.topLeftCorner(rows, width), out, options);
    expect(out.allFinite());
  }
  expect(cache.keys(layer, {options.sequence}).allFinite() &&
         cache.values(layer, {options.sequence}).allFinite());
}

void use(Cache& cache) {
  CallOptions options;
  for (options.sequence = 0; options.sequence < cache.sequences(); ++options.sequence) {
    for (Index layer = 0; layer < cache.shape().layers; ++layer) attend(cache, layer, options);
    try {
      feed(cache, options.sequence, 40, 7);
    } catch (const Error&) {  // a metric under which no key can be quantized
    }
    for (Index layer = 0; layer < cache.shape().layers; ++layer) attend(cache, layer, options);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::size_t number = data[0] % fuzzed_caches().size();
  const FuzzedCache& kind = fuzzed_caches()[number];
  Cache cache(kind.shape, kind.config, kind.sequences);
  const std::string file =
      file_of((data[0] & whole_file) != 0 ? "" : header(kind, (data[0] & calibrated) != 0),
              data + 1, size - 1);
  try {
    load(cache, file);
  } catch (const Error&) {
    for (Index layer = 0; layer < kind.shape.layers; ++layer) expect(cache.size(layer) == 0);
    return 0;
  }
  use(cache);
  const std::string again = saved(cache);
  Cache other(kind.shape, kind.config, kind.sequences);
  load(other, again);
  expect(saved(other) == again);
  other.fork(0, kind.sequences - 1);
  other.truncate(other.size(0) / 2 <= other.size(kind.shape.layers - 1) ? other.size(0) / 2 : 0);
  use(other);
  return 0;
}

/// Half of the time a word becomes a number that readers find odd.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t most, unsigned seed) {
  if (seed % 2 == 0 || size < 9) return LLVMFuzzerMutate(data, size, most);
  std::minstd_rand random(seed);
  constexpr std::uint64_t odd[] = {0,
                                   1,
                                   2,
                                   3,
                                   7,
                                   8,
                                   31,
                                   32,
                                   33,
                                   64,
                                   65,
                                   128,
                                   ~std::uint64_t{0},
                                   std::uint64_t{1} << 32,
                                   std::uint64_t{1} << 40,
                                   0x7ff0000000000000,
                                   0x7fefffffffffffff,
                                   0x3ff0000000000000,
                                   0x7f7fffff7f7fffff,
                                   0x7bff7bff7bff7bff,
                                   0x7f8000007f800000};
  std::uint8_t* word = data + 1 + 8 * (random() % ((size - 1) / 8));
  std::uint64_t value = odd[random() % std::size(odd)];
  if (random() % 2 == 0) {
    detail::to_little_endian(value, word);
  } else {
    value = detail::from_little_endian<std::uint64_t>(word) + (random() % 2 == 0 ? 1 : -1);
    detail::to_little_endian(value, word);
  }
  return size;
}
