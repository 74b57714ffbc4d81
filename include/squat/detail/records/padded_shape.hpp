// Heads of any width, in records that count channels by the eight.
#pragma once

#include <squat/model_shape.hpp>

namespace squat::detail {

/// The same attention with heads whose widths are rounded up to multiples of 8. Channels that are
/// added hold nothing of the caller's: those of queries are zeros, those of results are dropped.
inline LayerShape padded(LayerShape shape) {
  constexpr Index multiple = 8;
  if (shape.rope.pairing != RopePairing::none && shape.rope.dims == 0)
    shape.rope.dims = shape.head_dim - shape.rope.first;
  shape.softmax_scale = shape.scale();
  shape.head_dim = round_up(shape.head_dim, multiple);
  shape.value_dim = round_up(shape.value_dim, multiple);
  return shape;
}

}  // namespace squat::detail
