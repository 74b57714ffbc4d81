// Writes inputs for the fuzzers to begin with: make_corpus FOLDER.
#include <fstream>

#include "fuzzed_caches.hpp"
#include "fuzzed_file.hpp"

using namespace squat;
using namespace squat::testing;

namespace {

void write(const std::string& path, char first, const std::string& file, std::size_t header) {
  std::ofstream(path, std::ios::binary) << first << file.substr(header, file.size() - header - 8);
}

}  // namespace

int main(int, char** arguments) {
  const std::string folder = arguments[1];
  for (std::size_t i = 0; i < fuzzed_caches().size(); ++i) {
    const FuzzedCache& kind = fuzzed_caches()[i];
    Cache cache(kind.shape, kind.config, kind.sequences);
    const auto write_snapshot = [&](const char* name, bool whole_file) {
      const std::string file = saved(cache);
      // All words up to that of `calibrated` are the header, and that word itself.
      const std::string empty = saved(Cache(kind.shape, kind.config, kind.sequences));
      const std::size_t parts = static_cast<std::size_t>(kind.shape.layers * kind.sequences);
      const std::size_t header = empty.size() - 8 - parts * 8 * 7;
      write(folder + "/snapshot/" + name + std::to_string(i),
            static_cast<char>(i + (whole_file ? 0x80 : 0)), file, whole_file ? 0 : header);
    };
    write_snapshot("empty", true);
    feed(cache, 0, 5, 1);
    write_snapshot("begun", false);
    feed(cache, 0, 2 * kind.config.residual_length, 1);
    cache.fork(0, kind.sequences - 1);
    cache.truncate(kind.config.residual_length + 20);
    write_snapshot("packed", false);
  }
  QueryMoments moments(ModelShape{1, 4, 2, 8});
  write(folder + "/query_moments/empty", 0, saved(moments), 0);
  moments.add<float>(0, random_matrix<float>(20, 32, 1));
  write(folder + "/query_moments/some", 5, saved(moments), 32);
}
