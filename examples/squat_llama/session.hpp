// A model at work on a cache of some kind.
#pragma once

#include <memory>
#include <squat/matrix.hpp>
#include <vector>

#include "cache_spec.hpp"
#include "model.hpp"

namespace squat {
class QueryMoments;
}

namespace squat_llama {

/// What a cache holds, over all texts.
struct CacheBytes {
  double quantized = 0;  ///< codes, and the scales and what else belongs to them
  double elements = 0;   ///< how many numbers these stand for
  double total = 0;      ///< everything, tokens in full precision and room for more included

  double bits_per_element() const { return elements > 0 ? 8 * quantized / elements : 0; }
};

struct SessionOptions {
  int texts = 1;       ///< that the cache holds side by side
  int capacity = 512;  ///< tokens of each, at most
  int batch = 512;     ///< tokens of one pass, which attend to each other before they are stored
  int step = 1;        ///< tokens of each text in a pass of step(), at most
  const squat::QueryMoments* moments = nullptr;      ///< for caches that ask for them
  std::vector<std::vector<Token>> calibration = {};  ///< texts, for caches that are fitted on some
};

/// Texts that a model reads, each a sequence of one cache.
class Session {
 public:
  virtual ~Session() = default;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Goes on with a text by tokens whose predictions nobody asks for.
  void read(int text, const std::vector<Token>& tokens);

  /// Goes on with each text, from the first one on, by some tokens in one pass. Returns the logits
  /// of what follows each [tokens, vocabulary], those of a text after those of the text before it.
  squat::Matrix<float> step(const std::vector<std::vector<Token>>& tokens);

  virtual CacheBytes bytes() const = 0;

 protected:
  Session(const Model& model, const SessionOptions& options);

  /// A context for `options`, with attention as one operator.
  static llama_context_params context_params(const Model& model, const SessionOptions& options);

  /// Tokens of all texts.
  double tokens() const;

  virtual llama_context* context() = 0;
  virtual std::int32_t decode(const llama_batch& batch) = 0;

 private:
  void decode(const std::vector<Token>& tokens, const std::vector<int>& texts, bool has_logits);

  int vocabulary_;
  std::size_t batch_;
  std::vector<llama_pos> sizes_;  // of each text
};

/// A session on the cache that `spec` names. A format that the model cannot be stored in is an
/// error.
std::unique_ptr<Session> make_session(const Model& model, const CacheSpec& spec,
                                      const SessionOptions& options);

}  // namespace squat_llama
