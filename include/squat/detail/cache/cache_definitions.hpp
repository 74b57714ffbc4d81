// The members of SQuatCache.
#pragma once

#include <squat/cache.hpp>
#include <squat/detail/cache/cache_of_layers.hpp>

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

}  // namespace detail

template <class Scalar, int KeyBits, int ValueBits>
SQuatCache<Scalar, KeyBits, ValueBits>::SQuatCache(const ModelShape& shape, const Config& config,
                                                   Index sequences)
    : cache_(std::make_unique<detail::CacheOfLayers<Scalar>>(
          shape, config, detail::with_bits_of(config, KeyBits, ValueBits), sequences)) {}

template <class Scalar, int KeyBits, int ValueBits>
SQuatCache<Scalar, KeyBits, ValueBits>::SQuatCache(SQuatCache&&) noexcept = default;

template <class Scalar, int KeyBits, int ValueBits>
SQuatCache<Scalar, KeyBits, ValueBits>& SQuatCache<Scalar, KeyBits, ValueBits>::operator=(
    SQuatCache&&) noexcept = default;

template <class Scalar, int KeyBits, int ValueBits>
SQuatCache<Scalar, KeyBits, ValueBits>::~SQuatCache() = default;

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::set_executor(Executor& executor) {
  cache_->set_executor(executor);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::calibrate(const QueryMoments& moments) {
  cache_->calibrate(moments);
}

template <class Scalar, int KeyBits, int ValueBits>
const ModelShape& SQuatCache<Scalar, KeyBits, ValueBits>::shape() const {
  return cache_->shape();
}

template <class Scalar, int KeyBits, int ValueBits>
const Config& SQuatCache<Scalar, KeyBits, ValueBits>::config() const {
  return cache_->config();
}

template <class Scalar, int KeyBits, int ValueBits>
Index SQuatCache<Scalar, KeyBits, ValueBits>::sequences() const {
  return cache_->sequences();
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::update(Index layer, const Queries<Scalar>& queries,
                                                    const Keys<Scalar>& keys,
                                                    const Values<Scalar>& values,
                                                    const CallOptions& options) {
  cache_->update(layer, queries, keys, values, options);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::update(Index layer, const Keys<Scalar>& keys,
                                                    const Values<Scalar>& values,
                                                    const CallOptions& options) {
  cache_->update(layer, keys, values, options);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::attend(Index layer, MatrixView<Scalar> queries,
                                                    MutableMatrixView<Scalar> out,
                                                    const CallOptions& options) const {
  cache_->attend(layer, queries, out, options);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::attend(
    Index layer, const std::vector<SequenceQueries<Scalar>>& sequences) const {
  cache_->attend(layer, sequences);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::flush(Index layer, const CallOptions& options) {
  cache_->flush(layer, options);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::attention(Index layer, const Queries<Scalar>& queries,
                                                       const Keys<Scalar>& keys,
                                                       const Values<Scalar>& values,
                                                       MutableMatrixView<Scalar> out,
                                                       const CallOptions& options) {
  cache_->attention(layer, queries, keys, values, out, options);
}

template <class Scalar, int KeyBits, int ValueBits>
Matrix<Scalar> SQuatCache<Scalar, KeyBits, ValueBits>::keys(Index layer,
                                                            const CallOptions& options) const {
  return cache_->keys(layer, options);
}

template <class Scalar, int KeyBits, int ValueBits>
Matrix<Scalar> SQuatCache<Scalar, KeyBits, ValueBits>::values(Index layer,
                                                              const CallOptions& options) const {
  return cache_->values(layer, options);
}

template <class Scalar, int KeyBits, int ValueBits>
Index SQuatCache<Scalar, KeyBits, ValueBits>::size(Index layer, const CallOptions& options) const {
  return cache_->size(layer, options);
}

template <class Scalar, int KeyBits, int ValueBits>
Index SQuatCache<Scalar, KeyBits, ValueBits>::first(Index layer, const CallOptions& options) const {
  return cache_->first(layer, options);
}

template <class Scalar, int KeyBits, int ValueBits>
MemoryUsage SQuatCache<Scalar, KeyBits, ValueBits>::memory() const {
  return cache_->memory();
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::truncate(Index size, const CallOptions& options) {
  cache_->truncate(size, options);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::erase(const TokenRange& range,
                                                   const CallOptions& options) {
  cache_->erase(range, options);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::shift(const TokenRange& range, Index delta,
                                                   const CallOptions& options) {
  cache_->shift(range, delta, options);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::fork(Index from, Index to) {
  cache_->fork(from, to);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::clear() {
  cache_->clear();
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::trim() {
  cache_->trim();
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::save(std::ostream& out) const {
  cache_->save(out);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::save(std::ostream& out, Index sequence) const {
  cache_->save(out, sequence);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::load(std::istream& in) {
  cache_->load(in);
}

template <class Scalar, int KeyBits, int ValueBits>
void SQuatCache<Scalar, KeyBits, ValueBits>::load(std::istream& in, Index sequence) {
  cache_->load(in, sequence);
}

}  // namespace squat
