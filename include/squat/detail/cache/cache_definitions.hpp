// The members of SQuatCache.
#pragma once

#include <squat/cache.hpp>
#include <squat/detail/cache/cache_of_layers.hpp>
#include <squat/detail/float_environment.hpp>

namespace squat {

namespace detail {

/// `config` with the widths that result where it says 0.
inline Config with_bits_of(Config config, int key_bits, int value_bits) {
  if (config.key_bits == 0) config.key_bits = key_bits;
  if (config.value_bits == 0) config.value_bits = value_bits;
  for (LayerBits& bits : config.layer_bits) {
    if (bits.keys == 0) bits.keys = config.key_bits;
    if (bits.values == 0) bits.values = config.value_bits;
  }
  return config;
}

/// What a call of a cache is answered by. The library's environment lasts as long as the call.
template <class Layers>
class Held {
 public:
  /// Fails where there is none.
  explicit Held(Layers* layers) : layers_(layers) {
    require(layers != nullptr, "the cache was moved from; it can be assigned to or destroyed");
  }
  Layers* operator->() const { return layers_; }

 private:
  Layers* layers_;
  DefaultFloatEnvironment environment_;
};

}  // namespace detail

template <class Scalar, int KeyBits, int ValueBits>
SQuatCache<Scalar, KeyBits, ValueBits>::SQuatCache(const ModelShape& shape, const Config& config,
                                                   Index sequences)
    : cache_([&] {
        const detail::DefaultFloatEnvironment environment;
        return std::make_unique<detail::CacheOfLayers<Scalar>>(
            shape, config, detail::with_bits_of(config, KeyBits, ValueBits), sequences);
      }()) {}

template <class Scalar, int KeyBits, int ValueBits>
SQuatCache<Scalar, KeyBits, ValueBits>::SQuatCache(SQuatCache&&) noexcept = default;

template <class Scalar, int KeyBits, int ValueBits>
SQuatCache<Scalar, KeyBits, ValueBits>& SQuatCache<Scalar, KeyBits, ValueBits>::operator=(
    SQuatCache&&) noexcept = default;

template <class Scalar, int KeyBits, int ValueBits>
SQuatCache<Scalar, KeyBits, ValueBits>::~SQuatCache() = default;

template <class Scalar, int KeyBits, int ValueBits>
detail::Held<const detail::CacheOfLayers<Scalar>> SQuatCache<Scalar, KeyBits, ValueBits>::held()
    const {
  return detail::Held<const detail::CacheOfLayers<Scalar>>(cache_.get());
}

template <class Scalar, int KeyBits, int ValueBits>
detail::Held<detail::CacheOfLayers<Scalar>> SQuatCache<Scalar, KeyBits, ValueBits>::held() {
  return detail::Held<detail::CacheOfLayers<Scalar>>(cache_.get());
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::set_executor(Executor& executor) {
  held()->set_executor(executor);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::calibrate(const QueryMoments& moments) {
  held()->calibrate(moments);
}

template <class Scalar, int KeyBits, int ValueBits>
const ModelShape& SQuatCache<Scalar, KeyBits, ValueBits>::shape() const {
  return held()->shape();
}

template <class Scalar, int KeyBits, int ValueBits>
const Config& SQuatCache<Scalar, KeyBits, ValueBits>::config() const {
  return held()->config();
}

template <class Scalar, int KeyBits, int ValueBits>
Index SQuatCache<Scalar, KeyBits, ValueBits>::sequences() const {
  return held()->sequences();
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::update(Index layer, const Queries<Scalar>& queries,
                                                    const Keys<Scalar>& keys,
                                                    const Values<Scalar>& values,
                                                    const CallOptions& options) {
  held()->update(layer, queries, keys, values, options);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::update(Index layer, const Keys<Scalar>& keys,
                                                    const Values<Scalar>& values,
                                                    const CallOptions& options) {
  held()->update(layer, keys, values, options);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::attend(Index layer, MatrixView<Scalar> queries,
                                                    MutableMatrixView<Scalar> out,
                                                    const CallOptions& options) const {
  held()->attend(layer, queries, out, options);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::attend(
    Index layer, const std::vector<SequenceQueries<Scalar>>& sequences) const {
  held()->attend(layer, sequences);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::flush(Index layer, const CallOptions& options) {
  held()->flush(layer, options);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::attention(Index layer, const Queries<Scalar>& queries,
                                                       const Keys<Scalar>& keys,
                                                       const Values<Scalar>& values,
                                                       MutableMatrixView<Scalar> out,
                                                       const CallOptions& options) {
  held()->attention(layer, queries, keys, values, out, options);
}

template <class Scalar, int KeyBits, int ValueBits>
Matrix<Scalar> SQuatCache<Scalar, KeyBits, ValueBits>::keys(Index layer,
                                                            const CallOptions& options) const {
  return held()->keys(layer, options);
}

template <class Scalar, int KeyBits, int ValueBits>
Matrix<Scalar> SQuatCache<Scalar, KeyBits, ValueBits>::values(Index layer,
                                                              const CallOptions& options) const {
  return held()->values(layer, options);
}

template <class Scalar, int KeyBits, int ValueBits>
Index SQuatCache<Scalar, KeyBits, ValueBits>::size(Index layer, const CallOptions& options) const {
  return held()->size(layer, options);
}

template <class Scalar, int KeyBits, int ValueBits>
Index SQuatCache<Scalar, KeyBits, ValueBits>::first(Index layer, const CallOptions& options) const {
  return held()->first(layer, options);
}

template <class Scalar, int KeyBits, int ValueBits>
MemoryUsage SQuatCache<Scalar, KeyBits, ValueBits>::memory() const {
  return held()->memory();
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::truncate(Index size, const CallOptions& options) {
  held()->truncate(size, options);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::erase(const TokenRange& range,
                                                   const CallOptions& options) {
  held()->erase(range, options);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::shift(const TokenRange& range, Index delta,
                                                   const CallOptions& options) {
  held()->shift(range, delta, options);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::fork(Index from, Index to) {
  held()->fork(from, to);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::clear() {
  held()->clear();
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::trim() {
  held()->trim();
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::save(std::ostream& out) const {
  held()->save(out);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::save(std::ostream& out, Index sequence) const {
  held()->save(out, sequence);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::load(std::istream& in) {
  held()->load(in);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::load(std::istream& in, Index sequence) {
  held()->load(in, sequence);
}

}  // namespace squat
