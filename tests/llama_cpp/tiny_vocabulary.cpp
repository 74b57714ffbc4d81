#include "tiny_vocabulary.hpp"

#include <llama.h>

#include <cstdio>
#include <stdexcept>

namespace squat::testing {
namespace {

/// Of lower-case text, the more frequent ones first.
std::vector<std::string> pieces() {
  const std::string letters = "etaoinshrdlcumwfgypbvkjxqz";
  std::vector<std::string> pieces{"\xe2\x96\x81"};  // U+2581, SentencePiece's space
  for (const char letter : letters) pieces.emplace_back(1, letter);
  for (const char first : letters)
    for (const char second : letters) pieces.push_back({first, second});
  return pieces;
}

std::string byte_token(int byte) {
  char text[8];
  std::snprintf(text, sizeof text, "<0x%02X>", static_cast<unsigned>(byte));
  return text;
}

}  // namespace

void write_tiny_vocabulary(GgufWriter& writer, int tokens) {
  if (tokens < min_tiny_vocabulary)
    throw std::invalid_argument("vocabulary must be at least " +
                                std::to_string(min_tiny_vocabulary) + ", not " +
                                std::to_string(tokens));
  std::vector<std::string> texts;
  std::vector<float> scores;  // the greatest decides which pair of neighbors is joined first
  std::vector<std::int32_t> types;
  const auto add = [&](const std::string& text, float score, llama_token_type type) {
    texts.push_back(text);
    scores.push_back(score);
    types.push_back(type);
  };
  add("<unk>", 0, LLAMA_TOKEN_TYPE_UNKNOWN);
  add("<s>", 0, LLAMA_TOKEN_TYPE_CONTROL);
  add("</s>", 0, LLAMA_TOKEN_TYPE_CONTROL);
  for (int byte = 0; byte < 256; ++byte) add(byte_token(byte), 0, LLAMA_TOKEN_TYPE_BYTE);
  const std::vector<std::string> ordinary = pieces();
  for (int i = 0; i < tokens - min_tiny_vocabulary; ++i) {
    if (i < static_cast<int>(ordinary.size()))
      add(ordinary[static_cast<std::size_t>(i)], static_cast<float>(-i), LLAMA_TOKEN_TYPE_NORMAL);
    else
      add("<unused" + std::to_string(i) + ">", 0, LLAMA_TOKEN_TYPE_UNUSED);
  }
  writer.text("tokenizer.ggml.model", "llama");
  writer.texts("tokenizer.ggml.tokens", texts);
  writer.reals("tokenizer.ggml.scores", scores);
  writer.numbers("tokenizer.ggml.token_type", types);
  writer.number("tokenizer.ggml.bos_token_id", 1);
  writer.number("tokenizer.ggml.eos_token_id", 2);
  writer.number("tokenizer.ggml.unknown_token_id", 0);
  writer.number("vocab_size", tokens);
}

}  // namespace squat::testing
