// States of a layer of a real model (examples/data).
#pragma once

#include <fstream>
#include <squat/matrix.hpp>
#include <stdexcept>
#include <string>

#ifndef SQUAT_EXAMPLE_DATA
#error "define SQUAT_EXAMPLE_DATA as the directory examples/data, a string"
#endif

namespace squat::testing {

/// Queries ('q', 9 heads), keys ('k', 3) or values ('v', 3) [1280 tokens, heads * 64].
inline Matrix<float> layer20(char which) {
  std::ifstream file(std::string(SQUAT_EXAMPLE_DATA) + "/layer20." + which + ".f16",
                     std::ios::binary);
  Matrix<Eigen::half> states(1280, (which == 'q' ? 9 : 3) * 64);
  file.read(reinterpret_cast<char*>(states.data()), states.size() * 2);
  if (!file) throw std::runtime_error("cannot read the states of layer 20");
  return states.cast<float>();
}

}  // namespace squat::testing
