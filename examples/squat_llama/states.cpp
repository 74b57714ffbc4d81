#include "states.hpp"

#include <fstream>
#include <iomanip>
#include <squat/error.hpp>
#include <sstream>

#include "attention_states.hpp"

namespace squat_llama {
namespace {

using Path = std::filesystem::path;
using squat::require;

void write_half(const Path& path, const squat::Matrix<float>& rows) {
  const squat::Matrix<Eigen::half> half = rows.cast<Eigen::half>();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(half.data()),
             static_cast<std::streamsize>(half.size()) * 2);
  file.flush();
  require(file.good(), "cannot write ", path.string());
}

}  // namespace

std::size_t write_states(const Model& model, const std::vector<Token>& tokens,
                         const std::set<int>& layers, const Path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  require(std::filesystem::is_directory(folder), "cannot make the folder ", folder.string());
  const int count = llama_model_n_layer(model.get());
  for (const int layer : layers)
    require(layer >= 0 && layer < count, "there is no layer ", layer,
            "; the model has layers 0 to ", count - 1);
  std::size_t written = 0;
  for_each_layer(model, tokens, [&](int layer, const LayerStates& states) {
    if (!layers.empty() && layers.count(layer) == 0) return;
    std::ostringstream name;
    name << "layer" << std::setw(2) << std::setfill('0') << layer;
    write_half(folder / (name.str() + ".q.f16"), states.queries);
    write_half(folder / (name.str() + ".k.f16"), states.keys);
    write_half(folder / (name.str() + ".v.f16"), states.values);
    ++written;
  });
  return written;
}

}  // namespace squat_llama
