// A vocabulary that spells any text.
#pragma once

#include "gguf_writer.hpp"

namespace squat::testing {

/// The special tokens and all bytes.
inline constexpr int min_tiny_vocabulary = 259;

/// Tokens of SentencePiece: <unk>, <s>, </s>, all bytes, the space, letters, pairs of letters, and
/// unused ones if there are more.
void write_tiny_vocabulary(GgufWriter& writer, int tokens);

}  // namespace squat::testing
