// llama.cpp's own forward pass.
#pragma once

#include <string>
#include <vector>

namespace squat_llama::test {

/// Logits [tokens * vocabulary] after each token, keys and values in half precision.
std::vector<float> libllama_logits(const std::string& model_path, std::vector<int> tokens);

}  // namespace squat_llama::test
